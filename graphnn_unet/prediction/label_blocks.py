"""A label map from rows of logits: resampled block by block, and only where classes compete.

nnU-Net resamples every class over the whole image and takes the arg max. Linear interpolation
stays between the smallest and the largest of the values it mixes, so inside a block of the image a
class whose largest logit is below another's smallest cannot win anywhere in it. Such classes are
not resampled there; where one class is left, nothing is. What is resampled is so bit by bit as
``skimage.transform.resize`` does it for nnU-Net (``scipy.ndimage.zoom``: the order of products and
sums is the same, and so is the rounding to the type of the logits), so that the label map is the
same, equal logits included.

Rows of the network's grid may come as they are finished. Of the classes x volume only those that
the next row of the image still needs have to exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from torch import Tensor

_BLOCK = (8, 32, 32)
"""Edges of a block in voxels of the image: small enough that one class is often alone in it."""
_SURE = 1e-3
"""A logit whose sigmoid is above 0.5 in float32 without a doubt: it is not for tiny ones."""


@dataclass(frozen=True)
class _Axis:
    """Which two voxels of the grid a voxel of the image lies between, along one axis.

    Attributes:
        low, high: Their indices.
        weights: ``(2, n)`` float64; ``None`` where the value of ``low`` is taken as it is.
    """

    low: np.ndarray
    high: np.ndarray
    weights: np.ndarray | None

    def corners(self, part: slice, first: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Indices counted from ``first`` and their weights, for a part of the image's voxels."""
        if self.weights is None:
            return [(self.low[part] - first, None)]
        pair = zip((self.low, self.high), self.weights, strict=True)
        return [(index[part] - first, weight[part]) for index, weight in pair]


def _axis(n_grid: int, n_image: int, *, nearest: bool) -> _Axis:
    """As ``scipy.ndimage`` places the voxels of the image on the grid, whose border is repeated."""
    place = (np.arange(n_image) + 0.5) * (n_grid / n_image) - 0.5
    if nearest or n_grid == n_image:
        index = np.clip(np.floor(place + 0.5).astype(np.intp), 0, n_grid - 1)
        return _Axis(index, index, None)
    low = np.floor(place)
    first = 1.0 - (place - low)
    # beyond the border both are the same voxel: its two shares are added, as there, not made one
    low, high = (np.clip(index.astype(np.intp), 0, n_grid - 1) for index in (low, low + 1))
    return _Axis(low, high, np.stack([first, 1.0 - first]))


class BlockLabels:
    """Takes rows of logits in order; holds the label map of the cropped image so far.

    Args:
        grid_shape: Spatial size of the logits.
        image_shape: ``(z, y, x)`` of the cropped image.
        n_outputs: Number of logits a voxel.
        spacings: Spacing of the network's grid and of the image, in the network's order of axes.
        region_order: Of overlapping outputs: the id of each, later ones overwrite earlier ones.
            ``None`` for outputs that exclude each other.

    Attributes:
        labels: ``(z, y, x)``.
    """

    def __init__(
        self,
        grid_shape: Sequence[int],
        image_shape: Sequence[int],
        n_outputs: int,
        spacings: tuple[Sequence[float], Sequence[float]],
        region_order: Sequence[int] | None = None,
    ):
        grid, image = [tuple(int(n) for n in shape) for shape in (grid_shape, image_shape)]
        fits_a_byte = region_order is None and n_outputs <= 256
        self.labels = np.zeros(image, dtype=np.uint8 if fits_a_byte else np.uint16)
        self._region_order = region_order
        apart = None
        if grid != image:
            apart = determine_do_sep_z_and_axis(None, *spacings)[1]  # pyright: ignore[reportArgumentType]  # None is a value
        self._axes = [
            _axis(a, b, nearest=axis == apart)
            for axis, (a, b) in enumerate(zip(grid, image, strict=True))
        ]
        self._done = 0

    @staticmethod
    def can_resample(configuration: Any) -> bool:
        """Whether the plan asks for the resampling that is done here, nnU-Net's default."""
        resample = configuration.resampling_fn_probabilities
        default = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
        return resample.func is resample_data_or_seg_to_shape and resample.keywords == default

    def add(self, first: int, logits: Tensor) -> None:
        """Label all rows of the image for which the grid's rows are there.

        Args:
            first: Row of the grid with which ``logits`` begin. From the second call on, the last
                row of the call before comes once more.
            logits: ``(k, n, y, x)`` finite values.
        """
        rows = self._axes[0]
        ready = int(np.searchsorted(rows.high, first + logits.shape[1]))
        edges = [range(self._done, ready, _BLOCK[0])]
        edges += [range(0, n, edge) for n, edge in zip(self.labels.shape[1:], _BLOCK[1:])]  # noqa: B905  # both have two
        ends = (ready, *self.labels.shape[1:])
        for starts in itertools.product(*edges):
            block = tuple(
                slice(start, min(start + edge, end))
                for start, edge, end in zip(starts, _BLOCK, ends, strict=True)
            )
            self._label(block, first, logits)
        self._done = max(self._done, ready)

    def _label(self, block: tuple[slice, ...], first: int, logits: Tensor) -> None:
        box = [
            slice(int(axis.low[part.start]), int(axis.high[part.stop - 1]) + 1)
            for axis, part in zip(self._axes, block, strict=True)
        ]
        rows = slice(box[0].start - first, box[0].stop - first)
        values = logits[:, rows, box[1], box[2]]
        lowest, highest = values.flatten(1).aminmax(dim=1)
        corners = [
            axis.corners(part, part_box.start)
            for axis, part, part_box in zip(self._axes, block, box, strict=True)
        ]
        target = self.labels[block]
        if self._region_order is not None:
            _overlapping(values, lowest, highest, corners, self._region_order, target)
            return
        competing = torch.nonzero(highest >= lowest.max())[:, 0].tolist()
        if len(competing) == 1:
            target[...] = competing[0]
        else:
            _exclusive(values, competing, corners, target)


_Corners = list[list[tuple[np.ndarray, "np.ndarray | None"]]]


def _exclusive(
    values: Tensor, competing: Sequence[int], corners: _Corners, target: np.ndarray
) -> None:
    """The arg max of the competing classes; the first of equal ones wins."""
    best = np.full(target.shape, -np.inf, dtype=np.float32)
    labels = np.zeros(target.shape, dtype=target.dtype)
    for index in competing:
        here = _interpolated(values[index], corners)
        labels[here > best] = index
        np.maximum(best, here, out=best)
    target[...] = labels


def _overlapping(
    values: Tensor,
    lowest: Tensor,
    highest: Tensor,
    corners: _Corners,
    order: Sequence[int],
    target: np.ndarray,
) -> None:
    """Later regions overwrite earlier ones, as in nnU-Net."""
    for index, number in enumerate(order):
        if highest[index] <= 0:
            continue
        if lowest[index] > _SURE:
            target[...] = number
            continue
        # a sigmoid in float32 is 0.5 for tiny positive logits too; nnU-Net compares it
        probability = torch.sigmoid(torch.from_numpy(_interpolated(values[index], corners)))
        target[probability.numpy() > 0.5] = number


def _interpolated(values: Tensor, corners: _Corners) -> np.ndarray:
    """Logits ``(z, y, x)`` of a block, float32, rounded to the type of ``values`` before.

    A sum over corners of ``((value * w_z) * w_y) * w_x``, z outermost, in float64.
    """
    kind = np.float16 if values.dtype == torch.float16 else np.float32
    voxels = values.double().numpy()
    total = None
    for index_z, weight_z in corners[0]:
        planes = voxels[index_z]
        if weight_z is not None:
            planes = planes * weight_z[:, None, None]
        for index_y, weight_y in corners[1]:
            lines = planes[:, index_y]
            if weight_y is not None:
                lines = lines * weight_y[:, None]
            for index_x, weight_x in corners[2]:
                term = np.take(lines, index_x, axis=2)
                if weight_x is not None:
                    term *= weight_x
                total = term if total is None else np.add(total, term, out=total)
    assert total is not None  # noqa: S101  # there is a corner on each axis
    return total.astype(kind).astype(np.float32, copy=False)
