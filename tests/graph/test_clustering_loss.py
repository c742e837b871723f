from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import (
    CorrelationClusterHead,
    cluster_perplexity,
    correlation_clustering_loss,
    correlation_clustering_loss_from,
    mean_cosine,
)
from graphnn_unet.graph.affinity import prepared_rows

HARD = [[1.0, 0], [1, 0], [0, 1], [0, 1]]
ONE = [[1.0, 0], [1, 0], [1, 0], [1, 0]]
SOFT = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]]
ROWS = ("unit", "raw", "centred")


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sample(n: int, c: int, k: int, seed: int = 0, batch: int = 2):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(batch, n, c, generator=generator, dtype=torch.float64)
    logits = torch.randn(batch, n, k, generator=generator, dtype=torch.float64)
    return feature, logits


@pytest.mark.parametrize(
    ("rows", "assignment", "expected"),
    [
        ("raw", HARD, 3.0), ("raw", ONE, 19.0), ("raw", SOFT, 7.4),
        ("unit", HARD, -4.0), ("unit", ONE, 0.0), ("unit", SOFT, -1.44),
    ],
)  # fmt: skip
def test_hand_worked_values(rows, assignment, expected):
    feature = tensor([[1.0, 0], [1, 0], [0, 1], [0, 2]])
    total = correlation_clustering_loss(feature, tensor(assignment), rows=rows, reduction="sum")
    mean = correlation_clustering_loss(feature, tensor(assignment), rows=rows)
    assert total.item() == pytest.approx(expected, abs=1e-12)
    assert mean.item() == pytest.approx(expected / 16, abs=1e-12)


def dense_loss(feature, member, *, tau, rows):
    """The definition, with the matrix written out."""
    ready = prepared_rows(feature, rows)
    product = ready @ ready.transpose(1, 2)
    threshold = product.detach().amax(dim=(1, 2), keepdim=True) / tau
    return correlation_clustering_loss_from(product - threshold, member)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [(50, 16, 4), (300, 16, 10), (20, 40, 3), (1, 5, 3)])
def test_linear_equals_dense_in_value_and_gradient(rows, size):
    feature, logits = sample(*size)
    if size[0] > 1:
        feature[0, 1] = 0
    results = []
    for loss in (dense_loss, correlation_clustering_loss):
        inputs = feature.clone().requires_grad_(), logits.clone().requires_grad_()
        value = loss(inputs[0], inputs[1].softmax(-1), tau=1.7, rows=rows)
        (value * tensor([1.0, -2.5])).sum().backward()
        results.append((value.detach(), inputs[0].grad, inputs[1].grad))
    for dense, linear in zip(*results, strict=True):
        torch.testing.assert_close(linear, dense, atol=1e-13, rtol=1e-10)


@pytest.mark.parametrize("rows", ["unit", "centred"])
def test_gradcheck(rows):
    # raw rows hold their maximum constant, so finite differences do not apply to them
    feature, logits = sample(12, 3, 4)
    assert torch.autograd.gradcheck(
        lambda f, x: correlation_clustering_loss(f, x.softmax(-1), rows=rows),
        (feature.requires_grad_(), logits.requires_grad_()),
    )


def test_a_graph_keeps_its_own_threshold():
    feature, logits = sample(30, 4, 3)
    alone = correlation_clustering_loss(feature[0], logits[0].softmax(-1), rows="raw")
    feature[1] *= 100
    both = correlation_clustering_loss(feature, logits.softmax(-1), rows="raw")
    assert alone.shape == ()
    torch.testing.assert_close(both[0], alone)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 15), st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6),
       st.floats(1, 8))  # fmt: skip
def test_bounds_and_symmetries(n: int, c: int, k: int, seed: int, tau: float):
    feature, logits = sample(n, c, k, seed)
    assignment = logits.mul(3).softmax(-1)
    value = correlation_clustering_loss(feature, assignment, tau=tau)
    assert (value >= -(1 - 1 / tau) - 1e-12).all()
    assert (value <= 1 / tau + 1e-12).all()
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randperm(n, generator=generator)
    columns = torch.randperm(k, generator=generator)
    turn = torch.linalg.qr(torch.randn(c, c, generator=generator, dtype=torch.float64))[0]
    for other in (
        correlation_clustering_loss(feature[:, nodes], assignment[:, nodes], tau=tau),
        correlation_clustering_loss(feature, assignment[..., columns], tau=tau),
        correlation_clustering_loss(feature @ turn, assignment, tau=tau),
        correlation_clustering_loss(feature * 37.0, assignment, tau=tau),
        correlation_clustering_loss(feature.repeat(1, 2, 1), assignment.repeat(1, 2, 1), tau=tau),
    ):
        torch.testing.assert_close(other, value)


def test_lower_bound_is_met_by_equal_rows_in_one_cluster():
    feature = tensor([[3.0, 4.0]]).expand(6, 2)
    assignment = tensor([[0.0, 1.0]]).expand(6, 2)
    assert correlation_clustering_loss(feature, assignment, tau=2).item() == pytest.approx(-0.5)


def test_raw_sum_grows_with_the_square_of_the_scale():
    feature, logits = sample(9, 3, 2)
    small, large = (
        correlation_clustering_loss(f, logits.softmax(-1), rows="raw", reduction="sum")
        for f in (feature, feature * 10)
    )
    torch.testing.assert_close(large, small * 100)


def test_a_larger_tau_gives_fewer_clusters():
    angle = torch.deg2rad(tensor([0.0, 10, 40, 50, 95, 105, 150]))
    feature = torch.stack([angle.cos(), angle.sin()], dim=1)
    partitions = [p for p in itertools.product(range(7), repeat=7) if is_first_seen_order(p)]
    assignment = torch.nn.functional.one_hot(torch.tensor(partitions), 7).double()
    many = feature.expand(len(partitions), -1, -1)
    results = []
    for tau in (0.9, 1.01, 1.1, 1.3, 1.6, 2.0):
        value = correlation_clustering_loss(many, assignment, tau=tau)
        results.append(len(set(partitions[int(value.argmin())])))
    assert results == [7, 7, 4, 4, 2, 2]


def is_first_seen_order(partition: tuple[int, ...]) -> bool:
    seen = 0
    for label in partition:
        if label > seen:
            return False
        seen += label == seen
    return True


@pytest.mark.parametrize("rows", ROWS)
def test_all_zero_features_give_zero_and_no_nan(rows):
    feature = torch.zeros(3, 5, 4, requires_grad=True)
    logits = torch.randn(3, 5, 2, requires_grad=True)
    value = correlation_clustering_loss(feature, logits.softmax(-1), rows=rows)
    value.sum().backward()
    assert torch.equal(value, torch.zeros(3))
    assert torch.isfinite(feature.grad).all()
    assert torch.isfinite(logits.grad).all()


def test_one_cluster_has_no_gradient_for_the_assignment():
    feature, logits = sample(8, 3, 1)
    logits.requires_grad_()
    value = correlation_clustering_loss(feature, logits.softmax(-1))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("rows", ["unit", "raw"])
def test_large_half_precision_features_inside_autocast_stay_finite(rows):
    feature = (torch.ones(64, 320) * 80 / 320**0.5).half()  # norm 80
    feature[::2] *= -1
    assignment = torch.eye(2).repeat(32, 1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = correlation_clustering_loss(feature * 40, assignment, rows=rows)
        unit = correlation_clustering_loss(feature, assignment)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert unit.item() == pytest.approx(-0.25, abs=1e-6)


def test_float32_follows_float64_on_many_nodes():
    feature, logits = sample(20000, 32, 10, batch=1)
    feature += 1
    exact = correlation_clustering_loss(feature, logits.softmax(-1))
    narrow = correlation_clustering_loss(feature.float(), logits.softmax(-1).float())
    torch.testing.assert_close(narrow.double(), exact, rtol=1e-5, atol=0)


def test_head_alone_separates_two_blobs():
    torch.manual_seed(0)
    feature = torch.eye(16)[torch.arange(64) % 2] + 0.05 * torch.randn(64, 16)
    head = CorrelationClusterHead(16)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        value = correlation_clustering_loss(feature, head(feature))
        value.backward()
        optimizer.step()
    assignment = head.eval()(feature)
    results = assignment.argmax(-1)
    assert len(results.unique()) == 2
    assert results[0] != results[1]
    assert torch.equal(results, results[:2].repeat(32))
    assert correlation_clustering_loss(feature, assignment).item() == pytest.approx(-0.23, abs=0.03)


def test_diagnostics_by_hand():
    feature = tensor([[2.0, 0], [0, 3], [-1, 0]])
    assert mean_cosine(feature).item() == pytest.approx(-1 / 3)
    assert mean_cosine(feature[:1]).item() == 0
    assert cluster_perplexity(tensor(HARD)).item() == pytest.approx(2)
    assert cluster_perplexity(tensor(ONE)).item() == pytest.approx(1)


def test_wrong_arguments_are_refused():
    feature, logits = sample(5, 3, 2)
    with pytest.raises(ShapeError, match="do not fit"):
        correlation_clustering_loss(feature, logits[:, :4])
    with pytest.raises(ShapeError, match="do not fit"):
        correlation_clustering_loss(feature[:1], logits[0])
    with pytest.raises(ShapeError, match="no node"):
        correlation_clustering_loss(feature[:, :0], logits[:, :0])
    with pytest.raises(InputError, match="tau"):
        correlation_clustering_loss(feature, logits, tau=0)
    with pytest.raises(InputError, match="reduction"):
        correlation_clustering_loss(feature, logits, reduction="max")  # type: ignore[arg-type]
