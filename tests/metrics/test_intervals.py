import numpy as np
import pytest
from scipy import stats

from graphnn_unet.metrics.intervals import N_RESAMPLES, class_mean_interval, mean_intervals


def test_intervals_of_columns_are_those_of_a_plain_bootstrap():
    values = np.random.default_rng(0).normal(0.8, 0.1, (30, 3))
    values[4, 1] = np.nan
    low, high = mean_intervals(values)
    for column in range(3):
        sample = values[np.isfinite(values[:, column]), column]
        plain = stats.bootstrap(
            (sample,), np.mean, n_resamples=N_RESAMPLES, method="percentile"
        ).confidence_interval
        assert low[column] == pytest.approx(plain.low, abs=0.004)
        assert high[column] == pytest.approx(plain.high, abs=0.004)


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
