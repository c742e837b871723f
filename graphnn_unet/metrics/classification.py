"""Accuracy, balanced accuracy, F1, areas under ROC curves and calibration of one finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import ShapeError
from graphnn_unet.metrics.aggregate import finite_mean, finite_or_none
from graphnn_unet.metrics.intervals import share_interval

N_BINS = 10
"""Bins of equal width for the calibration error."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ClassScore:
    """Figures of one class against all others.

    Attributes:
        name: The class.
        n: Cases of it.
        recall, precision, f1: NaN for a class without cases; precision 0 where it is never named.
        auc: Area under the ROC curve, ties half; NaN without cases of it or of others.
    """

    name: str
    n: int
    recall: float
    precision: float
    f1: float
    auc: float

    def as_dict(self) -> dict[str, float | None]:
        """Plain values without the name; what is not defined is ``None``."""
        return {key: finite_or_none(value) for key, value in asdict(self).items() if key != "name"}


@dataclass(frozen=True)
class ClassificationScore:
    """Figures of one finding.

    Attributes:
        n: Cases with a ground truth.
        accuracy: Share of right decisions.
        accuracy_interval: 95 % interval of it: Wilson's, or of resampled patients.
        balanced_accuracy: Mean recall over the classes that have cases.
        macro_f1: Mean F1 over the same classes.
        auc: Mean area one-vs-rest over the classes that have one.
        calibration_error: Mean distance of confidence and accuracy, weighted by cases, in
            ``N_BINS`` bins of the confidence.
        brier: Mean squared distance of the probabilities from the ground truth, 0 to 2.
        classes: By class.
        confusion: ``(class, class + 1)`` counts, ground truth by decision; the last column counts
            cases without a decision.
        n_unknown: Cases of a class that no label had; wrong in the accuracy, in nothing else.
        n_patients: Patients that were resampled; ``None`` where each case counts for itself.
    """

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    auc: float
    calibration_error: float
    brier: float
    classes: tuple[ClassScore, ...]
    confusion: Ints
    n_unknown: int
    n_patients: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is not defined is ``None``."""
        return {
            "n": self.n,
            "accuracy": finite_or_none(self.accuracy),
            "accuracy_95_interval": [finite_or_none(end) for end in self.accuracy_interval],
            "n_patients": self.n_patients,
            "balanced_accuracy": finite_or_none(self.balanced_accuracy),
            "macro_f1": finite_or_none(self.macro_f1),
            "auc_one_vs_rest": finite_or_none(self.auc),
            "calibration_error": finite_or_none(self.calibration_error),
            "brier": finite_or_none(self.brier),
            "classes": {score.name: score.as_dict() for score in self.classes},
            "confusion": self.confusion.tolist(),
            "skipped_in_macro": [score.name for score in self.classes if not score.n],
            "n_of_unlabeled_classes": self.n_unknown,
        }


def score_classification(
    truth: Ints,
    predicted: Ints,
    probability: Floats,
    names: Sequence[str],
    patient: Ints | None = None,
) -> ClassificationScore:
    """Score the decisions and probabilities of one finding.

    Args:
        truth: ``(n,)`` class numbers; ``len(names)`` for a class that the names lack. At least one
            case.
        predicted: ``(n,)`` decisions, negative for none.
        probability: ``(n, class)``, rows that sum to 1, or to 0 for none.
        names: Of the classes.
        patient: ``(n,)`` equal numbers for cases of one patient, for the interval alone.

    Raises:
        ShapeError: The arrays do not fit each other, or there is no case.

    Example:
        >>> truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
        >>> score = score_classification(truth, predicted, np.eye(2)[predicted], ("a", "b"))
        >>> score.accuracy, score.balanced_accuracy, score.confusion.tolist()
        (0.75, 0.75, [[1, 1, 0], [0, 2, 0]])
    """
    n, n_classes = len(truth), len(names)
    if not n or predicted.shape != (n,) or probability.shape != (n, n_classes):
        raise ShapeError(
            f"truth {truth.shape}, decisions {predicted.shape} and probabilities "
            f"{probability.shape} of {n_classes} classes do not fit",
            "there must be one of each a case, and one case at least",
        )
    right = (truth == predicted).astype(np.float64)
    known = truth < n_classes
    decision = np.where(predicted >= 0, predicted, n_classes)
    confusion = _scikit_learn().confusion_matrix(truth, decision, labels=range(n_classes + 1))
    classes = _class_scores(truth[known], decision[known], probability[known], names)
    n_patients = None if patient is None else len(np.unique(patient))
    one_hot = np.eye(n_classes + 1)[truth][:, :n_classes]
    return ClassificationScore(
        n=n,
        accuracy=float(right.mean()),
        accuracy_interval=share_interval(right, patient),
        balanced_accuracy=finite_mean([score.recall for score in classes]),
        macro_f1=finite_mean([score.f1 for score in classes]),
        auc=finite_mean([score.auc for score in classes]),
        calibration_error=calibration_error(probability.max(axis=1), right),
        brier=float(((probability - one_hot) ** 2).sum(axis=1).mean()),
        classes=classes,
        confusion=confusion[:n_classes],
        n_unknown=int((~known).sum()),
        n_patients=n_patients if n_patients != n else None,
    )


def calibration_error(confidence: Floats, right: Floats) -> float:
    """Expected calibration error: ``sum_b n_b / n |accuracy_b - confidence_b|``.

    Args:
        confidence: ``(n,)`` in [0, 1].
        right: ``(n,)`` 1 where the decision was right.

    Example:
        >>> calibration_error(np.array([0.9, 0.9]), np.array([1.0, 0.0]))
        0.4

    Source: Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599.
    """
    number = np.minimum((confidence * N_BINS).astype(np.int64), N_BINS - 1)
    distance = np.bincount(number, weights=right - confidence, minlength=N_BINS)
    return float(np.abs(distance).sum() / len(confidence))


def _class_scores(
    truth: Ints, decision: Ints, probability: Floats, names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Figures of every class against the others; NaN where a class has no case."""
    if not len(truth):
        return tuple(ClassScore(name, 0, *[math.nan] * 4) for name in names)
    metrics = _scikit_learn()
    precision, recall, f1, n_cases = metrics.precision_recall_fscore_support(
        truth, decision, labels=range(len(names)), zero_division=0.0
    )
    scores: list[ClassScore] = []
    for number, (name, n) in enumerate(zip(names, map(int, n_cases), strict=True)):
        figures = [float(figure[number]) if n else math.nan for figure in (recall, precision, f1)]
        auc = math.nan
        if 0 < n < len(truth):
            auc = float(metrics.roc_auc_score(truth == number, probability[:, number]))
        scores.append(ClassScore(name, n, *figures, auc=auc))
    return tuple(scores)


def _scikit_learn() -> Any:
    """Its measures, which come without types and take a second to import."""
    return import_module("sklearn.metrics")
