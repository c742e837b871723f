"""The Dice that a network expects of its own label map."""

import pytest
import torch

from graphnn_unet.pseudo_labels.confidence import expected_dice


def blob(low=0.02, high=0.9):
    """Probabilities ``(1, 12, 20, 20)`` of a ball, and their map."""
    axes = [torch.linspace(-1, 1, n) for n in (12, 20, 20)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    share = torch.where(z**2 + y**2 + x**2 < 0.6, high, low)[None]
    return share, share > 0.5


def test_it_is_the_mean_dice_with_truths_drawn_from_the_probabilities():
    share, labels = blob()
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(share.shape, generator=generator) < share for _ in range(200)]
    dice = [2 * (labels & truth).sum() / (labels.sum() + truth.sum()) for truth in drawn]
    assert expected_dice(share, labels) == pytest.approx(float(torch.stack(dice).mean()), abs=2e-3)


def test_doubt_lowers_it_and_a_wrong_map_more():
    sure, labels = blob(low=0, high=1)
    assert expected_dice(sure, labels) == 1
    doubtful, _ = blob(high=0.6)
    shifted = labels.roll(5, -1)
    assert 1 > expected_dice(doubtful, labels) > expected_dice(doubtful, shifted)


def test_classes_count_where_they_are_or_must_be():
    share, labels = blob(low=0, high=1)
    nothing = torch.zeros_like(share)
    both, maps = torch.cat([share, nothing]), torch.cat([labels, labels & False])
    assert expected_dice(both, maps) == 1, "the second class is not there"
    assert expected_dice(both, maps, always=[0]) == 1
    assert expected_dice(nothing, maps[1:]) is None, "right or blind, nobody knows"
    assert expected_dice(both, maps, always=[0, 1]) == 0.5, "and all scans show it"
    assert expected_dice(nothing, maps[1:], always=[0]) == 0
