from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import ClustererSettings, GraphClusterer, unit_rows
from graphnn_unet.graph.clusterer_settings import PRESETS
from graphnn_unet.graph.explicit import edge_list


def rows(n: int, c: int = 5, seed: int = 0, batch: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, c) if batch is None else (batch, n, c)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def graph(feature: torch.Tensor, threshold: float = 0.2) -> torch.Tensor:
    unit = unit_rows(feature)
    return unit @ unit.transpose(-1, -2) - threshold


def clusterer(preset: str, n_clusters: int = 3, in_channels: int = 5) -> GraphClusterer:
    torch.manual_seed(0)
    return GraphClusterer(in_channels, n_clusters, preset).double().eval()


@pytest.mark.parametrize(
    ("preset", "count"),
    [("deepcut", 26_786), ("unseggnet", 26_786), ("unsegarmanet", 272_994),
     ("unsegmedgat", 105_762)],
)  # fmt: skip
def test_published_networks_have_their_number_of_parameters(preset: str, count: int):
    network = GraphClusterer(384, 2, preset)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


SETTINGS = {
    **PRESETS,
    "two heads": ClustererSettings(layer="gat", n_heads=2, attention_dropout=0.3),
    "signed": ClustererSettings(signed=True),
    "all projected": ClustererSettings(layer="gat_series", project_all=True, widths=(16, 64)),
}


class MessagePassing(GraphClusterer):
    """The same network, its layers run edge by edge by PyG itself."""

    def _dense(self, affinity: torch.Tensor):
        edges, weight = edge_list(affinity if self.settings.signed else affinity.clamp(min=0))

        def step(layer: torch.nn.Module, state: torch.Tensor) -> torch.Tensor:
            options = (weight,) if self.settings.layer in ("gcn", "arma") else ()
            return layer(state[0], edges, *options).unsqueeze(0)

        return step


@pytest.mark.parametrize("name", SETTINGS)
def test_matrix_products_equal_message_passing(name: str):
    networks = []
    for kind in (GraphClusterer, MessagePassing):
        torch.manual_seed(0)
        networks.append(kind(5, 3, SETTINGS[name]).double().eval())
    feature = rows(15)
    feature[4] = 0  # its self-affinity is negative, no edge reaches it
    weight = graph(feature)
    dense, by_edges = (network(feature, weight) for network in networks)
    torch.testing.assert_close(dense, by_edges, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dense.sum(1), torch.ones(15, dtype=torch.float64))
    # gradients too
    target = rows(15, 3, seed=2)
    gradients = []
    for network in networks:
        (network(feature, weight) * target).sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("preset", PRESETS)
def test_batches_equal_single_graphs(preset: str):
    network = clusterer(preset)
    feature = rows(11, batch=2)
    weight = graph(feature)
    both = network(feature, weight)
    for index in range(2):
        torch.testing.assert_close(both[index], network(feature[index], weight[index]))


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(9)), st.sampled_from(sorted(PRESETS)))
def test_order_of_nodes_does_not_matter(order: list[int], preset: str):
    network, feature = clusterer(preset), rows(9)
    weight = graph(feature)
    moved = network(feature[order], weight[order][:, order])
    torch.testing.assert_close(moved, network(feature, weight)[order])


def test_negative_edges_count_only_when_signed():
    feature = rows(10)
    weight = graph(feature)
    for signed in (False, True):
        torch.manual_seed(0)
        network = GraphClusterer(5, 3, ClustererSettings(signed=signed)).double().eval()
        same = torch.allclose(network(feature, weight), network(feature, weight.clamp(min=0)))
        assert same != signed


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("case", ["no edge", "one node", "zeros", "all repel"])
def test_degenerate_graphs_stay_finite(preset: str, case: str):
    n_nodes = 1 if case == "one node" else 6
    feature = torch.zeros(n_nodes, 5) if case == "zeros" else torch.ones(n_nodes, 5)
    weight = {"no edge": torch.zeros(6, 6), "all repel": -torch.ones(6, 6)}.get(
        case, torch.eye(n_nodes)
    )
    network = GraphClusterer(5, 3, preset)
    assignment = network(feature, weight)
    assignment.square().sum().backward()
    assert torch.isfinite(assignment).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_half_precision_inside_autocast_is_worked_in_float32():
    network = GraphClusterer(320, 3).eval()
    feature = (rows(20, 320) * 50).half()
    weight = graph(feature.float()).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assignment = network(feature, weight)
    assert assignment.dtype == torch.float32
    torch.testing.assert_close(assignment, network(feature.float(), weight.float()))


def test_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="settings"):
        GraphClusterer(5, 3, "dmon")
    with pytest.raises(InputError, match="n_clusters"):
        GraphClusterer(5, 0)
    with pytest.raises(InputError, match="to_dense"):
        clusterer("deepcut")(rows(4), torch.eye(4).to_sparse())
    with pytest.raises(ShapeError, match="do not fit"):
        clusterer("deepcut")(rows(4), torch.eye(5))
    with pytest.raises(ShapeError, match="5 channels"):
        clusterer("deepcut")(rows(4, 6), torch.eye(4))
