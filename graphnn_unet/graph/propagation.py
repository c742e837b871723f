"""Messages along the edges of a complete graph on feature rows, without building it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.graph._tensors import as_pair, full_precision
from graphnn_unet.graph._untyped import symmetric_product
from graphnn_unet.graph.affinity import (
    GramAffinity,
    inverse_root,
    largest_affinity,
    positive_block,
    revive_diagonal,
)

# Rows of a thresholded affinity held at a time; up to this many nodes all of it is kept.
BLOCK_ROWS = 512


def gram_convolution(node_feature: Tensor, signal: Tensor) -> Tensor:
    """One graph convolution, without weights, on the shifted cosines of all pairs.

        y = D^(-1/2) W D^(-1/2) x,    w_ij = (1 + cosine) / 2

    Args:
        node_feature: ``(b, n, c)`` or ``(n, c)`` rows that span the graph.
        signal: ``(b, n, q)`` or ``(n, q)``; apply a weight that narrows it beforehand.

    Returns:
        The shape of ``signal``. The operator has eigenvalues in [0, 1].

    Raises:
        ShapeError: The inputs do not describe the same graphs and nodes.

    Source: GraphCL eq. 14 on products of features; identities LF-1, LF-5, LF-15.
    Cost: ``n c q`` time, ``c q`` memory.

    Example:
        >>> signal = torch.tensor([[1.0], [0.0]])
        >>> gram_convolution(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), signal)
        tensor([[0.6667],
                [0.3333]])
    """
    with full_precision(node_feature):
        feature, carried, single = as_pair(node_feature, signal, ("node_feature", "signal"))
        graph = GramAffinity.of(feature, "shifted")
        root = inverse_root(graph.degree()).unsqueeze(-1)
        value = root * graph.expand(graph.project(root * carried))
    return value[0] if single else value


def thresholded_convolution(
    feature: Tensor, signal: Tensor, *, tau: float = 2.0, block_rows: int = BLOCK_ROWS
) -> Tensor:
    """Normalized product with the thresholded graph: ``D^(-1/2) W+ D^(-1/2) X``, ``(b, n, q)``.

    Equals PyG's ``GCNConv`` without weight and bias on the explicit graph of positive affinities,

        w_ij = max(0, f_i.f_j - max_lm(f_l.f_m) / tau),    w_ii = 1 where that is 0

    No gradient reaches the features. Up to ``block_rows`` nodes the matrix is kept, beyond it is
    made again in blocks.
    Source: GraphCL eq. 16, edges where the affinity is positive.
    """
    fixed = feature.detach()
    threshold = largest_affinity(fixed) / tau
    if fixed.shape[1] <= block_rows:
        affinity = positive_block(fixed, fixed, threshold)
        revive_diagonal(affinity)
        root = inverse_root(affinity.sum(dim=-1, keepdim=True))
        return root * (affinity @ (root * signal))
    ones = torch.ones_like(fixed[..., :1])
    root = inverse_root(thresholded_product(fixed, threshold, ones, block_rows))
    return root * thresholded_product(fixed, threshold, root * signal, block_rows)


def thresholded_product(
    feature: Tensor, threshold: Tensor, signal: Tensor, block_rows: int = BLOCK_ROWS
) -> Tensor:
    """Product of a thresholded affinity with a signal, holding a block of its rows at a time.

        y_i = sum_j w_ij x_j,    w_ij = max(0, f_i.f_j - threshold), w_ii = 1 where that is 0

    Each block above the diagonal serves twice, as the matrix is symmetric. Features and threshold
    get no gradient. Cost: ``n^2 (c/2 + q)`` multiply-adds a call, ``block_rows n`` memory.
    """
    fixed, limit = feature.detach(), threshold.detach()
    n_nodes = fixed.shape[1]

    def product(carried: Tensor) -> Tensor:
        result = torch.zeros_like(carried)
        for start in range(0, n_nodes, block_rows):
            stop = min(start + block_rows, n_nodes)
            block = positive_block(fixed[:, start:stop], fixed[:, start:], limit)
            revive_diagonal(block[:, :, : stop - start])
            result[:, start:stop] += block @ carried[:, start:]
            if stop < n_nodes:
                right = block[:, :, stop - start :].transpose(1, 2)
                result[:, stop:] += right @ carried[:, start:stop]
        return result

    return symmetric_product(product, signal)


def class_graph_propagate(
    probability: Tensor, signal: Tensor, *, detach_graph: bool = True
) -> Tensor:
    """Normalized product with the class-level graph: nodes of one predicted class, linked.

        w^_ij = p_i.p_j  if argmax p_i = argmax p_j and i != j,    w^_ii = 1,    0 otherwise
        y = D^(-1/2) W^ D^(-1/2) x

    Inside a class the off-diagonal entries are those of ``P_c P_c^T``, so the product is one of
    low rank for each class plus a diagonal; no degree is below 1.

    Args:
        probability: ``(b, n, C)`` or ``(n, C)``, rows on the simplex; of equal largest entries the
            first one names the class.
        signal: ``(b, n, q)`` or ``(n, q)``.
        detach_graph: Whether the graph counts as constant; otherwise gradient also reaches
            ``probability`` (not through the choice of the class, which has none).

    Returns:
        The shape of ``signal``.

    Raises:
        ShapeError: The inputs do not describe the same graphs and nodes.

    Source: MLLC eqs. 6-7; identity LF-8. Cost: ``n C^2 q`` time, ``n q + C q`` memory.

    Example:
        >>> probability = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> class_graph_propagate(probability, torch.tensor([[1.0], [0.0], [4.0]]))
        tensor([[0.5000],
                [0.5000],
                [4.0000]])
    """
    with full_precision(probability):
        share, carried, single = as_pair(probability, signal, ("probability", "signal"))
        if detach_graph:
            share = share.detach()
        n_classes = share.shape[2]
        member = functional.one_hot(share.argmax(dim=2), n_classes).to(share.dtype)
        lonely = 1 - share.square().sum(dim=2, keepdim=True)
        class_total = member.transpose(1, 2) @ share
        degree = (share * (member @ class_total)).sum(dim=2, keepdim=True) + lonely
        root = degree.rsqrt()
        scaled = root * carried
        value = lonely * scaled
        for index in range(n_classes):
            rows_of_class = share * member[..., index : index + 1]
            value = value + rows_of_class @ (rows_of_class.transpose(1, 2) @ scaled)
        value = root * value
    return value[0] if single else value
