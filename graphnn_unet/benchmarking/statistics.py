"""What a comparison shows: differences between methods, how sure they are, what they vary with.

Draws of labeled cases and patients are two samples at once: a method that is better on three
lucky draws, or on a handful of patients, has shown nothing about the next ones. Both are drawn
anew in every resample. Patients are the same in every draw, so they are resampled once for all
draws (crossed), which is wider than resampling them in each draw by themselves.

Papers:
    Bootstrap of crossed samples (Owen 2007): https://doi.org/10.1214/07-AOAS122
    Claims of superiority in medical imaging (Christodoulou et al. 2024):
    https://arxiv.org/abs/2409.17763
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.metrics.intervals import MIN_PATIENTS, N_RESAMPLES, SEED, tail_percent

AGREEMENT = 0.8
"""Share of draws that must have the sign of the mean; all of them where there are fewer than 5."""
MIN_DRAWS = 6
"""With fewer a verdict is one on these draws: three agree by chance once in four times."""
_Z, _POWER = 1.959964, 0.841621
"""Half width of a 95 % interval in standard deviations, and what sees a gain in 4 of 5 times."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A paired difference of two methods.

    Attributes:
        mean: Over draws, then seeds and cases.
        low: Lower end of the interval; NaN with a single patient.
        high: Upper end.
        n_draws: Draws that both methods have.
        n_agreeing: Draws whose mean has the sign of ``mean``.
        n_draws_needed: Draws with which a difference of one point (0.01) would be seen in four of
            five studies; ``None`` where it cannot be told, infinity where more patients are needed.
        n_patients: Patients that both were scored on.
    """

    mean: float
    low: float
    high: float
    n_draws: int
    n_agreeing: int
    n_draws_needed: float | None
    n_patients: int

    @property
    def is_shown(self) -> bool:
        """The interval excludes 0, and at least 4 of 5 draws (or all of fewer) agree.

        Never with fewer patients than an interval needs.
        """
        if self.n_patients < MIN_PATIENTS:
            return False
        needed = self.n_draws if self.n_draws < 5 else math.ceil(AGREEMENT * self.n_draws)
        return bool(self.low > 0 or self.high < 0) and self.n_agreeing >= needed


def paired_difference(values: Floats, other: Floats, patients: NDArray[np.int64]) -> Difference:
    """Difference of two methods on the same draws, seeds and cases.

    Args:
        values: ``(draw, seed, case)``; NaN where there is no figure.
        other: The same of the method that is compared with.
        patients: ``(case,)`` number of each case's patient.

    Raises:
        ValueError: The shapes differ.

    Source: crossed bootstrap (Owen 2007), expanded percentiles (Hesterberg 2015).

    Example:
        >>> gain = np.full((3, 1, 6), 0.02)
        >>> difference = paired_difference(0.8 + gain, np.full((3, 1, 6), 0.8), np.arange(6))
        >>> round(difference.mean, 3), difference.is_shown
        (0.02, True)
    """
    if values.shape != other.shape or values.shape[2:] != patients.shape:
        raise ValueError(f"shapes {values.shape}, {other.shape} and {patients.shape} do not fit")
    difference = values - other
    difference = difference[np.isfinite(difference).any((1, 2))]
    if not len(difference):
        nan = float("nan")
        return Difference(nan, nan, nan, 0, 0, None, 0)
    of_draw = np.nanmean(difference, axis=(1, 2))
    mean = float(of_draw.mean())
    low, high = crossed_interval(difference, patients)
    agreeing = int((np.sign(of_draw) == np.sign(mean)).sum()) if mean else 0
    needed = draws_needed(difference)
    n_patients = len(np.unique(patients[np.isfinite(difference).any((0, 1))]))
    return Difference(mean, low, high, len(difference), agreeing, needed, n_patients)


def agreeing_on_nothing(values: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Both methods' figures, with what a method earns that rightly finds nothing.

    A structure that neither the label nor the prediction has is scored by no figure. Where the
    other method invents it, which scores 0, leaving the pair out would cost that one nothing: the
    first has agreed with the label everywhere, which is 1.

    Args:
        values: Of structures that both methods were scored on; NaN without a figure.
        other: Same shape.

    Returns:
        Same shapes; NaN where neither has a figure.

    Example:
        >>> nan = float("nan")
        >>> agreeing_on_nothing(np.array([nan, 0.8, nan]), np.array([0.0, 0.7, nan]))
        (array([1. , 0.8, nan]), array([0. , 0.7, nan]))
    """
    missing, missing_there = np.isnan(values), np.isnan(other)
    return (
        np.where(missing & ~missing_there, 1.0, values),
        np.where(missing_there & ~missing, 1.0, other),
    )


def crossed_interval(values: Floats, patients: NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of a mean over draws and patients, both drawn with replacement.

    Args:
        values: ``(draw, seed, case)``; NaN where there is no figure.
        patients: ``(case,)`` number of each case's patient; scans of one stay together.

    Returns:
        Lower and upper end; NaN with a single patient. With a single draw patients alone vary.

    Cost: resamples times draws times patients.
    """
    known = np.isfinite(values)
    n_patients = int(patients.max()) + 1
    member = np.eye(n_patients)[patients]  # (case, patient)
    sums = np.where(known, values, 0.0).sum(1) @ member
    counts = known.sum(1) @ member
    n_known = int(np.count_nonzero(counts.sum(0)))
    if n_known < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(SEED)
    times_patient = generator.multinomial(n_patients, [1 / n_patients] * n_patients, N_RESAMPLES)
    n_draws = len(values)
    times_draw = generator.multinomial(n_draws, [1 / n_draws] * n_draws, N_RESAMPLES)
    # each draw counts alike, however many of its cases have a figure
    total = times_patient @ sums.T  # (resample, draw)
    number = times_patient @ counts.T
    mean = np.divide(total, number, out=np.zeros_like(total), where=number > 0)
    weight = times_draw * (number > 0)
    resampled = (weight * mean).sum(1) / np.maximum(weight.sum(1), 1)
    tail = tail_percent(n_known)
    low, high = np.percentile(resampled[weight.sum(1) > 0], [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class VarianceParts:
    """Standard deviations of what a score varies with; ``None`` where it cannot be told apart.

    Attributes:
        draw: Which cases are labeled.
        seed: Weights and batches, within a draw.
        case: The scored cases.
        rest: Of one case in one run.
    """

    draw: float | None
    seed: float | None
    case: float | None
    rest: float | None


def variance_parts(values: Floats) -> VarianceParts:
    """Draws, seeds within draws, and cases crossed with both, by mean squares.

    Args:
        values: ``(draw, seed, case)``; draws that miss a seed are left out, and cases that miss a
            figure in one of the others.

    Source: random effects of a balanced design (Searle, Casella, McCulloch 1992, chapter 4);
        negative estimates are 0.

    Example:
        >>> parts = variance_parts(np.array([[[0.7, 0.9]], [[0.7, 0.9]], [[0.7, 0.9]]]))
        >>> [round(part, 3) for part in (parts.draw, parts.case, parts.rest)]
        [0.0, 0.141, 0.0]
    """
    values = values[np.isfinite(values).any(axis=2).all(axis=-1)]
    values = values[:, :, np.isfinite(values).all((0, 1))]
    n_draws, n_seeds, n_cases = values.shape
    if n_cases < 2 or n_draws * n_seeds < 2:
        return VarianceParts(None, None, None, None)
    mean = values.mean()
    of_run, of_draw, of_case = values.mean(2), values.mean((1, 2)), values.mean((0, 1))
    rest = values - of_run[:, :, np.newaxis] - of_case + mean
    n_runs = n_draws * n_seeds
    square_rest = (rest**2).sum() / ((n_runs - 1) * (n_cases - 1))
    square_case = n_runs * ((of_case - mean) ** 2).sum() / (n_cases - 1)
    between_seeds = n_cases * ((of_run - of_draw[:, np.newaxis]) ** 2).sum()
    square_seed = between_seeds / (n_draws * (n_seeds - 1)) if n_seeds > 1 else square_rest
    seed = _root((square_seed - square_rest) / n_cases) if n_seeds > 1 else None
    draw = None
    if n_draws > 1:
        square_draw = n_seeds * n_cases * ((of_draw - mean) ** 2).sum() / (n_draws - 1)
        draw = _root((square_draw - square_seed) / (n_seeds * n_cases))
    return VarianceParts(draw, seed, _root((square_case - square_rest) / n_runs),
                         _root(square_rest))  # fmt: skip


def draws_needed(difference: Floats, gain: float = 0.01) -> float | None:
    """Draws with which a difference of ``gain`` is seen in four of five studies.

    Rough: it comes from the spread of the draws at hand. Patients stay the same: their share of
    the spread no further draw takes away.

    Args:
        difference: ``(draw, seed, case)``.
        gain: Difference that is to be seen.

    Returns:
        A whole number, at least 2; infinity where more patients are needed, ``None`` with a
        single draw.

    Source: sample size for a power of 80 % (normal approximation).
    """
    parts = variance_parts(difference)
    if parts.draw is None or parts.case is None or parts.rest is None:
        return None
    _, n_seeds, n_cases = difference.shape
    of_draws = parts.draw**2 + (parts.seed or 0.0) ** 2 / n_seeds
    of_draws += parts.rest**2 / (n_seeds * n_cases)
    room = (gain / (_Z + _POWER)) ** 2 - parts.case**2 / n_cases
    if room <= 0:
        return math.inf
    return max(2, math.ceil(of_draws / room))


def _root(variance: float) -> float:
    return math.sqrt(max(0.0, float(variance)))
