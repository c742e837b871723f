"""Distances between the surfaces of two binary volumes, in mm.

A surface voxel is one inside the structure with a face neighbor outside it; what lies beyond the
edge of the image is outside. Distances go from center to center of such voxels. These are the
definitions of MedPy 0.5 (``medpy.metric.binary``, connectivity 1), with which the tests compare;
other programs differ by more than rounding (https://arxiv.org/abs/2410.02630).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]  # SciPy has no types

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.metrics.overlap import BoolVolume, check_same_shape

NSD_TOLERANCE_MM = 2.0
"""Default tolerance of the surface Dice: two to three voxels of common MRI and CT, about what two
people differ by at a clear border."""

_HEADER_ROUNDING = 1e-6
"""NIfTI stores spacings as float32: 3 voxels of 1.1 mm are 3.3000001 mm, not more than 3.3 mm."""

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

    def nsd(self, tolerance: float) -> float:
        """Share of the surface voxels of both with a distance of at most ``tolerance``."""
        limit = tolerance * (1 + _HEADER_ROUNDING)
        distances = np.concatenate([self.to_reference, self.to_prediction])
        return float(np.count_nonzero(distances <= limit) / len(distances))


def hd95(
    prediction: BoolVolume, reference: BoolVolume, spacing: Sequence[float] | None = None
) -> float:
    """95 % Hausdorff distance: the 95th percentile of both directed sets of surface distances.

    The two sets are put together before the percentile is taken, so the longer surface weighs
    more; a program that takes the larger of two directed percentiles gives another figure.

    Returns:
        mm, or voxels without ``spacing``. Arguments and errors: :func:`surface_distances`.
    """
    return surface_distances(prediction, reference, spacing).hd95


def asd(
    prediction: BoolVolume, reference: BoolVolume, spacing: Sequence[float] | None = None
) -> float:
    """Average surface distance from the prediction to the reference.

    It has one direction, as in MedPy and as papers report it: ``asd(p, r) != asd(r, p)``. A
    prediction that covers a part of the reference exactly is therefore near 0.

    Returns:
        mm, or voxels without ``spacing``. Arguments and errors: :func:`surface_distances`.
    """
    return surface_distances(prediction, reference, spacing).asd


def nsd(
    prediction: BoolVolume,
    reference: BoolVolume,
    spacing: Sequence[float] | None = None,
    tolerance: float = NSD_TOLERANCE_MM,
) -> float:
    """Normalized surface Dice: the share of both surfaces that lies near the other one.

        NSD = (|{p in S_P: d(p, S_R) <= t}| + |{r in S_R: d(r, S_P) <= t}|) / (|S_P| + |S_R|)

    S_P and S_R are the surface voxels of prediction and reference, t is the tolerance. Here surface
    voxels are counted; the program of the authors weighs by the area of surface elements between
    voxels (surfels), so figures differ, most where the spacing is anisotropic.

    Returns:
        A fraction; ``tolerance`` is in mm, or in voxels without ``spacing``. Other arguments and
        errors: :func:`surface_distances`.

    Source: Nikolov et al. 2021, https://arxiv.org/abs/1809.04430.

    Example:
        >>> row = np.eye(6, dtype=bool)[:, None]  # single voxels
        >>> nsd(row[0], row[2], spacing=(1, 1.5), tolerance=2), nsd(row[0], row[2], tolerance=2)
        (0.0, 1.0)
    """
    return surface_distances(prediction, reference, spacing).nsd(tolerance)


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

    Example:
        >>> prediction, reference = np.zeros((2, 1, 8), dtype=bool)
        >>> prediction[0, [1, 7]] = reference[0, 1] = True
        >>> distances = surface_distances(prediction, reference)
        >>> distances.to_reference, distances.to_prediction
        (array([0., 6.]), array([0.]))
    """
    check_same_shape(prediction, reference)
    sampling = check_spacing(spacing, prediction.ndim)
    for name, volume in (("prediction", prediction), ("reference", reference)):
        if not volume.any():
            raise InputError(
                f"the {name} is empty", "an empty structure has no surface to measure from"
            )
    # every voxel of either surface lies in this box, so it holds all nearest neighbors too
    box = bounding_box(prediction | reference)
    prediction_surface = surface(prediction[box])
    reference_surface = surface(reference[box])
    return SurfaceDistances(
        to_reference=_distance_to(reference_surface, sampling)[prediction_surface],
        to_prediction=_distance_to(prediction_surface, sampling)[reference_surface],
    )


def surface(volume: BoolVolume) -> BoolVolume:
    """Voxels with a face neighbor outside the structure; beyond the array all is outside.

    Args:
        volume: ``(z, y, x)`` or ``(y, x)``.

    Returns:
        Same shape.

    Example:
        >>> int(surface(np.ones((3, 4), dtype=bool)).sum())
        10
    """
    inner = np.array(volume)
    for axis in range(volume.ndim):
        source, target = np.moveaxis(volume, axis, 0), np.moveaxis(inner, axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        target[[0, -1]] = False
    return volume & ~inner


def bounding_box(volume: BoolVolume) -> tuple[slice, ...]:
    """Smallest box that holds all true voxels, one slice an axis; empty slices without any.

    Args:
        volume: ``(z, y, x)`` or ``(y, x)``.

    Example:
        >>> bounding_box(np.array([[False, False, False], [False, True, True]]))
        (slice(1, 2, None), slice(1, 3, None))
    """
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

    Example:
        >>> image_diagonal_mm((3, 4), (1.0, 1.0))
        5.0
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
