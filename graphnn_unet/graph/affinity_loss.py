"""The clustering losses on a graph that is given as a matrix, dense or sparse.

For thresholded and nearest-neighbor graphs, which have no linear form in their features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from graphnn_unet.errors import ShapeError
from graphnn_unet.graph._tensors import as_batch, check_choice, full_precision
from graphnn_unet.graph.clustering_loss import balance_term, modularity_value, positive_weight
from graphnn_unet.graph.explicit import (
    affinity_degree,
    affinity_product,
    checked_affinity,
    require_no_negative,
)


def correlation_clustering_loss_from(affinity: Tensor, assignment: Tensor) -> Tensor:
    """``-Tr(W S S^T) / n^2``; ``W`` may be signed.

    Args:
        affinity: Symmetric; dense ``(b, n, n)`` or ``(n, n)``, or sparse ``(n, n)``, where pairs
            that are not stored count as 0.
        assignment: ``(b, n, k)`` or ``(n, k)``, rows on the simplex.

    Returns:
        ``(b,)``, or a scalar for one graph without batch axis.

    Raises:
        ShapeError: The inputs do not fit.
        InputError: A sparse affinity wants a gradient.

    Example:
        >>> affinity = torch.tensor([[1.0, 0.8, -0.5], [0.8, 1.0, -0.5], [-0.5, -0.5, 1.0]])
        >>> split = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(correlation_clustering_loss_from(affinity, split).item(), 4)
        -0.5111
    """
    with full_precision(assignment):
        weight, member, single = _prepared(affinity, assignment)
        value = -(member * _product(weight, member)).sum(dim=(1, 2)) / float(member.shape[1]) ** 2
    return value[0] if single else value


def normalized_cut_loss_from(
    affinity: Tensor, assignment: Tensor, *, balance_weight: float = 1.0
) -> Tensor:
    """Normalized cut on a given graph, see :func:`graphnn_unet.graph.normalized_cut_loss`.

    Args:
        affinity: Symmetric, non-negative; dense or sparse.
        assignment: ``(b, n, k)`` or ``(n, k)``, rows on the simplex.
        balance_weight: Weight of the balance term; 0 leaves it out.

    Returns:
        ``(b,)``, or a scalar for one graph without batch axis.

    Raises:
        ShapeError: The inputs do not fit.
        InputError: A weight is negative, a graph has no edge, or a sparse affinity wants a
            gradient.

    Example:
        >>> affinity = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
        >>> split = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> round(normalized_cut_loss_from(affinity, split).item(), 4)
        -1.0
    """
    with full_precision(assignment):
        weight, member, single = _prepared(affinity, assignment)
        require_no_negative(
            weight,
            "a normalized cut divides by degrees, which then mean nothing",
            "Keep the positive weights, or use the correlation clustering loss",
        )
        degree = _degree(weight)
        volume = (degree * member.square().sum(dim=2)).sum(dim=1)
        within = (member * _product(weight, member)).sum(dim=(1, 2))
        value = balance_weight * balance_term(member) - within / positive_weight(volume)
    return value[0] if single else value


def modularity_loss_from(
    affinity: Tensor,
    assignment: Tensor,
    *,
    collapse: bool = True,
    balance_weight: float = 1.0,
    variant: Literal["true", "released"] = "true",
) -> Tensor:
    """Negative modularity on a given graph, see :func:`graphnn_unet.graph.modularity_loss`.

        Q = Tr(Sc^T W Sc) / M,    Sc = S - 1 (S^T d)^T / M

    where the null model has vanished: one pass over the edges, and nothing large is subtracted.

    Args:
        affinity: Symmetric with positive total weight; dense or sparse.
        assignment: ``(b, n, k)`` or ``(n, k)``, rows on the simplex.
        collapse: Whether the term against one cluster is added.
        balance_weight: Its weight.
        variant: ``true``, or ``released`` for the tables of the published programs.

    Returns:
        ``(b,)``, or a scalar for one graph without batch axis.

    Raises:
        ShapeError: The inputs do not fit.
        InputError: A graph has no positive weight, or a sparse affinity wants a gradient.

    Example:
        >>> affinity = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
        >>> split = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> round(modularity_loss_from(affinity, split).item(), 4)
        -0.5
    """
    check_choice("variant", variant, ("true", "released"))
    with full_precision(assignment):
        weight, member, single = _prepared(affinity, assignment)
        degree = _degree(weight)
        total = positive_weight(degree.sum(dim=1))
        weighted = (degree.unsqueeze(1) @ member) / total[:, None, None]
        centered = member - weighted
        quality = (centered * _product(weight, centered)).sum(dim=(1, 2)) / total
        drawn = weighted.square().sum(dim=(1, 2))
        value = modularity_value(quality, drawn, member, variant, collapse, balance_weight)
    return value[0] if single else value


def _prepared(affinity: Tensor, assignment: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The affinity, and the assignment with a batch axis; one graph may come without it."""
    member, single = as_batch(assignment, "assignment")
    if assignment.dim() != affinity.dim() or assignment.shape[:-1] != affinity.shape[:-1]:
        raise ShapeError(
            f"affinity {tuple(affinity.shape)} and assignment {tuple(assignment.shape)} do not fit",
            "they must describe the same nodes, both or none with a batch axis",
        )
    weight = checked_affinity(affinity)
    return weight, member.to(torch.promote_types(member.dtype, weight.dtype)), single


def _product(weight: Tensor, member: Tensor) -> Tensor:
    """``W X`` as ``(b, n, k)``, whether or not the affinity has a batch axis."""
    if weight.dim() == 3:
        return affinity_product(weight, member)
    return affinity_product(weight, member[0]).unsqueeze(0)


def _degree(weight: Tensor) -> Tensor:
    """Degrees as ``(b, n)``."""
    degree = affinity_degree(weight)
    return degree.unsqueeze(0) if degree.dim() == 1 else degree
