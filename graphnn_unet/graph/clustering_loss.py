"""Losses that say how well a soft assignment clusters a graph.

Each is exact and, for the complete graph on feature rows, linear in the number of nodes. A value
per graph; nothing is shared between the graphs of a batch. On a matrix of weights the ``*_from``
losses of ``affinity_loss.py`` give the same values.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from graphnn_unet.errors import InputError
from graphnn_unet.graph._tensors import (
    as_batch,
    as_pair,
    check_choice,
    check_positive,
    full_precision,
)
from graphnn_unet.graph._untyped import matrix_norm, row_norm, true_places
from graphnn_unet.graph.affinity import (
    GramAffinity,
    Kernel,
    Rows,
    largest_affinity,
    row_scale,
    unit_rows,
)


def correlation_clustering_loss(
    node_feature: Tensor,
    assignment: Tensor,
    *,
    tau: float = 2.0,
    rows: Rows = "unit",
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Correlation clustering loss of a soft assignment on the graph of feature products.

        W = F F^T - (M / tau) 1 1^T,    M = max_ij f_i.f_j    (the diagonal included)
        L = -Tr(W S S^T) = -||F^T S||^2 + (M / tau) ||S^T 1||^2

    divided by ``n^2`` under ``reduction="mean"``. With unit rows and ``tau >= 1`` the mean lies in
    ``[-(1 - 1/tau), 1/tau]``. Gradient flows to the assignment and to the features; ``M`` counts
    as a constant.

    Args:
        node_feature: ``(b, n, c)`` or ``(n, c)``; half precision is widened, autocast switched off.
        assignment: ``(b, n, k)`` or ``(n, k)``, rows on the simplex.
        tau: Positive. A larger value lowers the threshold: more pairs attract, fewer clusters.
        rows: ``unit`` (default: the value then ignores the scale of features), ``raw`` (as printed
            in the paper), ``centred`` (mean row subtracted, then unit length: for features with a
            large common part, where all pairs would attract).
        reduction: ``mean`` over the ``n^2`` pairs, or ``sum`` as printed.

    Returns:
        ``(b,)``, or a scalar for one graph without batch axis.

    Raises:
        ShapeError: The inputs do not describe the same graphs and nodes.
        InputError: ``tau`` is not positive, or a word is not known.

    Source: GraphCL eqs. 15 and 18, DeepCut; identity LF-3.
    Cost: ``n c k`` time and ``n + c k`` memory.

    Example:
        >>> feature = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> split = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(correlation_clustering_loss(feature, split).item(), 4)
        -0.2778
        >>> together = torch.ones(3, 1)
        >>> round(correlation_clustering_loss(feature, together).item(), 4)
        -0.0556
    """
    check_positive("tau", tau)
    check_choice("reduction", reduction, ("mean", "sum"))
    with full_precision(node_feature):
        feature, member, single = as_pair(node_feature, assignment, ("node_feature", "assignment"))
        n_nodes = feature.shape[1]
        matrix, scale = row_scale(feature, rows)
        # the factor of the rows goes to the narrow side of the product
        scaled = member if scale is None else member * scale
        # divide before squaring: sums over nodes grow with n, their means do not
        mixed = matrix.transpose(1, 2) @ (scaled / n_nodes)
        threshold = largest_affinity(matrix, scale) / tau
        together = member.mean(dim=1).square().sum(dim=-1)
        value = threshold * together - mixed.square().sum(dim=(1, 2))
        if reduction == "sum":
            value = value * float(n_nodes) ** 2
    return value[0] if single else value


def normalized_cut_loss(
    node_feature: Tensor,
    assignment: Tensor,
    *,
    affinity: Kernel = "shifted",
    balance_weight: float = 1.0,
) -> Tensor:
    """Normalized cut of a soft assignment on the graph of feature products.

        L = -Tr(S^T W S) / Tr(S^T D S) + balance_weight * ||A / ||A|| - I / sqrt(k)||,  A = S^T S

    The second term is 0 for clusters of equal size and keeps all
    nodes from joining one cluster; it also pulls small objects towards equal shares.

    Args:
        node_feature: ``(b, n, c)`` or ``(n, c)``.
        assignment: ``(b, n, k)`` or ``(n, k)``, rows on the simplex.
        affinity: ``shifted``, ``(1 + cosine) / 2``, for any features; ``gram``, ``f_i.f_j``, for
            features without negative entries. Dividing the affinity by its maximum, as the
            published programs do, changes nothing.
        balance_weight: Weight of the second term; 0 leaves it out.

    Returns:
        ``(b,)``, or a scalar for one graph without batch axis. The first term lies in [-1, 0].

    Raises:
        ShapeError: The inputs do not describe the same graphs and nodes.
        InputError: The graph has no weight (``gram`` with features that cancel out).

    Source: DeepCut; identity LF-6. Cost: ``n c k``.

    Example:
        >>> feature = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> split = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> round(normalized_cut_loss(feature, split, affinity="gram").item(), 4)
        -1.0
    """
    with full_precision(node_feature):
        feature, member, single = as_pair(node_feature, assignment, ("node_feature", "assignment"))
        graph = GramAffinity.of(feature, affinity)
        n_nodes = graph.n_nodes
        # divided by n twice on both sides: sums over nodes leave the range of float32
        within = graph.project(member / n_nodes).square().sum(dim=(1, 2))
        within = within * n_nodes / member.shape[2]
        degree = graph.degree()
        volume = (degree * member.square().sum(dim=2)).mean(dim=1) / member.shape[2]
        value = balance_weight * balance_term(member) - within / positive_weight(volume)
    return value[0] if single else value


def modularity_loss(
    node_feature: Tensor,
    assignment: Tensor,
    *,
    collapse: bool = True,
    balance_weight: float = 1.0,
    affinity: Kernel = "shifted",
    variant: Literal["true", "released"] = "true",
) -> Tensor:
    """Negative modularity of a soft assignment on the graph of feature products.

        L = -Q + balance_weight * C,    Q = Tr(S^T (W - d d^T / M) S) / M,    M = sum_ij w_ij
        C = sqrt(k) / n * ||S^T 1|| - 1

    Computed without subtracting large numbers: ``Q`` does not change when a constant row is taken
    from ``S``, and the null model then vanishes, so ``Q = ||P Phi^T (S - 1 c^T)||^2 / M`` with
    ``P`` the projection against ``Phi^T 1``.

    Args:
        node_feature: ``(b, n, c)`` or ``(n, c)``.
        assignment: ``(b, n, k)`` or ``(n, k)``, rows on the simplex.
        collapse: Whether ``C`` is added; it is 0 for equal shares and ``sqrt(k) - 1`` for one
            cluster.
        balance_weight: Its weight.
        affinity: As in :func:`normalized_cut_loss`.
        variant: ``true``, or ``released`` for the tables of the published programs: they take the
            edge weight twice (``Q/2 + ||S^T d||^2 / (4 M^2)``, which pays for concentration) and
            the fourth root of ``k`` in ``C``.

    Returns:
        ``(b,)``, or a scalar for one graph without batch axis.

    Raises:
        ShapeError: The inputs do not describe the same graphs and nodes.
        InputError: The graph has no weight: the features cancel out.

    Source: DMoN as used by UnSegGNet, UnSeGArmaNet and UnSegMedGAT; identity LF-7. Cost: ``n c k``.

    Example:
        >>> feature = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> split = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> round(modularity_loss(feature, split, affinity="gram").item(), 4)
        -0.5
    """
    check_choice("variant", variant, ("true", "released"))
    with full_precision(node_feature):
        feature, member, single = as_pair(node_feature, assignment, ("node_feature", "assignment"))
        graph = GramAffinity.of(feature, affinity)
        n_nodes = graph.n_nodes
        direction = graph.total()
        mean_weight = direction.square().sum(dim=(1, 2))
        _refuse_canceled(graph, mean_weight.detach())
        degree = graph.expand(direction)  # all sums over nodes are means
        weighted = (degree.transpose(1, 2) @ member) / (n_nodes * mean_weight[:, None, None])
        inner = graph.project((member - weighted) / n_nodes)
        along = direction.transpose(1, 2) @ inner / mean_weight[:, None, None]
        quality = (inner - direction @ along).square().sum(dim=(1, 2)) / mean_weight
        drawn = weighted.square().sum(dim=(1, 2))
        value = modularity_value(quality, drawn, member, variant, collapse, balance_weight)
    return value[0] if single else value


def modularity_value(
    quality: Tensor,
    drawn: Tensor,
    member: Tensor,
    variant: Literal["true", "released"],
    collapse: bool,
    balance_weight: float,
) -> Tensor:
    """The loss from ``Q`` and ``||S^T d||^2 / M^2``, see :func:`modularity_loss`."""
    n_clusters = member.shape[2]
    root = n_clusters**0.5
    if variant == "released":
        quality = (quality + drawn / 2) / 2
        root = n_clusters**0.25
    value = -quality
    if collapse:
        spread = root * row_norm(member.mean(dim=1)) - 1
        value = value + balance_weight * spread
    return value


def balance_term(member: Tensor) -> Tensor:
    """``||A / ||A|| - I / sqrt(k)||`` with ``A = S^T S``, ``(b,)``; 0 for equal hard clusters."""
    n_clusters = member.shape[2]
    overlap = member.transpose(1, 2) @ (member / member.shape[1])
    overlap = overlap / matrix_norm(overlap)[:, None, None]
    even = torch.eye(n_clusters, dtype=member.dtype, device=member.device) / n_clusters**0.5
    # the k x k difference itself: 2 - 2 Tr(A)/... would cancel near 0
    return matrix_norm(overlap - even)


def positive_weight(total: Tensor) -> Tensor:
    """``total`` itself; ``InputError`` where a graph has none: a share of it means nothing."""
    if not bool((total > 0).all()):
        empty = true_places(total <= 0)
        raise InputError(
            f"graph {empty[0]} of the batch has no positive weight",
            "its features are zero or cancel out, or the threshold tau leaves no edge",
            "Lower tau, use affinity='shifted', or leave this graph out",
        )
    return total


def mean_cosine(node_feature: Tensor) -> Tensor:
    """Mean cosine between different nodes, a sign of features that have collapsed when near 1.

        (||sum_i u_i||^2 - sum_i ||u_i||^2) / (n (n - 1))

    Args:
        node_feature: ``(b, n, c)`` or ``(n, c)``.

    Returns:
        ``(b,)`` or a scalar, without gradient; 0 for a graph of one node.

    Example:
        >>> round(mean_cosine(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).item(), 4)
        0.3333
    """
    with torch.no_grad(), full_precision(node_feature):
        feature, single = as_batch(node_feature, "node_feature")
        unit = unit_rows(feature)
        n_nodes = feature.shape[1]
        pairs = unit.sum(dim=1).square().sum(dim=-1) - unit.square().sum(dim=(1, 2))
        value = pairs / max(n_nodes * (n_nodes - 1), 1)
    return value[0] if single else value


def cluster_perplexity(assignment: Tensor) -> Tensor:
    """Effective number of clusters in use, ``exp(H(mean_i s_i))``, between 1 and ``k``.

    Args:
        assignment: ``(b, n, k)`` or ``(n, k)``, rows on the simplex.

    Returns:
        ``(b,)`` or a scalar, without gradient.

    Example:
        >>> cluster_perplexity(torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])).item()
        2.0
    """
    with torch.no_grad(), full_precision(assignment):
        member, single = as_batch(assignment, "assignment")
        share = member.mean(dim=1)
        value = (-torch.xlogy(share, share)).sum(dim=-1).exp()
    return value[0] if single else value


@torch.no_grad()
def _refuse_canceled(graph: GramAffinity, mean_weight: Tensor) -> None:
    """Refuse features that cancel out; they leave rounding noise in the total weight, not zero."""
    noise = (32 * torch.finfo(mean_weight.dtype).eps) ** 2 * graph.diagonal().amax(dim=1)
    positive_weight(torch.where(mean_weight > noise, mean_weight, 0.0))
