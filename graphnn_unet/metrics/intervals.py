"""Bootstrap intervals over cases: the one bootstrap of the program, its docs and benchmarks.

Cases are drawn with replacement, whole: all figures of a case stay together. The interval says
how far the mean would move with other patients of the same kind; it says nothing about another
training run (seed), which is a different spread.

Percentiles of resamples are too narrow with few cases: of six, 2.5 and 97.5 % hold the mean 87
times in 100. So they are taken further out, as far as Student's t is wider than the normal
distribution.

Source: expanded percentile interval (Hesterberg 2015, section 5.3),
    https://arxiv.org/abs/1411.5279
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.progress import counted

LEVEL = 0.95
N_RESAMPLES = 9999
SEED = 12345
METHOD = "expanded percentile bootstrap over cases"
MIN_PATIENTS = 6
"""Fewer cannot tell: even where all agree, chance does as much once in 16 to 4 times."""

_BATCH = 500  # resamples at a time: bounds the memory to 500 x cases

Floats = NDArray[np.float64]


def too_few(n: int, noun: str) -> str:
    """That so many decide nothing, whatever their interval is.

    Example:
        >>> too_few(3, "case")
        '3 cases are too few to tell, 6 are needed'
    """
    return f"{counted(n, noun)} are too few to tell, {MIN_PATIENTS} are needed"


def tail_percent(n: int) -> float:
    """Percent of the resamples that lie outside of the interval at each end.

    Args:
        n: Cases (patients) that are resampled, at least 2.

    Example:
        >>> [round(tail_percent(n), 2) for n in (3, 6, 20, 1000)]
        [0.0, 0.24, 1.59, 2.48]
    """
    from scipy.special import ndtr, stdtrit  # pyright: ignore[reportMissingTypeStubs]  # no types

    quantile = stdtrit(n - 1, (1 + LEVEL) / 2)
    return 100 * float(ndtr(-math.sqrt(n / (n - 1)) * quantile))


def mean_interval(values: Floats, seed: int = SEED) -> tuple[float, float]:
    """95 % interval of a mean over cases.

    The interval of a paired difference is that of the differences, case by case.

    Args:
        values: ``(case,)``; NaN where a case has no value.
        seed: Of the resamples.

    Returns:
        Lower and upper end; NaN with fewer than two values.

    Example:
        >>> with_graph, without = np.array([0.9, 0.8, 0.7, 0.8]), np.array([0.8, 0.8, 0.6, 0.7])
        >>> low, high = mean_interval(with_graph - without)
        >>> round(low, 3), round(high, 3)
        (0.0, 0.1)
    """
    low, high = mean_intervals(values[:, np.newaxis], seed)
    return float(low[0]), float(high[0])


def mean_intervals(values: Floats, seed: int = SEED) -> tuple[Floats, Floats]:
    """95 % intervals of the mean of each column.

    Args:
        values: ``(case, column)``; NaN where a case has no value, which leaves it out of that
            column's mean.
        seed: Of the resamples.

    Returns:
        Lower and upper ends, ``(column,)`` each; NaN where a column has fewer than two values.

    Cost: one bootstrap for each set of columns that have their values in the same cases.

    Example:
        >>> low, high = mean_intervals(np.array([[0.8, 2.0], [0.6, np.nan], [0.7, np.nan]]))
        >>> low.round(3), high.round(3)
        (array([0.6, nan]), array([0.8, nan]))
    """
    low = np.full(values.shape[1], np.nan)
    high = np.full(values.shape[1], np.nan)
    present = np.isfinite(values)
    patterns, which = np.unique(present, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        columns = np.flatnonzero(which.ravel() == number)
        rows = values[np.ix_(patterns[:, number], columns)]
        if len(rows) < 2:
            continue

        def mean(times_drawn: Floats, rows: Floats = rows) -> Floats:
            return times_drawn @ rows / len(rows)

        low[columns], high[columns] = _bootstrap(mean, len(rows), seed)
    return low, high


def class_mean_interval(values: Floats) -> tuple[float, float]:
    """95 % interval of the mean over cases, then over classes.

    Args:
        values: ``(case, class)``; NaN where a case has no value for a class.

    Returns:
        Lower and upper end; NaN with fewer than two cases that have a value.

    Example:
        >>> low, high = class_mean_interval(np.array([[0.8, 0.2], [0.6, np.nan], [0.7, 0.4]]))
        >>> low < (0.7 + 0.3) / 2 < high
        True
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

    low, high = _bootstrap(mean, len(rows), SEED)
    return float(low[0]), float(high[0])


def _bootstrap(
    statistic: Callable[[Floats], Floats], n_cases: int, seed: int
) -> tuple[Floats, Floats]:
    """Interval of ``statistic``, a function of how often each case was drawn.

    ``statistic`` takes ``(resample, case)`` counts and returns ``(resample, figure)``.
    """
    generator = np.random.default_rng(seed)
    parts: list[Floats] = []
    for start in range(0, N_RESAMPLES, _BATCH):
        n_resamples = min(_BATCH, N_RESAMPLES - start)
        drawn = generator.integers(n_cases, size=(n_resamples, n_cases))
        drawn += n_cases * np.arange(n_resamples)[:, np.newaxis]  # each resample counts apart
        times_drawn = np.bincount(drawn.ravel(), minlength=n_resamples * n_cases)
        table = np.reshape(times_drawn, (n_resamples, n_cases))
        parts.append(statistic(table.astype(np.float64)))
    tail = tail_percent(n_cases)
    low, high = np.percentile(np.concatenate(parts), [tail, 100 - tail], axis=0)
    return low, high
