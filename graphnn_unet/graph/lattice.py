"""Edges of regular grids: neighbors within an image, and links from its nodes into another one.

Papers:
    Random walker: https://doi.org/10.1109/TPAMI.2006.233
    Graph cuts over registered voxels (Koch et al. 2015): https://arxiv.org/abs/1605.00029
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from graphnn_unet.errors import ShapeError
from graphnn_unet.graph._tensors import check_positive, widen
from graphnn_unet.graph._untyped import csr_of_coordinates


def lattice_affinity(
    image: Tensor, bandwidth: float, spacing: Sequence[float] | None = None
) -> Tensor:
    """Edges between the 2 * d direct neighbors of a grid, weighted by how alike they look.

    ``w = (smallest spacing / spacing of the axis)^2 exp(-|difference|^2 / bandwidth^2)``.

    Args:
        image: ``(c, *s)``, one value a channel and node; any number of axes.
        bandwidth: Difference of intensity at which a weight has fallen to ``1 / e``.
        spacing: Distance of neighbors, one value an axis; default 1.

    Returns:
        Sparse CSR ``(n, n)``, symmetric; nodes in raster order.

    Raises:
        InputError: The bandwidth or a spacing is not positive.
        ShapeError: As many spacings as axes are needed.

    Example:
        >>> lattice_affinity(torch.tensor([[0.0, 0.0, 1.0]]), bandwidth=1.0).to_dense()
        tensor([[0.0000, 1.0000, 0.0000],
                [1.0000, 0.0000, 0.3679],
                [0.0000, 0.3679, 0.0000]])
    """
    check_positive("bandwidth", bandwidth)
    shape = image.shape[1:]
    steps = [1.0] * len(shape) if spacing is None else [float(step) for step in spacing]
    if len(steps) != len(shape) or not shape:
        raise ShapeError(f"spacing {tuple(steps)} does not fit an image of axes {tuple(shape)}")
    for step in steps:
        check_positive("spacing", step)
    wide = widen(image)
    number = torch.arange(wide[0].numel(), device=image.device).reshape(shape)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for axis, length in enumerate(shape):
        if length < 2:
            continue
        low, high = (wide.narrow(axis + 1, start, length - 1) for start in (0, 1))
        weight = torch.exp(-(high - low).square().sum(0) / bandwidth**2)
        weight = weight * (min(steps) / steps[axis]) ** 2
        ends = [number.narrow(axis, start, length - 1).flatten() for start in (0, 1)]
        parts.append((ends[0], ends[1], weight.flatten()))
        parts.append((ends[1], ends[0], weight.flatten()))
    return _matrix(parts, (number.numel(), number.numel()), wide)


def link_affinity(point: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Links from nodes to the corners of the grid cells that their points fall into.

    Args:
        point: ``(n, d)``: where each node lies in the other grid, in its voxels.
        weight: ``(n,)``, shared among the corners by multilinear interpolation.
        shape: The other grid, ``d`` lengths.

    Returns:
        Sparse CSR ``(n, prod(shape))``. A row sums to its weight; of a point outside of the grid it
        is empty, as are corners outside.

    Raises:
        ShapeError: The arguments do not fit each other.

    Example:
        >>> link_affinity(torch.tensor([[0.25], [5.0]]), torch.ones(2), [3]).to_dense()
        tensor([[0.7500, 0.2500, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    if point.dim() != 2 or point.shape[1] != len(shape) or tuple(weight.shape) != (len(point),):
        raise ShapeError(
            f"points {tuple(point.shape)}, weights {tuple(weight.shape)} and grid {tuple(shape)} "
            "do not fit",
            "they must be (n, d), (n,) and d lengths",
        )
    wide = widen(point)
    length = torch.tensor(list(shape), device=point.device)
    inside = ((wide >= 0) & (wide <= length - 1)).all(1)
    low = wide.floor().clamp(min=torch.zeros_like(wide[0]), max=(length - 1).to(wide.dtype))
    share = wide - low
    source = torch.arange(len(point), device=point.device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for corner in itertools.product((0, 1), repeat=len(shape)):
        offset = torch.tensor(corner, device=point.device)
        place = low.to(torch.int64) + offset
        factor = torch.where(offset == 1, share, 1 - share).prod(1) * weight
        keep = inside & (place < length).all(1) & (factor > 0)
        column = torch.zeros_like(source)
        for axis, size in enumerate(shape):
            column = column * size + place[:, axis]
        parts.append((source[keep], column[keep], factor[keep]))
    n_columns = int(length.prod())
    return _matrix(parts, (len(point), n_columns), wide)


def _matrix(
    parts: Sequence[tuple[Tensor, Tensor, Tensor]], shape: tuple[int, int], like: Tensor
) -> Tensor:
    """CSR of rows, columns and weights; weights of equal places are added."""
    row = torch.cat([like.new_zeros(0, dtype=torch.int64), *(part[0] for part in parts)])
    column = torch.cat([like.new_zeros(0, dtype=torch.int64), *(part[1] for part in parts)])
    value = torch.cat([like.new_zeros(0), *(part[2].to(like.dtype) for part in parts)])
    return csr_of_coordinates(row, column, value, shape)
