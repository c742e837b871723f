from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from graph.oracles import written_out
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import iou

from graphnn_unet.clustering.fit import (
    Graph,
    fit_graph,
    is_collapsed,
    kmeans,
    make_graph,
    make_network,
)
from graphnn_unet.clustering.foreground_selection import select_foreground
from graphnn_unet.clustering.settings import METHODS, ClusterSettings, make_settings
from graphnn_unet.errors import InputError

SIDE = 20


def disc(seed: int = 0) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Features, mask and margin of the specification's clear disc."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside = ((rows - 9.5) ** 2 + (columns - 9.5) ** 2 <= 36).ravel()
    means = rng.normal(size=(2, 32))
    values = means[inside.astype(int)] + 0.7 * rng.normal(size=(SIDE * SIDE, 32))
    margin = np.ones((SIDE, SIDE), dtype=bool)
    margin[1:-1, 1:-1] = False
    return torch.from_numpy(values.astype(np.float32)), inside, margin.ravel()


def honest_iou(fit, inside, margin) -> float:
    labels = fit.labels.numpy()
    return iou(np.isin(labels, select_foreground(labels, margin).foreground), inside)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("layer", "loss", "graph"),
    [
        ("gcn", "cc", "published"), ("gcn", "dmon", "published"), ("arma", "dmon", "published"),
        ("gcn", "cc", "linear"), ("gat", "cc", "linear"),
    ],
)  # fmt: skip
def test_clear_disc_is_found_without_truth(layer, loss, graph, seed):
    feature, inside, margin = disc()
    settings = make_settings(layer=layer, loss=loss, graph=graph, alpha=5.0, tau=0.5, seed=seed)
    fit = fit_graph(make_graph(feature, settings), settings, "disc")
    assert honest_iou(fit, inside, margin) >= 0.95


def test_released_loss_ends_in_a_flag_not_in_an_error():
    # all nodes alike but for noise: the released modularity pays for one cluster
    generator = torch.Generator().manual_seed(0)
    feature = torch.ones(100, 8) + 0.2 * torch.randn(100, 8, generator=generator)
    settings = make_settings("unseggnet", as_released=True, tau=0.5, steps=150, assign="eval")
    fit = fit_graph(make_graph(feature, settings), settings, "flat")
    assert "retried" in fit.flags
    assert "fallback" in fit.flags
    assert len(fit.labels.unique()) == 2


@pytest.fixture
def double() -> Iterator[None]:
    """Networks in float64: steps of an optimizer blow rounding up to percents in float32."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("layer", ["gcn", "gat", "arma"])
@pytest.mark.parametrize("loss", ["ncut", "cc", "dmon"])
def test_linear_time_gives_the_same_as_the_matrix_of_all_pairs(double, layer, loss):
    from graphnn_unet.graph.affinity import GramAffinity

    feature, *_ = disc(1)
    feature = feature[::4].double()
    settings = make_settings(layer=layer, loss=loss, steps=15, lr=1e-2)
    linear = make_graph(feature, settings)
    dense = replace(
        linear, messages=written_out(GramAffinity.of(feature.unsqueeze(0), "shifted"))[0]
    )
    by_products, other = (fit_graph(graph, settings, "a").assignment for graph in (linear, dense))
    torch.testing.assert_close(by_products, other, atol=1e-6, rtol=0)
    assert len(by_products.argmax(dim=1).unique()) == 2


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(30)), st.sampled_from(["gcn", "gat", "arma"]))
def test_order_of_nodes_does_not_matter(order, layer):
    feature = disc()[0][:30]
    fit_settings = make_settings(layer=layer, loss="cc")
    network = make_network(32, fit_settings).eval()
    graphs = [make_graph(rows, fit_settings) for rows in (feature, feature[order])]
    first, second = (network(graph.feature, graph.messages) for graph in graphs)
    torch.testing.assert_close(first[order], second, atol=1e-5, rtol=1e-4)


def test_same_seed_same_result_whatever_ran_before():
    feature, *_ = disc()
    settings = make_settings("deepcut", steps=5)
    first = fit_graph(make_graph(feature, settings), settings, "a")
    torch.rand(7)
    fit_graph(make_graph(feature[:50], settings), settings, "b")
    again = fit_graph(make_graph(feature, settings), settings, "a")
    assert torch.equal(first.assignment, again.assignment)
    seeded = make_settings("deepcut", steps=5, seed=1)
    other = fit_graph(make_graph(feature, seeded), seeded, "a")
    assert not torch.equal(first.assignment, other.assignment)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "auto"])
def test_zero_rows_leave_no_nan(name):
    feature, *_ = disc()
    feature = feature[:40].clone()
    feature[3] = 0
    settings = make_settings(name, steps=3)
    fit = fit_graph(make_graph(feature, settings), settings, "a")
    assert torch.isfinite(fit.assignment).all()
    assert fit.assignment.sum(dim=1).allclose(torch.ones(40))


def test_equal_features_are_one_cluster_with_a_flag():
    settings = make_settings(layer="gcn", loss="dmon")
    fit = fit_graph(make_graph(torch.ones(9, 4), settings), settings, "a")
    assert fit.flags == ("no_structure",)
    assert len(fit.labels.unique()) == 1


def test_loss_that_is_not_finite_stops_with_the_last_finite_weights():
    feature = disc()[0][:50]
    settings = make_settings(layer="gcn", loss="cc", steps=6)
    graph = make_graph(feature, settings)
    calls = []

    def breaking(member: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return graph.loss(member) * (float("nan") if len(calls) == 3 else 1.0)

    fit = fit_graph(Graph(feature, graph.messages, breaking), settings, "a")
    assert "not_finite" in fit.flags
    assert torch.isfinite(fit.assignment).all()
    two = make_settings(layer="gcn", loss="cc", steps=2)
    assert torch.equal(fit.assignment, fit_graph(graph, two, "a").assignment)


def test_correlation_clustering_leaves_slots_empty():
    feature, inside, margin = disc()
    settings = make_settings(layer="gcn", loss="cc", graph="published", alpha=5.0, n_clusters=10)
    fit = fit_graph(make_graph(feature, settings), settings, "a")
    assert 2 <= len(fit.labels.unique()) < 10
    assert honest_iou(fit, inside, margin) > 0.8


def test_graphs_that_cannot_be_made_are_refused():
    with pytest.raises(InputError, match="5 nodes cannot form 6"):
        make_graph(torch.rand(5, 3), ClusterSettings(n_clusters=6))
    opposed = torch.tensor([[1.0, 0], [0, 1]]) * 0
    settings = make_settings(layer="gcn", loss="ncut", graph="published", steps=1)
    graph = make_graph(opposed, settings)
    with pytest.raises(InputError, match="Lower tau"):
        graph.loss(torch.full((2, 2), 0.5))


def test_signed_edges_keep_their_sign():
    feature, *_ = disc()
    settings = make_settings(layer="gcn", loss="cc", graph="published", signed=True, alpha=5.0)
    graph = make_graph(feature, settings)
    assert bool((graph.messages < 0).any())
    assert make_network(32, settings).settings.signed
    quick = settings.model_copy(update={"steps": 3})
    assert torch.isfinite(fit_graph(graph, quick, "a").assignment).all()


def test_kmeans_finds_far_groups_and_is_the_same_each_time():
    rows = torch.cat([torch.zeros(10, 2), torch.full((5, 2), 9.0), torch.full((3, 2), -9.0)])
    rows = rows + 0.1 * torch.rand(18, 2, generator=torch.Generator().manual_seed(0))
    labels = kmeans(rows, 3)
    assert sorted(torch.bincount(labels).tolist()) == [3, 5, 10]
    assert torch.equal(labels, kmeans(rows, 3))


def test_collapse_is_a_share_of_nodes():
    labels = torch.zeros(1000, dtype=torch.long)
    labels[:5] = 1
    assert not is_collapsed(labels, 2)
    labels[0] = 0
    assert is_collapsed(labels, 2)
