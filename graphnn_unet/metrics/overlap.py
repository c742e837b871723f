"""How much two binary volumes overlap: counts, Dice, Jaccard, precision, recall, volume error.

Definitions, and when which is of use: Metrics reloaded, https://arxiv.org/abs/2206.01653.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import ShapeError

BoolVolume = NDArray[np.bool_]
"""One structure in one image: ``(z, y, x)`` or ``(y, x)``, true inside."""


@dataclass(frozen=True)
class OverlapCounts:
    """Voxels by agreement of prediction and reference.

    Attributes:
        tp: In both.
        fp: In the prediction alone.
        fn: In the reference alone.
        tn: In neither.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n_pred(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp

    @property
    def n_ref(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def dice(self) -> float:
        """``2 tp / (2 tp + fp + fn)``, a fraction; NaN where both are empty."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else math.nan

    @property
    def jaccard(self) -> float:
        """``tp / (tp + fp + fn)``, a fraction; NaN where both are empty."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else math.nan

    @property
    def precision(self) -> float:
        """``tp / (tp + fp)``, a fraction; NaN where the prediction is empty."""
        return self.tp / self.n_pred if self.n_pred else math.nan

    @property
    def recall(self) -> float:
        """``tp / (tp + fn)``, a fraction; NaN where the reference is empty."""
        return self.tp / self.n_ref if self.n_ref else math.nan

    @property
    def volume_error(self) -> float:
        """``(n_pred - n_ref) / n_ref``, a fraction; NaN where the reference is empty."""
        return (self.n_pred - self.n_ref) / self.n_ref if self.n_ref else math.nan


def check_same_shape(prediction: NDArray[np.generic], reference: NDArray[np.generic]) -> None:
    """Raise ``ShapeError`` unless both arrays have one shape."""
    if prediction.shape != reference.shape:
        raise ShapeError(
            f"prediction {prediction.shape} and reference {reference.shape} differ in shape",
            "voxels are compared by index",
            "Bring both onto one grid",
        )


def count_overlap(
    prediction: BoolVolume, reference: BoolVolume, n_voxels: int | None = None
) -> OverlapCounts:
    """Count agreeing and differing voxels.

    Args:
        prediction: Any shape, true inside the structure.
        reference: Same shape.
        n_voxels: Voxels of the whole image when the two are crops of it that hold all of the
            structure; their own size without it. Only ``tn`` depends on it.

    Raises:
        ShapeError: The shapes differ.

    Example:
        >>> prediction, reference = np.array([[1, 1, 0, 0], [0, 1, 1, 1]], dtype=bool)
        >>> count_overlap(prediction, reference)
        OverlapCounts(tp=1, fp=1, fn=2, tn=0)
    """
    check_same_shape(prediction, reference)
    tp = int(np.count_nonzero(prediction & reference))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    total = prediction.size if n_voxels is None else n_voxels
    return OverlapCounts(tp, fp, fn, total - tp - fp - fn)


def dice(prediction: BoolVolume, reference: BoolVolume) -> float:
    """Dice of two ``(z, y, x)``, ``2 |P ∩ R| / (|P| + |R|)``; NaN where both are empty.

    Raises:
        ShapeError: The shapes differ.

    Example:
        >>> dice(np.array([True, True, False, False]), np.array([False, True, True, True]))
        0.4
    """
    return count_overlap(prediction, reference).dice


def jaccard(prediction: BoolVolume, reference: BoolVolume) -> float:
    """Jaccard of two ``(z, y, x)``, ``|P ∩ R| / |P ∪ R|``; NaN where both are empty.

    Raises:
        ShapeError: The shapes differ.

    Example:
        >>> jaccard(np.array([True, True, False, False]), np.array([False, True, True, True]))
        0.25
    """
    return count_overlap(prediction, reference).jaccard


def precision(prediction: BoolVolume, reference: BoolVolume) -> float:
    """Share of a ``(z, y, x)`` prediction that is right, ``|P ∩ R| / |P|``; NaN if P is empty.

    Raises:
        ShapeError: The shapes differ.

    Example:
        >>> precision(np.array([True, True, False, False]), np.array([False, True, True, True]))
        0.5
    """
    return count_overlap(prediction, reference).precision


def recall(prediction: BoolVolume, reference: BoolVolume) -> float:
    """Share of a ``(z, y, x)`` reference that is predicted, ``|P ∩ R| / |R|``; NaN if R is empty.

    Raises:
        ShapeError: The shapes differ.

    Example:
        >>> recall(np.array([True, True, False, False]), np.array([False, True, True, True]))
        0.3333333333333333
    """
    return count_overlap(prediction, reference).recall


def volume_error(prediction: BoolVolume, reference: BoolVolume) -> float:
    """Relative volume error of two ``(z, y, x)``, ``(|P| - |R|) / |R|``; NaN where R is empty.

    It is signed: -1 an empty prediction, below 0 one that is too small, above 0 one that is too
    large. Places do not count: a prediction beside the reference may have 0.

    Raises:
        ShapeError: The shapes differ.

    Example:
        >>> volume_error(np.array([True, True, False, False]), np.array([False, True, True, True]))
        -0.3333333333333333
    """
    return count_overlap(prediction, reference).volume_error
