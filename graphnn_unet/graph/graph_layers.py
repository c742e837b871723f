"""PyG's graph layers as matrix products: the same parameters and numbers, for a batch of graphs.

PyG sends messages edge by edge. A thresholded patch graph has half of all pairs as edges, where
that copies a row of features for each pair; a product with the matrix does not, and is
deterministic. On the complete graph of feature products the matrix is never built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import (  # pyright: ignore[reportMissingTypeStubs]  # PyG has no types
    ARMAConv,
    GATConv,
    GCNConv,
)

from graphnn_unet.graph.affinity import GramAffinity, inverse_root, revive_diagonal
from graphnn_unet.graph.explicit import normalized_affinity

Step = Callable[[nn.Module, Tensor], Tensor]
"""Runs one layer: the layer and ``(b, n, c)`` features give ``(b, n, c_out)``."""


def dense_step(layer_name: str, affinity: Tensor) -> Step:
    """The function that runs one layer on a symmetric matrix of weights ``(b, n, n)``.

    ``gcn`` adds missing self-edges with weight 1 where the layer normalizes, ``arma`` adds none.
    Attention sees which nodes are linked, themselves among them, and not the weights, as in the
    released programs. Weights are non-negative where the layer normalizes.
    """

    def step(layer: nn.Module, state: Tensor) -> Tensor:
        weight = affinity.to(state.dtype)
        if layer_name == "gcn":
            gcn = cast(GCNConv, layer)
            if not gcn.normalize:
                return _biased(gcn, weight @ gcn.lin(state))
            weight = weight.clone()
            revive_diagonal(weight)
            root = inverse_root(weight.sum(dim=-1, keepdim=True))
            return _biased(gcn, root * (weight @ (root * gcn.lin(state))))
        if layer_name == "arma":
            scaled = normalized_affinity(weight).unsqueeze(1)
            return _arma(cast(ARMAConv, layer), state, lambda signal: scaled @ signal)
        gat = cast(GATConv, layer)
        rows, sent, received = _gat_inputs(gat, state)
        linked = (weight != 0) | torch.eye(len(weight[0]), dtype=torch.bool, device=weight.device)
        score = received.unsqueeze(-1) + sent.unsqueeze(-2)
        score = functional.leaky_relu(score, gat.negative_slope)
        attention = score.masked_fill(~linked.unsqueeze(1), -torch.inf).softmax(dim=-1)
        attention = functional.dropout(attention, gat.dropout, gat.training)
        return _biased(gat, (attention @ rows).transpose(1, 2).flatten(2))

    return step


def complete_step(layer_name: str, graph: GramAffinity, *, signed: bool = False) -> Step:
    """The function that runs one layer on a complete graph, in time linear in its nodes.

    Attention is without dropout of single pairs. ``signed`` is ``gcn`` without normalization;
    otherwise the degrees of the graph are positive. Source: LF-5, and LF-14 for attention.
    """
    if layer_name in ("gat", "gat_series"):
        return lambda layer, state: _attend_to_all(cast(GATConv, layer), state)
    root = None if signed else inverse_root(graph.degree()).unsqueeze(-1)

    def propagate(signal: Tensor) -> Tensor:
        if root is None:
            return graph.expand(graph.project(signal))
        return root * graph.expand(graph.project(root * signal))

    def propagate_stacks(state: Tensor) -> Tensor:
        """The stacks ``(b, stacks, n, c)`` lie side by side, so one product serves all of them."""
        n_graphs, n_stacks, n_nodes, _ = state.shape
        flat = propagate(state.transpose(1, 2).reshape(n_graphs, n_nodes, -1))
        return flat.view(n_graphs, n_nodes, n_stacks, -1).transpose(1, 2)

    if layer_name == "arma":
        return lambda layer, state: _arma(cast(ARMAConv, layer), state, propagate_stacks)
    return lambda layer, state: _biased(layer, propagate(cast(GCNConv, layer).lin(state)))


def _biased(layer: nn.Module, signal: Tensor) -> Tensor:
    bias = cast("Tensor | None", layer.bias)
    return signal if bias is None else signal + bias


def _gat_inputs(layer: GATConv, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(b, heads, n, c_out)``, and what each sends and receives, ``(b, heads, n)``."""
    rows = cast(nn.Module, layer.lin)(feature)
    rows = rows.view(*feature.shape[:2], layer.heads, layer.out_channels).transpose(1, 2)
    sent, received = layer.att_src.unsqueeze(2), layer.att_dst.unsqueeze(2)
    return rows, (rows * sent).sum(dim=-1), (rows * received).sum(dim=-1)


def _arma(layer: ARMAConv, feature: Tensor, propagate: Callable[[Tensor], Tensor]) -> Tensor:
    """``X' = act(L X W + drop(X0) V + b)``, mean over stacks; ``propagate`` multiplies by ``L``."""
    weight = cast("Sequence[Tensor]", layer.weight)
    root_weight, bias = cast("Sequence[Tensor]", layer.root_weight), layer.bias
    act = cast("Callable[[Tensor], Tensor] | None", layer.act)  # pyright: ignore[reportUnknownMemberType]  # PyG has no types
    given = state = feature.unsqueeze(1)
    for step in range(layer.num_layers):
        state = state @ (weight[step - 1] if step else cast(Tensor, layer.init_weight))
        kept = functional.dropout(given, layer.dropout, layer.training)
        state = propagate(state) + kept @ root_weight[step] + bias[step]
        if act is not None:
            state = act(state)
    return state.mean(dim=1)


def _attend_to_all(layer: GATConv, feature: Tensor) -> Tensor:
    """Additive attention over all nodes, by one sort.

        out_i = sum_j softmax_j(LeakyReLU(p_i + q_j)) x_j

    The nodes with ``q_j > -p_i`` use ``exp(p_i) exp(q_j)``, the others the powers with the slope
    of the leaky part, so sums over the sorted nodes serve every ``i``. All terms are positive.
    """
    rows, sent, received = _gat_inputs(layer, feature)
    slope = layer.negative_slope
    order = sent.argsort(dim=-1)
    key = sent.gather(-1, order)
    largest = key[..., -1:].detach()
    signal = torch.cat([torch.ones_like(rows[..., :1]), rows], dim=-1)
    signal = signal.gather(2, order.unsqueeze(-1).expand_as(signal))
    steep = (key - largest).exp().unsqueeze(-1) * signal
    flat = (slope * (key - largest)).exp().unsqueeze(-1) * signal
    none = torch.zeros_like(steep[..., :1, :])
    below = torch.cat([none, flat.cumsum(dim=-2)], dim=-2)
    above = torch.cat([steep.flip(-2).cumsum(dim=-2).flip(-2), none], dim=-2)
    first = torch.searchsorted(key.detach(), -received.detach(), right=True).unsqueeze(-1)
    first = first.expand(*first.shape[:-1], signal.shape[-1])
    top = received + largest
    reach = torch.maximum(top, slope * top).detach()
    total = (top - reach).exp().unsqueeze(-1) * above.gather(-2, first)
    total = total + (slope * top - reach).exp().unsqueeze(-1) * below.gather(-2, first)
    return _biased(layer, (total[..., 1:] / total[..., :1]).transpose(1, 2).flatten(2))
