"""The tables of a comparison, from ``benchmark.csv`` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.benchmarking.grid import ALL
from graphnn_unet.benchmarking.statistics import (
    MIN_DRAWS,
    Difference,
    agreeing_on_nothing,
    crossed_interval,
    paired_difference,
    variance_parts,
)
from graphnn_unet.errors import InputError
from graphnn_unet.metrics.intervals import MIN_PATIENTS, too_few
from graphnn_unet.metrics.registry import SHOWN, Metric, metrics_of
from graphnn_unet.metrics.result import read_metrics_csv
from graphnn_unet.storage.csv_cells import read_csv

BASELINE = "SupervisedTrainer"
NOT_SHOWN = "no difference shown"
_PUBLISHED = Path(__file__).parent / "published.csv"

Floats = NDArray[np.float64]
Key = tuple[str, str]
"""Row and count of labeled cases."""


@dataclass(frozen=True)
class Scores:
    """Scores of a part of a comparison, as arrays.

    Attributes:
        records: Rows of ``benchmark.csv`` of the part.
        patient_of: Case to patient, where they differ.
    """

    records: Sequence[Mapping[str, str]]
    patient_of: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, part: str, patient_of: Mapping[str, str] | None = None) -> Scores:
        """The rows of one part.

        Raises:
            InputError: There are none.
        """
        records = [row for row in read_metrics_csv(path) if row["part"] == part]
        if not records:
            raise InputError(f"{path} has no scores of {part} cases", "", "Carry out a run first")
        return cls(records, patient_of or {})

    @cached_property
    def keys(self) -> list[Key]:
        """Rows and counts in the order of the file."""
        return list(dict.fromkeys((row["row"], row["labeled"]) for row in self.records))

    @property
    def labeled(self) -> list[str]:
        """Counts of labeled cases, fewest first."""
        counts = dict.fromkeys(labeled for _, labeled in self.keys)
        return sorted(counts, key=lambda count: math.inf if count == ALL else int(count))

    @property
    def names(self) -> list[str]:
        """Rows in the order of the file."""
        return list(dict.fromkeys(row for row, _ in self.keys))

    @cached_property
    def cases(self) -> list[str]:
        """Scored cases."""
        return sorted({row["case"] for row in self.records})

    @cached_property
    def patients(self) -> NDArray[np.int64]:
        """``(case,)`` number of each case's patient."""
        names = [self.patient_of.get(case, case) for case in self.cases]
        return np.unique(names, return_inverse=True)[1]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {case: number for number, case in enumerate(self.cases)}

    @cached_property
    def _classes(self) -> dict[str, int]:
        names = dict.fromkeys(row["class"] for row in self.records)
        return {name: number for number, name in enumerate(names)}

    @cached_property
    def _draws(self) -> list[str]:
        return sorted({row["draw"] for row in self.records}, key=int)

    @cached_property
    def _seeds(self) -> list[str]:
        return sorted({row["seed"] for row in self.records}, key=int)

    def of(self, key: Key, metric: str = "dice") -> Floats:
        """``(draw, seed, case)`` means over classes; NaN where there is no run or no figure."""
        return _mean_of_classes(self._of_classes(key, metric)[0])

    def _of_classes(self, key: Key, metric: str = "dice") -> tuple[Floats, NDArray[np.bool_]]:
        """``(draw, seed, case, class)`` figures, NaN without one, and what was scored at all."""
        shape = (len(self._draws), len(self._seeds), len(self.cases), len(self._classes))
        values, scored = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
        for row in self.records:
            if (row["row"], row["labeled"]) != key:
                continue
            at = (self._draws.index(row["draw"]), self._seeds.index(row["seed"]),
                  self._places[row["case"]], self._classes[row["class"]])  # fmt: skip
            scored[at] = True
            values[at] = float(row[metric] or "nan")
        return values, scored

    def n_runs(self, key: Key) -> int:
        """Runs of a row."""
        return int(np.isfinite(self.of(key)).any(2).sum())

    def mean(self, key: Key, metric: str = "dice") -> float:
        """Mean over draws, each of its seeds and cases."""
        values = self.of(key, metric)
        values = values[np.isfinite(values).any((1, 2))]
        return float(np.mean([np.nanmean(draw) for draw in values])) if len(values) else math.nan

    def interval(self, key: Key) -> tuple[float, float]:
        """95 % interval of the mean Dice over draws and patients."""
        values = self.of(key)
        values = values[np.isfinite(values).any((1, 2))]
        return crossed_interval(values, self.patients)

    def difference(self, key: Key, other: Key) -> Difference:
        """Difference in Dice on the draws and seeds that both rows have.

        Who invents a structure loses to who rightly finds none: see ``agreeing_on_nothing``.
        """
        return paired_difference(*self.paired(key, other), self.patients)

    def paired(self, key: Key, other: Key) -> tuple[Floats, Floats]:
        """``(draw, seed, case)`` figures of two rows on what both were scored on."""
        (values, scored), (there, scored_there) = self._of_classes(key), self._of_classes(other)
        both = scored & scored_there
        pair = (np.where(both, array, np.nan) for array in (values, there))
        mine, its = agreeing_on_nothing(*pair)
        return _mean_of_classes(mine), _mean_of_classes(its)

    def baseline(self, wanted: str | None = None) -> str:
        """The row that the others are compared with.

        Raises:
            InputError: There is no row of this name.
        """
        if wanted is None:
            return BASELINE if BASELINE in self.names else self.names[0]
        if wanted not in self.names:
            raise InputError(f"there is no row {wanted!r} to compare with", ", ".join(self.names))
        return wanted


def note_on_intervals(scores: Scores) -> str:
    """That few patients stand behind the intervals of a part; empty where there are enough."""
    n_patients = len(set(scores.patients.tolist()))
    if not 1 < n_patients < MIN_PATIENTS:  # a single one has no interval
        return ""
    return f"The 95 % intervals decide nothing: {too_few(n_patients, 'patient')}."


def method_table(scores: Scores, labeled: str, baseline: str) -> list[list[str]]:
    """Means of all rows of a count of labels, and their difference from one of them."""
    measures = metrics_of(SHOWN)
    (unit,) = {row["distance_unit"] for row in scores.records}
    head = ["method", "runs", *(measure.heading(unit) for measure in measures), "missed",
            f"against {baseline}", "draws that agree", "verdict"]  # fmt: skip
    rows = [head]
    for key in scores.keys:
        if key[1] != labeled:
            continue
        low, high = scores.interval(key)
        cells = [_shown(measure, scores.mean(key, measure.name)) for measure in measures]
        cells[0] += f" [{_percent(low)}, {_percent(high)}]"
        missed = sum(int(row["missed"] or 0) for row in scores.records
                     if (row["row"], row["labeled"]) == key)  # fmt: skip
        other = (baseline, labeled)
        comparison = ["", "", ""]
        if key != other and other in scores.keys:
            comparison = _comparison(scores.difference(key, other))
        rows.append([key[0], str(scores.n_runs(key)), *cells, str(missed), *comparison])
    return rows


def _comparison(difference: Difference) -> list[str]:
    if not difference.n_draws:
        return ["no draw in common", "", ""]
    ends = f"[{_signed(difference.low)}, {_signed(difference.high)}]"
    return [f"{_signed(difference.mean)} {ends}",
            f"{difference.n_agreeing} of {difference.n_draws}", _verdict(difference)]  # fmt: skip


def _verdict(difference: Difference) -> str:
    if difference.n_patients < MIN_PATIENTS:
        return "too few patients"
    if not difference.is_shown:
        return NOT_SHOWN
    verdict = "leads" if difference.mean > 0 else "is behind"
    if difference.n_draws >= MIN_DRAWS:
        return verdict
    draws = "one draw" if difference.n_draws == 1 else f"{difference.n_draws} draws"
    return f"{verdict} in {draws}"


def variance_table(scores: Scores, labeled: str, baseline: str) -> list[list[str]]:
    """What Dice varies with, as standard deviations, and draws that one point would need.

    Methods with one run say nothing; only the heading is left where all have one.
    """
    rows = [["method", "draw", "seed", "case", "rest", "draws to see one point"]]
    for key in scores.keys:
        if key[1] != labeled:
            continue
        parts = variance_parts(scores.of(key))
        values = (parts.draw, parts.seed, parts.case, parts.rest)
        if all(value is None or math.isnan(value) for value in values):
            continue
        cells = ["-" if value is None else _percent(value) for value in values]
        other = (baseline, labeled)
        needed = None
        if key != other and other in scores.keys:
            needed = scores.difference(key, other).n_draws_needed
        shown = "" if needed is None else "more cases" if math.isinf(needed) else str(needed)
        rows.append([key[0], *cells, shown])
    return rows


def count_title(labeled: str) -> str:
    """A count of labeled cases, for a heading."""
    return "all cases labeled" if labeled == ALL else f"labeled cases: {labeled}"


def published_table(dataset: str, labeled: str) -> list[list[str]]:
    """Published Dice on a data set; only the heading where none is known."""
    name = dataset.partition("_")[2] or dataset
    rows = [["published, other splits and networks", "Dice", "source"]]
    for row in read_csv(_PUBLISHED):
        if (row["dataset"], row["labeled"]) == (name, labeled):
            rows.append([row["method"], row["dice_percent"], row["source"]])
    return rows


def _mean_of_classes(values: Floats) -> Floats:
    """Means over the last axis; NaN where no class has a figure."""
    known = np.isfinite(values)
    counts = known.sum(-1)
    sums = np.where(known, values, 0.0).sum(-1)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of a page."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""])


def page(scores: Scores, dataset: str, baseline: str | None = None) -> str:
    """All tables of a part as Markdown."""
    against = scores.baseline(baseline)
    note = note_on_intervals(scores)
    parts: list[str] = [f"{note}\n"] if note else []
    for labeled in scores.labeled:
        parts += [f"## {count_title(labeled)}\n", markdown(method_table(scores, labeled, against))]
        published = published_table(dataset, labeled)
        if len(published) > 1:
            parts += ["Not measured here, and not comparable in split, network or choice of the "
                      "checkpoint:\n", markdown(published)]  # fmt: skip
        variance = variance_table(scores, labeled, against)
        if len(variance) > 1:
            parts += ["What Dice varies with (standard deviations):\n", markdown(variance)]
    return "\n".join(parts)


def _shown(measure: Metric, value: float) -> str:
    return _percent(value) if measure.unit == "fraction" else f"{value:.{measure.digits}f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.1f}"
