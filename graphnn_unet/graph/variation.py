"""Total variation of a scalar on the complete graph of feature products, by one sort."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.errors import ShapeError
from graphnn_unet.graph._tensors import as_batch, full_precision, widen

_PREFIX_BLOCK = 256


def total_variation(signal: Tensor, node_feature: Tensor) -> Tensor:
    """``sum_(i<j) w_ij |u_i - u_j|`` with ``w_ij = f_i.f_j``, exactly, in ``n log n``.

    With the nodes in ascending order of ``u`` and ``P_t`` the sum of the first ``t`` feature rows,
    a gap between two neighbours in that order counts for every pair it separates:

        TV(u) = sum_t (u_(t+1) - u_(t)) cut_t,    cut_t = P_t . (P_n - P_t)

    For an indicator of a set this is the cut. The subgradient takes 0 for ties. The weights count
    as constant.

    Args:
        signal: ``(n,)``, ``(n, q)`` or ``(b, n, q)``; each column on its own.
        node_feature: ``(n, c)``, or ``(b, n, c)`` where the signal has a batch axis. Weights are
            non-negative, and so is the value, if no feature is negative; pass
            :func:`graphnn_unet.graph.affinity.shifted_cosine` of signed ones.

    Returns:
        A scalar for ``(n,)``, ``(q,)`` for ``(n, q)``, ``(b, q)`` for ``(b, n, q)``.

    Raises:
        ShapeError: The inputs do not fit.

    Source: identity LF-11 (coarea formula). Cost: ``q (n log n + n c)`` time, ``n c`` memory.
    """
    if signal.dim() == 1 and node_feature.dim() == 2:
        return total_variation(signal.unsqueeze(-1), node_feature)[0]
    if signal.dim() != node_feature.dim() or signal.shape[:-1] != node_feature.shape[:-1]:
        raise ShapeError(
            f"signal {tuple(signal.shape)} and node_feature {tuple(node_feature.shape)} do not fit",
            "both must describe the same graphs and nodes",
        )
    with full_precision(signal):
        feature, single = as_batch(node_feature.detach(), "node_feature")
        level, _ = as_batch(signal, "signal")
        feature, level = feature.to(level.dtype), widen(level)
        columns = [
            torch.stack([_Variation.apply(column, rows) for column in graph.unbind(-1)])
            for graph, rows in zip(level, feature, strict=True)
        ]
    return columns[0] if single else torch.stack(columns)


def prefix_sums(rows: Tensor) -> Tensor:
    """``P_0 ... P_n`` of ``(n, c)`` rows as ``(n + 1, c)``.

    In blocks, by products with a triangle of ones: PyTorch's ``cumsum`` is not deterministic on
    CUDA, and adding one row after the other loses digits.
    """
    n_rows = len(rows)
    zero = rows.new_zeros(1, rows.shape[1])
    if n_rows <= _PREFIX_BLOCK:
        return torch.cat([zero, rows.new_ones(n_rows, n_rows).tril() @ rows])
    n_blocks = -(-n_rows // _PREFIX_BLOCK)
    padded = functional.pad(rows, (0, 0, 0, n_blocks * _PREFIX_BLOCK - n_rows))
    triangle = rows.new_ones(_PREFIX_BLOCK, _PREFIX_BLOCK).tril()
    within = triangle @ padded.view(n_blocks, _PREFIX_BLOCK, -1)
    before = prefix_sums(within[:, -1])[:-1]
    return torch.cat([zero, (within + before.unsqueeze(1)).flatten(0, 1)[:n_rows]])


class _Variation(torch.autograd.Function):
    """Value and subgradient of one column on one graph."""

    @staticmethod
    def forward(ctx: Any, level: Tensor, rows: Tensor) -> Tensor:
        ascending, order = torch.sort(level, stable=True)
        prefix = prefix_sums(rows[order])
        cut = (prefix[1:-1] * (prefix[-1] - prefix[1:-1])).sum(dim=1)
        value = (ascending.diff() * cut).sum()
        if ctx.needs_input_grad[0]:
            # ties: everything strictly below a node lies before the first of its equals
            below = torch.searchsorted(ascending, ascending, right=False)
            upto = torch.searchsorted(ascending, ascending, right=True)
            pull = (rows[order] * (prefix[below] + prefix[upto] - prefix[-1])).sum(dim=1)
            slope = torch.empty_like(pull)
            slope[order] = pull
            ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None
