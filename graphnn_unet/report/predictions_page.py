"""The report of a folder of label maps that a model wrote, scored or not."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from graphnn_unet.errors import BadFileError, GraphnnError, InputError, MissingFileError
from graphnn_unet.images.as_predicted import RECORD
from graphnn_unet.images.find import safe_id, some
from graphnn_unet.images.gray_values import are_gray_values
from graphnn_unet.images.read import read_label_map
from graphnn_unet.metrics.labels import find_dataset_json, read_labels
from graphnn_unet.metrics.protocols import LabelIds, mask_of
from graphnn_unet.metrics.result import changed_since_scored
from graphnn_unet.prediction.label_tables import VOLUMES_CSV
from graphnn_unet.progress import track
from graphnn_unet.report.contents import CaseFinder, Report, ReportSettings, ranked
from graphnn_unet.report.outliers import median_factor, size_words
from graphnn_unet.report.page import commands
from graphnn_unet.report.scores import Scores, cases_of, plain_case_table, shown
from graphnn_unet.report.shown_cases import files_by_case, uncertainty_of, user_labels
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.safe_load import read_json

_N_LOOKED_AT = 3
"""So many files tell whether a folder that nothing describes holds label maps."""
_NOTHING = "nothing was found"


@dataclass
class _Sizes:
    """Case to the size of each class, and remarks on cases that have none.

    Attributes:
        of_cases: Case to class to its size.
        notes: Case to remarks.
        unit: ``ml``, or ``pixels``.
    """

    of_cases: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    unit: str = "ml"


def predictions_report(folder: Path, settings: ReportSettings) -> Report:
    """The report of a folder of predictions.

    Args:
        folder: Label maps; ``metrics.csv``, ``prediction.json`` and ``dataset.json`` where it has
            them.
        settings: Of the report.

    Raises:
        InputError: Nothing describes the folder, and its files look like images.
    """
    maps = files_by_case(folder)
    if not any((folder / name).is_file() for name in (RECORD, "dataset.json")):
        _require_label_maps(folder, maps)
    facts = _facts(folder)
    dataset = str(facts.get("dataset") or _facts(folder, "plans.json").get("dataset_name", ""))
    scores, outdated = _scores(folder)
    classes = _classes(folder, settings)
    sizes = _written_sizes(folder, maps) or _measured_sizes(maps, classes)
    volumes, notes = _volumes(sizes)
    finder = CaseFinder(dataset, settings)
    case_of = {safe_id(name): name for name in maps} | {name: name for name in maps}
    dice = {case_of[case]: value for case, value in scores.dice.items() if case in case_of}
    chosen = ranked(dice, settings.n_cases) or _odd_first(maps, notes, settings.n_cases)
    report = Report(
        title=f"Predictions of {dataset}" if dataset else f"Predictions in {folder.name}",
        lead=_lead(maps, facts, scores),
        findings=[*outdated, *scores.findings(), *_empty(notes)],
        shown=[finder.paths(case, maps[case], word) for case_word in chosen
               for word, case in [case_word]],
        classes=classes,
        no_cases=finder.no_cases,
    )  # fmt: skip
    if scores.rows:
        of_scored = {case: notes.get(case_of.get(case, case), []) for case in scores.all_cases}
        report.parts += ["<h2>Scores</h2>", *scores.html(of_scored)]
    else:
        table = plain_case_table(list(maps), notes, volumes)
        report.parts += ["<h2>Cases</h2>", table]
    report.after = [commands(_commands(folder, settings, scores))]
    return report


def _scores(folder: Path) -> tuple[Scores, list[str]]:
    """The scores beside label maps; where these were replaced since, none, and a sentence."""
    changed = changed_since_scored(folder)
    if not changed:
        return Scores.read([folder]), []
    return Scores([], {}), [
        f"The scores in metrics.csv are of other label maps than those of {cases_of(len(changed))} "
        f"that are there now ({some(changed)}), and are not shown: gnnunet_evaluate scores these."
    ]


def _lead(maps: Mapping[str, Path], facts: Mapping[str, Any], scores: Scores) -> list[str]:
    by = f" by {_model_words(facts)}" if {"trainer", "model"} & facts.keys() else ""
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


def _model_words(facts: Mapping[str, Any]) -> str:
    if "trainer" in facts:
        return f"{facts['trainer']} ({facts['configuration']})"
    return f"the average of {facts['model']}"  # several have no trainer in common


def _facts(folder: Path, name: str = RECORD) -> dict[str, Any]:
    path = folder / name
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _classes(folder: Path, settings: ReportSettings) -> Mapping[str, LabelIds]:
    path = find_dataset_json(folder, settings.labels or folder)
    try:
        return read_labels(path).classes if path else {}
    except GraphnnError:
        return {}


def _require_label_maps(folder: Path, maps: Mapping[str, Path]) -> None:
    """Refuse a folder whose first files all hold what no label map would."""
    causes = [_why_image(path) for path in islice(maps.values(), _N_LOOKED_AT)]
    if causes and all(causes):
        raise InputError(
            f"{folder} holds images, not label maps", causes[0],
            "Give a folder of label maps, as gnnunet_predict writes it, or the name of a data set",
        )  # fmt: skip


def _why_image(path: Path) -> str:
    """Why a file looks like an image; empty for a label map and for what cannot be read."""
    try:
        array = read_label_map(path).array
    except (BadFileError, MissingFileError):
        return ""
    except InputError as error:
        why = error.why
        return f"{path.name} {why[3:]}" if why.startswith("it ") else f"in {path.name} {why}"
    n_values = len(np.unique(array))
    is_image = are_gray_values(array, n_values)
    return f"{path.name} has {n_values} different values" if is_image else ""


def _written_sizes(folder: Path, maps: Mapping[str, Path]) -> _Sizes | None:
    """Those of ``volumes.csv``, where it is of these maps and none has been changed since."""
    path = folder / VOLUMES_CSV
    if not path.is_file():
        return None
    written = path.stat().st_mtime
    if any(label_map.stat().st_mtime > written for label_map in maps.values()):
        return None
    sizes = _Sizes({case: {} for case in maps})
    try:
        rows = read_csv(path)
        column, sizes.unit = ("ml", "ml") if rows[0]["ml"] else ("voxels", "pixels")
        for row in rows:
            sizes.of_cases[row["case"]][row["class"]] = float(row[column])
    except (GraphnnError, LookupError, ValueError):  # it is damaged, or names another case
        return None
    if not all(sizes.of_cases.values()):
        return None
    empty = [case for case, of_case in sizes.of_cases.items() if not any(of_case.values())]
    sizes.notes = {case: [_NOTHING] for case in empty}
    return sizes


def _measured_sizes(maps: Mapping[str, Path], classes: Mapping[str, LabelIds]) -> _Sizes:
    sizes = _Sizes()
    for case, path in track(maps.items(), len(maps), "read"):
        try:
            volume = user_labels(path)
        except GraphnnError as error:
            sizes.notes[case] = [error.lines[0]]
            continue
        if volume.array.ndim == 2:
            sizes.unit = "pixels"
        scale = 1.0 if volume.array.ndim == 2 else math.prod(volume.spacing) / 1000
        table = classes or {f"label {n}": int(n) for n in np.unique(volume.array) if n}
        sizes.of_cases[case] = {
            name: scale * int(np.count_nonzero(mask_of(volume.array, ids)))
            for name, ids in table.items()
        }
        if not volume.array.any():
            sizes.notes[case] = [_NOTHING]
    return sizes


def _volumes(sizes: _Sizes) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Columns of volumes, and remarks on empty label maps and odd volumes."""
    notes = {case: [*of_case] for case, of_case in sizes.notes.items()}
    names = [*dict.fromkeys(name for of_case in sizes.of_cases.values() for name in of_case)]
    columns: dict[str, dict[str, str]] = {}
    for name in names:
        of_class = {case: size[name] for case, size in sizes.of_cases.items() if name in size}
        for case, factor in median_factor(of_class).items():
            notes.setdefault(case, []).append(size_words(name, factor))
        digits = 0 if sizes.unit == "pixels" else 2
        columns[f"{name} {sizes.unit}"] = {case: shown(v, digits) for case, v in of_class.items()}
    return columns, notes


def _empty(notes: Mapping[str, list[str]]) -> list[str]:
    sentences = []
    words = {_NOTHING: "Nothing at all was found in"}
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
    return [*lines, settings.command(folder)]
