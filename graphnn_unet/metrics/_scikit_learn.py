# pyright: standard
"""Measures of scikit-learn, which come without types: here they get them, once."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def confusion_matrix(truth: Ints, decision: Ints, n_classes: int) -> Ints:
    """Cases by class (rows) and decision (columns), ``(n_classes, n_classes)``."""
    return metrics.confusion_matrix(truth, decision, labels=range(n_classes))


def class_figures(
    truth: Ints, decision: Ints, n_classes: int
) -> tuple[Floats, Floats, Floats, Ints]:
    """Precision, recall, F1 and number of cases of each class; 0 where one is not defined."""
    zero = cast(Any, 0.0)  # documented as a number or a word, annotated as a word
    figures: Any = metrics.precision_recall_fscore_support(
        truth, decision, labels=range(n_classes), zero_division=zero
    )
    return figures


def area_under_roc(positive: NDArray[np.bool_], score: Floats) -> float:
    """Area under the ROC curve of one class against the others."""
    return float(metrics.roc_auc_score(positive, score))
