"""Normalized cut and modularity, from features and from a given affinity."""

from __future__ import annotations

import networkx
import pytest
import torch
from graph.oracles import shifted_cosine, written_out
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import DMoNPooling, dense_mincut_pool

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import (
    correlation_clustering_loss,
    correlation_clustering_loss_from,
    modularity_loss,
    modularity_loss_from,
    normalized_cut_loss,
    normalized_cut_loss_from,
    unit_rows,
)
from graphnn_unet.graph.affinity import GramAffinity

W = [[1.0, 0.8, 0.1, 0], [0.8, 1, 0, 0.1], [0.1, 0, 1, 0.6], [0, 0.1, 0.6, 1]]
HARD = [[1.0, 0], [1, 0], [0, 1], [0, 1]]
ONE = [[1.0, 0], [1, 0], [1, 0], [1, 0]]
SOFT = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]]
LAYOUTS = ("dense", "csr", "coo")


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def laid_out(weight: torch.Tensor, layout: str) -> torch.Tensor:
    return {"dense": weight, "csr": weight.to_sparse_csr(), "coo": weight.to_sparse_coo()}[layout]


def sample(n: int, c: int, k: int, seed: int = 0, batch: int = 2):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(batch, n, c, generator=generator, dtype=torch.float64)
    logits = torch.randn(batch, n, k, generator=generator, dtype=torch.float64)
    return feature, logits


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("assignment", "cut", "balance", "quality", "released", "spread", "fourth"),
    [
        (HARD, -6.8 / 7.2, 0.0, 0.442901, 0.346836, 0.0, -0.159104),
        (SOFT, -4.82 / 4.992, 0.437491, 0.160556, 0.2075, 0.004988, -0.154910),
        (ONE, -1.0, 0.765367, 0.0, 0.25, 0.414214, 0.189207),
    ],
)
def test_hand_worked_graph(layout, assignment, cut, balance, quality, released, spread, fourth):
    graph, member = laid_out(tensor(W), layout), tensor(assignment)
    tolerance = {"abs": 1e-6}
    approx = pytest.approx
    assert normalized_cut_loss_from(graph, member, balance_weight=0) == approx(cut, **tolerance)
    assert normalized_cut_loss_from(graph, member) == approx(cut + balance, **tolerance)
    half = normalized_cut_loss_from(graph, member, balance_weight=0.5)
    assert half == approx(cut + balance / 2, **tolerance)
    assert modularity_loss_from(graph, member, collapse=False) == approx(-quality, **tolerance)
    assert modularity_loss_from(graph, member) == approx(-quality + spread, **tolerance)
    old = modularity_loss_from(graph, member, collapse=False, variant="released")
    assert old == approx(-released, **tolerance)
    old = modularity_loss_from(graph, member, variant="released")
    assert old == approx(-released + fourth, **tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_correlation_clustering_of_a_given_graph_by_hand(layout):
    # the threshold is part of the affinity here: max / tau = 0.2
    graph = laid_out(tensor(W) - 0.2, layout)
    for assignment, total in ((HARD, -5.2), (ONE, -4.0), (SOFT, -3.204)):
        member = tensor(assignment)
        assert correlation_clustering_loss_from(graph, member) == pytest.approx(total / 16)


def test_released_modularity_prefers_collapse_where_the_true_one_does_not():
    block = torch.ones(20, 20, dtype=torch.float64)
    split = torch.repeat_interleave(torch.eye(2, dtype=torch.float64), 20, dim=0)
    collapsed = torch.zeros_like(split)
    collapsed[:, 0] = 1
    for across, true, released in ((0.2, 1 / 3, 0.291667), (0.5, 1 / 6, 0.208333)):
        graph = torch.cat(
            [torch.cat([block, across * block]), torch.cat([across * block, block])], 1
        )
        both = {"collapse": False}
        assert -modularity_loss_from(graph, split, **both) == pytest.approx(true)
        assert -modularity_loss_from(graph, collapsed, **both) == pytest.approx(0, abs=1e-12)
        old = {"collapse": False, "variant": "released"}
        assert -modularity_loss_from(graph, split, **old) == pytest.approx(released, abs=1e-6)
        assert -modularity_loss_from(graph, collapsed, **old) == pytest.approx(0.25)


@pytest.mark.parametrize("size", [(50, 16, 4), (300, 16, 10), (12, 30, 3), (1, 3, 2)])
@pytest.mark.parametrize("kernel", ["shifted", "gram"])
@pytest.mark.parametrize("loss", [normalized_cut_loss, modularity_loss])
def test_linear_equals_dense_in_value_and_gradient(loss, kernel, size):
    feature, logits = sample(*size)
    if kernel == "gram" and loss is normalized_cut_loss:
        feature = feature.abs()
    if size[0] > 1:
        feature[0, 1] = 0
    dense_loss = {
        normalized_cut_loss: normalized_cut_loss_from,
        modularity_loss: modularity_loss_from,
    }[loss]
    results = []
    for is_dense in (True, False):
        inputs = feature.clone().requires_grad_(), logits.clone().requires_grad_()
        member = inputs[1].softmax(-1)
        if is_dense:
            value = dense_loss(written_out(GramAffinity.of(inputs[0], kernel)), member)
        else:
            value = loss(inputs[0], member, affinity=kernel)
        (value * tensor([1.0, -2.5])).sum().backward()
        results.append((value.detach(), inputs[0].grad, inputs[1].grad))
    for dense, linear in zip(*results, strict=True):
        torch.testing.assert_close(linear, dense, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("variant", ["true", "released"])
def test_given_affinity_equals_features(variant):
    feature, logits = sample(30, 6, 4)
    member = logits.softmax(-1)
    phi = shifted_cosine(feature)
    graph = phi @ phi.transpose(1, 2)
    options = {"variant": variant}
    torch.testing.assert_close(
        modularity_loss(feature, member, **options),
        modularity_loss_from(graph, member, **options),
    )
    torch.testing.assert_close(
        normalized_cut_loss(feature, member),
        normalized_cut_loss_from(graph, member),
    )
    unit = unit_rows(feature)
    torch.testing.assert_close(
        correlation_clustering_loss(feature, member, tau=3),
        correlation_clustering_loss_from(unit @ unit.transpose(1, 2) - 1 / 3, member),
    )


@pytest.mark.parametrize("loss", [normalized_cut_loss, modularity_loss])
def test_gradcheck_from_features(loss):
    feature, logits = sample(12, 3, 4)
    assert torch.autograd.gradcheck(
        lambda f, x: loss(f, x.softmax(-1)),
        (feature.requires_grad_(), logits.requires_grad_()),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "loss", [correlation_clustering_loss_from, normalized_cut_loss_from, modularity_loss_from]
)
def test_gradcheck_from_an_affinity(loss, layout):
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = laid_out(tensor(W), layout)
    assert torch.autograd.gradcheck(
        lambda x: loss(graph, x.softmax(-1)), (logits.requires_grad_(),)
    )


def test_modularity_equals_networkx_for_hard_clusters():
    graph = networkx.gnm_random_graph(30, 90, seed=4)
    for source, target in graph.edges:
        graph[source][target]["weight"] = 1 + (source * target) % 5
    label = [node % 4 for node in range(30)]
    groups = [{node for node in range(30) if label[node] == which} for which in range(4)]
    expected = networkx.community.modularity(graph, groups)
    weight = torch.tensor(networkx.to_numpy_array(graph))
    member = torch.nn.functional.one_hot(torch.tensor(label), 4).double()
    for layout in LAYOUTS:
        value = modularity_loss_from(laid_out(weight, layout), member, collapse=False)
        assert -value == pytest.approx(expected)


def test_losses_equal_those_of_pyg():
    torch.manual_seed(0)
    feature, logits = sample(25, 6, 4, batch=1)
    phi = shifted_cosine(feature)
    graph = phi @ phi.transpose(1, 2)
    _, _, cut, balance = dense_mincut_pool(feature, graph, logits)
    member = logits.softmax(-1)
    bare = normalized_cut_loss(feature, member, balance_weight=0)
    torch.testing.assert_close(bare[0], cut)
    torch.testing.assert_close(normalized_cut_loss(feature, member)[0], cut + balance)
    pooling = DMoNPooling(6, 4).double().eval()
    member, _, _, spectral, _, spread = pooling(feature, graph)
    bare = modularity_loss(feature, member, collapse=False)
    torch.testing.assert_close(bare[0], spectral)
    torch.testing.assert_close(modularity_loss(feature, member)[0], spectral + spread)


def test_one_cluster_has_no_modularity_and_gram_graphs_never_a_negative_one():
    feature, logits = sample(40, 6, 3)
    assert modularity_loss(feature, tensor([[[1.0]]]).expand(2, 40, 1)).abs().max() < 1e-14
    value = modularity_loss(feature, logits.softmax(-1), affinity="gram", collapse=False)
    assert (value <= 0).all()


def test_modularity_does_not_cancel_in_float32():
    generator = torch.Generator().manual_seed(0)
    n_nodes = 100_000
    feature = torch.randn(n_nodes, 8, generator=generator, dtype=torch.float64) * 0.05 + 1
    member = torch.randn(n_nodes, 4, generator=generator, dtype=torch.float64).mul(0.1).softmax(-1)
    options = {"affinity": "gram", "collapse": False}
    exact = modularity_loss(feature, member, **options)
    narrow = modularity_loss(feature.float(), member.float(), **options)
    assert abs(exact) < 1e-6  # far below the rounding of the two terms it is the difference of
    torch.testing.assert_close(narrow.double(), exact, rtol=1e-3, atol=0)
    graph, member = feature[:400] @ feature[:400].T, member[:400]
    exact = modularity_loss_from(graph, member, collapse=False)
    for layout in LAYOUTS:
        narrow = modularity_loss_from(
            laid_out(graph.float(), layout), member.float(), collapse=False
        )
        torch.testing.assert_close(narrow.double(), exact, rtol=1e-3, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6))
def test_symmetries(n: int, c: int, k: int, seed: int):
    feature, logits = sample(n, c, k, seed)
    member = logits.softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randperm(n, generator=generator)
    columns = torch.randperm(k, generator=generator)
    for loss in (normalized_cut_loss, modularity_loss):
        value = loss(feature, member)
        for other in (
            loss(feature[:, nodes], member[:, nodes]),
            loss(feature, member[..., columns]),
            loss(feature * 7, member),
            torch.stack([loss(f, m) for f, m in zip(feature, member, strict=True)]),
        ):
            torch.testing.assert_close(other, value, atol=1e-12, rtol=1e-7)
    assert (normalized_cut_loss(feature, member, balance_weight=0) <= 0).all()
    assert (normalized_cut_loss(feature, member, balance_weight=0) >= -1 - 1e-12).all()


def test_scaling_a_graph_changes_nothing():
    member = tensor(SOFT)
    for loss in (normalized_cut_loss_from, modularity_loss_from):
        torch.testing.assert_close(loss(tensor(W) * 9, member), loss(tensor(W), member))


@pytest.mark.parametrize("loss", [normalized_cut_loss, modularity_loss])
@pytest.mark.parametrize("case", ["zeros", "one node", "opposed", "equal", "one cluster"])
def test_degenerate_features_stay_finite(loss, case):
    n_nodes = 1 if case == "one node" else 6
    feature = {
        "zeros": torch.zeros(n_nodes, 3),
        "opposed": torch.tensor([1.0, -1]).repeat(3)[:, None].repeat(1, 3),
    }.get(case, torch.ones(n_nodes, 3)).requires_grad_()  # fmt: skip
    logits = torch.randn(n_nodes, 1 if case == "one cluster" else 3, requires_grad=True)
    value = loss(feature, logits.softmax(-1))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(feature.grad).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [normalized_cut_loss, modularity_loss])
def test_half_precision_inside_autocast_is_worked_in_float32(loss):
    feature, logits = sample(64, 320, 4, batch=1)
    feature, member = (feature * 100).half(), logits.softmax(-1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(feature, member)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(feature.float(), member.float()))


def test_graphs_without_weight_are_refused():
    member = tensor(HARD)
    with pytest.raises(InputError, match="no positive weight"):
        modularity_loss(member * 0, member, affinity="gram")
    noisy = sample(40, 5, 1, batch=1)[0][0].float()
    noisy = noisy - noisy.mean(dim=0)
    with pytest.raises(InputError, match="no positive weight"):
        modularity_loss(noisy, torch.ones(40, 2) / 2, affinity="gram")
    for loss in (normalized_cut_loss_from, modularity_loss_from):
        for layout in LAYOUTS:
            with pytest.raises(InputError, match="threshold tau"):
                loss(laid_out(tensor(W) * 0, layout), member)
    for layout in LAYOUTS:
        with pytest.raises(InputError, match="negative"):
            normalized_cut_loss_from(laid_out(tensor(W) - 0.2, layout), member)


def test_wrong_arguments_are_refused():
    member = tensor(HARD)
    with pytest.raises(ShapeError, match="do not fit"):
        modularity_loss_from(tensor(W)[:3, :3], member)
    with pytest.raises(ShapeError, match="do not fit"):
        modularity_loss_from(tensor(W)[None], member)
    with pytest.raises(ShapeError, match="must be"):
        modularity_loss_from(tensor(W)[:, :3], member)
    with pytest.raises(InputError, match="gradient"):
        modularity_loss_from(tensor(W).to_sparse_csr().requires_grad_(), member)
    with pytest.raises(InputError, match="variant"):
        modularity_loss_from(tensor(W), member, variant="old")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="kernel"):
        normalized_cut_loss(member, member, affinity="cosine")  # type: ignore[arg-type]
