"""From records of cases to figures of classes: means, intervals and what was left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphnn_unet.metrics.intervals import Floats, class_mean_interval, mean_intervals
from graphnn_unet.metrics.protocols import CaseScore, Presence

FIGURES = ("dice", "jaccard", "hd95", "asd")
"""The four figures of every class, in this order."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % bootstrap interval over cases.

    Attributes:
        value: Mean; NaN without any value.
        low: Lower end of the interval; NaN with fewer than two values.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Plain values, ``None`` for what does not exist."""
        return {
            name: finite_or_none(value)
            for name, value in (("mean", self.value), ("low", self.low), ("high", self.high))
        }


@dataclass(frozen=True)
class ClassSummary:
    """Figures of one class over all cases, or of the mean over classes.

    Distances are in mm under the honest and in voxels under the published protocol.

    Attributes:
        name: Class name; ``mean`` for the mean over classes.
        n: Cases in the class's mean of Dice; for the mean over classes, cases with any value.
        n_missed: The reference has it, the prediction lacks it.
        n_invented: The prediction has it, the reference lacks it.
        n_absent_in_both: Neither has it.
        dice: Fraction.
        jaccard: Fraction.
        hd95: mm or voxels.
        asd: mm or voxels, from prediction to reference.
        hd95_where_both: Mean of ``hd95`` over the cases in which both maps have it, so without
            the convention for missed structures; NaN without such a case.
        asd_where_both: The same of ``asd``.
    """

    name: str
    n: int
    n_missed: int
    n_invented: int
    n_absent_in_both: int
    dice: Estimate
    jaccard: Estimate
    hd95: Estimate
    asd: Estimate
    hd95_where_both: float
    asd_where_both: float

    def as_dict(self) -> dict[str, object]:
        """Plain values, as they stand in ``summary.json``."""
        return {
            "n": self.n,
            "n_missed": self.n_missed,
            "n_invented": self.n_invented,
            "n_absent_in_both": self.n_absent_in_both,
            "Dice": self.dice.as_dict(),
            "Jaccard": self.jaccard.as_dict(),
            "HD95": self.hd95.as_dict(),
            "ASD": self.asd.as_dict(),
            "HD95_where_both": finite_or_none(self.hd95_where_both),
            "ASD_where_both": finite_or_none(self.asd_where_both),
        }


@dataclass(frozen=True)
class Summary:
    """All classes of an evaluation.

    Attributes:
        classes: One a class, in the order of the labels.
        mean: The mean of the classes that have a value, with an interval over cases.
    """

    classes: tuple[ClassSummary, ...]
    mean: ClassSummary


def summarize(scores: Sequence[CaseScore]) -> Summary:
    """Mean over cases, then over classes, with intervals and counts.

    Args:
        scores: At least one; every case has a record of every class.
    """
    cases = list(dict.fromkeys(score.case for score in scores))
    names = list(dict.fromkeys(score.class_name for score in scores))
    row = {case: number for number, case in enumerate(cases)}
    column = {name: number for number, name in enumerate(names)}
    values = np.full((len(cases), len(names), len(FIGURES)), np.nan)
    both = np.zeros((len(cases), len(names)), dtype=bool)
    for score in scores:
        place = row[score.case], column[score.class_name]
        values[place] = score.dice, score.jaccard, score.hd95_mm, score.asd_mm
        both[place] = score.presence is Presence.BOTH
    flat_low, flat_high = mean_intervals(values.reshape(len(cases), -1))
    low, high = (ends.reshape(len(names), len(FIGURES)) for ends in (flat_low, flat_high))
    classes = tuple(
        _class_summary(
            name,
            [score.presence for score in scores if score.class_name == name],
            values[:, number],
            both[:, number],
            [*zip(low[number], high[number], strict=True)],
        )
        for name, number in column.items()
    )
    return Summary(classes, _mean_of(classes, values))


def finite_or_none(value: float) -> float | None:
    """``value``, or ``None`` for NaN: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def _class_summary(
    name: str,
    presences: Sequence[Presence],
    values: Floats,
    both: np.ndarray[tuple[int], np.dtype[np.bool_]],
    intervals: Sequence[tuple[float, float]],
) -> ClassSummary:
    """``values``: ``(case, figure)``."""
    dice, jaccard, hd95, asd = (
        Estimate(_mean(values[:, number]), float(low), float(high))
        for number, (low, high) in enumerate(intervals)
    )
    return ClassSummary(
        name=name,
        n=int(np.isfinite(values[:, 0]).sum()),
        n_missed=presences.count(Presence.MISSED),
        n_invented=presences.count(Presence.INVENTED),
        n_absent_in_both=presences.count(Presence.NEITHER),
        dice=dice,
        jaccard=jaccard,
        hd95=hd95,
        asd=asd,
        hd95_where_both=_mean(values[both, 2]),
        asd_where_both=_mean(values[both, 3]),
    )


def _mean_of(classes: Sequence[ClassSummary], values: Floats) -> ClassSummary:
    """``values``: ``(case, class, figure)``."""
    dice, jaccard, hd95, asd = (
        Estimate(
            _mean(np.array([getattr(one, figure).value for one in classes])),
            *class_mean_interval(values[:, :, number]),
        )
        for number, figure in enumerate(FIGURES)
    )
    return ClassSummary(
        name="mean",
        n=int(np.isfinite(values[:, :, 0]).any(axis=1).sum()),
        n_missed=sum(one.n_missed for one in classes),
        n_invented=sum(one.n_invented for one in classes),
        n_absent_in_both=sum(one.n_absent_in_both for one in classes),
        dice=dice,
        jaccard=jaccard,
        hd95=hd95,
        asd=asd,
        hd95_where_both=_mean(np.array([one.hd95_where_both for one in classes])),
        asd_where_both=_mean(np.array([one.asd_where_both for one in classes])),
    )


def _mean(values: Floats) -> float:
    """Mean of the finite values; NaN without any, and without numpy's warning."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan
