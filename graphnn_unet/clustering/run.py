"""Cluster a folder of images: one bad image costs no other, a killed run goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphnn_unet.clustering.as_labels import raw_folder, write_pseudo_labels
from graphnn_unet.clustering.collective import WEIGHTS, shared_weights
from graphnn_unet.clustering.features import FeatureSource
from graphnn_unet.clustering.fit import State
from graphnn_unet.clustering.images import (
    Image,
    Source,
    content_of,
    find_images,
    is_whole,
    read_image,
    write_label_map,
)
from graphnn_unet.clustering.segment import Segmentation, segment_image
from graphnn_unet.clustering.settings import ClusterSettings, PostProcessing, RunSettings
from graphnn_unet.clustering.slices import segment_slices
from graphnn_unet.errors import (
    CasesFailedError,
    Fault,
    FaultsError,
    GraphnnError,
    RefusedError,
)
from graphnn_unet.images.find import VOLUMES
from graphnn_unet.progress import Progress, needs_text
from graphnn_unet.storage.atomic import (
    remove_leftovers,
    require_output_folder,
    write_csv,
    write_json,
)
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.failures import FAILURES, write_failures
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.processes import default_workers, run_jobs
from graphnn_unet.storage.safe_load import read_json

_log = logging.getLogger(__name__)

FACTS, TABLE = "clustering.json", "clusters.csv"
COLUMNS = ("case", "features", "nodes", "clusters", "foreground", "loss", "flags", "seconds")
STAGE = "cluster"
SCHEMA_VERSION = 2
"""1 had cells of unequal width, whose label maps are others."""


@dataclass(frozen=True)
class ClusteringResult:
    """What a run over a folder did.

    Attributes:
        clustered: Cases done in this call.
        kept: Cases whose label maps were there already.
        skipped: Files of the input folder that are no images.
        dataset: Raw folder of the pseudo-labels, where they were asked for.
    """

    output: Path
    clustered: list[str]
    kept: list[str]
    skipped: list[str]
    features: str
    dataset: Path | None = None


@dataclass(frozen=True)
class _ClusterOne:
    """Reads, clusters and writes one image; goes to each worker process once."""

    target: Path
    features: FeatureSource
    settings: ClusterSettings
    finish: PostProcessing
    state: State | None
    by_slice: bool

    def __call__(self, source: Source) -> dict[str, Any]:
        """Its row of ``clusters.csv``."""
        began = time.perf_counter()
        image = read_image(source)
        is_volume = image.array.ndim == 4
        segment = self._segment
        result = segment_slices(image, segment) if is_volume and self.by_slice else segment(image)
        write_label_map(result.labels, image, self.target / source.target_name)
        seconds = round(time.perf_counter() - began, 3)
        row = {"case": source.case, "features": self.features.name, **result.facts}
        return {**row, "seconds": seconds}

    def _segment(self, image: Image) -> Segmentation:
        return segment_image(image, self.features(image), self.settings, self.finish, self.state)


def cluster_folder(
    source: Path,
    target: Path,
    features: FeatureSource,
    settings: ClusterSettings,
    finish: PostProcessing,
    run_settings: RunSettings,
) -> ClusteringResult:
    """Write a label map for every image of a folder.

    Label maps that are there, whole, and of the same image and settings are kept. All others are
    removed before the new settings are written: whenever a run is stopped, the label maps that are
    there are those of ``clustering.json``. Errors are those of :func:`graphnn_unet.cluster`.
    """
    overwrite, by_slice = run_settings.overwrite, run_settings.by_slice
    name = run_settings.as_labels
    raw = None if name is None else raw_folder(name, overwrite=overwrite)
    sources, faults, skipped = find_images(source, run_settings.channels)
    require_output_folder(source, target)
    facts = run_facts(features, settings, finish, by_slice=by_slice)
    with folder_lock(target, "gnnunet_cluster"):
        remove_leftovers(target)
        before = _earlier_facts(target, overwrite=overwrite)
        _require_same(target, sources, before, facts, overwrite=overwrite)
        known: dict[str, Any] = {} if overwrite else before.get("images", {})
        contents = {s.case: content_of(s) for s in sources}
        kept = [
            s
            for s in sources
            if (content := contents[s.case]) is not None
            and content == known.get(s.case)
            and is_whole(target / s.target_name, s)
        ]
        todo = [s for s in sources if s not in kept]
        _make_room(target, todo, is_ours=bool(before), overwrite=overwrite)
        write_json(target / FACTS, {**facts, "images": {**known, **contents}})
        rows = _rows_of(target / TABLE, kept)
        state = shared_weights(sources, features, settings, target) if todo else None
        cluster_one = _ClusterOne(target, features, settings, finish, state, by_slice)
        done, failed = _run_all(cluster_one, todo, rows, run_settings.n_workers)
        faults += failed
        write_failures(target / FAILURES, faults)
        if raw is not None and (done or kept):
            ready = [s for s in sources if s.case in rows]
            write_pseudo_labels(ready, target, raw, source, overwrite=overwrite)
    if faults:
        raise (CasesFailedError if done or kept else FaultsError)(faults)
    return ClusteringResult(target, done, [s.case for s in kept], skipped, features.name, raw)


def run_facts(
    features: FeatureSource, settings: ClusterSettings, finish: PostProcessing, *, by_slice: bool
) -> dict[str, Any]:
    """Everything that decides about the label maps of a folder.

    ``transductive``: label maps depend on the other images of the folder.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "transductive": bool(settings.shared_steps),
        "by_slice": by_slice,
        "features": {"source": features.name, **features.facts},
        "settings": settings.model_dump(),
        "finish": finish.model_dump(),
    }


def _run_all(
    cluster_one: _ClusterOne, todo: list[Source], rows: dict[str, dict], n_workers: int | None
) -> tuple[list[str], list[Fault]]:
    """Cluster images; the table is written anew after each, so a kill loses none of it."""
    if n_workers is None:
        n_workers = default_workers(len(todo), 1.0) if len(todo) > 4 else 0
    done: list[str] = []
    faults: list[Fault] = []
    n_kept = len(rows)
    are_pictures = all(source.ending == ".png" for source in todo)
    threads = one_thread() if n_workers == 0 and are_pictures else nullcontext()
    n_all = len(todo) + n_kept
    with threads, Progress(n_all, "cluster", "image", n_kept, needs=needs_text) as progress:
        for outcome in run_jobs(cluster_one, todo, n_workers=n_workers):
            case = outcome.job.case
            if outcome.ok:
                rows[case] = outcome.value
                done.append(case)
                _write_table(cluster_one.target / TABLE, rows)
            else:
                _log.debug("%s: %s", case, outcome.details)
                cause = outcome.error.rstrip(".")
                if not outcome.expected:
                    cause = f"an unexpected error: {cause}"
                faults.append(Fault(case, STAGE, cause, "Fix the image or leave it out"))
            progress.update(case)
    return sorted(done), faults


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: several of them wait for each other on graphs of a picture's size.

    Beside other work on the same cores a fit on two threads takes many times as long as on one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _earlier_facts(target: Path, *, overwrite: bool) -> dict[str, Any]:
    """What an earlier run wrote of itself; nothing where there was none."""
    if not (target / FACTS).is_file():
        return {}
    try:
        facts = read_json(target / FACTS)
    except GraphnnError:
        if not overwrite:
            raise
        facts = None
    if not isinstance(facts, dict) or not isinstance(facts.get("images", {}), dict):
        return {"schema_version": None}
    return facts


def _require_same(
    target: Path,
    sources: list[Source],
    before: dict[str, Any],
    facts: dict[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Refuse to mix label maps of different settings in one folder, and to replace other files.

    A setting that an older version did not have is taken to be what it was then: the default.
    """
    if overwrite:
        return
    if not before:
        others = [s.target_name for s in sources if (target / s.target_name).exists()]
        if others:
            raise RefusedError(
                f"{target} holds files with the names of label maps",
                f"for example {others[0]}, and no {FACTS} says that they are some",
                "Give another folder with -o, or --overwrite to replace them",
            )
        return
    changed = [
        f"{part}.{key} {old[key]} there, {value} here"
        for part in ("features", "settings", "finish")
        if isinstance(old := before.get(part), dict)
        for key, value in facts[part].items()
        if key in old and old[key] != value
    ]
    if not changed and all(before.get(key) == facts[key] for key in ("schema_version", "by_slice")):
        return
    if before.get("schema_version") != facts["schema_version"]:
        changed = ["another version of the program made them"]
    raise RefusedError(
        f"{target} holds label maps that were made in another way",
        "; ".join(changed[:4]) or "volumes slice by slice, or not",
        "Give another folder with -o, or --overwrite to make all of them anew",
    )


def _make_room(target: Path, todo: list[Source], *, is_ours: bool, overwrite: bool) -> None:
    """Remove label maps that are made anew.

    With ``overwrite`` those of other endings, too, where the folder is one of this command, and the
    table and the shared weights; without it a map of another ending is one that a user made.
    """
    for source in todo:
        endings = (".png", *VOLUMES) if is_ours and overwrite else ()
        for name in (source.target_name, *(f"{source.case}{ending}" for ending in endings)):
            (target / name).unlink(missing_ok=True)
    if overwrite:
        for name in (TABLE, WEIGHTS):
            (target / name).unlink(missing_ok=True)


def _rows_of(path: Path, kept: list[Source]) -> dict[str, dict]:
    """Rows of the table by case; only those of label maps that are kept stay in the file."""
    known = {row.get("case"): row for row in read_csv(path)} if path.is_file() else {}
    rows = {s.case: known.get(s.case, {"case": s.case, "flags": "kept"}) for s in kept}
    if known:
        _write_table(path, rows)
    return rows


def _write_table(path: Path, rows: dict[str, dict]) -> None:
    ordered = sorted(rows.values(), key=lambda row: row["case"])
    write_csv(path, [{c: row.get(c, "") for c in COLUMNS} for row in ordered], COLUMNS)
