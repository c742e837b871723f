"""The scores of a folder of predictions: tables of classes and cases, and what stands out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from graphnn_unet.images.find import some
from graphnn_unet.metrics.aggregate import finite_mean
from graphnn_unet.metrics.result import read_metrics_csv
from graphnn_unet.report.page import escaped, table
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.failures import FAILURES

METRICS_CSV = "metrics.csv"
MAX_CLASS_COLUMNS = 6
"""With more classes the table of cases has the lowest class in place of a column each."""

_FENCE = 1.5
"""A case stands out below the first quartile by so many interquartile ranges (Tukey)."""

_ENOUGH = 5
_LOW_DICE, _POOR_DICE = 0.05, 0.2
REMARKS = "remarks"


@dataclass(frozen=True)
class Scores:
    """Rows of one or more ``metrics.csv``.

    Attributes:
        rows: As :func:`read_metrics_csv` reads them.
        failures: Case to why it has no score.
    """

    rows: Sequence[Mapping[str, str]]
    failures: Mapping[str, str]

    @classmethod
    def read(cls, folders: Sequence[Path]) -> Scores:
        """Scores of all folders that have some; ``metrics.csv`` of a training is none."""
        rows: list[Mapping[str, str]] = []
        failures: dict[str, str] = {}
        for folder in folders:
            if (folder / METRICS_CSV).is_file():
                read = read_metrics_csv(folder / METRICS_CSV)
                rows += [row for row in read if {"case", "class", "dice"} <= row.keys()]
            if (folder / FAILURES).is_file():
                for row in read_csv(folder / FAILURES):  # the first cause led to the others
                    failures.setdefault(row["case"], row["cause"])
        scored = {row["case"] for row in rows}
        return cls(rows, {case: why for case, why in failures.items() if case not in scored})

    @cached_property
    def cases(self) -> list[str]:
        """Scored cases in the order of the files."""
        return [*dict.fromkeys(row["case"] for row in self.rows)]

    @property
    def all_cases(self) -> list[str]:
        """Scored cases, then those that could not be scored."""
        return [*self.cases, *(case for case in self.failures if case not in self.dice)]

    @cached_property
    def classes(self) -> list[str]:
        """Classes in the order of the files."""
        return [*dict.fromkeys(row["class"] for row in self.rows)]

    @cached_property
    def dice(self) -> dict[str, float]:
        """Case to its mean Dice over the classes that have one."""
        return {case: finite_mean(self._of(case, "dice")) for case in self.cases}

    @property
    def mean_dice(self) -> float:
        """Mean over cases, then over classes, as ``gnnunet_evaluate`` has it."""
        return finite_mean([self._class_mean(name, "dice") for name in self.classes])

    @property
    def unit(self) -> str:
        """Unit of distances."""
        return self.rows[0].get("distance_unit", "mm") if self.rows else "mm"

    @cached_property
    def low_cases(self) -> list[str]:
        """Cases whose Dice stands out below that of the others."""
        values = np.array([value for value in self.dice.values() if math.isfinite(value)])
        if len(values) < _ENOUGH:
            return []
        first, third = np.percentile(values, (25, 75))
        # scores that all agree would make every rounding stand out
        fence = first - max(_FENCE * (third - first), _LOW_DICE)
        return [case for case, value in self.dice.items() if value < fence]

    @cached_property
    def _by_case(self) -> dict[str, list[Mapping[str, str]]]:
        return _grouped(self.rows, "case")

    @cached_property
    def _by_class(self) -> dict[str, list[Mapping[str, str]]]:
        return _grouped(self.rows, "class")

    def _of(self, case: str, column: str) -> list[float]:
        return [_value(row, column) for row in self._by_case.get(case, ())]

    def _class_mean(self, name: str, column: str) -> float:
        return finite_mean([_value(row, column) for row in self._by_class[name]])

    def remarks(self, case: str) -> list[str]:
        """What is odd about a case, in words."""
        mine = self._by_case.get(case, ())
        words = [f"missed {row['class']}" for row in mine if row.get("missed") == "1"]
        words += [f"invented {row['class']}" for row in mine if row.get("invented") == "1"]
        return [*words, *(["low Dice"] if case in self.low_cases else [])]

    def findings(self) -> list[str]:
        """Sentences about what looks wrong, the most important first."""
        sentences = []
        if self.failures:
            cause = next(iter(self.failures.values()))
            sentences.append(
                f"{cases_of(len(self.failures))} could not be scored and "
                f"{'are' if len(self.failures) > 1 else 'is'} in no figure: "
                f"{some(self.failures)} ({cause.rstrip('.')})."
            )
        for column, words in (
            ("missed", "is missed (nothing of it was found) in"),
            ("invented", "was found where the label has none of it, in"),
        ):
            for name in self.classes:
                hits = [row["case"] for row in self._by_class[name] if row.get(column) == "1"]
                if hits:
                    sentences.append(f"“{name}” {words} {cases_of(len(hits))}: {some(hits)}.")
        for name in self.classes:
            mean = self._class_mean(name, "dice")
            if mean < _POOR_DICE:
                sentences.append(f"“{name}” is hardly found: its mean Dice is {mean:.2f}.")
        if self.low_cases:
            sentences.append(
                f"Dice is far below that of the other cases in {cases_of(len(self.low_cases))}: "
                f"{some(self.low_cases)}."
            )
        return sentences

    def html(self, notes: Mapping[str, Sequence[str]] | None = None) -> list[str]:
        """Both tables; ``notes`` are more remarks on cases."""
        unit = self.unit
        text = (
            "Dice is the overlap of prediction and label, from 0 (none) to 1 (the same); 95HD is "
            f"the distance in {unit} that 95 % of both surfaces stay within; the volume error is "
            "the surplus of the prediction as a share of the label."
        )
        return [f"<p class='note'>{escaped(text)}</p>", "<h3>Classes</h3>", self._class_table(),
                "<h3>Cases</h3>", self._case_table(notes or {})]  # fmt: skip

    def _class_table(self) -> str:
        head = ["class", "cases", "mean Dice", "lowest Dice", f"mean 95HD {self.unit}",
                "mean volume error", "missed", "invented"]  # fmt: skip
        lines = []
        for name in self.classes:
            mine = self._by_class[name]
            dices = [d for row in mine if math.isfinite(d := _value(row, "dice"))]
            lines.append([
                name, str(len(dices)), shown(finite_mean(dices)),
                shown(min(dices, default=math.nan)), shown(self._class_mean(name, "hd95"), 2),
                shown(self._class_mean(name, "volume_error"), 2),
                *(str(sum(row.get(key) == "1" for row in mine)) for key in ("missed", "invented")),
            ])  # fmt: skip
        return table([head, *lines])

    def _case_table(self, notes: Mapping[str, Sequence[str]]) -> str:
        columns = self.classes if 1 < len(self.classes) <= MAX_CLASS_COLUMNS else []
        lowest = len(self.classes) > MAX_CLASS_COLUMNS
        head = ["case", "Dice", *(f"Dice {name}" for name in columns)]
        head += ["lowest class", "its Dice"] * lowest
        head += [f"95HD {self.unit}", "volume error", REMARKS]
        lines, marked = [], set()
        for case in self.all_cases:
            by_class = {row["class"]: _value(row, "dice") for row in self._by_case.get(case, ())}
            remarks = [*self.remarks(case), *notes.get(case, ())]
            if case in self.failures:
                remarks.append(f"not scored: {self.failures[case]}")
            if remarks:
                marked.add(len(lines))
            cells = [case, shown(self.dice.get(case, math.nan))]
            cells += [shown(by_class.get(name, math.nan)) for name in columns]
            if lowest:
                name = min(by_class, key=lambda n: _last_if_nan(by_class[n]), default="")
                cells += [name, shown(by_class.get(name, math.nan))]
            cells += [shown(finite_mean(self._of(case, "hd95")), 2),
                      shown(finite_mean(self._of(case, "volume_error")), 2)]  # fmt: skip
            lines.append([*cells, "; ".join(remarks)])
        return table([head, *lines], text_columns={REMARKS, "lowest class"}, marked=marked)


def plain_case_table(
    cases: Collection[str],
    notes: Mapping[str, Sequence[str]],
    columns: Mapping[str, Mapping[str, str]],
) -> str:
    """A table of cases without scores.

    Args:
        cases: In their order.
        notes: Case to remarks, which mark its row.
        columns: Head to a cell for each case that has one.
    """
    head = ["case", *columns, REMARKS]
    lines = [
        [case, *(cells.get(case, "") for cells in columns.values()), "; ".join(notes.get(case, ()))]
        for case in cases
    ]
    marked = {number for number, case in enumerate(cases) if notes.get(case)}
    return table([head, *lines], text_columns={REMARKS}, marked=marked)


def shown(value: float, digits: int = 3) -> str:
    """A number, or an empty cell for none.

    Example:
        >>> shown(0.51234), shown(float("nan"))
        ('0.512', '')
    """
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _grouped(rows: Sequence[Mapping[str, str]], key: str) -> dict[str, list[Mapping[str, str]]]:
    groups: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _value(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row.get(column, ""))
    except ValueError:
        return math.nan


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def cases_of(n: int) -> str:
    """``1 case``, ``2 cases``."""
    return f"{n} case{'s' * (n != 1)}"
