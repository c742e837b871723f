"""The table beside label maps of whole scans: which of them the network believes in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphnn_unet.storage.atomic import write_csv
from graphnn_unet.storage.csv_cells import own_rows

FOLDER = "scan_labels"
"""In the folder of a fold: label maps of unlabeled scans, a folder for each phase with them."""
TABLE = "confidence.csv"
_COLUMNS = ("case", "expected_dice", "used")


@dataclass(frozen=True)
class Confidence:
    """What is known about the label map of a scan.

    Attributes:
        expected_dice: The Dice that the network expects of it; ``None`` where it shows no class
            that counts.
        used: Whether it teaches.
    """

    expected_dice: float | None
    used: bool


def write_confidences(folder: Path, confidences: Mapping[str, Confidence]) -> None:
    """Write the table of a phase: case ids and what is known, the lowest first."""
    rows = [
        {"case": case, "expected_dice": _cell(known.expected_dice), "used": int(known.used)}
        for case, known in sorted(confidences.items(), key=lambda item: _order(item[1]))
    ]
    write_csv(folder / TABLE, rows, _COLUMNS)


def last_confidences(fold: Path) -> dict[str, Confidence]:
    """The table of the last phase of a fold that has one, the lowest first; else empty."""
    tables = sorted((fold / FOLDER).glob(f"*/{TABLE}"), key=lambda path: _number(path.parent.name))
    return {
        row["case"]: Confidence(_value(row["expected_dice"]), row["used"] == "1")
        for row in (own_rows(tables[-1], _COLUMNS) if tables else ())
    }


def _order(known: Confidence) -> float:
    return math.inf if known.expected_dice is None else known.expected_dice


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _value(cell: str) -> float | None:
    return float(cell) if cell else None


def _number(phase: str) -> int:
    digits = phase.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0
