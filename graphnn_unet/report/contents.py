"""What a report is told, and what its parts hand on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphnn_unet.data.paths import use_folders
from graphnn_unet.images.find import safe_id
from graphnn_unet.metrics.protocols import LabelIds
from graphnn_unet.report.overlay import worst_median_best
from graphnn_unet.report.page import bullets, document, escaped, png_image
from graphnn_unet.report.shown_cases import (
    CasePaths,
    ShownCases,
    files_by_case,
    overlay_png,
    read_shown,
    uncertainty_of,
)
from graphnn_unet.report.viewer import Viewer, viewer

ROLES = ("Tr", "Ts", "Un")
_SHEET_ROWS = 3


@dataclass(frozen=True)
class ReportSettings:
    """How large a report may be and where it looks.

    Attributes:
        n_cases: Cases in the viewer.
        megabytes: Largest size of the page.
        images: Folder of images; ``None`` looks into the raw data set.
        labels: Folder of label maps, likewise.
        n_workers: Processes that read a data set; ``None`` for a default.
    """

    n_cases: int = 3
    megabytes: float = 20.0
    images: Path | None = None
    labels: Path | None = None
    n_workers: int | None = None

    def command(self, source: Path) -> str:
        """The command that makes a page of these settings."""
        words = ["gnnunet_report", str(source)]
        default = ReportSettings()
        for flag, value, without in (
            ("--images", self.images, default.images),
            ("--labels", self.labels, default.labels),
            ("--cases", self.n_cases, default.n_cases),
            ("--megabytes", self.megabytes, default.megabytes),
        ):
            if value != without:
                words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        return shlex.join([*words, "-o", "report.html"])


@dataclass
class Report:
    """What a page says, part by part.

    Attributes:
        title: Its heading.
        lead: What it is about, in sentences.
        findings: Sentences about what looks wrong.
        parts: HTML of what comes before the cases that are looked at.
        after: HTML of what comes behind them.
        shown: Cases for the viewer and the picture, the most important first.
        classes: Class to id or ids.
    """

    title: str
    lead: list[str]
    findings: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    shown: Sequence[CasePaths] = ()
    classes: Mapping[str, LabelIds] = field(default_factory=dict)
    no_cases: str = ""
    fine: str = "Nothing that these checks look for."

    def html(self, settings: ReportSettings, source: str) -> str:
        """The page, within the limit of its size as far as pictures and volumes decide it."""
        read = read_shown([files for files in self.shown if files.image is not None])
        missing = [files.case for files in self.shown if files.image is None]
        limit = int(settings.megabytes * 1e6)
        head = [f"<p class='lead'>{escaped(sentence)}</p>" for sentence in self.lead[:1]]
        head += [f"<p>{escaped(sentence)}</p>" for sentence in self.lead[1:]]
        head += ["<h2>What looks wrong</h2>", bullets([*self.findings, *read.faults], self.fine)]
        without = len(document(self.title, [*head, *self.parts, *self.after], source=source))
        pictures, part = ([], Viewer(""))
        if settings.n_cases:
            pictures, part = self._look(read, missing, limit - without)
        parts = [*head, *self.parts, *pictures, part.html, *self.after]
        return document(self.title, parts, script=part.script, source=source)

    def _look(
        self, read: ShownCases, missing: Sequence[str], n_bytes: int
    ) -> tuple[list[str], Viewer]:
        """Picture and viewer of the cases, or why there are none."""
        if not read.cases:
            why = self.no_cases if missing or not self.shown else ""
            return ([f"<h2>Pictures</h2><p>{escaped(why)}</p>"] if why else []), Viewer("")
        parts = [f"<h2>{self._heading(read)}</h2>"]
        picture = png_image(
            overlay_png(read.cases[:_SHEET_ROWS], self.classes),
            ", ".join(case.title for case in read.cases[:_SHEET_ROWS]),
        )
        if len(picture) < n_bytes:
            parts.append(picture)
            n_bytes -= len(picture)
        else:
            parts.append("<p class='note'>The picture does not fit: give more --megabytes.</p>")
        parts.append("<h2 class='screen'>Look into the scans</h2>")
        return parts, viewer(read.cases, self.classes, n_bytes - 1000)

    @staticmethod
    def _heading(read: ShownCases) -> str:
        words = [*dict.fromkeys(case.word for case in read.cases[:_SHEET_ROWS] if case.word)]
        if not words:
            return "A few cases"
        text = f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
        return escaped(f"{text[:1].upper()}{text[1:]} case{'s' * (len(read.cases) > 1)}")


def ranked(dice: Mapping[str, float], n: int) -> list[tuple[str, str]]:
    """Worst, median and best case with these words, then the next worst ones.

    Example:
        >>> ranked({"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.2}, 4)
        [('worst', 'b'), ('median', 'c'), ('best', 'a'), ('', 'd')]
    """
    if not dice or n < 1:
        return []
    first = worst_median_best(dice)[:n]
    named = {case for _, case in first}
    rest = sorted(
        (value != value, value, case) for case, value in dice.items() if case not in named
    )
    return [*first, *(("", case) for _, _, case in rest[: n - len(first)])]


@dataclass
class CaseFinder:
    """Finds image and label of a case in the folders that were given, or in the raw data set.

    Attributes:
        dataset: Full name of the data set; empty for none.
        settings: Of the report.
        more_labels: Folders of label maps that are looked at last.
    """

    dataset: str
    settings: ReportSettings
    more_labels: Sequence[Path] = ()

    def __post_init__(self) -> None:
        raw = use_folders().raw / self.dataset if self.dataset else None
        folders = [raw / f"images{role}" for role in ROLES] if raw else []
        labels = [raw / f"labels{role}" for role in ROLES] if raw else []
        given = self.settings
        self.images = _merged([given.images] if given.images else folders, channels=True)
        wanted = [given.labels] if given.labels else [*labels, *self.more_labels]
        self.labels = _merged(wanted)
        self.where = str(given.images or (raw or "the raw folder of a data set"))

    def paths(self, case: str, prediction: Path | None, word: str = "") -> CasePaths:
        """The files of a case."""
        uncertainty = uncertainty_of(prediction) if prediction else None
        image, label = (_of_case(case, files) for files in (self.images, self.labels))
        return CasePaths(case, image, label, prediction, uncertainty, word)

    @property
    def no_cases(self) -> str:
        """The sentence where no image was there."""
        return (
            f"No pictures: the images of these cases are not in {self.where}. Give their folder "
            "with --images, and that of the label maps with --labels."
        )


def _merged(folders: Sequence[Path], *, channels: bool = False) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for folder in reversed(folders):
        named |= files_by_case(folder, channels=channels)
    # a data set has ids made from the names that a user gave, and predictions have these names
    return {safe_id(name): path for name, path in named.items()} | named


def _of_case(case: str, files: Mapping[str, Path]) -> Path | None:
    return files.get(case) or files.get(safe_id(case))
