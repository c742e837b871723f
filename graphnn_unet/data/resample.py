"""Images and label maps at another size: what nnU-Net makes of them, in a fraction of the time.

A cubic spline in three dimensions is one in each of them: 4 products a voxel and axis in place of
64 a voxel, and nothing to do along axes that keep their length. Label maps change only at borders:
a voxel between neighbors of one label gets it, and only the others are weighed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from scipy import ndimage, sparse

_CUBIC = 3
_PAD = 12
"""Voxels that are repeated beyond the border before the spline is fitted, as scipy does."""
_AT_ONCE = 2**18
"""Border voxels that are weighed at a time: about 50 MB in three dimensions."""


class FastResampling(ConfigurationManager):
    """A configuration whose scans are resampled here, if nnU-Net's default would do it."""

    @property
    def resampling_fn_data(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As nnU-Net's: array, new shape, current and new spacing to the new array."""
        return _ours(super().resampling_fn_data)

    @property
    def resampling_fn_seg(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Likewise for label maps."""
        return _ours(super().resampling_fn_seg)


def _ours(usual: Any) -> Any:
    is_default = usual.func is resample_data_or_seg_to_shape
    return partial(resample, **usual.keywords) if is_default else usual


def resample(
    data: np.ndarray,
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    **settings: Any,
) -> np.ndarray:
    """Resample images or label maps; nnU-Net's result.

    Images are equal to the last digit of 32 bits, label maps in every voxel, ties included.

    Args:
        data: ``(c, z, y, x)`` float32, or whole numbers of any type with ``is_seg``.
        new_shape: Wanted z, y, x.
        current_spacing: mm, z, y, x.
        new_spacing: Likewise, after resampling.
        settings: Those of nnU-Net's function. Where they say that one axis is much coarser, it is
            resampled to the nearest slice. Other orders than 3, of label maps than 1, go to
            nnU-Net, as do labels that 16 bits do not hold.

    Returns:
        ``(c, *new_shape)`` of the same type; ``data`` itself if the shape stays.

    Source: ``nnunetv2.preprocessing.resampling.default_resampling`` and
    ``batchgenerators.augmentations.utils.resize_segmentation``.

    Example:
        >>> volume = np.zeros((1, 4, 8, 8), np.float32)
        >>> resample(volume, (8, 8, 8), (2, 1, 1), (1, 1, 1), force_separate_z=False).shape
        (1, 8, 8, 8)
        >>> labels = np.zeros((1, 2, 4, 4), np.int8)
        >>> labels[..., 2:] = 3
        >>> keywords = {"is_seg": True, "order": 1, "force_separate_z": False}
        >>> resample(labels, (2, 4, 6), (1, 1, 3), (1, 1, 2), **keywords)[0, 0, 0].tolist()
        [0, 0, 0, 3, 3, 3]
    """
    shape = tuple(int(length) for length in new_shape)
    if data.shape[1:] == shape:
        return data
    spacings = tuple(current_spacing), tuple(new_spacing)
    values, resize = _values_and_method(data, settings)
    if resize is None:
        return np.asarray(resample_data_or_seg_to_shape(data, shape, *spacings, **settings))
    separate, coarse = determine_do_sep_z_and_axis(
        settings.get("force_separate_z", False),
        *spacings,
        settings.get("separate_z_anisotropy_threshold", ANISO_THRESHOLD),
    )
    axis = int(coarse) if separate and coarse is not None else None
    resampled = np.empty((len(data), *shape), data.dtype)
    for volume, target in zip(values, resampled, strict=True):
        if axis is None:
            target[:] = resize(volume, shape)
            continue
        slices = np.moveaxis(volume, axis, 0)
        in_plane = tuple(length for number, length in enumerate(shape) if number != axis)
        nearest = _nearest(len(slices), shape[axis])
        planes = {number: resize(slices[number], in_plane) for number in set(nearest)}
        turned = np.moveaxis(target, axis, 0)
        for number, source in enumerate(nearest):
            turned[number] = planes[source]
    return resampled


def _values_and_method(
    data: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, Callable[[np.ndarray, Sequence[int]], np.ndarray] | None]:
    """The array as the method of these settings takes it, and that method; ``None`` of ours."""
    is_seg, order = settings.get("is_seg", False), settings.get("order", _CUBIC)
    if settings.get("order_z", 0) != 0 or order != (1 if is_seg else _CUBIC):
        return data, None
    if not is_seg:
        return data, cubic
    with np.errstate(invalid="ignore"):  # what is no number differs below
        whole = data.astype(np.int16, copy=False)
    return whole, linear_labels if whole is data or np.array_equal(whole, data) else None


def cubic(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Values of a cubic spline on a grid of another shape, between the smallest and largest given.

    Args:
        values: Array, computed with in 64 bits; borders repeat beyond it.
        shape: Wanted shape. Grids have the same outer borders, not the same outer voxels.

    Source: ``skimage.transform.resize`` of order 3 without anti-aliasing.
    """
    result = values = values.astype(np.float64, copy=False)
    # what shrinks goes first: the other axes then have less to do
    order = np.argsort([new / old for new, old in zip(shape, values.shape, strict=True)])
    for axis in map(int, order):
        n_old, n_new = result.shape[axis], int(shape[axis])
        if n_old == n_new:
            continue
        rows = np.moveaxis(result, axis, 0)
        others = rows.shape[1:]
        padded = np.pad(rows.reshape(n_old, -1), ((_PAD, _PAD), (0, 0)), mode="edge")
        padded = ndimage.spline_filter1d(padded, _CUBIC, axis=0, mode="nearest")
        rows = (_weights(n_old, n_new) @ padded).reshape(n_new, *others)
        result = np.moveaxis(rows, 0, axis)
    return np.clip(result, values.min(), values.max())


def _weights(n_old: int, n_new: int) -> Any:
    """Cubic B-splines ``(n_new, n_old + 2 _PAD)`` at the centers of the new voxels."""
    places = (np.arange(n_new) + 0.5) * (n_old / n_new) - 0.5 + _PAD
    first = np.floor(places).astype(np.intp)
    t = places - first
    taps = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1
    )
    rows, columns = np.repeat(np.arange(n_new), 4), first[:, None] + np.arange(-1, 3)
    return sparse.csr_matrix((taps.ravel() / 6, (rows, columns.ravel())), (n_new, n_old + 2 * _PAD))


def _nearest(n_old: int, n_new: int) -> list[int]:
    """Old slice that each new one shows."""
    places = (n_old / n_new) * (np.arange(n_new) + 0.5) - 0.5
    return np.clip(np.floor(places + 0.5).astype(int), 0, n_old - 1).tolist()


def linear_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Labels that hold the most of a voxel, each interpolated linearly.

    Args:
        labels: Array of integers; borders repeat beyond it.
        shape: Wanted shape, grids as in :func:`cubic`.

    Returns:
        Where several labels hold the most, that of the nearest old voxel if it is one of them, else
        the smallest.

    Source: ``batchgenerators.augmentations.utils.resize_segmentation`` of order 1. Weights are
    multiplied and added in the order of ``scipy.ndimage.zoom``, so that ties fall alike.
    """
    sides = [_Side.of(old, int(new)) for old, new in zip(labels.shape, shape, strict=True)]
    lowest = highest = labels
    for axis, side in enumerate(sides):
        lowest = np.minimum(*(lowest.take(voxels, axis) for voxels in side.neighbors))
        highest = np.maximum(*(highest.take(voxels, axis) for voxels in side.neighbors))
    places = np.nonzero(lowest != highest)
    for start in range(0, len(places[0]), _AT_ONCE):
        part = tuple(indices[start : start + _AT_ONCE] for indices in places)
        lowest[part] = _weighed(labels, part, sides)
    return lowest


@dataclass(frozen=True)
class _Side:
    """Where the centers of new voxels lie along one axis.

    Attributes:
        neighbors: Old voxels below and above each, ``(2, n_new)``.
        weights: Their weights, likewise.
        nearest: The nearer one.
    """

    neighbors: np.ndarray
    weights: np.ndarray
    nearest: np.ndarray

    @classmethod
    def of(cls, n_old: int, n_new: int) -> _Side:
        places = (np.arange(n_new) + 0.5) * (n_old / n_new) - 0.5
        below = np.floor(places)
        weight = 1 - (places - below)
        neighbors = np.clip(np.stack([below, below + 1]), 0, n_old - 1).astype(np.intp)
        nearest = np.asarray(_nearest(n_old, n_new))
        return cls(neighbors, np.stack([weight, 1 - weight]), nearest)


def _weighed(
    labels: np.ndarray, places: tuple[np.ndarray, ...], sides: Sequence[_Side]
) -> np.ndarray:
    """Label of new voxels whose neighbors differ."""
    neighbors, weights = [], []
    for corner in itertools.product((0, 1), repeat=len(sides)):
        around = list(zip(corner, places, sides, strict=True))
        neighbors.append(labels[tuple(side.neighbors[upper, at] for upper, at, side in around)])
        weight = np.ones(len(places[0]))
        for upper, at, side in around:
            weight *= side.weights[upper, at]
        weights.append(weight)
    held = np.zeros((len(neighbors), len(places[0])))
    for share, label in zip(held, neighbors, strict=True):
        for other, weight in zip(neighbors, weights, strict=True):
            share += np.where(other == label, weight, 0)
    most = held == held.max(0)
    nearest = labels[tuple(side.nearest[at] for at, side in zip(places, sides, strict=True))]
    smallest = np.where(most, neighbors, np.iinfo(labels.dtype).max).min(0)
    return np.where((most & (neighbors == nearest)).any(0), nearest, smallest)
