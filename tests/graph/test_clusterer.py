from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import GCNConv

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import CorrelationClusterHead
from graphnn_unet.graph.affinity import (
    shifted_cosine,
    thresholded_affinity,
    unit_rows,
)
from graphnn_unet.graph.clusterer import (
    positive_graph_convolution,
    shifted_graph_convolution,
    thresholded_product,
)


def rows(n: int, c: int = 5, batch: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, c, generator=generator, dtype=torch.float64)


def normalized(affinity: torch.Tensor) -> torch.Tensor:
    root = affinity.sum(-1).rsqrt()
    return root[..., :, None] * affinity * root[..., None, :]


def test_hand_worked_graph_weights():
    feature = torch.tensor([[[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]]], dtype=torch.float64)
    expected = [[0.625, 0.353553, 0, 0], [0.353553, 0.555556, 0.136083, 0],
                [0, 0.136083, 0.833333, 0], [0, 0, 0, 1]]  # fmt: skip
    found = positive_graph_convolution(feature, torch.eye(4, dtype=torch.float64)[None])
    torch.testing.assert_close(
        found[0], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("block_rows", [3, 64])
def test_positive_graph_equals_pyg_on_the_explicit_graph(block_rows: int):
    feature = unit_rows(rows(17, batch=1))
    feature[0, 4] = 0
    convolution = GCNConv(5, 3, add_self_loops=True).double()
    affinity = thresholded_affinity(feature[0], rows="raw")
    source, target = affinity.nonzero().T
    reference = convolution(feature[0], torch.stack([source, target]), affinity[source, target])
    signal = feature @ convolution.lin.weight.T
    found = positive_graph_convolution(feature, signal, block_rows=block_rows)
    torch.testing.assert_close(found[0] + convolution.bias, reference, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("n_nodes", [1, 16, 33])
@pytest.mark.parametrize("tau", [0.8, 2.0, 6.0])
def test_blocks_equal_the_whole_matrix_in_value_and_gradient(n_nodes: int, tau: float):
    feature, signal = rows(n_nodes), rows(n_nodes, 3, seed=1)
    found = []
    for block_rows in (16, 4, 100):
        x = signal.clone().requires_grad_()
        value = positive_graph_convolution(feature, x, tau=tau, block_rows=block_rows)
        (value * rows(n_nodes, 3, seed=2)).sum().backward()
        found.append((value.detach(), x.grad))
    for value, gradient in found[:2]:
        torch.testing.assert_close(value, found[2][0])
        torch.testing.assert_close(gradient, found[2][1])


def test_blocked_product_gradcheck():
    feature, signal = rows(7), rows(7, 2, seed=1).requires_grad_()
    threshold = torch.tensor([0.1, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: thresholded_product(feature, threshold, x, 3), (signal,)
    )
    assert torch.autograd.gradgradcheck(
        lambda x: thresholded_product(feature, threshold, x, 3), (signal,)
    )


def test_shifted_graph_equals_its_dense_form():
    feature, signal = rows(19), rows(19, 3, seed=1)
    phi = shifted_cosine(feature)
    dense = normalized(phi @ phi.transpose(1, 2)) @ signal
    torch.testing.assert_close(shifted_graph_convolution(feature, signal), dense)


@pytest.mark.parametrize("graph", ["positive", "shifted"])
def test_large_graphs_never_hold_a_square_matrix(graph: str):
    n_nodes = 2048
    head = CorrelationClusterHead(8, graph=graph)
    feature = rows(n_nodes, 8, batch=1).float().requires_grad_()
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda kept: sizes.append(kept.numel()) or kept, lambda kept: kept
    ):
        head(feature).square().sum().backward()
    assert max(sizes) <= n_nodes * 64
    with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
        head(feature)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 512 * n_nodes * 4


@pytest.mark.parametrize("graph", ["positive", "shifted"])
@pytest.mark.parametrize("given_rows", ["unit", "raw", "centred"])
def test_rows_are_probabilities_and_every_parameter_learns(graph: str, given_rows: str):
    torch.manual_seed(0)
    head = CorrelationClusterHead(5, 4, 8, rows=given_rows, graph=graph).double()
    feature = rows(20).requires_grad_()
    assignment = head(feature)
    assert assignment.shape == (2, 20, 4)
    torch.testing.assert_close(assignment.sum(-1), torch.ones(2, 20, dtype=torch.float64))
    (assignment * rows(20, 4, seed=3)).sum().backward()
    assert feature.grad.abs().max() > 0
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(9)), st.sampled_from(["positive", "shifted"]))
def test_order_of_nodes_does_not_matter(order: list[int], graph: str):
    torch.manual_seed(1)
    head = CorrelationClusterHead(5, graph=graph).double().eval()
    feature = rows(9)
    torch.testing.assert_close(head(feature[:, order]), head(feature)[:, order])


@pytest.mark.parametrize("graph", ["positive", "shifted"])
def test_graphs_of_a_batch_do_not_meet(graph: str):
    head = CorrelationClusterHead(5, graph=graph).double().eval()
    feature = rows(12)
    feature[1] *= 50
    torch.testing.assert_close(head(feature)[0], head(feature[0]))


def test_no_gradient_passes_through_the_graph():
    feature, signal = rows(10).requires_grad_(), rows(10, 3, seed=1).requires_grad_()
    for value in (
        positive_graph_convolution(feature, signal),
        positive_graph_convolution(feature, signal, block_rows=4),
        shifted_graph_convolution(feature, signal),
    ):
        assert torch.autograd.grad(value.sum(), feature, allow_unused=True)[0] is None


@pytest.mark.parametrize("graph", ["positive", "shifted"])
@pytest.mark.parametrize("case", ["zeros", "one node", "a zero row", "opposed", "equal"])
def test_degenerate_graphs_stay_finite(graph: str, case: str):
    feature = {
        "zeros": torch.zeros(1, 6, 5),
        "one node": torch.ones(1, 1, 5),
        "a zero row": torch.cat([torch.zeros(1, 1, 5), torch.ones(1, 5, 5)], dim=1),
        "opposed": torch.tensor([1.0, -1]).reshape(1, 2, 1).expand(1, 2, 5).clone(),
        "equal": torch.ones(1, 6, 5),
    }[case].requires_grad_()
    head = CorrelationClusterHead(5, graph=graph)
    assignment = head(feature)
    assignment.square().sum().backward()
    assert torch.isfinite(assignment).all()
    assert torch.isfinite(feature.grad).all()


def test_half_precision_inside_autocast_is_worked_in_float32():
    head = CorrelationClusterHead(320).eval()
    feature = (rows(40, 320).float() * 100).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(feature)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, head(feature.float()))


def test_wrong_arguments_are_refused():
    with pytest.raises(ShapeError, match="5 channels"):
        CorrelationClusterHead(5)(rows(4, 6))
    with pytest.raises(InputError, match="graph"):
        CorrelationClusterHead(5, graph="dense")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tau"):
        CorrelationClusterHead(5, tau=-1)
    with pytest.raises(InputError, match="n_clusters"):
        CorrelationClusterHead(5, 0)
