"""Which scans to label next, beside a random list of the same length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from graphnn_unet.data.paths import resolve_dataset, use_folders
from graphnn_unet.dataset_conversion.raw_set import RawSet, read_raw_set
from graphnn_unet.errors import Fault, FaultsError, InputError
from graphnn_unet.images.flat_picture import is_picture
from graphnn_unet.images.header import read_grid
from graphnn_unet.images.label_ids import id_names
from graphnn_unet.images.orientation import (
    equal_distances,
    most_common,
    orientation_of,
    slice_axis,
    turned,
    turned_axes,
)
from graphnn_unet.images.read import read_label_map, read_volume
from graphnn_unet.models.predict import predict
from graphnn_unet.models.queries import Query, ScanScore, choose_queries, score_scan
from graphnn_unet.prediction.segmentation_files import write_for_editing
from graphnn_unet.prediction.write_case import label_colors
from graphnn_unet.progress import say, track
from graphnn_unet.ranges import MAX_SEED, MAX_WORKERS, require_count
from graphnn_unet.scan_graph.coverage import choose_medoids, n_covered
from graphnn_unet.scan_graph.neighbors import compared
from graphnn_unet.scan_graph.scan import clipped
from graphnn_unet.storage.atomic import write_csv
from graphnn_unet.storage.processes import default_workers, run_jobs
from graphnn_unet.storage.safe_load import read_table

SUGGESTIONS = "suggestions.csv"
PREDICTIONS = "predictions"
COLUMNS = ("list", "rank", "case", "score", "why", "axis", "slices")
_LONGEST = 64
"""Voxels of the longest axis of the images that scans are compared by."""


@dataclass(frozen=True)
class Suggestion:
    """One scan of a list.

    Attributes:
        list: ``suggested`` or ``random``.
        rank: From 1 on.
        case: Case id.
        score: What it was chosen by; empty in the random list.
        why: In words.
        axis: Across which its slices are drawn, ``z``, ``y`` or ``x`` as stored; empty for whole
            scans.
        slices: Numbers of the slices to draw, from 0.
    """

    list: str
    rank: int
    case: str
    score: float | None
    why: str
    axis: str = ""
    slices: tuple[int, ...] = ()


@dataclass(frozen=True)
class SuggestionResult:
    """What ``suggest`` found.

    Attributes:
        dataset: Full name.
        suggestions: The suggested list, then the random one.
        table: The CSV file of both.
        predictions: Folder of predictions to be corrected; ``None`` without a model.
    """

    dataset: str
    suggestions: list[Suggestion]
    table: Path
    predictions: Path | None = None

    def cases(self, name: str = "suggested") -> list[str]:
        """Cases of a list, in order."""
        return [row.case for row in self.suggestions if row.list == name]


def suggest(
    dataset: str | int,
    *,
    count: int,
    model: Path | str | None = None,
    slices: int | None = None,
    output: Path | str | None = None,
    round_number: int | None = None,
    mirroring: bool = True,
    seed: int = 0,
    device: str = "auto",
    n_workers: int | None = None,
) -> SuggestionResult:
    """Say which unlabeled scans to label next, and which a random draw would take.

    Without a model, scans that stand for the others: k-medoids on the graph of scans, which is made
    of correlations of small images without registration; labeled scans count as chosen. With one,
    scans that it is uncertain about, class by class, with noise that decays over the rounds of
    ``add_corrected`` (see ``models.queries``); their predictions are written to be corrected.

    Neither is promised to be better than the random list: measure it.

    Args:
        dataset: Name, id or both; its raw folder is read.
        count: Scans of each list.
        model: Model folder.
        slices: Also name this many slices of each scan, at equal distances across the axis with
            the largest spacing.
        output: Folder for ``suggestions.csv`` and predictions; without it ``NAME_suggestions``, in
            later rounds ``NAME_suggestions_round_2`` ...
        round_number: Of the noise, from 1 on; by the corrections of the data set without it.
        mirroring: The model averages over mirrored copies.
        seed: Of the random list and of the noise.
        device: As ``-device``.
        n_workers: Processes.

    Raises:
        InputError: There are fewer unlabeled scans, or the data set has pictures.
        FaultsError: Scans that cannot be read.
    """
    require_count("count", count, 1)
    require_count("slices", slices, 1)
    require_count("seed", seed, 0, MAX_SEED)
    require_count("round_number", round_number, 1)
    require_count("n_workers", n_workers, 0, MAX_WORKERS)
    name = resolve_dataset(dataset)
    raw = read_raw_set(use_folders().raw / name)
    candidates = _candidates(raw, count)
    target = Path(output) if output is not None else _default_folder(name, raw.round)
    generator = np.random.default_rng([seed, raw.round])
    drawn = [candidates[i] for i in generator.permutation(len(candidates))[:count]]
    predictions = None
    if model is None:
        n_workers = default_workers(len(candidates)) if n_workers is None else n_workers
        chosen = _covering(raw, candidates, count, n_workers)
    else:
        predictions = target / PREDICTIONS
        predict(
            raw.images(candidates[0])[0].parent, predictions, model=model, uncertainty=True,
            continue_prediction=True, mirroring=mirroring, device=device, n_workers=n_workers,
        )  # fmt: skip
        description = read_table(predictions / "dataset.json")
        scores = _scores(description, candidates, predictions)
        chosen = choose_queries(
            scores, count, round_number=round_number or raw.round, generator=generator
        )
        _write_for_editing(description, predictions, [query.case for query in chosen])
    describe = partial(_described, raw, slices)
    rows = [describe("suggested", rank, query) for rank, query in enumerate(chosen, 1)]
    rows += [
        describe("random", rank, Query(case, np.nan, "random draw"))
        for rank, case in enumerate(drawn, 1)
    ]
    write_csv(target / SUGGESTIONS, map(_as_row, rows), COLUMNS)
    return SuggestionResult(name, rows, target / SUGGESTIONS, predictions)


def _default_folder(name: str, round_number: int) -> Path:
    """A folder for each round: predictions of an earlier one are those of another model."""
    suffix = "" if round_number == 1 else f"_round_{round_number}"
    return Path(f"{name.partition('_')[2]}_suggestions{suffix}")


def _candidates(raw: RawSet, count: int) -> list[str]:
    """Unlabeled scans that may be labeled: none of a test patient."""
    if is_picture(raw.ending):
        raise InputError(
            f"no scan of {raw.folder.name} can be suggested",
            "it has pictures, and scans are compared as volumes",
            "Choose among the pictures at random",
        )
    tested = raw.patients("test")
    candidates = [case for case in raw.with_role("unlabeled") if raw.patient(case) not in tested]
    if count > len(candidates):
        raise InputError(
            f"{count} scans cannot be suggested",
            f"{raw.folder.name} has {len(candidates)} unlabeled scans",
            "Ask for fewer with --count",
        )
    return candidates


def _described(raw: RawSet, slices: int | None, name: str, rank: int, query: Query) -> Suggestion:
    score = None if np.isnan(query.score) else query.score
    suggestion = Suggestion(name, rank, query.case, score, query.why)
    if slices is None:
        return suggestion
    image = raw.images(query.case)[0]
    grid = read_grid(image, image.name, form="sform")
    axis = slice_axis(grid.spacing)
    numbers = tuple(equal_distances(grid.shape[axis], slices))
    return Suggestion(name, rank, query.case, score, query.why, "zyx"[axis], numbers)


def _as_row(row: Suggestion) -> dict[str, object]:
    return {
        **asdict(row),
        "score": "" if row.score is None else f"{row.score:.4g}",
        "slices": " ".join(map(str, row.slices)),
    }


# ------------------------------------------------------------------ before a model


@dataclass(frozen=True)
class _ProfileJob:
    case: str
    image: Path
    stored: str
    orientation: str
    shape: tuple[int, ...]


def _covering(raw: RawSet, candidates: list[str], count: int, n_workers: int) -> list[Query]:
    """Scans that, beside the labeled ones, leave no scan of the training far from a chosen one."""
    cases = sorted({*candidates, *raw.with_role("labeled"), *raw.with_role("unlabeled")})
    similarity = _similarity(raw, cases, n_workers)
    number_of = {case: number for number, case in enumerate(cases)}
    labeled = [number_of[case] for case in raw.with_role("labeled")]
    taken = choose_medoids(similarity, [number_of[c] for c in candidates], count, labeled)
    covered = n_covered(similarity, taken, labeled)
    return [
        Query(
            cases[number],
            float(covered[number]),
            f"nearest to {covered[number]} of {len(cases)} scans",
        )
        for number in taken
    ]


def _similarity(raw: RawSet, cases: list[str], n_workers: int) -> np.ndarray:
    """``(N, N)`` correlations of small images in one orientation and size, not registered.

    Raises:
        FaultsError: Scans that cannot be read.
    """
    images = {case: raw.images(case)[0] for case in cases}
    grids = {case: read_grid(path, path.name, form="sform") for case, path in images.items()}
    stored = {case: orientation_of(grid.direction) for case, grid in grids.items()}
    usual = most_common(stored.values())
    extents = [
        np.multiply(
            turned_axes(grid.shape, stored[case], usual),
            turned_axes(grid.spacing, stored[case], usual),
        )
        for case, grid in grids.items()
    ]
    median = np.median(extents, axis=0)
    shape = tuple(int(n) for n in np.maximum(1, np.rint(_LONGEST * median / median.max())))
    jobs = [_ProfileJob(case, images[case], stored[case], usual, shape) for case in cases]
    rows: dict[str, np.ndarray] = {}
    faults: list[Fault] = []
    outcomes = run_jobs(_profile, jobs, n_workers=n_workers)
    for outcome in track(outcomes, len(jobs), "compare scans"):
        if outcome.ok:
            rows[outcome.job.case] = outcome.value
        else:
            remedy = "Fix or remove the scan"
            faults.append(Fault(outcome.job.case, "suggest", outcome.error, remedy))
    if faults:
        raise FaultsError(faults)
    profiles = np.stack([rows[case] for case in cases])
    return np.clip(profiles @ profiles.T, -1, 1)


def _profile(job: _ProfileJob) -> np.ndarray:
    array = read_volume(job.image, job.image.name, form="sform").array
    array = turned(array[None], job.stored, job.orientation)[0].astype(np.float32)
    factors = np.divide(job.shape, array.shape)
    resized = np.asarray(ndimage.zoom(array, factors, order=1, grid_mode=True, mode="nearest"))
    row = compared(clipped(resized))
    if row is None:
        raise InputError("all voxels of its image are equal", "", "Remove the scan")
    return row


# ------------------------------------------------------------------ after one


def _scores(
    description: Mapping[str, Any], candidates: Sequence[str], folder: Path
) -> dict[str, ScanScore]:
    """How uncertain the model is about each scan, from its predictions."""
    classes, ending = id_names(description), description["file_ending"]
    scores: dict[str, ScanScore] = {}
    for case in track(iter(candidates), len(candidates), "score scans"):
        labels = read_label_map(folder / f"{case}{ending}").array
        path = folder / f"{case}_uncertainty{ending}"
        entropy = read_volume(path, path.name, form="sform").array
        scores[case] = score_scan(labels, entropy, classes)
    return scores


def _write_for_editing(description: Mapping[str, Any], folder: Path, cases: Sequence[str]) -> None:
    colors = label_colors(description)
    write_for_editing(folder, cases, description["file_ending"], description, colors)
    say(f"predictions of the suggested scans, to be corrected: {folder}")
