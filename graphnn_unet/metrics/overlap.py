"""How much two binary volumes overlap: counts, Dice and Jaccard."""

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
    """
    check_same_shape(prediction, reference)
    tp = int(np.count_nonzero(prediction & reference))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    total = prediction.size if n_voxels is None else n_voxels
    return OverlapCounts(tp, fp, fn, total - tp - fp - fn)


def dice(prediction: BoolVolume, reference: BoolVolume) -> float:
    """Dice of two binary volumes, ``2 |P ∩ R| / (|P| + |R|)``; NaN where both are empty.

    Raises:
        ShapeError: The shapes differ.
    """
    return count_overlap(prediction, reference).dice


def jaccard(prediction: BoolVolume, reference: BoolVolume) -> float:
    """Jaccard of two binary volumes, ``|P ∩ R| / |P ∪ R|``; NaN where both are empty.

    Raises:
        ShapeError: The shapes differ.
    """
    return count_overlap(prediction, reference).jaccard
