"""Bootstrap intervals over cases: the one bootstrap of the program, its docs and benchmarks.

Cases are drawn with replacement, whole: all figures of a case stay together. The interval says
how far the mean would move with other patients of the same kind; it says nothing about another
training run (seed), which is a different spread.

Percentiles of resamples are too narrow with few cases: of six, 2.5 and 97.5 % hold the mean 87
times in 100. So they are taken further out, as far as Student's t is wider than the normal
distribution.

Where all cases are right a resample is like any other, and the bootstrap of a share has no width;
shares of right decisions therefore have the interval of Wilson.

Sources: expanded percentile interval (Hesterberg 2015, section 5.3),
    https://arxiv.org/abs/1411.5279; score interval (Wilson 1927),
    https://doi.org/10.1080/01621459.1927.10502953
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


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share, which has a width for 0 and 1 too.

    Args:
        share: In [0, 1].
        n: Independent cases behind it, at least 1.

    Example:
        >>> low, high = wilson_interval(1.0, 20)
        >>> round(low, 3), high
        (0.839, 1.0)
    """
    from scipy.special import ndtri  # pyright: ignore[reportMissingTypeStubs]  # no types

    square = float(ndtri((1 + LEVEL) / 2)) ** 2 / n
    middle = share + square / 2
    half = math.sqrt(square * (share * (1 - share) + square / 4))
    low, high = ((middle + side * half) / (1 + square) for side in (-1, 1))
    # the ends of 0 and 1 are 0 and 1, but for rounding
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def share_interval(right: Floats, patient: NDArray[np.int64] | None = None) -> tuple[float, float]:
    """95 % interval of the share of right decisions.

    Cases of a patient are no independent ones: where patients have several, patients are drawn with
    replacement. Where that has no width, as where all are right, it is Wilson's with the number of
    patients.

    Args:
        right: ``(case,)`` 1 where the decision was right, else 0; at least one case.
        patient: ``(case,)`` equal numbers for cases of one patient.

    Example:
        >>> right = np.array([1.0, 1.0, 1.0, 0.0])
        >>> low, high = share_interval(right)
        >>> round(low, 2), round(high, 2)
        (0.3, 0.95)
    """
    share = float(right.mean())
    if patient is None:
        return wilson_interval(share, len(right))
    patients, number = np.unique(patient, return_inverse=True)
    if len(patients) == len(right):
        return wilson_interval(share, len(right))
    n_cases = np.bincount(number.ravel()).astype(np.float64)
    n_right = np.bincount(number.ravel(), weights=right)
    if len(patients) > 1:

        def drawn_share(times_drawn: Floats) -> Floats:
            return ((times_drawn @ n_right) / (times_drawn @ n_cases))[:, np.newaxis]

        low, high = _bootstrap(drawn_share, len(patients), SEED)
        if low[0] < high[0]:
            return float(low[0]), float(high[0])
    return wilson_interval(share, len(patients))


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
