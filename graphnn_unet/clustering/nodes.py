"""Nodes of an image: cells of a grid, and the way between pixels and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphnn_unet.errors import InputError


@dataclass(frozen=True)
class Grid:
    """Cells of equal width along each axis; a pixel belongs to the cell that its middle lies in.

    So cells are where the interpolation from nodes to pixels takes them to be. Widths need not be
    whole numbers.

    Attributes:
        shape: Spatial shape in pixels.
        size: Number of cells an axis.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def of_cells(cls, shape: Sequence[int], cell: int) -> Grid:
        """The grid of cells with an edge of ``cell`` pixels, a little more where it does not fit.

        Raises:
            InputError: Less than two cells along an axis.
        """
        # thin axes of volumes keep two cells, however thick slices are
        least = 2 if len(shape) > 2 else 1
        size = tuple(max(n // cell, min(n, least)) for n in shape)
        if min(size) < 2:
            raise InputError(
                f"an image of {' x '.join(map(str, shape))} pixels has fewer than 2 x 2 cells of "
                f"{cell} pixels", "", "Give a smaller --cell",
            )  # fmt: skip
        return cls(tuple(shape), size)

    @property
    def n_nodes(self) -> int:
        """Number of cells."""
        return int(np.prod(self.size))

    @cached_property
    def _places(self) -> list[NDArray[np.int64]]:
        """Cell of each pixel along each axis."""
        return [
            (2 * np.arange(n) + 1) * cells // (2 * n)
            for n, cells in zip(self.shape, self.size, strict=True)
        ]

    @cached_property
    def node_map(self) -> NDArray[np.int32]:
        """Node of each pixel."""
        places = np.ix_(*self._places)
        return np.ravel_multi_index(places, self.size).astype(np.int32)

    def pooled(self, maps: np.ndarray) -> NDArray[np.float32]:
        """Mean of pixel maps ``(channel, *shape)`` in each cell, ``(node, channel)`` float32."""
        means = maps.astype(np.float32, copy=False)
        for axis, place in enumerate(self._places, start=1):
            starts = np.searchsorted(place, np.arange(self.size[axis - 1]))
            counts = np.diff([*starts, len(place)]).astype(np.float32)
            means = np.add.reduceat(means, starts, axis=axis)
            means /= counts.reshape([-1 if a == axis else 1 for a in range(means.ndim)])
        return np.moveaxis(means, 0, -1).reshape(self.n_nodes, -1)

    @cached_property
    def margin(self) -> NDArray[np.bool_]:
        """Nodes in the first or last cell along any axis, ``(node,)``."""
        inside = np.zeros(self.size, dtype=bool)
        inside[tuple(slice(1, -1) for _ in self.size)] = True
        return ~inside.ravel()


@dataclass(frozen=True)
class NodeFeatures:
    """Nodes of one image with their features.

    Attributes:
        values: ``(node, channel)`` float32.
    """

    values: Tensor
    grid: Grid


def standardized(values: np.ndarray) -> Tensor:
    """Columns with mean 0 and deviation 1; a constant column becomes 0. ``(node, channel)``."""
    centered = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    deviation = centered.std(axis=0)
    scale = np.abs(values).max(axis=0)
    alive = deviation > 1e-6 * np.maximum(scale, 1e-6)
    scaled = np.where(alive, centered / np.where(alive, deviation, 1.0), 0.0)
    return torch.from_numpy(scaled.astype(np.float32))
