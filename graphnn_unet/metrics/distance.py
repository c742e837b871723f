"""Distances between the surfaces of two binary volumes, in mm.

A surface voxel is one inside the structure with a face neighbour outside it; what lies beyond the
edge of the image is outside. Distances go from centre to centre of such voxels. These are the
definitions of MedPy 0.5 (``medpy.metric.binary``, connectivity 1), with which the tests compare;
other programs differ by more than rounding (arXiv 2410.02630).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.metrics.overlap import BoolVolume, check_same_shape

_ndimage: Any = ndimage  # it has no type hints


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances of all surface voxels to the nearest surface voxel of the other structure.

    Attributes:
        to_reference: ``(n,)`` mm, one for each surface voxel of the prediction.
        to_prediction: ``(m,)`` mm, one for each surface voxel of the reference.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]

    @property
    def hd95(self) -> float:
        """95th percentile of both directions together, linearly interpolated."""
        return float(np.percentile(np.concatenate([self.to_reference, self.to_prediction]), 95))

    @property
    def asd(self) -> float:
        """Mean distance from the prediction's surface to the reference, one direction only."""
        return float(self.to_reference.mean())


def hd95(
    prediction: BoolVolume, reference: BoolVolume, spacing: Sequence[float] | None = None
) -> float:
    """95 % Hausdorff distance: the 95th percentile of both directed sets of surface distances.

    The two sets are put together before the percentile is taken, so the longer surface weighs
    more; a program that takes the larger of two directed percentiles gives another figure.

    Args:
        prediction: ``(z, y, x)`` or ``(y, x)``, not empty.
        reference: Same shape, not empty.
        spacing: mm in the order of the axes; ``None`` counts voxels.

    Returns:
        mm, or voxels without ``spacing``.

    Raises:
        ShapeError: The shapes differ, or ``spacing`` does not fit them.
        InputError: One of the two is empty: there is no surface to measure from.
    """
    return surface_distances(prediction, reference, spacing).hd95


def asd(
    prediction: BoolVolume, reference: BoolVolume, spacing: Sequence[float] | None = None
) -> float:
    """Average surface distance from the prediction to the reference.

    It has one direction, as in MedPy and as papers report it: ``asd(p, r) != asd(r, p)``. A
    prediction that covers a part of the reference exactly is therefore near 0.

    Args:
        prediction: ``(z, y, x)`` or ``(y, x)``, not empty.
        reference: Same shape, not empty.
        spacing: mm in the order of the axes; ``None`` counts voxels.

    Returns:
        mm, or voxels without ``spacing``.

    Raises:
        ShapeError: The shapes differ, or ``spacing`` does not fit them.
        InputError: One of the two is empty: there is no surface to measure from.
    """
    return surface_distances(prediction, reference, spacing).asd


def surface_distances(
    prediction: BoolVolume, reference: BoolVolume, spacing: Sequence[float] | None = None
) -> SurfaceDistances:
    """All surface distances between two structures, in both directions.

    Args:
        prediction: ``(z, y, x)`` or ``(y, x)``, not empty.
        reference: Same shape, not empty.
        spacing: mm in the order of the axes; ``None`` counts voxels.

    Raises:
        ShapeError: The shapes differ, or ``spacing`` does not fit them.
        InputError: One of the two is empty: there is no surface to measure from.

    Cost: two exact Euclidean distance transforms over the box around both structures.
    """
    check_same_shape(prediction, reference)
    sampling = check_spacing(spacing, prediction.ndim)
    for name, volume in (("prediction", prediction), ("reference", reference)):
        if not volume.any():
            raise InputError(
                f"the {name} is empty", "an empty structure has no surface to measure from"
            )
    # every voxel of either surface lies in this box, so it holds all nearest neighbours too
    box = bounding_box(prediction | reference)
    prediction_surface = surface(prediction[box])
    reference_surface = surface(reference[box])
    return SurfaceDistances(
        to_reference=_distance_to(reference_surface, sampling)[prediction_surface],
        to_prediction=_distance_to(prediction_surface, sampling)[reference_surface],
    )


def surface(volume: BoolVolume) -> BoolVolume:
    """Voxels with a face neighbour outside the structure; beyond the array all is outside."""
    inner = volume.copy()
    for axis in range(volume.ndim):
        source, target = np.moveaxis(volume, axis, 0), np.moveaxis(inner, axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        target[[0, -1]] = False
    return volume & ~inner


def bounding_box(volume: BoolVolume) -> tuple[slice, ...]:
    """Smallest box that holds all true voxels, one slice an axis; empty slices without any."""
    box: list[slice] = []
    for axis in range(volume.ndim):
        others = tuple(other for other in range(volume.ndim) if other != axis)
        hits = np.flatnonzero(volume.any(axis=others))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0))
    return tuple(box)


def image_diagonal_mm(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Length of the image's diagonal, ``sqrt(sum((size * spacing)^2))``.

    It is what a missed or invented structure costs under the honest protocol: no distance inside
    the image is longer, so losing an organ never pays.

    Args:
        shape: Voxels an axis.
        spacing: mm in the same order.
    """
    return math.hypot(*(size * step for size, step in zip(shape, spacing, strict=True)))


def check_spacing(spacing: Sequence[float] | None, n_axes: int) -> tuple[float, ...]:
    """``spacing`` as a tuple of one positive number an axis; ones for ``None``.

    Raises:
        ShapeError: Another number of values than axes, or a value that is not positive.
    """
    if spacing is None:
        return (1.0,) * n_axes
    values = tuple(float(value) for value in spacing)
    if len(values) != n_axes or not all(0 < value < math.inf for value in values):
        raise ShapeError(
            f"spacing {values} does not fit an image with {n_axes} axes",
            "",
            "Give one positive number in mm for each axis, in the order of the axes",
        )
    return values


def _distance_to(surface_voxels: BoolVolume, sampling: tuple[float, ...]) -> NDArray[np.float64]:
    return np.asarray(_ndimage.distance_transform_edt(~surface_voxels, sampling=sampling))
