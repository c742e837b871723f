"""What a training leaves to read: log file, metrics.csv, progress.png, environment.json."""

from __future__ import annotations

import itertools
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphnn_unet.storage.atomic import atomic_path, write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

_PACKAGES = ("graphnn-unet", "torch", "nnunetv2", "batchgeneratorsv2", "numpy", "SimpleITK")


class RunLog:
    """Rows of metrics, one an epoch, and lines of text.

    Args:
        folder: Fold folder; nothing is written before the first call.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: list[Row] = []
        stamp = datetime.now().strftime("%Y_%m_%d_%H_%M_%S")
        self.file = folder / f"training_log_{stamp}.txt"

    def line(self, text: str) -> None:
        """Append one line with the time; a log that cannot be written stops no training."""
        stamp = datetime.now().isoformat(sep=" ", timespec="seconds")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{stamp}: {text}\n")
        except OSError as error:
            print(f"warning: {self.file} cannot be written: {error}", file=sys.stderr)  # noqa: T201

    def add(self, row: Row, title: str) -> None:
        """Add the row of an epoch and write table and picture anew."""
        self.rows.append(row)
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        rows = [{key: _cell(row.get(key)) for key in columns} for row in self.rows]
        write_csv(self.folder / "metrics.csv", rows, columns)
        self.line("  ".join(f"{key} {_cell(value)}" for key, value in row.items()))
        plot_progress(self.rows, self.folder / "progress.png", title)


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def plot_progress(rows: Sequence[Mapping[str, Any]], target: Path, title: str) -> None:
    """Draw loss, held-out Dice and learning rate over the steps."""
    figure = progress_figure(rows, title)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=100)


def progress_figure(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Loss, held-out Dice and learning rate over the steps; the title breaks behind its colon."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot(steps, [row["loss"] for row in rows], color="#33658a", label="loss")
    upper.set_ylabel("training loss")
    scored = [(row["step"], row["val_dice"]) for row in rows if row.get("val_dice") is not None]
    if scored:
        right = upper.twinx()
        right.plot(*zip(*scored, strict=True), color="#2f9e44", label="Dice of held-out patches")
        right.set_ylabel("Dice")
        right.set_ylim(0, 1)
    for before, row in itertools.pairwise(rows):
        if before["phase"] != row["phase"]:
            upper.axvline(before["step"], color="#868e96", linestyle=":")
            upper.annotate(
                row["phase"],
                (before["step"], upper.get_ylim()[1]),
                fontsize=8,
                ha="left",
                va="top",
                xytext=(3, -3),
                textcoords="offset points",
            )
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    lower.plot(steps, [row["lr"] for row in rows], color="#c92a2a")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("optimizer step")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title.replace(": ", ":\n", 1), x=0.01, ha="left", fontsize=10)
    return figure


def write_environment(target: Path, facts: Mapping[str, Any]) -> None:
    """Versions, machine and the settings of the run, for reports and bug reports."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    write_json(
        target,
        {
            "schema_version": 1,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": versions,
            "command": sys.argv,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            **facts,
        },
    )
