"""PyG's graph layers on the complete graph of feature products, in time linear in its nodes.

The same parameters and numbers as :mod:`graphnn_unet.graph.graph_layers` gives on the matrix
written out, which is never built.

Papers:
    ARMAConv: https://arxiv.org/abs/1901.01343
    GATConv: https://arxiv.org/abs/1710.10903
    GCNConv: https://arxiv.org/abs/1609.02907
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from graphnn_unet.graph._pyg import ARMAConv, GATConv, GCNConv
from graphnn_unet.graph.affinity import GramAffinity, inverse_root
from graphnn_unet.graph.graph_layers import Step, arma_steps, biased


def complete_step(layer_name: str, graph: GramAffinity, *, signed: bool = False) -> Step:
    """The function that runs one layer on the graph; degrees are computed once.

    Args:
        layer_name: ``gcn``, ``gat``, ``arma`` or ``gat_series``.
        graph: Complete graph whose degrees are positive, except under ``signed``.
        signed: ``gcn`` without normalization.
    """
    if layer_name in ("gat", "gat_series"):
        return lambda layer, state: complete_gat(cast(GATConv, layer), state)
    if signed:
        return lambda layer, state: biased(
            layer, graph.expand(graph.project(cast(GCNConv, layer).lin(state)))
        )
    root = inverse_root(graph.degree()).unsqueeze(-1)
    if layer_name == "arma":
        return lambda layer, state: complete_arma(cast(ARMAConv, layer), state, graph, root)
    return lambda layer, state: complete_gcn(cast(GCNConv, layer), state, graph, root)


def complete_gcn(layer: GCNConv, feature: Tensor, graph: GramAffinity, root: Tensor) -> Tensor:
    """``D^(-1/2) A D^(-1/2) X Theta + b`` with ``A = Phi Phi^T``.

    Args:
        layer: PyG's layer.
        feature: ``(b, n, c)``.
        graph: The complete graph.
        root: ``(b, n, 1)`` inverse roots of the degrees.

    Source: LF-5. Cost: ``n r c_out``.
    """
    signal = root * layer.lin(feature)
    return biased(layer, root * graph.expand(graph.project(signal)))


def complete_arma(layer: ARMAConv, feature: Tensor, graph: GramAffinity, root: Tensor) -> Tensor:
    """``X' = act(L X W + drop(X0) V + b)``, mean over stacks, with ``L`` of LF-5.

    The stacks lie side by side, so one product serves all of them.
    """
    n_graphs, n_nodes, _ = feature.shape

    def propagate(state: Tensor) -> Tensor:
        flat = state.transpose(1, 2).reshape(n_graphs, n_nodes, -1)
        flat = root * graph.expand(graph.project(root * flat))
        return flat.view(n_graphs, n_nodes, layer.num_stacks, -1).transpose(1, 2)

    return arma_steps(layer, feature, propagate)


def complete_gat(layer: GATConv, feature: Tensor) -> Tensor:
    """Additive attention over all nodes, by one sort.

        out_i = sum_j softmax_j(LeakyReLU(p_i + q_j)) x_j

    The nodes with ``q_j > -p_i`` use ``exp(p_i) exp(q_j)``, the others the powers with the slope
    of the leaky part, so sums over the sorted nodes serve every ``i``. All terms are positive.

    Args:
        layer: PyG's layer without edge features and attention dropout.
        feature: ``(b, n, c)``.

    Returns:
        ``(b, n, heads * c_out)``.

    Source: LF-14. Cost: ``n c + n log n``.
    """
    n_graphs, n_nodes, _ = feature.shape
    rows = cast(nn.Module, layer.lin)(feature).view(
        n_graphs, n_nodes, layer.heads, layer.out_channels
    )
    rows = rows.transpose(1, 2)  # (graph, head, node, channel)
    sent = (rows * layer.att_src.unsqueeze(2)).sum(dim=-1)
    received = (rows * layer.att_dst.unsqueeze(2)).sum(dim=-1)
    mixed = _attend(rows, sent, received, layer.negative_slope)
    mixed = mixed.transpose(1, 2).reshape(n_graphs, n_nodes, -1)
    return biased(layer, mixed)


def _attend(rows: Tensor, sent: Tensor, received: Tensor, slope: float) -> Tensor:
    """Mean of ``rows`` under the attention; all ``(graph, head, node, ...)``."""
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
    return total[..., 1:] / total[..., :1]
