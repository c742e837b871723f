"""From records of cases to figures of classes: means, intervals and what was left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphnn_unet.metrics.intervals import Floats, class_mean_interval, mean_intervals
from graphnn_unet.metrics.protocols import CaseScore, Presence
from graphnn_unet.metrics.registry import METRICS


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
        ends = finite_or_none(self.low), finite_or_none(self.high)
        return {"mean": finite_or_none(self.value), "low": ends[0], "high": ends[1]}


@dataclass(frozen=True)
class ClassSummary:
    """Figures of one class over all cases, or of the mean over classes.

    ``summary["dice"]`` is the estimate of one measure.

    Attributes:
        name: Class name; ``mean`` for the mean over classes.
        n: Cases with any value; those in the class's mean of Dice.
        n_missed: The reference has it, the prediction lacks it.
        n_invented: The prediction has it, the reference lacks it.
        n_absent_in_both: Neither has it.
        estimates: Measure to its mean and interval.
        where_both: Distance to its mean over the cases in which both maps have the structure, so
            without the convention for missed structures; NaN without such a case.
    """

    name: str
    n: int
    n_missed: int
    n_invented: int
    n_absent_in_both: int
    estimates: Mapping[str, Estimate]
    where_both: Mapping[str, float]

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    def as_dict(self) -> dict[str, object]:
        """Plain values, as they stand in ``summary.json``."""
        return {
            "n": self.n,
            "n_missed": self.n_missed,
            "n_invented": self.n_invented,
            "n_absent_in_both": self.n_absent_in_both,
            **{METRICS[name].key: estimate.as_dict() for name, estimate in self.estimates.items()},
            **{
                f"{METRICS[name].key}_where_both": finite_or_none(value)
                for name, value in self.where_both.items()
            },
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

    Example:
        >>> from graphnn_unet.metrics import score_case
        >>> perfect, reference = np.ones((2, 3, 3), dtype=int)
        >>> empty = np.zeros_like(perfect)
        >>> scores = [
        ...     *score_case(perfect, reference, (1, 1), {"liver": 1}, case="a"),
        ...     *score_case(empty, reference, (1, 1), {"liver": 1}, case="b"),
        ... ]
        >>> liver = summarize(scores).classes[0]
        >>> liver["dice"], liver.n_missed
        (Estimate(value=0.5, low=0.0, high=1.0), 1)
    """
    cases = [*dict.fromkeys(score.case for score in scores)]
    names = [*dict.fromkeys(score.class_name for score in scores)]
    by_place = {(score.case, score.class_name): score for score in scores}
    values = np.array(
        [[[by_place[case, name][m] for m in METRICS] for name in names] for case in cases]
    )
    low, high = mean_intervals(np.reshape(values, (len(cases), -1)))
    ends = np.reshape(np.stack([low, high], axis=-1), (len(names), len(METRICS), 2))
    classes = tuple(
        _class_summary(name, [by_place[case, name] for case in cases], ends[number])
        for number, name in enumerate(names)
    )
    return Summary(classes, _mean_of(classes, values))


def finite_mean(values: Iterable[float]) -> float:
    """Mean of the finite values; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def finite_or_none(value: float) -> float | None:
    """``value``, or ``None`` for NaN: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def _class_summary(name: str, scores: Sequence[CaseScore], ends: Floats) -> ClassSummary:
    """``ends``: ``(measure, 2)``, the intervals."""
    presences = [score.presence for score in scores]
    both = [score for score in scores if score.presence is Presence.BOTH]
    return ClassSummary(
        name=name,
        n=sum(any(map(math.isfinite, score.values.values())) for score in scores),
        n_missed=presences.count(Presence.MISSED),
        n_invented=presences.count(Presence.INVENTED),
        n_absent_in_both=presences.count(Presence.NEITHER),
        estimates={
            m: Estimate(finite_mean(score[m] for score in scores), float(low), float(high))
            for m, (low, high) in zip(METRICS, ends, strict=True)
        },
        where_both={
            m: finite_mean(score[m] for score in both) for m in METRICS if METRICS[m].worst is None
        },
    )


def _mean_of(classes: Sequence[ClassSummary], values: Floats) -> ClassSummary:
    """``values``: ``(case, class, measure)``."""
    return ClassSummary(
        name="mean",
        n=int(np.isfinite(values).any(axis=(1, 2)).sum()),
        n_missed=sum(summary.n_missed for summary in classes),
        n_invented=sum(summary.n_invented for summary in classes),
        n_absent_in_both=sum(summary.n_absent_in_both for summary in classes),
        estimates={
            m: Estimate(
                finite_mean(summary[m].value for summary in classes),
                *class_mean_interval(values[:, :, number]),
            )
            for number, m in enumerate(METRICS)
        },
        where_both={
            m: finite_mean(summary.where_both[m] for summary in classes)
            for m in classes[0].where_both
        },
    )
