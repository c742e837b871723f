"""Prototypes move slowly, and both losses push towards the given labels."""

from __future__ import annotations

import pytest
import torch

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import ClassPrototypes, pair_loss, prototype_loss, self_weighted_entropy
from graphnn_unet.graph.affinity import unit_rows

X, Y = [1.0, 0.0], [0.0, 1.0]


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor([values])


def test_old_prototypes_weigh_99_parts():
    prototypes = ClassPrototypes(1, 3, 2)
    prototypes.update([rows(X)], torch.tensor([[1]]))
    assert prototypes.mean[0].tolist() == [[0, 0], X, [0, 0]]  # the first is taken whole
    assert prototypes.seen.tolist() == [False, True, False]
    prototypes.update([rows(Y)], torch.tensor([[1]]))
    torch.testing.assert_close(prototypes.mean[0, 1], torch.tensor([0.99, 0.01]))
    prototypes.update([rows(X)], torch.tensor([[2]]))
    torch.testing.assert_close(prototypes.mean[0, 1], torch.tensor([0.99, 0.01]))  # was absent
    assert prototypes.sightings.tolist() == [0, 2, 1]


def test_labeled_and_unlabeled_nodes_are_pooled_by_their_number():
    """Not the mean of two means: three nodes at x and one at y."""
    embedding = torch.tensor([[X, X], [X, Y]])
    prototypes = ClassPrototypes(2, 1, 2)
    prototypes.update([embedding, 2 * embedding], torch.zeros(2, 2, dtype=torch.int64))
    torch.testing.assert_close(prototypes.mean[:, 0], torch.tensor([[0.75, 0.25], [1.5, 0.5]]))


def test_ignored_nodes_are_left_out():
    prototypes = ClassPrototypes(1, 2, 2)
    prototypes.update([rows(X, Y)], torch.tensor([[0, -1]]))
    assert prototypes.mean[0].tolist() == [X, [0, 0]]
    prototypes.update([rows(X, Y)], torch.tensor([[-1, -1]]))
    assert prototypes.sightings.tolist() == [1, 0]


def test_state_dict_restores_prototypes_and_sightings():
    prototypes, other = ClassPrototypes(1, 2, 2), ClassPrototypes(1, 2, 2)
    prototypes.update([rows(X, Y)], torch.tensor([[1, 1]]))
    other.load_state_dict(prototypes.state_dict())
    assert torch.equal(other.mean, prototypes.mean)
    assert torch.equal(other.seen, prototypes.seen)
    assert not list(prototypes.parameters())


WORKED = torch.tensor([X, [0.8, 0.6], Y], dtype=torch.float64)
LABEL = torch.tensor([0, 0, 1])


def test_hand_worked_semantic_loss():
    center = torch.eye(2, dtype=torch.float64)
    seen = torch.ones(2, dtype=torch.bool)
    contrast = prototype_loss(WORKED, LABEL, center, seen)
    each = [prototype_loss(WORKED[i : i + 1], LABEL[i : i + 1], center, seen) for i in range(3)]
    torch.testing.assert_close(
        torch.stack(each), torch.tensor([0.000045, 0.126928, 0.000045]).double(), atol=1e-6, rtol=0
    )
    assert contrast.item() == pytest.approx(0.042340, abs=1e-6)
    pairs = pair_loss(WORKED, LABEL)
    assert (0.5 * pairs + 0.5 * contrast).item() == pytest.approx(0.087836, abs=1e-6)
    # prototypes count by their direction
    torch.testing.assert_close(prototype_loss(WORKED, LABEL, 0.01 * center, seen), contrast)


def test_never_seen_classes_are_in_neither_sum():
    seen = torch.tensor([True, True, False])
    three = torch.cat([torch.eye(2), torch.ones(1, 2)]).double()
    two = prototype_loss(WORKED, LABEL, three[:2], seen[:2])
    assert torch.equal(prototype_loss(WORKED, LABEL, three, seen), two)
    with_unseen = prototype_loss(WORKED, torch.tensor([0, 0, 2]), three, seen)
    torch.testing.assert_close(
        with_unseen, prototype_loss(WORKED[:2], LABEL[:2], three[:2], seen[:2])
    )
    leaf = WORKED.clone().requires_grad_()
    nothing = prototype_loss(leaf, LABEL, three, torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing == 0
    assert not leaf.grad.any()


def test_prototypes_receive_no_gradient():
    center = torch.eye(2, dtype=torch.float64, requires_grad=True)
    leaf = WORKED.clone().requires_grad_()
    prototype_loss(leaf, LABEL, center, torch.ones(2, dtype=torch.bool)).backward()
    assert center.grad is None
    assert leaf.grad.abs().max() > 0


def test_hand_worked_class_level_loss():
    share = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8]], dtype=torch.float64)
    assert self_weighted_entropy(share, LABEL).item() == pytest.approx(0.264901, abs=1e-6)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_the_weight_is_constant_so_the_label_is_never_pushed_down(p):
    share = torch.tensor([[p, 1 - p]] * 4, dtype=torch.float64, requires_grad=True)
    self_weighted_entropy(share, torch.zeros(4, dtype=torch.int64)).backward()
    torch.testing.assert_close(share.grad[:, 0], torch.full((4,), -0.25, dtype=torch.float64))
    assert not share.grad[:, 1].any()


def test_losses_are_positive_and_fall_towards_the_label():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (50,), generator=generator)
    target = torch.nn.functional.one_hot(label, 4).double()
    start = torch.randn(50, 4, generator=generator).double()
    seen = torch.ones(4, dtype=torch.bool)
    losses: dict[str, list[float]] = {"pairs": [], "contrast": [], "entropy": []}
    for way in (0.0, 0.3, 0.6, 0.9, 1.0):
        moved = unit_rows(torch.lerp(unit_rows(start), target, way))
        share = torch.lerp(start.softmax(-1), target, way)
        losses["pairs"].append(pair_loss(moved, label).item())
        losses["contrast"].append(prototype_loss(moved, label, torch.eye(4), seen).item())
        if way >= 0.6:  # p log p falls with p beyond 1/e
            losses["entropy"].append(self_weighted_entropy(share, label).item())
    for values in losses.values():
        assert min(values) >= 0
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1] + 0.1
    assert losses["entropy"][-1] == 0


def test_impossible_labels_cost_a_finite_amount():
    share = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = self_weighted_entropy(share, torch.tensor([1]))
    loss.backward()
    assert loss == 0
    assert torch.isfinite(share.grad).all()


def test_graphs_of_a_batch_have_their_losses_to_themselves():
    center, seen = torch.eye(2).double(), torch.ones(2, dtype=torch.bool)
    batch, labels = torch.stack([WORKED, WORKED.flip(0)]), torch.stack([LABEL, LABEL])
    share = batch.abs() / batch.abs().sum(-1, keepdim=True)
    for loss in (
        lambda v, y: prototype_loss(v, y, center, seen),
        lambda v, y: self_weighted_entropy(v.abs() / v.abs().sum(-1, keepdim=True), y),
    ):
        together = loss(batch, labels)
        torch.testing.assert_close(together, torch.stack([loss(v, LABEL) for v in batch]))
    assert self_weighted_entropy(share, labels).shape == (2,)


def test_inputs_that_do_not_fit_are_refused():
    center, seen = torch.eye(2).double(), torch.ones(2, dtype=torch.bool)
    with pytest.raises(InputError):
        prototype_loss(WORKED, LABEL, center, seen, tau=0.0)
    for call in (
        lambda: prototype_loss(WORKED, LABEL[1:], center, seen),
        lambda: self_weighted_entropy(WORKED, LABEL.float()),
        lambda: ClassPrototypes(1, 2, 2).update([], LABEL[None]),
        lambda: ClassPrototypes(1, 2, 2).update([WORKED[None]], LABEL[None, 1:]),
    ):
        with pytest.raises(ShapeError):
            call()
