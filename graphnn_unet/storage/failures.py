"""``failures.csv``: the cases that a command could not do, beside those that it did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphnn_unet.errors import Fault
from graphnn_unet.storage.atomic import write_csv

FAILURES = "failures.csv"
COLUMNS = ("case", "stage", "cause", "remedy")


def write_failures(path: Path, faults: Sequence[Fault]) -> None:
    """Write a row for each fault; where there is none, remove the file of an earlier call."""
    if not faults:
        path.unlink(missing_ok=True)
        return
    write_csv(path, ({name: getattr(fault, name) for name in COLUMNS} for fault in faults), COLUMNS)
