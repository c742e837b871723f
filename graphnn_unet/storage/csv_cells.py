"""Cells of CSV files that no spreadsheet takes for formulas.

A name in a data set may begin with ``=``; a spreadsheet that opens a table with it would run it. An
apostrophe in front makes it text there, and is taken off again where this program reads the table.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from pathlib import Path

from graphnn_unet.errors import InputError

_START = re.compile(r"(^|[;\t\r\n])(?=[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""Before a formula: at the start of a cell, or behind what other countries separate cells with."""
_MARKED = re.compile(r"(^|[;\t\r\n])'(?=[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20])")


def as_cell(value: object) -> object:
    """A value as it stands in a table; texts that would be formulas get an apostrophe.

    Example:
        >>> as_cell("=1+1"), as_cell("organ"), as_cell(-1.5), as_cell("-1.5")
        ("'=1+1", 'organ', -1.5, '-1.5')
    """
    if not isinstance(value, str) or _is_number(value):
        return value
    return _START.sub(r"\1'", value)


def from_cell(text: str) -> str:
    """Inverse of :func:`as_cell`, for texts.

    Example:
        >>> from_cell("'=1+1"), from_cell("'quoted'")
        ('=1+1', "'quoted'")
    """
    return _MARKED.sub(r"\1", text)


def own_rows(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Rows of an earlier table of this program; none of what is damaged or somebody else's.

    Args:
        path: May be missing.
        columns: That every table of the kind has.
    """
    try:
        rows = read_csv(path) if path.is_file() else []
    except InputError:
        return []
    return [row for row in rows if set(columns) <= row.keys()]


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a table that this program wrote, column to cell; missing cells are empty.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the table {path} cannot be read", str(error), "Write it anew") from error
    if not lines:
        return []
    columns = [from_cell(cell) for cell in lines[0]]
    padding = [""] * len(columns)
    return [
        {name: from_cell(cell) for name, cell in zip(columns, [*row, *padding], strict=False)}
        for row in lines[1:]
        if row
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
