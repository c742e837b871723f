"""PyG's layers by hand and on complete graphs (whole networks: ``test_clusterer.py``)."""

from __future__ import annotations

import pytest
import torch
from graph.oracles import written_out
from torch_geometric.nn import ARMAConv, GATConv, GCNConv

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import ClustererSettings, GraphClusterer
from graphnn_unet.graph.affinity import GramAffinity
from graphnn_unet.graph.clusterer_settings import PRESETS
from graphnn_unet.graph.graph_layers import complete_step, dense_step

PAIR = [[1.0, 0.5], [0.5, 1.0]]


def filled(layer: torch.nn.Module, **values: float) -> torch.nn.Module:
    for name, parameter in layer.named_parameters():
        last = name.split(".")[-1]
        value = 0.0 if "bias" in name else values.get(last, values.get(name, 1.0))
        torch.nn.init.constant_(parameter, value)
    return layer.double()


def test_two_nodes_by_hand():
    feature = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    weight = torch.tensor([PAIR], dtype=torch.float64)
    cases = [
        (dense_step("gcn", weight)(filled(GCNConv(1, 1)), feature), (0.666667, 0.333333)),
        (
            dense_step("arma", weight)(filled(ARMAConv(1, 1, act=torch.relu)), feature),
            (1.666667, 0.333333),
        ),
        (
            dense_step("arma", weight)(
                filled(ARMAConv(1, 1, num_layers=2, act=torch.relu)), feature
            ),
            (2.222222, 0.777778),
        ),
        (
            dense_step("gat", weight)(filled(GATConv(1, 1), att_dst=1.0, att_src=-1.0), feature),
            (0.268941, 0.450166),
        ),
    ]
    for output, expected in cases:
        torch.testing.assert_close(
            output.flatten(), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
        )


def test_lonely_nodes_keep_their_self_edge_in_gcn_and_get_no_message_in_arma():
    feature, alone = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    assert dense_step("gcn", alone)(filled(GCNConv(1, 1)).float(), feature).item() == pytest.approx(
        1
    )
    arma = filled(ARMAConv(1, 1, act=None), weight=5.0).float()
    assert dense_step("arma", alone)(arma, feature).item() == pytest.approx(
        1
    )  # the root weight alone


SETTINGS = {**PRESETS, "two heads": ClustererSettings(layer="gat", n_heads=2)}


def rows(n: int, c: int = 5, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, n, c, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", SETTINGS)
def test_values_and_gradients_are_those_of_the_matrix(name: str):
    torch.manual_seed(0)
    network = GraphClusterer(5, 3, SETTINGS[name]).double().eval()
    feature = rows(17)
    feature[0, 3] = 0
    graph = GramAffinity.of(feature, "shifted")
    results = []
    for affinity in (graph, written_out(graph)):
        feature.grad = None
        assignment = network(feature.requires_grad_(), affinity)
        network.zero_grad()
        (assignment * torch.arange(3)).square().sum().backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        results.append((assignment.detach(), *gradients))
        feature = feature.detach()
    for linear, other in zip(*results, strict=True):
        torch.testing.assert_close(linear, other)


def test_signed_products_are_kept_without_normalization():
    torch.manual_seed(0)
    network = GraphClusterer(5, 3, ClustererSettings(signed=True)).double().eval()
    graph = GramAffinity.of(rows(12), "gram")
    assert bool((written_out(graph) < 0).any())
    torch.testing.assert_close(network(rows(12), graph), network(rows(12), written_out(graph)))


@pytest.mark.parametrize("far", [-500.0, 500.0])
def test_attention_does_not_overflow(far: float):
    layer = GATConv(1, 1, bias=False).double()
    for parameter in layer.parameters():
        torch.nn.init.ones_(parameter)
    feature = torch.tensor([[[0.0], [1.0], [far], [far + 1]]], dtype=torch.float64)
    results = complete_step("gat", GramAffinity.of(feature, "gram"))(layer, feature)
    assert torch.isfinite(results).all()
    torch.testing.assert_close(
        results, dense_step("gat", torch.ones(1, 4, 4).double())(layer, feature)
    )


def test_large_graphs_never_hold_a_square_matrix():
    n_nodes = 4000
    feature = rows(n_nodes, 8, 1).float()
    for name in ("grid_gcn", "grid_arma", "grid_gat"):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda kept, sizes=sizes: sizes.append(kept.numel()) or kept, lambda kept: kept
        ):
            network = GraphClusterer(8, 2, name)
            network(feature, GramAffinity.of(feature, "shifted")).sum().backward()
        assert max(sizes) <= n_nodes * 80


def test_what_has_no_linear_form_is_refused():
    graph = GramAffinity.of(rows(6), "shifted")
    with pytest.raises(InputError, match="no linear form"):
        GraphClusterer(5, 2, "unsegmedgat").double()(rows(6), graph)
    with pytest.raises(ShapeError, match="6 nodes"):
        GraphClusterer(5, 2, "grid_gcn").double()(rows(7), graph)
