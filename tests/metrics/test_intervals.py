import numpy as np
import pytest
from scipy import stats

from graphnn_unet.metrics.intervals import (
    N_RESAMPLES,
    class_mean_interval,
    mean_interval,
    mean_intervals,
    tail_percent,
)


@pytest.mark.parametrize("seed", [12345, 0])
def test_intervals_of_columns_are_those_of_scipy(seed: int):
    """The same resamples, so the same ends, whatever the spread of the values."""
    values = np.random.default_rng(0).normal(0.8, 0.1, (30, 3))
    values[4, 1] = np.nan
    low, high = mean_intervals(values, seed)
    for column in range(3):
        sample = values[np.isfinite(values[:, column]), column]
        theirs = stats.bootstrap(
            (sample,),
            np.mean,
            n_resamples=N_RESAMPLES,
            confidence_level=1 - 2 * tail_percent(len(sample)) / 100,
            method="percentile",
            random_state=np.random.default_rng(seed),  # named rng from SciPy 1.15 on
        ).confidence_interval
        assert low[column] == pytest.approx(theirs.low, rel=1e-12)
        assert high[column] == pytest.approx(theirs.high, rel=1e-12)
        single = mean_interval(values[:, column], seed)
        assert single == pytest.approx((low[column], high[column]), rel=1e-12)


def test_paired_difference_is_surer_than_the_difference_of_two_means():
    patient = np.random.default_rng(3).normal(0.8, 0.1, 40)
    low, high = mean_interval(patient + 0.02 - patient)
    assert low == pytest.approx(high)
    assert low == pytest.approx(0.02)


def test_same_values_give_the_same_interval():
    values = np.random.default_rng(1).random((12, 2))
    np.testing.assert_array_equal(mean_intervals(values), mean_intervals(values.copy()))
    assert class_mean_interval(values) == class_mean_interval(values.copy())


def test_classes_of_one_case_are_drawn_together():
    """Two equal classes vary like one; drawn apart, their mean would vary less."""
    values = np.random.default_rng(2).random((25, 1))
    once, twice = class_mean_interval(values), class_mean_interval(np.repeat(values, 2, axis=1))
    assert twice == pytest.approx(once, abs=1e-12)
    opposite = np.hstack([values, 1 - values])
    assert class_mean_interval(opposite) == pytest.approx((0.5, 0.5))


def test_class_mean_leaves_cases_without_a_value_out():
    values = np.array([[0.5, np.nan], [np.nan, 0.7], [0.9, 0.1], [np.nan, np.nan]])
    low, high = class_mean_interval(values)
    assert (low, high) == class_mean_interval(values[:3])
    assert 0.1 < low < 0.55 < high < 0.9


@pytest.mark.parametrize("values", [[[0.5]], [[np.nan], [np.nan], [0.5]]])
def test_one_value_has_no_interval(values: list[list[float]]):
    assert np.isnan(mean_intervals(np.array(values))).all()
    assert np.isnan(class_mean_interval(np.array(values))).all()


@pytest.mark.parametrize("n", [6, 10, 40])
def test_few_cases_are_covered_as_often_as_many(n: int):
    """Plain percentiles hold the mean of six cases 87 times in 100."""
    samples = np.random.default_rng(0).normal(0.0, 1.0, (1500, n))
    low, high = mean_intervals(samples.T)
    covered = ((low <= 0) & (high >= 0)).mean()
    assert 0.93 < covered < 0.97
