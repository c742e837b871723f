"""Tables of labels: ``case,class``, or one column a finding; an empty cell is no label.

A column ``patient`` is no finding: images of one patient are held out together or not at all.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from graphnn_unet.classification.settings import MIN_LABELS
from graphnn_unet.errors import Fault, FaultsError, InputError, MissingFileError

UNLABELED = -1
PATIENT = "patient"


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
        source: The file, for messages.
        columns: Names of the findings.
        rows: Cells of each case, in the order of the columns; empty where there is no label.
        patients: Patient of each case, where the table says so.
    """

    source: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    patients: dict[str, str] = field(default_factory=dict)


def read_table(path: Path | str) -> LabelTable:
    """Read ``case,FINDING[,FINDING...]``.

    Args:
        path: CSV in UTF-8, separated by commas or, as some spreadsheets do, semicolons.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is no such table.
        FaultsError: Rows are wrong; all of them.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MissingFileError(f"the table {path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the table {path} cannot be read", str(error)) from error
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    lines = [
        (number, [cell.strip() for cell in row])
        for number, row in enumerate(csv.reader(io.StringIO(text), delimiter=separator), start=1)
        if any(cell.strip() for cell in row)
    ]
    head = lines[0][1] if lines else []
    n_findings = len(head) - 1 - (PATIENT in head)
    if n_findings < 1 or head[0].lower() != "case" or not all(head) or len(set(head)) < len(head):
        raise InputError(
            f"{path} is not a table of labels",
            f"its first line is {first[:60]!r}",
            "Begin it with case,class or case,FINDING,FINDING..., each name once",
        )
    rows, faults = _rows(lines[1:], len(head), path.name)
    if faults:
        raise FaultsError(faults, f"{path} has faults")
    if PATIENT not in head:
        return LabelTable(str(path), tuple(head[1:]), rows)
    place = head.index(PATIENT) - 1
    patients = {case: cells[place] for case, cells in rows.items() if cells[place]}
    rest = {case: cells[:place] + cells[place + 1 :] for case, cells in rows.items()}
    columns = tuple(name for name in head[1:] if name != PATIENT)
    return LabelTable(str(path), columns, rest, patients)


def _rows(
    lines: Sequence[tuple[int, list[str]]], n_columns: int, name: str
) -> tuple[dict[str, tuple[str, ...]], list[Fault]]:
    rows: dict[str, tuple[str, ...]] = {}
    faults = []
    for number, cells in lines:
        case = cells[0]
        where = f"{name}, line {number}"
        if len(cells) != n_columns:
            cause = f"it has {len(cells)} cells, the first line {n_columns}"
            faults.append(Fault(where, "check", cause, "Correct the line"))
        elif not case:
            faults.append(Fault(where, "check", "it names no case", "Fill the first cell"))
        elif case in rows:
            cause = f"case {case} stands in the table twice"
            faults.append(Fault(where, "check", cause, "Keep one of its lines"))
        else:
            rows[case] = tuple(cells[1:])
    return rows, faults


def findings_of(table: LabelTable) -> tuple[Finding, ...]:
    """The findings of a table of labels with their classes.

    Raises:
        FaultsError: A finding has fewer than two classes, or a class has fewer than
            ``MIN_LABELS`` labeled cases; lists all of them.
    """
    found, faults = [], []
    for position, name in enumerate(table.columns):
        counts = Counter(row[position] for row in table.rows.values() if row[position])
        found.append(Finding(name, tuple(sorted(counts))))
        if len(counts) < 2:
            has = f"only the class {next(iter(counts))}" if counts else "no label"
            faults.append(
                Fault(
                    f"{table.source}, column {name}", "check", f"it has {has}",
                    "Label cases of at least two classes", code="one class",
                )
            )  # fmt: skip
            continue
        faults += [
            Fault(
                f"{table.source}, column {name}", "check",
                f"class {one} has {count} labeled case, at least {MIN_LABELS} are needed",
                "Label more cases of this class, or empty the cells that name it",
                code="few labels",
            )
            for one, count in sorted(counts.items()) if count < MIN_LABELS
        ]  # fmt: skip
    if faults:
        raise FaultsError(faults, f"{table.source} has too few labels")
    return tuple(found)


def encode(table: LabelTable, findings: Sequence[Finding], cases: Sequence[str]) -> Tensor:
    """Class numbers of cases.

    Args:
        table: Labels or truth.
        findings: What the columns of the result are; the table may hold more columns.
        cases: What the rows are.

    Returns:
        ``(case, finding)`` int64; ``UNLABELED`` for empty cells and cases that are not there,
        ``len(classes)`` for a class that the finding does not have.

    Raises:
        InputError: The table lacks a column.
    """
    missing = [one.name for one in findings if one.name not in table.columns]
    if missing:
        raise InputError(
            f"{table.source} lacks the column {', '.join(missing)}",
            f"it has {', '.join(table.columns)}",
            "Name its columns as in the table of labels",
        )
    codes = torch.full((len(cases), len(findings)), UNLABELED, dtype=torch.int64)
    for column, finding in enumerate(findings):
        position = table.columns.index(finding.name)
        number = {name: code for code, name in enumerate(finding.classes)}
        for row, case in enumerate(cases):
            cell = table.rows[case][position] if case in table.rows else ""
            if cell:
                codes[row, column] = number.get(cell, len(finding.classes))
    return codes


def groups_of(table: LabelTable, cases: Sequence[str]) -> Tensor:
    """``(case,)`` int64, equal numbers for images of one patient; a number of its own without."""
    number: dict[str, int] = {}
    names = [table.patients.get(case, f"\0{case}") for case in cases]  # no patient is called so
    return torch.tensor([number.setdefault(name, len(number)) for name in names])


def unknown_classes(table: LabelTable, findings: Sequence[Finding]) -> list[str]:
    """``FINDING: CLASS`` of all classes in a table of truth that no label has."""
    found = []
    for finding in findings:
        position = table.columns.index(finding.name)
        cells = {row[position] for row in table.rows.values()} - {""}
        found += [f"{finding.name}: {name}" for name in sorted(cells - set(finding.classes))]
    return found
