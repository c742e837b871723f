"""Score a folder of predictions against a folder of label maps."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import (
    CasesFailedError,
    Fault,
    FaultsError,
    GraphnnError,
    InputError,
    RefusedError,
)
from graphnn_unet.images.as_predicted import RECORD
from graphnn_unet.images.find import PICTURES, VOLUMES, ImageFiles, image_files, safe_id, some
from graphnn_unet.images.grid import grid_mismatch
from graphnn_unet.images.label_ids import described_ids, with_ids
from graphnn_unet.images.read import read_label_map
from graphnn_unet.images.volume import Volume, with_axes_of
from graphnn_unet.metrics.aggregate import summarize
from graphnn_unet.metrics.distance import NSD_TOLERANCE_MM
from graphnn_unet.metrics.earlier import require_no_other_evaluation
from graphnn_unet.metrics.labels import (
    MAX_FOUND_CLASSES,
    LabelTable,
    find_dataset_json,
    read_labels,
    table_of_ids,
)
from graphnn_unet.metrics.protocols import (
    CaseScore,
    Protocol,
    absent_score,
    check_protocol,
    score_case,
)
from graphnn_unet.metrics.result import (
    STAGE,
    SUMMARY_JSON,
    CaseFiles,
    EvaluationResult,
    write_result,
)
from graphnn_unet.progress import Progress, say
from graphnn_unet.ranges import MAX_WORKERS, require_count, require_number
from graphnn_unet.storage.failures import FAILURES
from graphnn_unet.storage.processes import Outcome, default_workers, run_jobs

_log = logging.getLogger(__name__)

SMALL_BYTES = 4 * 2**20
"""Label maps of less than this together are scored before worker processes would have started."""

_MAX_NAMES = 5
CLUSTERED = "clustering.json"
"""What ``gnnunet_cluster`` leaves in a folder of its label maps."""
_LOSSLESS = tuple(ending for ending in PICTURES if ending not in (".jpg", ".jpeg"))
"""Endings of pictures that can be label maps."""


class PartlyEvaluatedError(CasesFailedError):
    """Some cases could not be scored; ``result`` holds the figures of the others."""

    def __init__(self, faults: Sequence[Fault], result: EvaluationResult):
        self.result = result
        super().__init__(faults, report=result.metrics_csv.with_name(FAILURES))


def evaluate(
    predictions: Path | str,
    labels: Path | str,
    output: Path | str | None = None,
    protocol: str = "honest",
    *,
    dataset_json: Path | str | None = None,
    cases: Iterable[str] | None = None,
    is_estimate: bool | None = None,
    n_workers: int | None = None,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    overwrite: bool = False,
) -> EvaluationResult:
    """Score predicted label maps and write ``metrics.csv`` and ``summary.json``.

    Files are matched by case id, the name without its ending (``.nii.gz``, ``.nii``, ``.mha``,
    ``.nrrd``, or a picture other than JPEG; the two folders may differ in it). Every label map
    needs a prediction; predictions without a label map are named and left alone.

    Args:
        predictions: Folder of predicted label maps.
        labels: Folder of reference label maps (ground truth).
        output: Folder for the results; the predictions' folder without it.
        protocol: ``honest`` (mm; missed and invented structures cost the image's diagonal) or
            ``published`` (as the programs behind published tables; voxels).
        dataset_json: Names the classes, regions and the ignore label. Without it, the one in the
            predictions' folder is taken, or the nearest to the labels or the predictions, up to
            two folders above; without any, each id found is a class.
        cases: Score these case ids alone; all label maps without it.
        is_estimate: Whether the figures estimate the quality on new cases. Without it: ``False``
            for the validation of ``fold_all``, ``True`` for that of a numbered fold and for
            ``labelsTs``, else ``None`` (not known).
        n_workers: Processes; 0 does all in this one, default by cores, memory and size.
        nsd_tolerance_mm: Tolerance of the surface Dice, 0 or more.
        overwrite: Take the place of another evaluation.

    Returns:
        Records, means, intervals and the paths written.

    Raises:
        FaultsError: No case could be scored; nothing was written.
        PartlyEvaluatedError: Some cases could not be scored; ``failures.csv`` names them, and
            ``error.result`` holds the figures of the others.
        RefusedError: Both folders are the same or swapped, the predictions are clusters, or the
            results would take the place of those of other folders, another protocol, tolerance or
            way.
        InputError: The protocol, the tolerance or ``dataset.json`` cannot be used.
    """
    protocol = check_protocol(protocol)
    require_number("nsd_tolerance_mm", nsd_tolerance_mm)
    require_count("n_workers", n_workers, 0, MAX_WORKERS)
    predictions, labels = Path(predictions), Path(labels)
    target = predictions if output is None else Path(output)
    _check_folders(predictions, labels, target)
    _require_named_classes(predictions)
    options = {"protocol": protocol, "nsd_tolerance_mm": nsd_tolerance_mm}
    require_no_other_evaluation(target, predictions, labels, options, overwrite)
    source = Path(dataset_json) if dataset_json else find_dataset_json(predictions, labels)
    table = read_labels(source) if source else None
    files, faults = _match_cases(predictions, labels, None if cases is None else [*cases])
    settings = _Settings(
        table, protocol, nsd_tolerance_mm, described_ids(predictions), described_ids(labels)
    )
    scored, scoring_faults = _score_all(files, settings, n_workers)
    faults += scoring_faults
    if not scored:
        raise FaultsError(faults)
    if table is None:
        table = _found_table(scored, labels)
        scored = [_with_all_classes(case, table, protocol) for case in scored]
    is_estimate, reason = _estimate(predictions, labels, is_estimate)
    scores = tuple(score for case in scored for score in case.scores)
    summary = summarize(scores)
    result = EvaluationResult(
        protocol=protocol,
        nsd_tolerance_mm=nsd_tolerance_mm,
        scores=scores,
        classes=summary.classes,
        mean=summary.mean,
        n_cases=len(scored),
        faults=tuple(faults),
        is_estimate=is_estimate,
        metrics_csv=target / "metrics.csv",
        summary_json=target / SUMMARY_JSON,
    )
    folders = {"predictions": predictions.absolute(), "labels": labels.absolute()}
    write_result(result, [case.files for case in scored], table, folders, reason)
    if faults:
        raise PartlyEvaluatedError(faults, result)
    return result


@dataclass(frozen=True)
class _Settings:
    """What all cases have in common; the ids are those inside to those of the user's files."""

    table: LabelTable | None
    protocol: Protocol
    nsd_tolerance_mm: float
    predicted_ids: dict[int, int]
    true_ids: dict[int, int]


@dataclass(frozen=True)
class _Scored:
    """What a worker returns for a case; ``faults`` stand for a case that cannot be scored."""

    files: CaseFiles
    scores: tuple[CaseScore, ...] = ()
    n_voxels: int = 0
    faults: tuple[Fault, ...] = ()


def _check_folders(predictions: Path, labels: Path, target: Path) -> None:
    faults: list[Fault] = []
    kinds = f"{', '.join(VOLUMES)}, or pictures"
    for folder, content in ((predictions, "predicted label maps"), (labels, "true label maps")):
        if not folder.is_dir():
            faults.append(_fault(str(folder), "the folder is missing", f"Give one with {content}"))
        elif not _label_maps(folder).paths:
            cause = f"the folder holds no label maps ({kinds})"
            faults.append(_fault(str(folder), cause, f"Give one with {content}"))
    if faults:
        raise FaultsError(faults)
    require_two_folders(predictions, labels)
    require_not_swapped(predictions, labels)
    existing = target.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"{target} cannot take the results",
            f"{existing} is {'not writable' if existing.is_dir() else 'no folder'}",
            "Give another folder with -o",
        )


def require_two_folders(predictions: Path, labels: Path) -> None:
    """Raise ``RefusedError`` for one folder that is given for predictions and labels."""
    if predictions.resolve() == labels.resolve():
        raise RefusedError(
            f"{predictions} is given for predictions and for labels",
            "every figure would be perfect",
            "Give two folders",
        )


def require_not_swapped(predictions: Path, labels: Path) -> None:
    """Raise ``RefusedError`` where the folder of labels was written by this program's models.

    Where both were, one model is compared with another.
    """
    records = (RECORD, CLUSTERED)
    written = next((name for name in records if (labels / name).is_file()), None)
    if written and not any((predictions / name).is_file() for name in records):
        raise RefusedError(
            "-p and -g are swapped",
            f"{labels}, given as labels, holds predictions ({written}), and {predictions} none",
            f"Give -p {labels} -g {predictions}",
        )


def _require_named_classes(predictions: Path) -> None:
    if (predictions / CLUSTERED).is_file():
        raise RefusedError(
            f"{predictions} holds clusters of gnnunet_cluster",
            "they have no names, and their ids are not those of the classes",
            "Score them with --unsupervised",
        )


def _match_cases(
    predictions: Path, labels: Path, cases: list[str] | None
) -> tuple[list[CaseFiles], list[Fault]]:
    """Pairs of files in the order of the case ids, and a fault for each case without a pair."""
    predicted, faults = _by_case(predictions)
    true, true_faults = _by_case(labels)
    faults += true_faults
    doubtful = {fault.case for fault in faults}
    under_case_ids(predicted, true)
    # a prediction carries the user's name, a converted label map the case id made from it
    name_of = {safe_id(name): name for name in predicted.keys() - true.keys()}
    for case in true.keys() - predicted.keys():
        if name := name_of.pop(safe_id(case), None):
            predicted[case] = predicted.pop(name)
    wanted = sorted(true) if cases is None else list(dict.fromkeys(cases))
    faults = [fault for fault in faults if cases is None or fault.case in wanted]
    files: list[CaseFiles] = []
    missing: list[Fault] = []
    for case in wanted:
        if case in doubtful:
            continue
        if case in predicted and case in true:
            files.append(CaseFiles(case, predicted[case], true[case]))
            continue
        role, folder = ("label map", labels) if case not in true else ("prediction", predictions)
        remedy = "Predict it, or take its label map away" if case in true else "Check the case id"
        missing.append(_fault(case, f"there is no {role} in {folder}", remedy))
    if not files and missing and cases is None:
        cause = f"no prediction has the name of a label map in {labels}"
        names = f"{some(sorted(predicted))} against {some(sorted(true))}"
        faults.append(_fault(str(predictions), f"{cause}: {names}", "Name both after the case id"))
        return files, faults
    if cases is None and (spare := sorted(predicted.keys() - true.keys() - doubtful)):
        say(f"{len(spare)} predictions have no label map and are not scored: {some(spare)}")
    return files, faults + missing


def under_case_ids(predicted: dict[str, Path], true: Mapping[str, Path]) -> None:
    """Rename predictions that carry the name of an image's first channel, ``CASE_0000``."""
    for case in true.keys() - predicted.keys():
        if (channel := f"{case}_0000") in predicted and channel not in true:
            predicted[case] = predicted.pop(channel)


def _by_case(folder: Path) -> tuple[dict[str, Path], list[Fault]]:
    files = _label_maps(folder)
    files.say_left_out()
    return files.by_case(STAGE)


def _label_maps(folder: Path) -> ImageFiles:
    """Volumes; where there are none, pictures: beside volumes these are plots."""
    volumes = image_files(folder, VOLUMES)
    return volumes if volumes.paths else image_files(folder, _LOSSLESS)


def _score_all(
    files: Sequence[CaseFiles], settings: _Settings, n_workers: int | None
) -> tuple[list[_Scored], list[Fault]]:
    """Scored cases and faults, both in the order of ``files``."""
    if n_workers is None:
        n_bytes = sum(
            path.stat().st_size for pair in files for path in (pair.prediction, pair.reference)
        )
        n_workers = default_workers(len(files)) if n_bytes > SMALL_BYTES else 0
    score = partial(_score_pair, settings=settings)
    outcomes: dict[str, Outcome] = {}
    with Progress(len(files), "evaluate") as progress:
        for outcome in run_jobs(score, files, n_workers=n_workers):
            outcomes[outcome.job.case] = outcome
            progress.update(outcome.job.case)
    scored: list[_Scored] = []
    faults: list[Fault] = []
    for pair in files:
        outcome = outcomes[pair.case]
        if not outcome.ok:
            _log.debug("%s: %s", pair.case, outcome.details)
            faults.append(_fault(pair.case, outcome.error.rstrip("."), ""))
        elif outcome.value.faults:
            faults.extend(outcome.value.faults)
        else:
            scored.append(outcome.value)
    return scored, faults


def _score_pair(files: CaseFiles, settings: _Settings) -> _Scored:
    """Read, check and score one case; runs in a worker."""
    maps: list[Volume] = []
    faults: list[Fault] = []
    for path, ids, may_ignore in (
        (files.prediction, settings.predicted_ids, False),
        (files.reference, settings.true_ids, True),
    ):
        try:
            label_map = read_label_map(path)
            maps.append(replace(label_map, array=with_ids(label_map.array, ids)))
        except GraphnnError as error:
            cause = f"{error.what}: {error.why}" if error.why else error.what
            faults.append(_fault(files.case, cause, error.remedy))
            continue
        faults.extend(_value_faults(files.case, path, maps[-1].array, settings.table, may_ignore))
    if len(maps) == 2:
        maps[0], cause = _along_axes_of(maps[0], maps[1])
        remedy = "Predict on the image this label belongs to, or resample one of the two"
        faults.extend([_fault(files.case, cause, remedy)] if cause else [])
    if faults:
        return _Scored(files, faults=tuple(faults))
    prediction, reference = (label_map.array for label_map in maps)
    table = settings.table or table_of_ids({*_values(prediction), *_values(reference)})
    scores = score_case(
        prediction,
        reference,
        maps[1].spacing,
        table.classes,
        settings.protocol,
        case=files.case,
        ignore_label=table.ignore,
        nsd_tolerance_mm=settings.nsd_tolerance_mm,
    )
    if files.reference.name.lower().endswith(PICTURES):
        scores = [replace(score, is_picture=True) for score in scores]
    return _Scored(files, tuple(scores), reference.size)


def _along_axes_of(prediction: Volume, reference: Volume) -> tuple[Volume, str]:
    """The prediction on the grid of the reference, or what keeps it from there.

    The same voxels at the same places may be stored along other axes.
    """
    names = "the prediction", "the label map"
    cause = grid_mismatch(names[0], prediction.grid, names[1], reference.grid)
    if cause and prediction.array.ndim == reference.array.ndim == 3:
        turned = with_axes_of(prediction, reference.direction)
        if turned and not grid_mismatch(names[0], turned.grid, names[1], reference.grid):
            return turned, ""
    return prediction, cause


def _value_faults(
    case: str, path: Path, array: NDArray[Any], table: LabelTable | None, may_ignore: bool
) -> list[Fault]:
    """A fault where a map holds values that no class has."""
    values = _values(array)
    if table is None:
        if len(values) <= MAX_FOUND_CLASSES + 1:
            return []
        cause = f"{path} holds {len(values)} different values and looks like an image"
        return [
            _fault(case, cause, "Give label maps, or the dataset.json that names their classes")
        ]
    known = table.known_ids
    if not may_ignore and table.ignore is not None:
        known -= {table.ignore}
    if not (unknown := [value for value in values if value not in known]):
        return []
    what = f"value{'s' * (len(unknown) > 1)} {', '.join(map(str, unknown[:_MAX_NAMES]))}"
    count = int(np.count_nonzero(np.isin(array, unknown)))
    cause = f"{path} holds {what} ({count} voxels), which {table.source} does not name"
    return [_fault(case, cause, "Give the dataset.json of these label maps, or fix the map")]


def _values(array: NDArray[Any]) -> list[int]:
    """All values of a label map, ascending."""
    if array.dtype == np.uint8:  # counting is many times faster than sorting
        return np.flatnonzero(np.bincount(array.ravel(), minlength=1)).tolist()
    return np.unique(array).tolist()


def _found_table(scored: Sequence[_Scored], labels: Path) -> LabelTable:
    table = table_of_ids({int(score.class_name) for case in scored for score in case.scores})
    if not table.classes:
        raise InputError(
            f"{labels} holds nothing to score",
            "no label map and no prediction has any foreground",
            "Give the dataset.json that names the classes",
        )
    return table


def _with_all_classes(scored: _Scored, table: LabelTable, protocol: Protocol) -> _Scored:
    """Add the classes that other cases have and this one has in neither map."""
    is_picture = scored.files.reference.name.lower().endswith(PICTURES)
    by_class: Mapping[str, CaseScore] = {score.class_name: score for score in scored.scores}
    scores = (
        by_class.get(name)
        or replace(
            absent_score(scored.files.case, name, scored.n_voxels, protocol), is_picture=is_picture
        )
        for name in table.classes
    )
    return replace(scored, scores=tuple(scores))


def _estimate(predictions: Path, labels: Path, stated: bool | None) -> tuple[bool | None, str]:
    """Whether the figures estimate the quality on new cases, and how that is known."""
    if stated is not None:
        return stated, "stated by the caller"
    folder = predictions.absolute()
    fold = folder.parent.name if folder.name.startswith("validation") else ""
    if fold == "fold_all":
        return False, "fold_all trains on all labeled cases and validates on the same ones"
    if fold.startswith("fold_") and fold[5:].isdigit():
        return True, "the cases of a fold's validation do not train it"
    if labels.absolute().name == "labelsTs":
        return True, "test cases never train"
    return None, "it is not known whether these cases trained the model"


def _fault(case: str, cause: str, remedy: str) -> Fault:
    return Fault(case, STAGE, cause, remedy)
