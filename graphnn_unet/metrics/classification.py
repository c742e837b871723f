"""Accuracy, balanced accuracy, F1, areas under ROC curves and calibration of one finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import ShapeError
from graphnn_unet.metrics.intervals import mean_intervals

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


@dataclass(frozen=True)
class ClassificationScore:
    """Figures of one finding.

    Attributes:
        n: Cases with a truth.
        accuracy: Share of right decisions.
        accuracy_interval: 95 % bootstrap interval over cases.
        balanced_accuracy: Mean recall over the classes that have cases.
        macro_f1: Mean F1 over the same classes.
        auc: Mean area one-vs-rest over the classes that have one.
        calibration_error: Mean distance of confidence and accuracy, weighted by cases, in
            ``N_BINS`` bins of the confidence.
        brier: Mean squared distance of the probabilities from the truth, 0 to 2.
        classes: By class.
        confusion: ``(class, class + 1)`` counts, truth by decision; the last column counts cases
            without a decision.
        n_unknown: Cases of a class that no label had; wrong in the accuracy, in nothing else.
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is not defined is ``None``."""
        low, high = self.accuracy_interval
        return {
            "n": self.n,
            "accuracy": _plain(self.accuracy),
            "accuracy_95_interval": [_plain(low), _plain(high)],
            "balanced_accuracy": _plain(self.balanced_accuracy),
            "macro_f1": _plain(self.macro_f1),
            "auc_one_vs_rest": _plain(self.auc),
            "calibration_error": _plain(self.calibration_error),
            "brier": _plain(self.brier),
            "classes": {
                one.name: {
                    "n": one.n, "recall": _plain(one.recall), "precision": _plain(one.precision),
                    "f1": _plain(one.f1), "auc": _plain(one.auc),
                }
                for one in self.classes
            },
            "confusion": self.confusion.tolist(),
            "skipped_in_macro": [one.name for one in self.classes if not one.n],
            "n_of_unlabeled_classes": self.n_unknown,
        }  # fmt: skip


def score_classification(
    truth: Ints, predicted: Ints, probability: Floats, names: Sequence[str]
) -> ClassificationScore:
    """Score the decisions and probabilities of one finding.

    Args:
        truth: ``(n,)`` class numbers; ``len(names)`` for a class that the names lack. At least one
            case.
        predicted: ``(n,)`` decisions, negative for none.
        probability: ``(n, class)``, rows that sum to 1, or to 0 for none.
        names: Of the classes.

    Raises:
        ShapeError: The arrays do not fit each other, or there is no case.
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
    column = np.where(predicted >= 0, predicted, n_classes)
    confusion = np.zeros((n_classes, n_classes + 1), dtype=np.int64)
    np.add.at(confusion, (truth[known], column[known]), 1)
    named = confusion.sum(axis=0)
    classes = tuple(
        _class_score(name, number, confusion, named, truth[known], probability[known])
        for number, name in enumerate(names)
    )
    low, high = mean_intervals(right[:, None])
    one_hot = np.eye(n_classes + 1)[truth][:, :n_classes]
    return ClassificationScore(
        n=n,
        accuracy=float(right.mean()),
        accuracy_interval=(float(low[0]), float(high[0])),
        balanced_accuracy=_mean([one.recall for one in classes]),
        macro_f1=_mean([one.f1 for one in classes]),
        auc=_mean([one.auc for one in classes]),
        calibration_error=calibration_error(probability.max(axis=1), right),
        brier=float(((probability - one_hot) ** 2).sum(axis=1).mean()),
        classes=classes,
        confusion=confusion,
        n_unknown=int((~known).sum()),
    )


def roc_auc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive case scores higher than a negative one, ties half.

    Args:
        score: ``(n,)``.
        positive: ``(n,)``.

    Returns:
        The area under the ROC curve by the trapezoid rule; NaN without positives or negatives.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return math.nan
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = last - (counts - 1) / 2.0  # mean rank of equal scores, from 1
    total = rank[inverse][positive].sum() - n_positive * (n_positive + 1) / 2.0
    return float(total / (n_positive * n_negative))


def calibration_error(confidence: Floats, right: Floats, n_bins: int = N_BINS) -> float:
    """Expected calibration error: ``sum_b n_b / n |accuracy_b - confidence_b|``.

    Args:
        confidence: ``(n,)`` in [0, 1].
        right: ``(n,)`` 1 where the decision was right.
        n_bins: Bins of equal width.
    """
    number = np.clip((confidence * n_bins).astype(np.int64), 0, n_bins - 1)
    distance = np.bincount(number, weights=right - confidence, minlength=n_bins)
    return float(np.abs(distance).sum() / len(confidence))


def _class_score(
    name: str, number: int, confusion: Ints, named: Ints, truth: Ints, probability: Floats
) -> ClassScore:
    n, hits = int(confusion[number].sum()), int(confusion[number, number])
    if not n:
        return ClassScore(name, 0, math.nan, math.nan, math.nan, math.nan)
    precision = hits / int(named[number]) if named[number] else 0.0
    return ClassScore(
        name, n,
        recall=hits / n,
        precision=precision,
        f1=2 * hits / (n + int(named[number])),
        auc=roc_auc(probability[:, number], truth == number),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    """Mean of those that are defined."""
    found = [value for value in values if math.isfinite(value)]
    return float(np.mean(found)) if found else math.nan


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
