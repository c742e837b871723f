from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import CorrelationClusterHead


def rows(n: int, c: int = 5, batch: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, c, generator=generator, dtype=torch.float64)


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
