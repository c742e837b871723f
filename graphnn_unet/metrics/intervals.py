"""Bootstrap intervals over cases.

Cases are drawn with replacement, whole: all figures of a case stay together. The interval says
how far the mean would move with other patients of the same kind; it says nothing about another
training run (seed), which is a different spread.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
N_RESAMPLES = 9999
SEED = 12345
METHOD = "percentile bootstrap over cases (scipy.stats.bootstrap)"

_BATCH = 500  # resamples at a time: bounds the memory to 500 x cases

_stats: Any = stats  # it has no type hints
_GENERATOR = "rng" if "rng" in signature(_stats.bootstrap).parameters else "random_state"
"""SciPy 1.15 renamed the keyword."""

Floats = NDArray[np.float64]


def mean_intervals(values: Floats) -> tuple[Floats, Floats]:
    """95 % intervals of the mean of each column.

    Args:
        values: ``(case, column)``; NaN where a case has no value, which leaves it out of that
            column's mean.

    Returns:
        Lower and upper ends, ``(column,)`` each; NaN where a column has fewer than two values.

    Cost: one bootstrap for each set of columns that have their values in the same cases.
    """
    low = np.full(values.shape[1], np.nan)
    high = low.copy()
    present = np.isfinite(values)
    patterns, which = np.unique(present, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        columns = np.flatnonzero(which.ravel() == number)
        rows = values[np.ix_(patterns[:, number], columns)]
        if len(rows) < 2:
            continue

        def mean(times_drawn: Floats, rows: Floats = rows) -> Floats:
            return times_drawn @ rows / len(rows)

        low[columns], high[columns] = _bootstrap(mean, len(rows))
    return low, high


def class_mean_interval(values: Floats) -> tuple[float, float]:
    """95 % interval of the mean over cases, then over classes.

    Args:
        values: ``(case, class)``; NaN where a case has no value for a class.

    Returns:
        Lower and upper end; NaN with fewer than two cases that have a value.
    """
    present = np.isfinite(values)
    # a case without any value adds nothing, and a resample of such cases alone would have no mean
    rows, present = values[present.any(axis=1)], present[present.any(axis=1)].astype(float)
    if len(rows) < 2:
        return float("nan"), float("nan")
    filled = np.where(present > 0, rows, 0.0)

    def mean(times_drawn: Floats) -> Floats:
        n_values = times_drawn @ present
        drawn = n_values > 0
        class_means = (times_drawn @ filled) / np.where(drawn, n_values, 1.0)
        return (class_means.sum(axis=-1) / drawn.sum(axis=-1))[..., np.newaxis]

    low, high = _bootstrap(mean, len(rows))
    return float(low[0]), float(high[0])


def _bootstrap(statistic: Callable[[Floats], Floats], n_cases: int) -> tuple[Floats, Floats]:
    """Interval of ``statistic``, a function of how often each case was drawn.

    ``statistic`` takes ``(resample, case)`` counts and returns ``(resample, figure)``.
    """

    def of_indices(index: NDArray[np.int64], axis: int = -1) -> Floats:
        index = np.atleast_2d(np.moveaxis(index, axis, -1))
        n_resamples = len(index)
        flat = (index + n_cases * np.arange(n_resamples)[:, np.newaxis]).ravel()
        times_drawn = np.bincount(flat, minlength=n_resamples * n_cases)
        counts = times_drawn.reshape(n_resamples, n_cases).astype(np.float64)
        return np.moveaxis(statistic(counts), -1, 0)

    interval = _stats.bootstrap(
        (np.arange(n_cases),),
        of_indices,
        n_resamples=N_RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        axis=-1,
        confidence_level=LEVEL,
        method="percentile",
        **{_GENERATOR: np.random.default_rng(SEED)},
    ).confidence_interval
    return np.atleast_1d(interval.low), np.atleast_1d(interval.high)
