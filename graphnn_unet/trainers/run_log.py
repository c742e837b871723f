"""What a training leaves to read: log file, metrics.csv, progress.png, environment.json."""

from __future__ import annotations

import itertools
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphnn_unet.storage.atomic import atomic_path, write_csv, write_json
from graphnn_unet.trainers.loggers import Loggers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]

PSEUDO_DICE, PSEUDO_CONFIDENT = "pseudo_dice_", "pseudo_confident"
"""Columns of pseudo-labels: Dice after each stage, the first and the last of them in black, and the
share of confident voxels."""
_SHARES = {PSEUDO_CONFIDENT: "confident voxels", "confident_nodes": "confident nodes"}
_THRESHOLD = "threshold_"
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
"""Okabe and Ito's, which the color-blind can tell apart."""

_PACKAGES = ("graphnn-unet", "torch", "nnunetv2", "batchgeneratorsv2", "numpy", "SimpleITK")


class RunLog:
    """Rows of metrics, one an epoch, and lines of text.

    Args:
        folder: Fold folder; nothing is written before the first call.
        loggers: Where the rows go besides.
    """

    def __init__(self, folder: Path, loggers: Sequence[str] = ()):
        self.folder = folder
        self.loggers = Loggers(loggers)
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

    @property
    def picture(self) -> Path:
        """The picture of the whole training."""
        return self.folder / "progress.png"

    def add(self, row: Row, title: str) -> None:
        """Add the row of an epoch and write table and picture anew."""
        self.rows.append(row)
        columns = _columns(self.rows)
        rows = [{key: _cell(row.get(key)) for key in columns} for row in self.rows]
        write_csv(self.folder / "metrics.csv", rows, columns)
        self.line("  ".join(f"{key} {_cell(value)}" for key, value in row.items()))
        plot_progress(self.rows, self.picture, title)
        self.loggers.epoch(row)


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def plot_progress(rows: Sequence[Mapping[str, Any]], target: Path, title: str) -> None:
    """Draw what :func:`progress_figure` shows."""
    figure = progress_figure(rows, title)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=100)


def progress_figure(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Loss, held-out Dice and learning rate over the steps; the title breaks behind its colon.

    Where they were logged, panels of pseudo-labels and of confidence come between.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [row["step"] for row in rows]
    panels = [panel for panel in (_pseudo_dice(rows), _confidence(rows)) if panel[1]]
    figure = Figure(figsize=(9, 6 + 2 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    heights = (3, *[1.6] * len(panels), 1)
    upper, *middle, lower = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for axes, (title_y, lines) in zip(middle, panels, strict=True):
        _draw_lines(axes, title_y, lines)
    for _, of_phase in itertools.groupby(rows, key=lambda row: row["phase"]):
        points = [(row["step"], row["loss"]) for row in of_phase]
        marker = "." if len(points) == 1 else ""  # a line of one point is invisible
        upper.plot(*zip(*points, strict=True), color="#33658a", marker=marker, label="loss")
    # another phase has another loss: no line joins them
    upper.set_ylabel("training loss of the phase")
    scored = [(row["step"], row["val_dice"]) for row in rows if row.get("val_dice") is not None]
    right = upper.twinx() if scored else None
    if right is not None:
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
    handles = [upper.get_lines()[0], *(right.get_lines() if right is not None else ())]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    lower.plot(steps, [row["lr"] for row in rows], color="#c92a2a")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("optimizer step")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title.replace(": ", ":\n", 1), x=0.01, ha="left", fontsize=10)
    return figure


@dataclass(frozen=True)
class _Line:
    """One line of a panel.

    Attributes:
        label: In the legend.
        points: Steps and values.
        style: Arguments of ``plot``.
    """

    label: str
    points: list[tuple[int, float]]
    style: dict[str, Any]


def _pseudo_dice(rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[_Line]]:
    """Dice of pseudo-labels after each stage; the first and the last stand out."""
    keys = [key for key in _columns(rows) if key.startswith(PSEUDO_DICE)]
    lines = [
        _Line(key.removeprefix(PSEUDO_DICE), _points(rows, key), {"color": color})
        for key, color in zip(keys, itertools.cycle(_COLORS), strict=False)
    ]
    if lines:
        lines[0].style.update(color="black", linestyle="--", zorder=3)
        lines[-1].style.update(color="black", linewidth=2.2, zorder=2.5)
    return "Dice of\npseudo-labels", lines


def _confidence(rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[_Line]]:
    """Share of confident voxels or nodes, and the thresholds of classes."""
    keys = _columns(rows)
    shares = [key for key in _SHARES if key in keys]
    lines = [
        _Line(_SHARES[key], _points(rows, key), {"color": "black", "linestyle": style})
        for key, style in zip(shares, ("-", "--"), strict=False)
    ]
    thresholds = [key for key in keys if key.startswith(_THRESHOLD)]
    lines += [
        _Line(
            f"threshold of class {key.removeprefix(_THRESHOLD)}",
            _points(rows, key),
            {"color": color, "linestyle": ":"},
        )
        for key, color in zip(thresholds, itertools.cycle(_COLORS), strict=False)
    ]
    return "confidence", lines


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [
        (row["step"], float(row[key]))
        for row in rows
        if row.get(key) is not None and math.isfinite(row[key])
    ]


def _draw_lines(axes: Axes, label: str, lines: Sequence[_Line]) -> None:
    for line in lines:
        marker = "o" if len(line.points) == 1 else None
        steps, values = [x for x, _ in line.points], [y for _, y in line.points]
        axes.plot(steps, values, label=line.label, marker=marker, markersize=3, **line.style)
    axes.set_ylabel(label)
    axes.grid(axis="y", color="#dee2e6", linewidth=0.8)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


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
