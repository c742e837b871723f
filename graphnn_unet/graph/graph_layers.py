"""PyG's graph layers on a dense affinity: the same parameters and numbers, as matrix products.

PyG sends messages edge by edge. A thresholded patch graph has half of all pairs as edges, where
that copies a row of features for each pair; a product with the matrix does not, takes a batch of
graphs at once, and is deterministic.

Papers:
    ARMAConv: https://arxiv.org/abs/1901.01343
    GATConv: https://arxiv.org/abs/1710.10903
    GCNConv: https://arxiv.org/abs/1609.02907
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnn_unet.graph._pyg import ARMAConv, GATConv, GCNConv
from graphnn_unet.graph.affinity import inverse_root, revive_diagonal

Step = Callable[[nn.Module, Tensor], Tensor]
"""Runs one layer: the layer and ``(b, n, c)`` features give ``(b, n, c_out)``."""


def dense_step(layer_name: str, affinity: Tensor) -> Step:
    """The function that runs one layer on a dense affinity ``(b, n, n)``.

    Args:
        layer_name: ``gcn``, ``gat``, ``arma`` or ``gat_series``.
        affinity: Symmetric; non-negative where the layer normalizes.
    """

    def step(layer: nn.Module, state: Tensor) -> Tensor:
        weight = affinity.to(state.dtype)
        if layer_name == "gcn":
            return dense_gcn(cast(GCNConv, layer), state, weight)
        if layer_name == "arma":
            return dense_arma(cast(ARMAConv, layer), state, weight)
        return dense_gat(cast(GATConv, layer), state, weight)

    return step


def biased(layer: nn.Module, signal: Tensor) -> Tensor:
    """The signal plus the bias of a layer, where it has one."""
    bias = cast("Tensor | None", layer.bias)
    return signal if bias is None else signal + bias


def dense_gcn(layer: GCNConv, feature: Tensor, affinity: Tensor) -> Tensor:
    """``GCNConv`` on a dense graph: ``D^(-1/2) A D^(-1/2) X Theta + b``.

    Under ``normalize`` missing self-edges get weight 1; otherwise the affinity is used as it is.

    Args:
        layer: PyG's layer.
        feature: ``(b, n, c)``.
        affinity: ``(b, n, n)`` symmetric, non-negative where the layer normalizes.

    Returns:
        ``(b, n, c_out)``.
    """
    signal = layer.lin(feature)
    if layer.normalize:
        weight = affinity.clone()
        revive_diagonal(weight)
        root = inverse_root(weight.sum(dim=-1, keepdim=True))
        signal = root * (weight @ (root * signal))
    else:
        signal = affinity @ signal
    return biased(layer, signal)


def dense_gat(layer: GATConv, feature: Tensor, affinity: Tensor) -> Tensor:
    """``GATConv`` on a dense graph, one edge where the affinity is not 0, plus self-edges.

    The attention sees which nodes are linked, not the weights, as in the released programs.

    Args:
        layer: PyG's layer, heads concatenated, not bipartite, without residual.
        feature: ``(b, n, c)``.
        affinity: ``(b, n, n)`` symmetric.

    Returns:
        ``(b, n, heads * c_out)``.
    """
    n_graphs, n_nodes, _ = feature.shape
    itself = torch.eye(n_nodes, dtype=torch.bool, device=feature.device)
    linked = (affinity != 0) | itself
    rows = cast(nn.Module, layer.lin)(feature).view(
        n_graphs, n_nodes, layer.heads, layer.out_channels
    )
    sent = (rows * layer.att_src).sum(dim=-1).permute(0, 2, 1)
    received = (rows * layer.att_dst).sum(dim=-1).permute(0, 2, 1)
    score = received.unsqueeze(-1) + sent.unsqueeze(-2)
    score = functional.leaky_relu(score, layer.negative_slope)
    attention = score.masked_fill(~linked.unsqueeze(1), -torch.inf).softmax(dim=-1)
    attention = functional.dropout(attention, layer.dropout, layer.training)
    mixed = (attention @ rows.permute(0, 2, 1, 3)).permute(0, 2, 1, 3).flatten(2)
    return biased(layer, mixed)


def dense_arma(layer: ARMAConv, feature: Tensor, affinity: Tensor) -> Tensor:
    """``ARMAConv`` on a dense graph: ``X' = act(L X W + drop(X0) V + b)``, mean over stacks.

    ``L = D^(-1/2) A D^(-1/2)`` without added self-edges; nodes without degree get no message.

    Args:
        layer: PyG's layer.
        feature: ``(b, n, c)``.
        affinity: ``(b, n, n)`` symmetric, non-negative.

    Returns:
        ``(b, n, c_out)``.
    """
    root = inverse_root(affinity.sum(dim=-1, keepdim=True))
    graph = (root * affinity * root.transpose(1, 2)).unsqueeze(1)
    return arma_steps(layer, feature, lambda state: graph @ state)


def arma_steps(layer: ARMAConv, feature: Tensor, propagate: Callable[[Tensor], Tensor]) -> Tensor:
    """The steps of ``ARMAConv`` on any graph.

    Args:
        layer: PyG's layer.
        feature: ``(b, n, c)``.
        propagate: ``(b, stacks, n, c)`` to ``L`` times it.

    Returns:
        ``(b, n, c_out)``.
    """
    weight = cast("Sequence[Tensor]", layer.weight)
    root_weight, bias = cast("Sequence[Tensor]", layer.root_weight), layer.bias
    act = cast("Callable[[Tensor], Tensor] | None", layer.act)  # pyright: ignore[reportUnknownMemberType]
    given = state = feature.unsqueeze(1)
    for step in range(layer.num_layers):
        which = 0 if layer.shared_weights else step
        if step == 0:
            state = state @ cast(Tensor, layer.init_weight)
        else:
            state = state @ weight[0 if layer.shared_weights else step - 1]
        kept = functional.dropout(given, layer.dropout, layer.training)
        state = propagate(state) + kept @ root_weight[which]
        if bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            state = state + bias[which]
        if act is not None:
            state = act(state)
    return state.mean(dim=1)
