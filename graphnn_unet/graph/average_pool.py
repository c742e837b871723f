"""Average pooling whose gradient is the same in every run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphnn_unet.graph._untyped import unflatten


def average_to(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Mean of the positions in each cell of a coarser grid.

    As PyTorch's adaptive average pooling, whose gradient is not deterministic on CUDA. Where the
    cells do not divide an axis they share positions: the middle one of 5 is in both of 2 cells.

    Args:
        feature: ``(b, c, *s)``.
        size: Cells of each spatial axis.

    Returns:
        ``(b, c, *size)``.

    Example:
        >>> average_to(torch.arange(5.0).reshape(1, 1, 5), [2])
        tensor([[[1., 3.]]])
    """
    for axis, n_cells in enumerate(size, 2):
        length = feature.shape[axis]
        if length == n_cells:
            continue
        if length % n_cells == 0:
            feature = unflatten(feature, axis, (n_cells, length // n_cells)).mean(axis + 1)
            continue
        edges = [(i * length // n_cells, -(-(i + 1) * length // n_cells)) for i in range(n_cells)]
        cells = [feature.narrow(axis, low, high - low).mean(axis, keepdim=True)
                 for low, high in edges]  # fmt: skip
        feature = torch.cat(cells, axis)
    return feature
