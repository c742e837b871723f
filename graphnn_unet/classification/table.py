"""Tables of labels: ``case,class``, or one column a finding; an empty cell is no label.

A column ``patient`` is no finding: images of one patient are held out together or not at all.
``NaN``, ``NA``, ``N/A`` and ``null``, which other programs write for nothing, are empty cells.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from graphnn_unet.classification.settings import MIN_LABELS
from graphnn_unet.errors import Fault, FaultsError, InputError, MissingFileError
from graphnn_unet.storage.csv_cells import from_cell
from graphnn_unet.storage.text import read_text

UNLABELED = -1
PATIENT = "patient"
_LIKE_PATIENT = re.compile(
    r"(patient|subject|participant)s?([ _.-]?(id|ids|no|nr|number|name|code))?"
)
"""Heads, in small letters, of columns that say whose image it is; as findings they teach names."""
_NOTHING = ("nan", "na", "n/a", "null")
"""Cells, in small letters, that mean that there is none."""


@dataclass(frozen=True)
class Finding:
    """One question about every image.

    Attributes:
        name: Head of its column.
        classes: Its possible answers, sorted.
    """

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class LabelTable:
    """A table as it stands in the file.

    Attributes:
        columns: Names of the findings.
        rows: Cells of each case, in the order of the columns; empty where there is no label.
        patients: Patient of each case, where the table says so.
    """

    source: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    patients: dict[str, str] = field(default_factory=dict)


def read_table(path: Path | str) -> LabelTable:
    """Read ``case,FINDING[,FINDING...]`` in UTF-8 or UTF-16; semicolons may separate too.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is no such table.
        FaultsError: Rows are wrong; all of them.
    """
    path = Path(path)
    lines = _lines(path)
    head = lines[0][1] if lines else []
    small = [name.lower() for name in head]
    n_findings = len(head) - 1 - small.count(PATIENT)
    is_twice = len(set(head)) < len(head) or small.count(PATIENT) > 1
    if n_findings < 1 or small[0] != "case" or not all(head) or is_twice:
        raise InputError(
            f"{path} is not a table of labels",
            f"its first line is {','.join(head)[:60]!r}",
            "Begin it with case,class or case,FINDING,FINDING..., each name once",
        )
    _refuse_ids(path, head)
    rows, faults = _rows(lines[1:], len(head), path.name)
    if faults:
        raise FaultsError(faults, f"{path} has faults")
    patients: dict[str, str] = {}
    if PATIENT in small:
        place = small.index(PATIENT)
        patients = {case: cells[place] for case, cells in rows.items() if cells[place]}
        for cells in (head, *rows.values()):
            del cells[place]
    cases = {case: tuple(cells[1:]) for case, cells in rows.items()}
    return LabelTable(str(path), tuple(head[1:]), cases, patients)


def _refuse_ids(path: Path, head: Sequence[str]) -> None:
    """Refuse columns that say whose image it is, but not in the word that is known."""
    for name in head:
        if name.lower() != PATIENT and _LIKE_PATIENT.fullmatch(name.lower()):
            raise InputError(
                f"the column {name} of {path} looks like patients",
                "it would be a finding, and its ids the classes",
                f"Call it {PATIENT}, which keeps a patient's images together, or take it out",
            )


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Numbers and cells of the lines that are not empty."""
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise MissingFileError(f"the table {path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the table {path} cannot be read", str(error)) from error
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        lines = [
            (number, [from_cell(cell.strip()) for cell in row])
            for number, row in enumerate(reader, start=1)
        ]
    except csv.Error as error:
        raise InputError(
            f"the table {path} cannot be read",
            f"line {reader.line_num}: {error}",
            "Correct the line",
        ) from error
    return [(number, cells) for number, cells in lines if any(cells)]


def _rows(
    lines: Sequence[tuple[int, list[str]]], n_columns: int, name: str
) -> tuple[dict[str, list[str]], list[Fault]]:
    """Cells of each case, its own id among them, and the faults of lines."""
    rows: dict[str, list[str]] = {}
    faults = []
    for number, cells in lines:
        fault = partial(Fault, f"{name}, line {number}", "check")
        case = cells[0]
        if len(cells) != n_columns:
            cause = f"it has {len(cells)} cells, the first line {n_columns}"
            faults.append(fault(cause, "Correct the line", code="T01"))
        elif not case:
            faults.append(fault("it names no case", "Fill the first cell", code="T02"))
        elif case in rows:
            cause = f"case {case} stands in the table twice"
            faults.append(fault(cause, "Keep one of its lines", code="T03"))
        else:
            rows[case] = [case, *("" if cell.lower() in _NOTHING else cell for cell in cells[1:])]
    return rows, faults


def findings_of(table: LabelTable) -> tuple[Finding, ...]:
    """The findings of a table of labels with their classes.

    Raises:
        FaultsError: A finding has fewer than two classes, or a class has fewer than
            ``MIN_LABELS`` labeled cases; lists all of them.
    """
    findings, faults = [], []
    for position, name in enumerate(table.columns):
        counts = Counter(row[position] for row in table.rows.values() if row[position])
        findings.append(Finding(name, tuple(sorted(counts))))
        faults += _too_few(f"{table.source}, column {name}", counts)
    if faults:
        raise FaultsError(faults, f"{table.source} has too few labels")
    return tuple(findings)


def _too_few(column: str, counts: Mapping[str, int]) -> list[Fault]:
    """Faults of a column whose classes have these counts."""
    if len(counts) < 2:
        has = f"only the class {next(iter(counts))}" if counts else "no label"
        remedy = "Label cases of at least two classes"
        return [Fault(column, "check", f"it has {has}", remedy, code="T04")]
    remedy = "Label more cases of this class, or empty the cells that name it"
    few = [f"class {c} has {n} labeled case" for c, n in sorted(counts.items()) if n < MIN_LABELS]
    needed = f"at least {MIN_LABELS} are needed"
    return [Fault(column, "check", f"{has}, {needed}", remedy, code="T05") for has in few]


def encode(table: LabelTable, findings: Sequence[Finding], cases: Sequence[str]) -> Tensor:
    """Class numbers of cases, ``(case, finding)`` int64; the table may hold more columns.

    They are ``UNLABELED`` for empty cells and cases that are not there, ``len(classes)`` for a
    class that the finding does not have.

    Raises:
        InputError: The table lacks a column.
    """
    missing = [f.name for f in findings if f.name not in table.columns]
    if missing:
        raise InputError(
            f"{table.source} lacks the column {', '.join(missing)}",
            f"it has {', '.join(table.columns)}",
            "Name its columns as in the table of labels",
        )
    targets = torch.full((len(cases), len(findings)), UNLABELED, dtype=torch.int64)
    for column, finding in enumerate(findings):
        position = table.columns.index(finding.name)
        number = {name: index for index, name in enumerate(finding.classes)}
        for row, case in enumerate(cases):
            cell = table.rows[case][position] if case in table.rows else ""
            if cell:
                targets[row, column] = number.get(cell, len(finding.classes))
    return targets


def groups_of(table: LabelTable, cases: Sequence[str]) -> Tensor:
    """``(case,)`` int64, equal numbers for images of one patient; a number of its own without."""
    number: dict[str, int] = {}
    names = [table.patients.get(case, f"\0{case}") for case in cases]  # no patient is called so
    return torch.tensor([number.setdefault(name, len(number)) for name in names])


def unknown_classes(table: LabelTable, findings: Sequence[Finding]) -> list[str]:
    """``FINDING: CLASS`` of all classes in a table of ground truth that no label has."""
    unknown = []
    for finding in findings:
        position = table.columns.index(finding.name)
        cells = {row[position] for row in table.rows.values()} - {""}
        unknown += [f"{finding.name}: {name}" for name in sorted(cells - set(finding.classes))]
    return unknown
