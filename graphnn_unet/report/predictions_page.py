"""The report of a folder of label maps that a model wrote, scored or not."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphnn_unet.errors import GraphnnError
from graphnn_unet.images.find import some
from graphnn_unet.metrics.labels import find_dataset_json, read_labels
from graphnn_unet.metrics.protocols import LabelIds, mask_of
from graphnn_unet.progress import track
from graphnn_unet.report.contents import CaseFinder, Report, ReportSettings, ranked
from graphnn_unet.report.outliers import median_factor, size_words
from graphnn_unet.report.page import commands
from graphnn_unet.report.scores import Scores, cases_of, plain_case_table, shown
from graphnn_unet.report.shown_cases import files_by_case, uncertainty_of, user_labels
from graphnn_unet.storage.safe_load import read_json


def predictions_report(folder: Path, settings: ReportSettings) -> Report:
    """The report of a folder of predictions.

    Args:
        folder: Label maps; ``metrics.csv``, ``prediction.json`` and ``dataset.json`` where it has
            them.
        settings: Of the report.
    """
    maps = files_by_case(folder)
    facts = _facts(folder)
    dataset = str(facts.get("dataset") or _facts(folder, "plans.json").get("dataset_name", ""))
    scores = Scores.read([folder])
    classes = _classes(folder, settings)
    volumes, notes = _volumes(maps, classes)
    finder = CaseFinder(dataset, settings)
    dice = {case: value for case, value in scores.dice.items() if case in maps}
    chosen = ranked(dice, settings.n_cases) or _odd_first(maps, notes, settings.n_cases)
    report = Report(
        title=f"Predictions of {dataset}" if dataset else f"Predictions in {folder.name}",
        lead=_lead(maps, facts, scores),
        findings=[*scores.findings(), *_empty(notes)],
        shown=[finder.paths(case, maps[case], word) for case_word in chosen
               for word, case in [case_word]],
        classes=classes,
        no_cases=finder.no_cases,
    )  # fmt: skip
    if scores.rows:
        report.parts += ["<h2>Scores</h2>", *scores.html(notes)]
    else:
        table = plain_case_table(list(maps), notes, volumes)
        report.parts += ["<h2>Cases</h2>", table]
    report.after = [commands(_commands(folder, settings, scores))]
    return report


def _lead(maps: Mapping[str, Path], facts: Mapping[str, Any], scores: Scores) -> list[str]:
    by = f" by {facts['trainer']} ({facts['configuration']})" if "trainer" in facts else ""
    first = f"{cases_of(len(maps))} {'were' if len(maps) != 1 else 'was'} predicted{by}."
    if "folds" in facts:
        folds = ", ".join(map(str, facts["folds"]))
        mirrored = "with" if facts.get("mirroring") else "without"
        n = len(facts["folds"])
        first += f" Fold{'s' * (n != 1)} {folds}, {mirrored} mirrored copies."
    if scores.rows:
        protocol = scores.rows[0].get("protocol", "honest")
        second = (
            f"Mean Dice {shown(scores.mean_dice)} over {cases_of(len(scores.cases))} "
            f"({protocol} protocol)."
        )
    else:
        second = "They are not scored: gnnunet_evaluate does it where there are label maps."
    third = "No uncertainty was saved (gnnunet_predict --uncertainty saves it)."
    saved = sum(uncertainty_of(path) is not None for path in maps.values())
    return [first, second, *([third] if not saved else [])]


def _facts(folder: Path, name: str = "prediction.json") -> dict[str, Any]:
    path = folder / name
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _classes(folder: Path, settings: ReportSettings) -> Mapping[str, LabelIds]:
    path = find_dataset_json(folder, settings.labels or folder)
    try:
        return read_labels(path).classes if path else {}
    except GraphnnError:
        return {}


def _volumes(
    maps: Mapping[str, Path], classes: Mapping[str, LabelIds]
) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Columns of volumes, and remarks on empty label maps and odd volumes."""
    sizes: dict[str, dict[str, float]] = {}
    notes: dict[str, list[str]] = {}
    unit = "ml"
    for case, path in track(maps.items(), len(maps), "read"):
        try:
            volume = user_labels(path)
        except GraphnnError as error:
            notes[case] = [error.lines[0]]
            continue
        if volume.array.ndim == 2:
            unit = "pixels"
        scale = 1.0 if volume.array.ndim == 2 else math.prod(volume.spacing) / 1000
        table = classes or {f"label {n}": int(n) for n in np.unique(volume.array) if n}
        sizes[case] = {
            name: scale * int(np.count_nonzero(mask_of(volume.array, ids)))
            for name, ids in table.items()
        }
        if not volume.array.any():
            notes[case] = ["nothing was found"]
    names = [*dict.fromkeys(name for of_case in sizes.values() for name in of_case)]
    columns: dict[str, dict[str, str]] = {}
    for name in names:
        of_class = {case: size[name] for case, size in sizes.items() if name in size}
        for case, factor in median_factor(of_class).items():
            notes.setdefault(case, []).append(size_words(name, factor))
        digits = 0 if unit == "pixels" else 2
        columns[f"{name} {unit}"] = {case: shown(v, digits) for case, v in of_class.items()}
    return columns, notes


def _empty(notes: Mapping[str, list[str]]) -> list[str]:
    sentences = []
    words = {"nothing was found": "Nothing at all was found in"}
    for note, sentence in words.items():
        if hits := [case for case, of_case in notes.items() if note in of_case]:
            sentences.append(f"{sentence} {cases_of(len(hits))}: {some(hits)}.")
    odd = [case for case, of_case in notes.items() if any("median" in note for note in of_case)]
    if odd:
        sentences.append(
            f"Volumes are ten times as large, or a tenth, of the median in {cases_of(len(odd))}: "
            f"{some(odd)}."
        )
    return sentences


def _odd_first(
    maps: Mapping[str, Path], notes: Mapping[str, list[str]], n: int
) -> list[tuple[str, str]]:
    odd = [case for case in maps if notes.get(case)]
    rest = [case for case in maps if not notes.get(case)]
    return [*(("odd", case) for case in odd), *(("", case) for case in rest)][:n]


def _commands(folder: Path, settings: ReportSettings, scores: Scores) -> list[str]:
    where = shlex.quote(str(folder))
    labels = shlex.quote(str(settings.labels)) if settings.labels else "LABELS"
    lines = [] if scores.rows else [f"gnnunet_evaluate -p {where} -g {labels}"]
    return [*lines, f"gnnunet_report {where} -o report.html"]
