from __future__ import annotations

import pytest
import torch
from graph.oracles import shifted_cosine, thresholded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import GCNConv

from graphnn_unet.errors import ShapeError
from graphnn_unet.graph import class_graph_propagate, gram_convolution
from graphnn_unet.graph.affinity import unit_rows
from graphnn_unet.graph.propagation import thresholded_convolution, thresholded_product


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
    propagated = thresholded_convolution(feature, torch.eye(4, dtype=torch.float64)[None])
    torch.testing.assert_close(
        propagated[0], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("block_rows", [2, 64])
def test_a_node_that_no_edge_reaches_keeps_its_signal(block_rows: int):
    feature = torch.tensor([[[1.0, 0], [0, 0], [0, 1]]])
    kept = thresholded_convolution(feature, torch.eye(3)[None], block_rows=block_rows)
    torch.testing.assert_close(kept, torch.eye(3)[None])
    kept = thresholded_convolution(feature, torch.eye(3)[None], tau=0.5, block_rows=block_rows)
    torch.testing.assert_close(kept, torch.eye(3)[None])


@pytest.mark.parametrize("block_rows", [3, 64])
def test_positive_graph_equals_pyg_on_the_explicit_graph(block_rows: int):
    feature = unit_rows(rows(17, batch=1))
    feature[0, 4] = 0
    convolution = GCNConv(5, 3, add_self_loops=True).double()
    affinity = thresholded(feature[0])
    source, target = affinity.nonzero().T
    reference = convolution(feature[0], torch.stack([source, target]), affinity[source, target])
    signal = feature @ convolution.lin.weight.T
    propagated = thresholded_convolution(feature, signal, block_rows=block_rows)
    torch.testing.assert_close(propagated[0] + convolution.bias, reference, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("n_nodes", [1, 16, 33])
@pytest.mark.parametrize("tau", [0.8, 2.0, 6.0])
def test_blocks_equal_the_whole_matrix_in_value_and_gradient(n_nodes: int, tau: float):
    feature, signal = rows(n_nodes), rows(n_nodes, 3, seed=1)
    results = []
    for block_rows in (16, 4, 100):
        x = signal.clone().requires_grad_()
        value = thresholded_convolution(feature, x, tau=tau, block_rows=block_rows)
        (value * rows(n_nodes, 3, seed=2)).sum().backward()
        results.append((value.detach(), x.grad))
    for value, gradient in results[:2]:
        torch.testing.assert_close(value, results[2][0])
        torch.testing.assert_close(gradient, results[2][1])


def test_blocked_product_gradcheck():
    feature, signal = rows(7), rows(7, 2, seed=1).requires_grad_()
    threshold = torch.tensor([0.1, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: thresholded_product(feature, threshold, x, 3), (signal,)
    )
    assert torch.autograd.gradgradcheck(
        lambda x: thresholded_product(feature, threshold, x, 3), (signal,)
    )


@pytest.mark.parametrize("n_nodes", [1, 50, 300])
def test_gram_convolution_equals_its_dense_form_with_gradients(n_nodes: int):
    feature, signal = rows(n_nodes).requires_grad_(), rows(n_nodes, 3, seed=1).requires_grad_()
    phi = shifted_cosine(feature)
    propagated = gram_convolution(feature, signal)
    dense = normalized(phi @ phi.transpose(1, 2)) @ signal
    torch.testing.assert_close(propagated, dense, rtol=1e-10, atol=1e-10)
    weight = rows(n_nodes, 3, seed=2)
    by_form = [
        torch.autograd.grad((value * weight).sum(), (feature, signal), retain_graph=True)
        for value in (propagated, dense)
    ]
    for first_form, other in zip(*by_form, strict=True):
        torch.testing.assert_close(first_form, other, rtol=1e-8, atol=1e-8)


def test_rows_that_point_apart_or_nowhere_still_get_a_message():
    feature = torch.tensor([[1.0, 0.2], [1, 0.1], [-0.5, 0], [0, 0]])
    assert (gram_convolution(feature, torch.eye(4)) > 0).all()


def test_normalized_gram_operator_has_eigenvalues_between_zero_and_one():
    operator = gram_convolution(rows(20)[0], torch.eye(20, dtype=torch.float64))
    values = torch.linalg.eigvalsh(operator)
    assert values.min() > -1e-12
    assert values.max().item() == pytest.approx(1)


def test_no_gradient_passes_through_the_graph():
    feature, signal = rows(10).requires_grad_(), rows(10, 3, seed=1).requires_grad_()
    for value in (
        thresholded_convolution(feature, signal),
        thresholded_convolution(feature, signal, block_rows=4),
        thresholded_convolution(feature, signal, tau=1.1),
    ):
        assert torch.autograd.grad(value.sum(), feature, allow_unused=True)[0] is None


def dense_class_graph(probability: torch.Tensor) -> torch.Tensor:
    label = probability.argmax(-1)
    same = label[..., :, None] == label[..., None, :]
    weight = torch.where(same, probability @ probability.transpose(-1, -2), 0.0)
    weight = weight - torch.diag_embed(weight.diagonal(dim1=-2, dim2=-1))
    return weight + torch.eye(weight.shape[-1], dtype=weight.dtype)


def test_class_graph_by_hand():
    probability = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5]]).double()
    propagated = class_graph_propagate(probability, torch.eye(4, dtype=torch.float64))
    expected = torch.tensor(
        [[0.446429, 0.330357, 0, 0.236228], [0.330357, 0.446429, 0, 0.236228],
         [0, 0, 1, 0], [0.236228, 0.236228, 0, 0.5]], dtype=torch.float64)  # fmt: skip
    torch.testing.assert_close(propagated, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("n_nodes", [1, 50, 300])
def test_class_graph_equals_its_dense_form_with_gradients(n_nodes: int):
    probability = (rows(n_nodes) * 2).softmax(-1).requires_grad_()
    signal = rows(n_nodes, 7, seed=1).requires_grad_()
    propagated = class_graph_propagate(probability, signal, detach_graph=False)
    dense = normalized(dense_class_graph(probability)) @ signal
    torch.testing.assert_close(propagated, dense, rtol=1e-12, atol=1e-12)
    weight = rows(n_nodes, 7, seed=2)
    ours = torch.autograd.grad((propagated * weight).sum(), (probability, signal))
    theirs = torch.autograd.grad((dense * weight).sum(), (probability, signal))
    for ours_gradient, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_gradient, other, rtol=1e-10, atol=1e-12)


def test_class_graph_is_constant_unless_asked():
    probability = rows(9).softmax(-1).requires_grad_()
    signal = rows(9, 2, seed=1).requires_grad_()
    value = class_graph_propagate(probability, signal).sum()
    assert torch.autograd.grad(value, probability, allow_unused=True)[0] is None


def test_class_graph_gradcheck():
    probability = rows(12, 3, batch=1).softmax(-1)
    signal = rows(12, 2, batch=1, seed=1)
    assert torch.autograd.gradcheck(
        lambda p, x: class_graph_propagate(p, x, detach_graph=False),
        (probability.requires_grad_(), signal.requires_grad_()),
    )


def test_a_lonely_class_member_keeps_its_own_value():
    probability = torch.tensor([[0.9, 0.1, 0], [0.7, 0.3, 0], [0.2, 0.8, 0]])
    signal = torch.tensor([[1.0], [2], [5]])
    assert class_graph_propagate(probability, signal)[2].item() == pytest.approx(5)


def test_uniform_probabilities_join_the_first_class():
    signal = torch.tensor([[1.0], [2], [6]])
    even = torch.full((3, 4), 0.25)
    expected = normalized(dense_class_graph(even)) @ signal
    torch.testing.assert_close(class_graph_propagate(even, signal), expected)
    assert (dense_class_graph(even) > 0).all()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(9)), st.permutations(range(5)))
def test_order_of_nodes_and_classes_does_not_matter(nodes: list[int], classes: list[int]):
    feature, signal = rows(9), rows(9, 2, seed=1)
    probability = feature.softmax(-1)
    propagated = class_graph_propagate(probability, signal)
    torch.testing.assert_close(
        class_graph_propagate(probability[:, nodes][..., classes], signal[:, nodes]),
        propagated[:, nodes],
    )
    torch.testing.assert_close(
        gram_convolution(feature[:, nodes], signal[:, nodes]),
        gram_convolution(feature, signal)[:, nodes],
    )
    torch.testing.assert_close(
        thresholded_convolution(feature[:, nodes], signal[:, nodes], block_rows=4),
        thresholded_convolution(feature, signal, block_rows=4)[:, nodes],
    )


def test_half_precision_inside_autocast_is_worked_in_float32():
    feature = (rows(40, 320).float() * 40).half()
    signal = rows(40, 3, seed=1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        propagated = (
            gram_convolution(feature, signal),
            class_graph_propagate(feature.softmax(-1), signal),
        )
    assert propagated[0].dtype == propagated[1].dtype == torch.float32
    torch.testing.assert_close(propagated[0], gram_convolution(feature.float(), signal.float()))


def test_wrong_arguments_are_refused():
    with pytest.raises(ShapeError, match="do not fit"):
        gram_convolution(rows(4), rows(5))
    with pytest.raises(ShapeError, match="do not fit"):
        class_graph_propagate(rows(4), rows(4)[0])
