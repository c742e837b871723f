"""Losses that say how well a soft assignment clusters a graph.

Each is exact and, for the complete graph on feature rows, linear in the number of nodes; the dense
form exists beside it as the definition to compare with. A value per graph; nothing is shared
between the graphs of a batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from graphnn_unet.graph._tensors import (
    as_batch,
    as_pair,
    check_choice,
    check_positive,
    full_precision,
)
from graphnn_unet.graph.affinity import (
    Rows,
    largest_affinity,
    prepared_rows,
    row_scale,
    unit_rows,
)

Method = Literal["auto", "dense", "linear"]
METHODS = ("auto", "dense", "linear")

# "auto" never builds an n x n matrix beyond this many nodes
DENSE_LIMIT = 512


def correlation_clustering_loss(
    node_feature: Tensor,
    assignment: Tensor,
    *,
    tau: float = 2.0,
    rows: Rows = "unit",
    reduction: Literal["mean", "sum"] = "mean",
    method: Method = "auto",
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
        method: ``linear``; ``dense`` builds the ``n x n`` matrices; ``auto`` takes whichever needs
            fewer multiply-adds, and never the dense form beyond 512 nodes.

    Returns:
        ``(b,)``, or a scalar for one graph without batch axis.

    Raises:
        ShapeError: The inputs do not describe the same graphs and nodes.
        InputError: ``tau`` is not positive, or a word is not known.

    Source: GraphCL eqs. 15 and 18, DeepCut; identity LF-3.
    Cost: ``n c k`` time and ``n + c k`` memory (linear), ``n^2 (c + k)`` and ``n^2`` (dense).
    """
    check_positive("tau", tau)
    check_choice("reduction", reduction, ("mean", "sum"))
    with full_precision(node_feature):
        feature, member, single = as_pair(node_feature, assignment, ("node_feature", "assignment"))
        n_nodes = feature.shape[1]
        if picks_dense(method, n_nodes, feature.shape[2], member.shape[2]):
            value = _correlation_dense(prepared_rows(feature, rows), member, tau)
        else:
            value = _correlation_linear(feature, member, tau, rows)
        if reduction == "sum":
            value = value * float(n_nodes) ** 2
    return value[0] if single else value


def picks_dense(method: Method, n_nodes: int, n_channels: int, n_clusters: int) -> bool:
    """Whether the form with an ``n x n`` matrix is to be used.

    Raises:
        InputError: ``method`` is not known.
    """
    check_choice("method", method, METHODS)
    if method != "auto":
        return method == "dense"
    cheaper = n_nodes * (n_channels + n_clusters) < 2 * n_channels * n_clusters
    return cheaper and n_nodes <= DENSE_LIMIT


def mean_cosine(node_feature: Tensor) -> Tensor:
    """Mean cosine between different nodes, a sign of features that have collapsed when near 1.

        (||sum_i u_i||^2 - sum_i ||u_i||^2) / (n (n - 1))

    Args:
        node_feature: ``(b, n, c)`` or ``(n, c)``.

    Returns:
        ``(b,)`` or a scalar, without gradient; 0 for a graph of one node.
    """
    with torch.no_grad(), full_precision(node_feature):
        feature, single = as_batch(node_feature, "node_feature")
        unit = unit_rows(feature)
        n_nodes = feature.shape[1]
        pairs = unit.sum(dim=1).square().sum(dim=-1) - unit.square().sum(dim=(1, 2))
        value = pairs / max(n_nodes * (n_nodes - 1), 1)
        if n_nodes == 1:
            value = torch.zeros_like(value)
    return value[0] if single else value


def cluster_perplexity(assignment: Tensor) -> Tensor:
    """Effective number of clusters in use, ``exp(H(mean_i s_i))``, between 1 and ``k``.

    Args:
        assignment: ``(b, n, k)`` or ``(n, k)``, rows on the simplex.

    Returns:
        ``(b,)`` or a scalar, without gradient.
    """
    with torch.no_grad(), full_precision(assignment):
        member, single = as_batch(assignment, "assignment")
        value = torch.special.entr(member.mean(dim=1)).sum(dim=-1).exp()
    return value[0] if single else value


def _correlation_linear(feature: Tensor, member: Tensor, tau: float, rows: Rows) -> Tensor:
    """LF-3 over ``n^2``; the factor of the rows goes to the narrow side of the product."""
    n_nodes = feature.shape[1]
    matrix, scale = row_scale(feature, rows)
    scaled = member if scale is None else member * scale
    # divide before squaring: sums over nodes grow with n, their means do not
    mixed = matrix.transpose(1, 2) @ (scaled / n_nodes)
    share = member.mean(dim=1)
    threshold = largest_affinity(matrix, scale) / tau
    return threshold * share.square().sum(dim=-1) - mixed.square().sum(dim=(1, 2))


def _correlation_dense(ready: Tensor, member: Tensor, tau: float) -> Tensor:
    """The definition, over ``n^2``: both ``n x n`` matrices and the sum of their product."""
    product = ready @ ready.transpose(1, 2)
    threshold = product.detach().amax(dim=(1, 2)) / tau
    likeness = product - threshold[:, None, None]
    together = member @ member.transpose(1, 2)
    return -(likeness * together).mean(dim=(1, 2))
