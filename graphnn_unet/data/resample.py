"""Images at another size: nnU-Net's cubic splines, one axis at a time.

A cubic spline in three dimensions is one in each of them: 4 products a voxel and axis in place of
64 a voxel, and nothing to do along axes that keep their length. Label maps are resampled by nnU-Net
itself, where ties between labels decide.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class FastResampling(ConfigurationManager):
    """A configuration whose images are resampled here, if nnU-Net's default would do it."""

    @property
    def resampling_fn_data(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As nnU-Net's: array, new shape, current and new spacing to the new array."""
        usual: Any = super().resampling_fn_data
        if usual.func is not resample_data_or_seg_to_shape:
            return usual
        return partial(resample_image, **usual.keywords)


def resample_image(
    data: np.ndarray,
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    **settings: Any,
) -> np.ndarray:
    """Resample the channels of an image; nnU-Net's result to the last digit of 32 bits.

    Args:
        data: ``(c, z, y, x)`` float32.
        new_shape: Wanted z, y, x.
        current_spacing: mm, z, y, x.
        new_spacing: Likewise, after resampling.
        settings: Those of nnU-Net's function. Where they say that one axis is much coarser, it is
            resampled to the nearest slice. Other orders than 3 go to nnU-Net.

    Returns:
        ``(c, *new_shape)`` of the same type; ``data`` itself if the shape stays.

    Source: ``nnunetv2.preprocessing.resampling.default_resampling``.

    Example:
        >>> volume = np.zeros((1, 4, 8, 8), np.float32)
        >>> resample_image(volume, (8, 8, 8), (2, 1, 1), (1, 1, 1), force_separate_z=False).shape
        (1, 8, 8, 8)
    """
    shape = tuple(int(length) for length in new_shape)
    if data.shape[1:] == shape:
        return data
    is_usual = (
        not settings.get("is_seg", False)
        and settings.get("order", _CUBIC) == _CUBIC
        and settings.get("order_z", 0) == 0
    )
    spacings = tuple(current_spacing), tuple(new_spacing)
    if not is_usual:
        return np.asarray(resample_data_or_seg_to_shape(data, shape, *spacings, **settings))
    separate, coarse = determine_do_sep_z_and_axis(
        settings.get("force_separate_z", False),
        *spacings,
        settings.get("separate_z_anisotropy_threshold", ANISO_THRESHOLD),
    )
    axis = int(coarse) if separate and coarse is not None else None
    resampled = np.empty((len(data), *shape), data.dtype)
    for channel, target in zip(data, resampled, strict=True):
        volume = channel.astype(np.float64)
        if axis is None:
            target[:] = cubic(volume, shape)
            continue
        slices = np.moveaxis(volume, axis, 0)
        in_plane = tuple(length for number, length in enumerate(shape) if number != axis)
        nearest = _nearest(len(slices), shape[axis])
        planes = {number: cubic(slices[number], in_plane) for number in set(nearest)}
        turned = np.moveaxis(target, axis, 0)
        for number, source in enumerate(nearest):
            turned[number] = planes[source]
    return resampled


def cubic(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Values of a cubic spline on a grid of another shape, between the smallest and largest given.

    Args:
        values: Array of float64; borders repeat beyond it.
        shape: Wanted shape. Grids have the same outer borders, not the same outer voxels.

    Source: ``skimage.transform.resize`` of order 3 without anti-aliasing.
    """
    result = values
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
