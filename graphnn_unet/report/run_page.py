"""The report of a training: what learned from what, how it went, what came out."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from graphnn_unet.errors import GraphnnError, MissingFileError
from graphnn_unet.images.find import some
from graphnn_unet.metrics.labels import read_labels
from graphnn_unet.report.contents import CaseFinder, Report, ReportSettings, ranked
from graphnn_unet.report.page import commands, escaped, figure_image
from graphnn_unet.report.scores import METRICS_CSV, Scores, cases_of, shown
from graphnn_unet.report.shown_cases import files_by_case
from graphnn_unet.storage.checkpoints import FINAL, load_resumable
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.trainers.confidence_table import last_confidences
from graphnn_unet.trainers.run_log import progress_figure
from graphnn_unet.trainers.run_spec import ModelName

_FOLD = re.compile(r"fold_(\d+|all)")
_WARNING = re.compile(r"warning|diverge|not finite|\bnan\b|out of memory|error", re.IGNORECASE)
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: ")
_MAX_WARNINGS = 10
_ENOUGH = 8
"""Epochs from which on the course of the loss says something."""


@dataclass(frozen=True)
class Fold:
    """One trained fold.

    Attributes:
        folder: Its folder.
    """

    folder: Path

    @property
    def name(self) -> str:
        """``all``, ``0`` ..."""
        return self.folder.name.removeprefix("fold_")

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.csv``: numbers, but for the phase; ``None`` for an empty cell."""
        path = self.folder / METRICS_CSV
        if not path.is_file():
            return []
        return [{key: _cell(key, text) for key, text in row.items()} for row in read_csv(path)]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """``environment.json``."""
        path = self.folder / "environment.json"
        content = read_json(path) if path.is_file() else {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def logs(self) -> list[list[str]]:
        """Lines of each log file; a training that was continued has several."""
        paths = sorted(self.folder.glob("training_log_*.txt"))
        return [path.read_text(encoding="utf-8", errors="replace").splitlines() for path in paths]

    @property
    def is_finished(self) -> bool:
        """Whether it has its final checkpoint."""
        return (self.folder / FINAL).is_file()

    def cases(self, role: str) -> list[str]:
        """``labeled``, ``unlabeled`` or ``held_out`` cases."""
        cases = self.facts.get(role, [])
        return [str(case) for case in cases] if isinstance(cases, list) else []

    @property
    def unlabeled(self) -> list[str]:
        """Unlabeled cases that its method learns from."""
        return self.cases("unlabeled") if self.facts.get("uses_unlabeled", True) else []

    @cached_property
    def step(self) -> int:
        """The last step that is known, of the curve or of the checkpoint to go on from."""
        logged = int(self.rows[-1].get("step") or 0) if self.rows else 0
        try:
            state = load_resumable(self.folder)[1].get("gnnunet")
        except GraphnnError:
            return logged
        saved = state.get("step") if isinstance(state, dict) else None
        return max(logged, saved) if isinstance(saved, int) else logged

    @property
    def minutes(self) -> float:
        """Wall time by the stamps of the logs, without the pauses between them."""
        seconds = 0.0
        for lines in self.logs:
            stamps = [datetime.fromisoformat(line[:19]) for line in lines if _STAMP.match(line)]
            if stamps:
                seconds += (stamps[-1] - stamps[0]).total_seconds()
        return seconds / 60


def folds_of(folder: Path) -> list[Fold]:
    """Folds below a model folder, or the fold itself.

    Raises:
        MissingFileError: Nothing was trained there.
    """
    folders = [folder] if _FOLD.fullmatch(folder.name) else sorted(folder.glob("fold_*"))
    folds = [Fold(path) for path in folders if _FOLD.fullmatch(path.name) and path.is_dir()]
    begun = [fold for fold in folds if fold.rows or fold.is_finished or fold.logs]
    if not begun:
        raise MissingFileError(f"{folder} holds no training", "", "Give the folder of a fold")
    return begun


def run_report(source: Path, settings: ReportSettings) -> Report:
    """The report of a fold or of a model with its folds.

    Raises:
        MissingFileError: Nothing was trained there.
    """
    folds = folds_of(source)
    model = folds[0].folder.parent
    plans = _table(model / "plans.json")
    dataset = str(plans.get("dataset_name", ""))
    name = ModelName.parse(model.name)
    validations = [fold.folder / "validation" for fold in folds]
    scores = Scores.read(validations)
    predictions: dict[str, Path] = {}
    for folder in validations:
        predictions |= files_by_case(folder)
    preprocessed = _preprocessed_labels(dataset)
    finder = CaseFinder(dataset, settings, preprocessed)
    dice = scores.dice or dict.fromkeys(predictions, math.nan)
    chosen = ranked({c: d for c, d in dice.items() if c in predictions}, settings.n_cases)
    trainer = name.trainer if name else model.name
    report = Report(
        title=f"{trainer} on {dataset or 'an unknown data set'}",
        lead=_lead(folds, name, dataset, scores),
        findings=[*_of_training(folds), *scores.findings()],
        shown=[finder.paths(case, predictions[case], word) for word, case in chosen],
        classes=_classes(model),
        no_cases=finder.no_cases if predictions else "",
    )
    if scores.rows:
        report.parts += ["<h2>Scores</h2>", *scores.html()]
    report.after = [*_curves(folds), *_settings(model), commands(_commands(folds, name, dataset))]
    return report


def _lead(folds: Sequence[Fold], name: ModelName | None, dataset: str, scores: Scores) -> list[str]:
    first = folds[0]
    labeled = {case for fold in folds for case in (*fold.cases("labeled"), *fold.cases("held_out"))}
    unlabeled = {case for fold in folds for case in fold.unlabeled} - labeled
    trained = f"{name.trainer} ({name.configuration})" if name else "A network"
    counts = f"{len(labeled)} labeled"
    if unlabeled:
        counts += f" and {len(unlabeled)} unlabeled"
    plural = "s" * (len(labeled) + len(unlabeled) != 1)
    what = f"{trained} was trained on {counts} case{plural}"
    if not labeled:
        what = f"{trained} was trained; its cases are not recorded (environment.json)"
    what += f" of {dataset}" if dataset else ""
    what += f", in {len(folds)} folds." if len(folds) > 1 else f", fold {first.name}."
    draw = f"draw {first.facts['draw']} of the labeled cases, " if first.facts.get("draw") else ""
    device = first.facts.get("device", "an unknown device")
    facts = f"It used {draw}seed {first.facts.get('seed', 0)}, on {device}"
    minutes = sum(fold.minutes for fold in folds)
    facts += f", and took {_duration(minutes)}." if minutes else "."
    return [what, facts, _outcome(folds, scores)]


def _outcome(folds: Sequence[Fold], scores: Scores) -> str:
    if not scores.rows:
        return _without_scores(folds)
    held_out = {case for fold in folds for case in fold.cases("held_out")}
    text = f"Mean Dice {shown(scores.mean_dice)} over {cases_of(len(scores.cases))}"
    if set(scores.cases) <= held_out:
        return f"{text} that were held out: an estimate of the quality on new cases."
    return (
        f"{text} that trained the model. This is no estimate of its quality on new cases: train "
        "with fold 0 to 4 or cv, or score predictions of test cases."
    )


def _without_scores(folds: Sequence[Fold]) -> str:
    if not any(fold.is_finished for fold in folds):
        return "No case was scored: the training is not finished."
    if all(fold.name == "all" for fold in folds):
        return (
            "No case was scored, and fold all holds none out: train fold 0 to 4 or cv, or score "
            "predictions of test cases."
        )
    return "No case was scored: gnnunet_train ... --val scores those that it held out."


def _of_training(folds: Sequence[Fold]) -> list[str]:
    """Sentences about trainings that went wrong."""
    sentences = []
    for fold in folds:
        before = f"Fold {fold.name}: " if len(folds) > 1 else ""
        sentences += [f"{before}{text}" for text in _of_fold(fold)]
    return [f"{text[:1].upper()}{text[1:]}" for text in sentences]


def _of_fold(fold: Fold) -> list[str]:
    sentences = []
    if not fold.is_finished:
        sentences.append(
            f"the training is not finished, it is at step {fold.step}: gnnunet_train ... --c goes "
            "on."
        )
    if n_left_out := sum(int(row.get("steps_left_out") or 0) for row in fold.rows):
        sentences.append(
            f"in {n_left_out} steps the loss or its gradients were not finite and they were left "
            "out. Look at the images, or lower optimizer.lr."
        )
    sentences += _of_curves(fold.rows)
    sentences += _of_scan_labels(fold)
    lines = [line for log in fold.logs for line in log if _WARNING.search(line)]
    warnings = [*dict.fromkeys(_STAMP.sub("", line) for line in lines)]
    sentences += [f"the log says: {line[:300]}" for line in warnings[:_MAX_WARNINGS]]
    if len(warnings) > _MAX_WARNINGS:
        sentences.append(f"the log has {len(warnings) - _MAX_WARNINGS} more warnings.")
    return sentences


def _of_scan_labels(fold: Fold) -> list[str]:
    known = last_confidences(fold.folder)
    values = {case: c.expected_dice for case, c in known.items() if c.expected_dice is not None}
    left_out = {case: value for case, value in values.items() if not known[case].used}
    if not left_out:
        return []
    middle = median(values.values())
    return [
        f"{len(left_out)} of {len(known)} unlabeled cases were left out of the last round: the "
        f"network expects a Dice of {min(left_out.values()):.2f} to {max(left_out.values()):.2f} "
        f"of its label maps, {middle:.2f} being the median. Look whether they are unlike the "
        f"labeled ones: {some(left_out)}."
    ]


def _of_curves(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the curves tell; the course of the last phase alone, since each has its own loss."""
    sentences = []
    last = [row for row in rows if row.get("phase") == rows[-1].get("phase")]
    loss = [row["loss"] for row in last if row.get("loss") is not None]
    if len(loss) >= _ENOUGH:
        quarter = len(loss) // 4
        lowest, end = min(loss), sum(loss[-quarter:]) / quarter
        spread = max(loss) - lowest
        if end - lowest > 0.5 * spread > 0:
            sentences.append(
                f"the loss rose again: {lowest:.3g} at its lowest, {end:.3g} in the last quarter."
            )
    dice = [row["val_dice"] for row in last if row.get("val_dice") is not None]
    if len(dice) >= _ENOUGH and max(dice) - dice[-1] > 0.1:
        sentences.append(
            f"the Dice of held-out patches fell from {max(dice):.2f} to {dice[-1]:.2f}: it may be "
            "overfitting."
        )
    pseudo = [row["pseudo_foreground"] for row in last if row.get("pseudo_foreground") is not None]
    if pseudo and (pseudo[-1] < 0.0005 or pseudo[-1] > 0.8):
        sentences.append(
            f"pseudo-labels are {'almost empty' if pseudo[-1] < 0.5 else 'almost all foreground'} "
            f"at the end ({100 * pseudo[-1]:.2g} % foreground): the teacher says nothing useful."
        )
    return sentences


def _curves(folds: Sequence[Fold]) -> list[str]:
    parts = ["<h2>Learning curves</h2>"]
    for fold in folds:
        if len(fold.rows) > 1:
            title = f"Loss and learning rate of fold {fold.name}"
            parts.append(figure_image(progress_figure(fold.rows, f"fold {fold.name}"), title))
        else:
            parts.append(f"<p>Fold {escaped(fold.name)} has no curve yet.</p>")
    return parts


def _settings(model: Path) -> list[str]:
    path = model / "recipe.toml"
    if not path.is_file():
        return []
    text = escaped(path.read_text(encoding="utf-8", errors="replace"))
    return [f"<details><summary>All settings (recipe.toml)</summary><pre>{text}</pre></details>"]


def _commands(folds: Sequence[Fold], name: ModelName | None, dataset: str) -> list[str]:
    """What was typed, and what is typed next: a model predicts where a fold of it is finished."""
    lines = []
    for fold in folds:
        words = [str(word) for word in fold.facts.get("command", [])]
        if words and Path(words[0]).name.startswith("gnnunet_"):
            if not fold.is_finished:
                words = [*(word for word in words if word not in ("--c", "--restart")), "--c"]
            lines.append(shlex.join([Path(words[0]).name, *words[1:]]))
    if not lines and name and dataset:
        lines = [
            _train_command(name, dataset, fold.name, goes_on=not fold.is_finished) for fold in folds
        ]
    if any(fold.is_finished for fold in folds):
        model = shlex.quote(str(folds[0].folder.parent))
        lines.append(f"gnnunet_predict -i IMAGES -o PREDICTIONS -m {model}")
        lines.append("gnnunet_evaluate -p PREDICTIONS -g LABELS")
    return [*dict.fromkeys(lines)]


def _train_command(name: ModelName, dataset: str, fold: str, *, goes_on: bool) -> str:
    words = ["gnnunet_train", dataset, name.configuration, name.trainer, fold]
    if name.n_labeled is not None:
        words += ["--labeled", str(name.n_labeled), "--draw", str(name.draw)]
    words += ["--seed", str(name.seed)]
    if name.development:
        words += ["--development", str(name.development)]
    words += ["--c"] * goes_on
    return shlex.join(words) + ("  # with a recipe of its own, see below" if name.variant else "")


def _classes(model: Path) -> Mapping[str, Any]:
    try:
        return read_labels(model / "dataset.json").classes
    except GraphnnError:
        return {}


def _preprocessed_labels(dataset: str) -> list[Path]:
    from graphnn_unet.data.paths import use_folders

    return [use_folders().preprocessed / dataset / "gt_segmentations"] if dataset else []


def _table(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _cell(key: str, text: str) -> Any:
    if key == "phase":
        return text
    try:
        return float(text)
    except ValueError:
        return None


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
