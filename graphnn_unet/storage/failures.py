"""``failures.csv``: the cases that a command could not do, beside those that it did."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from graphnn_unet.errors import Fault
from graphnn_unet.storage.atomic import write_csv
from graphnn_unet.storage.csv_cells import own_rows

FAILURES = "failures.csv"
COLUMNS = ("case", "stage", "cause", "remedy")


def write_failures(
    path: Path,
    faults: Sequence[Fault],
    *,
    stage: str | None = None,
    done: Collection[str] = (),
) -> None:
    """Write a row for each fault; where there is none, remove the file of an earlier call.

    Args:
        path: The table.
        faults: What is told now.
        stage: Rows of other stages stay, as those of a prediction whose results are scored ...
        done: ... but for these cases, which do not fail any more.
    """
    before = [] if stage is None else own_rows(path, COLUMNS)
    rows = [row for row in before if row["stage"] != stage and row["case"] not in done]
    rows += [{name: getattr(fault, name) for name in COLUMNS} for fault in faults]
    if rows:
        write_csv(path, rows, COLUMNS)
    else:
        path.unlink(missing_ok=True)
