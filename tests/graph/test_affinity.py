from __future__ import annotations

import pytest
import torch
from graph.oracles import shifted_cosine, written_out
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn_unet.errors import InputError
from graphnn_unet.graph.affinity import (
    GramAffinity,
    inverse_norm,
    inverse_root,
    largest_affinity,
    prepared_rows,
    unit_rows,
)


def rows(n: int, c: int, seed: int = 0, batch: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, c) if batch is None else (batch, n, c)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_unit_rows_have_length_one_at_any_scale(scale: float):
    norm = unit_rows((rows(20, 5) * scale).float()).norm(dim=-1)
    torch.testing.assert_close(norm, torch.ones(20))


def test_zero_rows_stay_zero_and_pass_no_gradient():
    feature = rows(4, 3)
    feature[1] = 0
    feature.requires_grad_()
    unit = unit_rows(feature)
    unit.sum().backward()
    assert torch.equal(unit[1], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(feature.grad[1], torch.zeros(3, dtype=torch.float64))
    assert feature.grad[0].abs().max() > 0


def test_inverse_norm_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(inverse_norm, (rows(3, 4).requires_grad_(),))


def test_half_precision_rows_do_not_overflow():
    feature = torch.full((3, 320), 200.0, dtype=torch.float16)
    torch.testing.assert_close(unit_rows(feature).norm(dim=-1), torch.ones(3))


def test_centred_rows_of_equal_features_are_zero_not_noise():
    feature = torch.full((1, 7, 5), 0.1, dtype=torch.float32)
    assert torch.equal(prepared_rows(feature, "centred"), torch.zeros(1, 7, 5))


def test_centred_rows_ignore_a_common_part():
    feature = rows(9, 4, batch=2)
    torch.testing.assert_close(
        prepared_rows(feature + 3.0, "centred"), prepared_rows(feature, "centred")
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 10**6), st.booleans())
def test_largest_affinity_is_the_largest_squared_norm(n: int, c: int, seed: int, opposing: bool):
    feature = rows(n, c, seed, batch=2)
    if opposing:  # all products of different rows negative, as far as the dimension allows
        feature = feature - feature.mean(dim=1, keepdim=True)
    dense = (feature @ feature.transpose(1, 2)).amax(dim=(1, 2))
    torch.testing.assert_close(largest_affinity(feature), dense)


def test_largest_affinity_is_taken_for_each_graph():
    feature = rows(6, 3, batch=2)
    feature[1] *= 100
    alone = largest_affinity(feature[:1])
    torch.testing.assert_close(largest_affinity(feature)[0], alone[0])


def test_shifted_cosine_products_lie_between_zero_and_one():
    feature = rows(30, 4)
    feature[3] = 0
    phi = shifted_cosine(feature)
    cosine = unit_rows(feature) @ unit_rows(feature).T
    torch.testing.assert_close(phi @ phi.T, (1 + cosine) / 2)


@pytest.mark.parametrize("kernel", ["shifted", "gram"])
@pytest.mark.parametrize("n_nodes", [1, 40])
def test_a_graph_that_is_never_built_equals_the_built_one(kernel: str, n_nodes: int):
    feature = rows(n_nodes, 4, batch=2)
    feature[1, 0] = 0
    graph = GramAffinity.of(feature, kernel)
    dense = written_out(graph)
    phi = shifted_cosine(feature) if kernel == "shifted" else feature
    torch.testing.assert_close(dense, phi @ phi.transpose(1, 2))
    signal = rows(n_nodes, 3, seed=1, batch=2)
    torch.testing.assert_close(graph.expand(graph.project(signal)), dense @ signal)
    torch.testing.assert_close(graph.degree(), dense.sum(2))
    torch.testing.assert_close(graph.diagonal(), dense.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(graph.total().square().sum((1, 2)), dense.mean((1, 2)))


def test_shifted_degrees_are_at_least_one():
    assert GramAffinity.of(rows(50, 3, batch=1), "shifted").degree().min() >= 1


def test_gram_degrees_are_not_those_of_the_clipped_graph():
    feature = rows(50, 6, batch=1)
    clipped = written_out(GramAffinity.of(feature, "gram")).clamp(min=0).sum(2)
    assert (clipped - GramAffinity.of(feature, "gram").degree()).abs().max() > 1
    positive = GramAffinity.of(feature.abs(), "gram")
    torch.testing.assert_close(positive.degree(), written_out(positive).clamp(min=0).sum(2))


def test_inverse_root_of_nothing_is_zero_with_finite_gradient():
    degree = torch.tensor([4.0, 0.0, -1.0], requires_grad=True)
    root = inverse_root(degree)
    root.sum().backward()
    assert torch.equal(root, torch.tensor([0.5, 0.0, 0.0]))
    torch.testing.assert_close(degree.grad, torch.tensor([-0.0625, 0.0, 0.0]))


def test_unknown_rows_are_refused():
    with pytest.raises(InputError, match="unit, raw, centred"):
        prepared_rows(rows(3, 2, batch=1), "cosine")  # type: ignore[arg-type]
