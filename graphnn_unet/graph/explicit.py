"""Graphs given as a matrix of weights: dense ``(b, n, n)`` or ``(n, n)``, or sparse ``(n, n)``.

Affinities are symmetric. A sparse one counts as constant: gradient reaches what it is multiplied
with, not its weights. Products go through compressed rows, never through ``index_add_``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import full_precision, widen
from graphnn_unet.graph._untyped import csr_of_coordinates, csr_tensor, symmetric_product
from graphnn_unet.graph.affinity import inverse_root


def is_sparse(affinity: Tensor) -> bool:
    """Whether the affinity is stored sparse."""
    return affinity.layout != torch.strided


def checked_affinity(affinity: Tensor) -> Tensor:
    """The affinity in float32 or wider, a sparse one as CSR.

    Raises:
        ShapeError: Not square, or sparse with a batch axis.
        InputError: A sparse affinity that wants a gradient.
    """
    square = affinity.dim() >= 2 and affinity.shape[-1] == affinity.shape[-2]
    if not square or affinity.dim() > (2 if is_sparse(affinity) else 3):
        raise ShapeError(
            f"affinity has shape {tuple(affinity.shape)}",
            "it must be (node, node), or (graph, node, node) and dense",
        )
    if not is_sparse(affinity):
        return widen(affinity)
    if affinity.requires_grad:
        raise InputError(
            "the sparse affinity wants a gradient",
            "sparse weights count as constant",
            "Detach it, or pass it dense",
        )
    if affinity.layout == torch.sparse_csr:
        rows = affinity
    else:
        links = affinity.to_sparse_coo().coalesce()
        row, column = links.indices()
        rows = csr_of_coordinates(row, column, links.values(), (len(links), len(links)))
    return rows if rows.dtype == widen(rows.values()).dtype else rows.to(torch.float32)


def require_no_negative(weight: Tensor, why: str, remedy: str = "") -> None:
    """``InputError`` for a dense or sparse affinity with a negative weight."""
    stored = weight.values() if is_sparse(weight) else weight
    if bool((stored < 0).any()):
        raise InputError("the affinity has negative weights", why, remedy)


def affinity_product(affinity: Tensor, signal: Tensor) -> Tensor:
    """``W X`` for a symmetric affinity.

    Args:
        affinity: Dense ``(b, n, n)`` or ``(n, n)``, or sparse ``(n, n)``.
        signal: ``(b, n, q)`` or ``(n, q)``, with a batch axis where a dense affinity has one.

    Returns:
        The shape of ``signal``; float32 or wider.

    Raises:
        ShapeError: The shapes do not fit.
        InputError: A sparse affinity that wants a gradient.

    Example:
        >>> affinity = torch.tensor([[0.0, 2.0], [2.0, 0.0]]).to_sparse()
        >>> affinity_product(affinity, torch.tensor([[1.0], [10.0]]))
        tensor([[20.],
                [ 2.]])
    """
    with full_precision(signal):
        weight, wide = checked_affinity(affinity), widen(signal)
        dtype = torch.promote_types(weight.dtype, wide.dtype)
        weight, wide = weight.to(dtype), wide.to(dtype)
        if wide.dim() != affinity.dim() or wide.shape[:-1] != weight.shape[:-1]:
            raise ShapeError(
                f"affinity {tuple(affinity.shape)} and signal {tuple(signal.shape)} do not fit"
            )
        if is_sparse(weight):
            return symmetric_product(weight.matmul, wide)
        return weight @ wide


def affinity_degree(affinity: Tensor) -> Tensor:
    """Row sums ``d_i = sum_j w_ij``, ``(n,)`` or ``(b, n)``."""
    weight = checked_affinity(affinity)
    if not is_sparse(weight):
        return weight.sum(dim=-1)
    ones = weight.values().new_ones(weight.shape[0], 1)
    return (weight @ ones).squeeze(-1)


def normalized_affinity(affinity: Tensor) -> Tensor:
    """``D^(-1/2) W D^(-1/2)``; rows of nodes without positive degree become zero.

    Args:
        affinity: Dense or sparse, symmetric, non-negative.

    Returns:
        The same layout (sparse: CSR); eigenvalues in [-1, 1].

    Example:
        >>> normalized_affinity(torch.tensor([[1.0, 3.0], [3.0, 1.0]]))
        tensor([[0.2500, 0.7500],
                [0.7500, 0.2500]])
    """
    weight = checked_affinity(affinity)
    root = inverse_root(affinity_degree(weight))
    if not is_sparse(weight):
        return root.unsqueeze(-1) * weight * root.unsqueeze(-2)
    start, column = weight.crow_indices(), weight.col_indices()
    row = torch.repeat_interleave(torch.arange(len(root), device=root.device), start.diff())
    values = weight.values() * root[row] * root[column]
    return csr_tensor(start, column, values, (len(root), len(root)))


def edge_list(affinity: Tensor) -> tuple[Tensor, Tensor]:
    """Edges of one graph ``(n, n)`` with weights that are not 0: ``(2, e)`` int64 and ``(e,)``.

    The pairs are sorted by the second node, which receives the message.
    """
    links = checked_affinity(affinity).to_sparse_coo().coalesce()
    keep = links.values() != 0
    return links.indices().flip(0)[:, keep], links.values()[keep]
