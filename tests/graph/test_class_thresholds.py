"""Thresholds follow the classes that the teacher knows."""

from __future__ import annotations

import pytest
import torch

from graphnn_unet.errors import InputError
from graphnn_unet.graph import class_thresholds, is_confident


def rows(n_classes: int, *groups: tuple[int, int, float]) -> torch.Tensor:
    """Probability rows: so many nodes of a class with a largest probability."""
    parts = []
    for count, label, largest in groups:
        row = torch.full((n_classes,), (1 - largest) / (n_classes - 1), dtype=torch.float64)
        row[label] = largest
        parts.append(row.expand(count, n_classes))
    return torch.cat(parts)


WORKED = rows(3, (4, 0, 0.97), (4, 0, 0.96), (2, 1, 0.98), (3, 1, 0.6), (2, 2, 0.6))


def test_hand_worked_thresholds():
    threshold = class_thresholds(WORKED)
    torch.testing.assert_close(threshold, torch.tensor([0.95, 0.2375, 0.0]).double())
    assert is_confident(WORKED, threshold).all()
    assert not is_confident(WORKED, torch.tensor([0.95, 0.7, 0.0]).double()).all()


def test_all_nodes_below_sigma_give_zero_and_no_nan():
    for mode in ("count", "rate"):
        for warmup in (False, True):
            threshold = class_thresholds(rows(2, (5, 0, 0.9)), mode=mode, warmup=warmup)
            assert threshold.tolist() == [0.0, 0.0]


def test_rate_spares_the_small_organ():
    imbalanced = rows(2, (9800, 0, 0.99), (200, 0, 0.6), (150, 1, 0.99), (50, 1, 0.6))
    count = class_thresholds(imbalanced)
    rate = class_thresholds(imbalanced, mode="rate")
    assert count.tolist() == pytest.approx([0.95, 0.95 * 150 / 9800])
    assert rate.tolist() == pytest.approx([0.95, 0.95 * 0.75 / 0.98])
    assert rate[1] == pytest.approx(0.727, abs=5e-4)


def test_the_maximum_is_over_classes_and_the_count_over_the_batch():
    """Two images together are not the mean of their thresholds."""
    first, second = rows(2, (4, 0, 0.99), (1, 1, 0.99)), rows(2, (1, 0, 0.99), (4, 1, 0.99))
    assert class_thresholds(first)[1] == pytest.approx(0.95 / 4)
    together = class_thresholds(torch.stack([first, second]))
    assert together.tolist() == pytest.approx([0.95, 0.95])


def test_sigma_itself_is_not_sure_and_the_threshold_itself_is_confident():
    at_sigma = rows(2, (1, 0, 0.95))
    assert class_thresholds(at_sigma).tolist() == [0.0, 0.0]
    assert is_confident(at_sigma, torch.tensor([0.95, 0.0]).double()).all()


def test_warm_up_lowers_thresholds_while_most_nodes_are_unsure():
    young = rows(2, (2, 0, 0.99), (1, 1, 0.99), (7, 0, 0.6), (3, 1, 0.6))
    assert class_thresholds(young).tolist() == pytest.approx([0.95, 0.475])
    assert class_thresholds(young, warmup=True).tolist() == pytest.approx([0.19, 0.095])
    share = class_thresholds(young, mode="rate", warmup=True)
    assert share.tolist() == pytest.approx([0.95 * (2 / 9) / (10 / 13), 0.95 * 0.25 / (10 / 13)])
    # once more nodes are sure of a class than are unsure, it changes nothing
    assert class_thresholds(WORKED, warmup=True).equal(class_thresholds(WORKED))


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"sigma": 1.5}, {"mode": "share"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError):
        class_thresholds(WORKED, **wrong)
