from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import pair_loss, unit_rows


def sample(n: int, e: int, k: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(2, n, e, generator=generator, dtype=torch.float64)
    return embedding, torch.randint(0, k, (2, n), generator=generator)


def naive(embedding: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    product = embedding @ embedding.transpose(-1, -2)
    target = (label[..., :, None] == label[..., None, :]).to(product.dtype)
    return (product - target).square()


def test_hand_worked_pairs():
    embedding = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1]], dtype=torch.float64)
    label = torch.tensor([0, 0, 1])
    assert pair_loss(embedding, label).item() == pytest.approx(0.133333, abs=1e-6)
    assert pair_loss(embedding, label, reduction="mean").item() == pytest.approx(0.8 / 9)
    assert pair_loss(embedding, label, reduction="sum").item() == pytest.approx(0.8)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("n_nodes", [50, 300])
def test_linear_equals_naive_in_value_and_gradient(n_nodes: int, unit: bool):
    embedding, label = sample(n_nodes, 9, 4)
    embedding = (unit_rows(embedding) if unit else embedding).requires_grad_()
    dense = naive(embedding, label)
    apart = ~torch.eye(n_nodes, dtype=torch.bool)
    for reduction, expected in (
        ("sum", dense.sum((1, 2))),
        ("mean", dense.mean((1, 2))),
        ("pairs", dense[:, apart].mean(1)),
    ):
        loss = pair_loss(embedding, label, reduction=reduction)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
        ours, theirs = (
            torch.autograd.grad(value.sum(), embedding, retain_graph=True)[0]
            for value in (loss, expected)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_gradcheck():
    embedding, label = sample(8, 3, 3)
    assert torch.autograd.gradcheck(lambda v: pair_loss(v, label), (embedding.requires_grad_(),))


def test_perfect_clusters_cost_nothing():
    embedding = torch.eye(5)[torch.arange(20000) % 5]
    label = torch.arange(20000) % 5
    assert 0 <= pair_loss(embedding, label) < 1e-6
    assert pair_loss(embedding.double(), label) < 1e-12


def test_negative_labels_are_left_out():
    embedding, label = sample(30, 4, 3)
    embedding[1] = embedding[0]
    label[1] = label[0]
    ignored = torch.arange(30) % 3 == 0
    label[1, ignored] = -1
    embedding[1, ignored] = torch.nan
    for reduction in ("pairs", "mean", "sum"):
        loss = pair_loss(embedding, label, reduction=reduction)
        alone = pair_loss(embedding[0, ~ignored], label[0, ~ignored], reduction=reduction)
        torch.testing.assert_close(loss[1], alone)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.permutations(range(4)))
def test_order_of_nodes_and_names_of_classes_do_not_matter(nodes: list[int], names: list[int]):
    embedding, label = sample(8, 3, 4)
    loss = pair_loss(embedding[:, nodes], torch.tensor(names)[label][:, nodes])
    torch.testing.assert_close(loss, pair_loss(embedding, label))


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint16])
def test_names_of_classes_may_be_large(kind):
    embedding = torch.randn(6, 3)
    label = torch.tensor([0, 1, 2, 2, 1, 0])
    names = torch.tensor([7, 3, 60_000])
    large = names[label].to(kind)
    assert pair_loss(embedding, large) == pytest.approx(float(pair_loss(embedding, label)))
    if kind is torch.int64:  # as many classes as voxels of a volume would not fit
        assert pair_loss(embedding, label * 2**40) == pair_loss(embedding, label)


def test_single_and_ignored_nodes_give_zero():
    assert pair_loss(torch.ones(1, 3), torch.zeros(1, dtype=torch.long)) == 0
    nothing = torch.full((4,), -1)
    embedding = torch.ones(4, 3, requires_grad=True)
    value = pair_loss(embedding, nothing)
    value.backward()
    assert value == 0
    assert torch.equal(embedding.grad, torch.zeros(4, 3))


def test_half_precision_inside_autocast_stays_finite():
    embedding, label = sample(64, 256, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = pair_loss((embedding * 20).half(), label)
    torch.testing.assert_close(value, pair_loss((embedding * 20).half().float(), label))
    assert torch.isfinite(value).all()


def test_wrong_arguments_are_refused():
    embedding, label = sample(5, 3, 2)
    with pytest.raises(ShapeError, match="integer"):
        pair_loss(embedding, label.float())
    with pytest.raises(ShapeError, match="do not fit"):
        pair_loss(embedding, label[0])
    with pytest.raises(InputError, match="reduction"):
        pair_loss(embedding, label, reduction="max")  # type: ignore[arg-type]
