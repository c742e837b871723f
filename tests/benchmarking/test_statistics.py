"""Differences, intervals and variance parts, against what they are defined to be."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphnn_unet.benchmarking.statistics import (
    crossed_interval,
    draws_needed,
    paired_difference,
    variance_parts,
)
from graphnn_unet.benchmarking.tables import Scores


def scores(seed, n_draws=5, n_seeds=2, n_cases=30, draw=0.02, run=0.01, case=0.05, rest=0.02):
    rng = np.random.default_rng(seed)
    return (
        0.8
        + rng.normal(0, draw, (n_draws, 1, 1))
        + rng.normal(0, run, (n_draws, n_seeds, 1))
        + rng.normal(0, case, (1, 1, n_cases))
        + rng.normal(0, rest, (n_draws, n_seeds, n_cases))
    )


def alone(n_cases):
    return np.arange(n_cases)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    """Over many samples of draws and patients together: 95 % up to the bootstrap's known bias."""
    covered = 0
    for seed in range(150):
        low, high = crossed_interval(scores(seed, n_draws=8, n_cases=25), alone(25))
        covered += low <= 0.8 <= high
    assert 0.84 <= covered / 150 <= 1.0


def test_interval_with_patients_alone_would_be_too_narrow():
    """A spread between draws must show in the width, though every case agrees within a draw."""
    values = np.full((4, 1, 20), 0.8)
    values[1], values[2] = 0.9, 0.7
    low, high = crossed_interval(values, alone(20))
    assert high - low > 0.1


def test_exact_with_two_draws_and_two_patients():
    """All sixteen resamples can be listed."""
    values = np.array([[[0.0, 1.0]], [[0.4, 0.8]]])
    means = sorted(
        np.mean([values[d, 0, list(p)].mean() for d in draws])
        for draws in itertools.product((0, 1), repeat=2)
        for p in itertools.product((0, 1), repeat=2)
    )
    low, high = crossed_interval(values, alone(2))
    # each of the 16 has a probability of 1/16, more than the tail of 2.5 %
    assert (low, high) == pytest.approx((means[0], means[-1]))


def test_scans_of_a_patient_stay_together():
    """Twenty scans of two patients are no twenty patients."""
    values = np.repeat([[0.6, 0.9]], 10, axis=1).reshape(1, 1, 20)
    together = crossed_interval(values, np.repeat([0, 1], 10))
    apart = crossed_interval(values, alone(20))
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])
    assert all(map(math.isnan, crossed_interval(values, np.zeros(20, int))))


def test_a_lead_needs_the_interval_and_the_draws():
    other = scores(1)
    plain = paired_difference(other + 0.02, other, alone(30))
    assert plain.is_shown
    assert plain.mean == pytest.approx(0.02)
    gains = np.array([0.06, 0.06, 0.06, -0.001, -0.001]).reshape(5, 1, 1)
    mixed = paired_difference(other + gains, other, alone(30))
    assert (mixed.n_agreeing, mixed.is_shown) == (3, False)
    four = paired_difference(other + np.abs(gains) * [[[1]], [[1]], [[1]], [[1]], [[-1]]], other,
                             alone(30))  # fmt: skip
    assert four.n_agreeing == 4
    three_draws = paired_difference(other[:3] + gains[2:], other[:3], alone(30))
    assert not three_draws.is_shown


def test_only_what_both_have_is_compared():
    values, other = scores(2), scores(3)
    values[4] = np.nan
    other[0, :, 3] = np.nan
    difference = paired_difference(values, other, alone(30))
    assert difference.n_draws == 4
    expected = np.mean([np.nanmean((values - other)[d]) for d in range(4)])
    assert difference.mean == pytest.approx(expected)
    nothing = paired_difference(np.full((2, 1, 3), np.nan), np.zeros((2, 1, 3)), alone(3))
    assert (nothing.n_draws, nothing.is_shown) == (0, False)
    with pytest.raises(ValueError, match="do not fit"):
        paired_difference(values, other[:2], alone(30))


def test_variance_parts_are_told_apart():
    parts = [variance_parts(scores(seed, n_draws=20, n_seeds=4, n_cases=60)) for seed in range(12)]
    for name, truth in (("draw", 0.02), ("seed", 0.01), ("case", 0.05), ("rest", 0.02)):
        mean_square = np.mean([getattr(part, name) ** 2 for part in parts])
        assert math.sqrt(mean_square) == pytest.approx(truth, rel=0.15), name


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_what_cannot_be_told_is_none(n_draws, n_seeds, n_cases):
    parts = variance_parts(scores(0, n_draws=n_draws, n_seeds=n_seeds, n_cases=n_cases))
    enough = n_cases > 1 and n_draws * n_seeds > 1
    assert (parts.case is None) == (not enough)
    assert (parts.draw is None) == (not enough or n_draws < 2)
    assert (parts.seed is None) == (not enough or n_seeds < 2)


def test_draws_needed_is_the_number_that_narrows_the_interval():
    difference = scores(5, n_draws=6, n_seeds=1, n_cases=200, draw=0.03, case=0.01, run=0)
    needed = draws_needed(difference)
    assert 40 < needed < 160  # (2.8 * 0.03 / 0.01)**2 = 71
    assert draws_needed(difference, gain=0.1) == 2
    noisy = scores(5, n_cases=10, case=0.2)
    assert draws_needed(noisy) == math.inf
    assert draws_needed(difference[:1]) is None


@pytest.mark.parametrize(("n_patients", "is_shown"), [(5, False), (6, True)])
def test_few_patients_show_nothing(n_patients, is_shown):
    other = np.full((3, 1, 2 * n_patients), 0.8)  # two scans of each
    difference = paired_difference(other + 0.02, other, np.arange(2 * n_patients) % n_patients)
    assert (difference.n_patients, difference.is_shown) == (n_patients, is_shown)


def test_who_invents_a_structure_loses_to_who_finds_none():
    """Two classes; the label of every second case lacks the second one."""
    rows = []
    for name, invents in (("careful", False), ("eager", True)):
        for case in range(8):
            second = "0.9" if case % 2 else "0.0" if invents else ""
            rows += [
                {"row": name, "labeled": "4", "draw": "1", "seed": "0", "case": f"c{case}",
                 "class": kind, "dice": dice}
                for kind, dice in (("organ", "0.8"), ("lesion", second))
            ]  # fmt: skip
    scores = Scores(rows, {})
    assert scores.mean(("careful", "4")) == pytest.approx(0.825)  # 0.8 and 0.85
    difference = scores.difference(("eager", "4"), ("careful", "4"))
    assert difference.mean == pytest.approx(-0.25)  # half of the cases, half of the classes
    assert difference.n_patients == 8
    assert scores.difference(("careful", "4"), ("careful", "4")).mean == 0


def test_a_case_that_one_method_was_not_scored_on_is_no_pair():
    rows = [
        {"row": name, "labeled": "4", "draw": "1", "seed": "0", "case": case, "class": "organ",
         "dice": dice}
        for name, case, dice in (("a", "x", "0.5"), ("a", "y", "0.1"), ("b", "x", "0.75"))
    ]  # fmt: skip
    mine, its = Scores(rows, {}).paired(("a", "4"), ("b", "4"))
    assert mine[0, 0].tolist()[0] == 0.5
    assert its[0, 0].tolist()[0] == 0.75
    assert np.isnan(mine[0, 0, 1])
    assert np.isnan(its[0, 0, 1])
