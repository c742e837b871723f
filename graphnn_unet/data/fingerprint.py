"""nnU-Net's dataset fingerprint, of labeled and unlabeled scans.

Spacing and size come from all scans, intensities inside the foreground from the labeled ones.
Unlike nnU-Net's extractor it never draws more samples than there are foreground voxels, keeps
finished cases when it is stopped, and notices when a file or the table of classes has changed.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cc3d
import numpy as np

from graphnn_unet.data.check import CaseMetadata
from graphnn_unet.data.check_labels import bounding_box
from graphnn_unet.data.read_case import read_case
from graphnn_unet.errors import Fault, FaultsError, InputError, MissingFileError
from graphnn_unet.progress import track
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.processes import run_jobs
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import FingerprintCase, faults_of, is_table
from graphnn_unet.storage.unpacked import copy_or_file

FINGERPRINT_SCHEMA_VERSION = 1
SAVE_INTERVAL_S = 10.0
"""Finished cases are kept on the disk at least this often."""
SAMPLES_OF_DATASET = 1e7
ONE_COMPONENT_SHARE = 0.95
"""A class counts as one component when in every labeled case at least this share of its voxels
lies in the largest component."""


@dataclass(frozen=True)
class _Job:
    case: str
    images: tuple[str, ...]
    label: str | None
    reader: str
    n_samples: int
    classes: tuple[tuple[int, ...], ...]
    orientation: str
    ignore: int | None
    unpacked: Path | None


def extract_fingerprint(
    target: Path,
    cases: Mapping[str, CaseMetadata],
    dataset_json: Mapping[str, Any],
    classes: Mapping[str, tuple[int, ...]],
    *,
    orientation: str = "",
    unpacked: Path | None = None,
    n_workers: int,
) -> dict[str, Any]:
    """Write and return the fingerprint; cases whose files did not change are not read again.

    Args:
        target: ``dataset_fingerprint.json``.
        cases: Training cases by id, as the check found them (roles ``labeled``, ``unlabeled``).
        dataset_json: nnU-Net's description of the data set.
        classes: Class or region key (as in ``pseudo_label.largest_component``) to label ids.
        orientation: To which scans are turned when they are read; empty reads them as stored.
        unpacked: Folder with unpacked copies of some of the files.
        n_workers: Worker processes, 0 for none.

    Raises:
        FaultsError: Cases that could not be read.
    """
    example = str(next(iter(cases.values())).images[0])
    reader = _reader_name(dataset_json, copy_or_file(example, unpacked))
    ignored = dataset_json["labels"].get("ignore")
    ignore = None if ignored is None else int(ignored)
    settings = {
        "reader": reader,
        "classes": {key: list(ids) for key, ids in classes.items()},
        "orientation": orientation,
        **({"ignore": ignore} if ignore is not None else {}),
    }
    partial = target.with_name(f".{target.stem}.cases.json")
    known = {**_known_cases(target, settings), **_known_cases(partial, settings)}
    per_case = {
        case: known[case]
        for case, metadata in cases.items()
        if case in known and known[case]["sha256"] == metadata.sha256
    }
    n_labeled = sum(metadata.role == "labeled" for metadata in cases.values())
    jobs = [
        _Job(
            case,
            tuple(map(str, metadata.images)),
            str(metadata.label) if metadata.role == "labeled" else None,
            reader,
            int(SAMPLES_OF_DATASET // max(1, n_labeled)),
            tuple(classes.values()),
            orientation,
            ignore,
            unpacked,
        )
        for case, metadata in cases.items()
        if case not in per_case
    ]

    def keep() -> None:
        if jobs and per_case:
            write_json(partial, {"gnnunet": _record(per_case, settings)})

    faults = _analyze_all(jobs, cases, per_case, keep, n_workers)
    if faults:
        raise FaultsError(faults)
    per_case = {case: per_case[case] for case in cases}
    fingerprint = _summarize(per_case, dataset_json)
    fingerprint["gnnunet"] = _record(per_case, settings)
    write_json(target, fingerprint)
    partial.unlink(missing_ok=True)
    return fingerprint


def _analyze_all(
    jobs: list[_Job],
    cases: Mapping[str, CaseMetadata],
    per_case: dict[str, Any],
    keep: Callable[[], None],
    n_workers: int,
) -> list[Fault]:
    """Add the metadata of all jobs to ``per_case``; ``keep`` is called at times and at the end."""
    faults = []
    saved = time.monotonic()
    outcomes = run_jobs(_analyze, jobs, n_workers=n_workers)
    try:
        for outcome in track(outcomes, len(jobs), "fingerprint"):
            case = outcome.job.case
            if not outcome.ok:
                faults.append(Fault(case, "fingerprint", outcome.error, "Fix or remove the case"))
                continue
            per_case[case] = {"sha256": cases[case].sha256, **outcome.value}
            if time.monotonic() - saved >= SAVE_INTERVAL_S:
                keep()
                saved = time.monotonic()
    finally:
        keep()
    return faults


def _record(cases: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema_version": FINGERPRINT_SCHEMA_VERSION, **settings, "cases": dict(cases)}


def _known_cases(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Cases of a fingerprint that was made in the same way; none of a damaged or foreign one."""
    try:
        content = read_json(path)
    except (MissingFileError, InputError):
        return {}
    record = content.get("gnnunet") if isinstance(content, dict) else None
    if not isinstance(record, dict):
        return {}
    wanted = {"schema_version": FINGERPRINT_SCHEMA_VERSION, **settings}
    same = all(record.get(key) == value for key, value in wanted.items())
    cases = record.get("cases") if same else None
    if not is_table(cases):
        return {}
    return {case: entry for case, entry in cases.items() if not faults_of(FingerprintCase, entry)}


def _reader_name(dataset_json: Mapping[str, Any], example: str) -> str:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return determine_reader_writer_from_dataset_json(
            dict(dataset_json), example, verbose=False
        ).__name__


def _analyze(job: _Job) -> dict[str, Any]:
    """Metadata of one case; foreground intensities as moments and 401 quantiles a channel."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    reader = recursive_find_reader_writer_by_name(job.reader)()
    image, label, properties = read_case(
        reader, job.images, job.label, job.orientation, job.unpacked
    )
    cropped, cropped_label, _ = crop_to_nonzero(image, None if label is None else label.copy())
    metadata: dict[str, Any] = {
        "spacing": [float(s) for s in properties["spacing"]],
        "shape": [int(i) for i in image.shape[1:]],
        "shape_after_crop": [int(i) for i in cropped.shape[1:]],
    }
    if label is not None:
        # nnU-Net counts voxels to be ignored too, which in sparse masks are most of the scan
        foreground = (cropped_label[0] > 0) & (cropped_label[0] != job.ignore)
        metadata["foreground"] = [_intensities(c[foreground], job.n_samples) for c in cropped]
        metadata["largest_share"] = [largest_component_shares(label[0], ids) for ids in job.classes]
    return metadata


def _intensities(values: np.ndarray, n_samples: int) -> dict[str, Any] | None:
    """Moments and a fine table of quantiles of the foreground of one channel."""
    if values.size == 0:
        return None
    if values.size > n_samples:
        values = np.random.default_rng(1234).choice(values, n_samples, replace=False)
    values = values.astype(np.float64)
    return {
        "n": int(values.size),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "quantiles": np.quantile(values, np.linspace(0, 1, 401)).tolist(),
    }


def largest_component_shares(label: np.ndarray, ids: tuple[int, ...]) -> list[float | None]:
    """Share of a class that lies in its largest component: in 3D, and in slices along each axis.

    Args:
        label: ``(z, y, x)`` integer label map.
        ids: Label ids that make up the class or region.

    Returns:
        Four values: the volume (26-neighborhood), then the mean over slices across axis 0, 1, 2
        (8-neighborhood), each slice weighted by its voxels; ``None`` where the class is absent.
    """
    mask = np.isin(label, ids)
    if not mask.any():
        return [None] * 4
    mask = np.ascontiguousarray(mask[bounding_box(mask)])
    total = int(mask.sum())
    shares: list[float | None] = [_largest(mask, 26) / total]
    for axis in range(3):
        slices = (np.ascontiguousarray(s) for s in np.moveaxis(mask, axis, 0))
        shares.append(sum(_largest(s, 8) for s in slices) / total)
    return shares


def _largest(mask: np.ndarray, connectivity: Literal[8, 26]) -> int:
    if not mask.any():
        return 0
    components = cc3d.connected_components(mask, connectivity=connectivity)
    return int(np.bincount(components.ravel())[1:].max())


def _summarize(cases: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """nnU-Net's keys from the metadata of all cases."""
    n_channels = len(dataset_json["channel_names"])
    labeled = [metadata for metadata in cases.values() if metadata.get("foreground")]
    intensities = {}
    for channel in range(n_channels):
        parts = [f["foreground"][channel] for f in labeled if f["foreground"][channel]]
        intensities[str(channel)] = _pooled(parts)
    relative = [np.prod(f["shape_after_crop"]) / np.prod(f["shape"]) for f in cases.values()]
    return {
        "spacings": [metadata["spacing"] for metadata in cases.values()],
        "shapes_after_crop": [metadata["shape_after_crop"] for metadata in cases.values()],
        "foreground_intensity_properties_per_channel": intensities,
        "median_relative_size_after_cropping": float(np.median(relative)),
    }


def _pooled(parts: list[dict[str, Any]]) -> dict[str, float]:
    """Statistics of all labeled foregrounds together, every case with the same weight.

    nnU-Net draws as many samples from each case; equal weights are the expectation of that.
    """
    mean = float(np.mean([p["mean"] for p in parts]))
    second = np.mean([p["std"] ** 2 + p["mean"] ** 2 for p in parts])
    pooled = np.concatenate([np.asarray(p["quantiles"]) for p in parts])
    low, median, high = np.percentile(pooled, (0.5, 50.0, 99.5))
    return {
        "mean": mean,
        "median": float(median),
        "std": float(np.sqrt(max(0.0, second - mean**2))),
        "min": float(min(p["quantiles"][0] for p in parts)),
        "max": float(max(p["quantiles"][-1] for p in parts)),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }


def one_component_classes(
    fingerprint: Mapping[str, Any], slice_axis: int | None
) -> dict[str, bool]:
    """For each class: is it one component in (nearly) every labeled case?

    Args:
        fingerprint: As written by ``extract_fingerprint``.
        slice_axis: Axis across which 2D slices are cut, ``None`` for volumes.
    """
    record = fingerprint["gnnunet"]
    column = 0 if slice_axis is None else slice_axis + 1
    result = {}
    for row, key in enumerate(record["classes"]):
        shares = [
            metadata["largest_share"][row][column]
            for metadata in record["cases"].values()
            if metadata.get("largest_share")
        ]
        present = [share for share in shares if share is not None]
        result[key] = bool(present) and min(present) >= ONE_COMPONENT_SHARE
    return result
