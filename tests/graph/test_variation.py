from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import maximum_flow

from graphnn_unet.errors import ShapeError
from graphnn_unet.graph import total_variation
from graphnn_unet.graph.variation import prefix_sums


def rows(n: int, c: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, generator=generator, dtype=torch.float64)


def dense(signal: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    weight = feature @ feature.T
    gap = (signal[:, None] - signal[None, :]).abs()
    return (weight * gap).sum() / 2


def test_by_hand():
    # gaps 1 and 2 separate 1 and 2 of three nodes: 1 * 2 + 2 * 2
    assert total_variation(torch.tensor([3.0, 0, 1]), torch.ones(3, 1)).item() == 6
    weight = torch.tensor([[1.0], [2], [5]])
    signal = torch.tensor([1.0, 0, 0])
    assert total_variation(signal, weight).item() == 1 * (2 + 5)


@pytest.mark.parametrize("n_nodes", [1, 2, 50, 300, 700])
@pytest.mark.parametrize("ties", [False, True])
def test_sorting_equals_all_pairs_in_value_and_gradient(n_nodes: int, ties: bool):
    feature, signal = rows(n_nodes), rows(n_nodes, 1, seed=1).squeeze(1)
    if ties:
        signal = (signal * 2).round()
    by_form = []
    for form in (total_variation, dense):
        level = signal.clone().requires_grad_()
        value = form(level, feature)
        value.backward()
        by_form.append((value.detach(), level.grad))
    for one, other in zip(*by_form, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-9)


def test_columns_and_batches_are_taken_one_by_one():
    feature, signal = rows(20), rows(20, 3, seed=1)
    single = torch.stack([dense(column, feature) for column in signal.T])
    torch.testing.assert_close(total_variation(signal, feature), single)
    both = total_variation(torch.stack([signal, signal * 2]), torch.stack([feature, feature]))
    torch.testing.assert_close(both, torch.stack([single, 2 * single]))


def test_gradcheck_off_ties():
    feature, signal = rows(12).abs(), rows(12, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: total_variation(u, feature), (signal,))


def test_two_class_minimum_equals_the_maximum_flow():
    # integer capacities; the energy is convex and its minimum lies at an indicator
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        feature = torch.randint(0, 4, (9, 3), generator=generator).double()
        weight = (feature @ feature.T).fill_diagonal_(0).to(torch.int32).numpy()
        flow = maximum_flow(sparse.csr_matrix(weight), 0, 8).flow_value
        levels = torch.tensor(
            [(1, *middle, 0) for middle in itertools.product((0, 1), repeat=7)]
        ).double()
        energy = total_variation(levels.T, feature)
        assert energy.min().item() == flow
        # no other vector with the same two labels has less
        between = torch.rand(9, 200, generator=generator, dtype=torch.float64)
        between[0], between[8] = 1, 0
        assert total_variation(between, feature).min() >= flow - 1e-9


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(10)), st.floats(-5, 5), st.floats(0, 9))
def test_laws(order: list[int], shift: float, factor: float):
    feature, signal = rows(10).abs(), rows(10, 1, seed=1).squeeze(1)
    value = total_variation(signal, feature)
    torch.testing.assert_close(total_variation(signal[order], feature[order]), value)
    torch.testing.assert_close(total_variation(factor * signal + shift, feature), factor * value)
    torch.testing.assert_close(total_variation(-signal, feature), value)


def test_constant_signals_and_zero_features_cost_nothing():
    assert total_variation(torch.full((5,), 0.3), rows(5).float()) == 0
    assert total_variation(torch.randn(5), torch.zeros(5, 2)) == 0


@pytest.mark.parametrize("n_rows", [1, 255, 256, 257, 70000])
def test_prefix_sums_equal_numpy(n_rows: int):
    values = rows(n_rows, 2)
    expected = np.concatenate([np.zeros((1, 2)), np.cumsum(values.numpy(), axis=0)])
    np.testing.assert_allclose(prefix_sums(values).numpy(), expected, rtol=1e-10, atol=1e-9)


def test_half_precision_inside_autocast_is_worked_in_float32():
    feature, signal = (rows(50, 200) * 20).half(), rows(50, 1, seed=1).squeeze(1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = total_variation(signal, feature)
    torch.testing.assert_close(value.double(), dense(signal.double(), feature.double()), rtol=1e-4,
                               atol=0)  # fmt: skip


def test_wrong_arguments_are_refused():
    with pytest.raises(ShapeError, match="do not fit"):
        total_variation(torch.ones(4), torch.ones(5, 2))
    with pytest.raises(ShapeError, match="do not fit"):
        total_variation(torch.ones(2, 4, 1), torch.ones(4, 2))
