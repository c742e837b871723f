"""Facts about each case of a data set, raw or preprocessed: sizes, intensities, label volumes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.data.check import CheckReport
from graphnn_unet.errors import InputError
from graphnn_unet.images.flat_picture import is_picture
from graphnn_unet.images.orientation import orientation_of, turned
from graphnn_unet.images.pictures import read_picture
from graphnn_unet.images.read import read_label_map, read_volume
from graphnn_unet.progress import track
from graphnn_unet.report.outliers import Thumbnail, thumbnail
from graphnn_unet.storage.arrays import open_array
from graphnn_unet.storage.processes import default_workers, run_jobs
from graphnn_unet.storage.safe_load import load_properties

_SMALL_BYTES = 100 * 2**20
UNLABELED = "__unlabeled"
_UPRIGHT = "LPS"


@dataclass(frozen=True)
class CaseFacts:
    """What is read of a case.

    Attributes:
        case: Case id.
        role: ``labeled``, ``unlabeled`` or ``test``.
        image: First channel; ``None`` of preprocessed cases.
        label: Label map, likewise.
        shape: Voxels z y x.
        spacing: mm z y x; empty for pictures.
        intensities: 0.5th percentile, median and 99.5th percentile of each channel.
        volumes: Id to ml, of pictures to pixels; ``None`` without a label map.
        small: Small copy of the first channel.
        small_label: Small copy of the foreground.
        content: Hash of the voxels.
        fault: Why it could not be read.
    """

    case: str
    role: str
    image: Path | None = None
    label: Path | None = None
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    intensities: tuple[tuple[float, float, float], ...] = ()
    volumes: Mapping[int, float] | None = None
    small: Thumbnail | None = None
    small_label: Thumbnail | None = None
    content: str = ""
    fault: str = ""


@dataclass(frozen=True)
class _Job:
    """A case on its way to a worker.

    Attributes:
        spacing: mm z y x, as the table shows it; empty of pictures.
        orientation: Of preprocessed arrays, once their axes are as in the files.
        axes: Axes of the files among those of preprocessed arrays.
    """

    case: str
    role: str
    images: tuple[Path, ...]
    label: Path | None = None
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    axes: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Facts:
    """Facts of all cases, and the unit of their label volumes."""

    cases: list[CaseFacts] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """``ml``, ``pixels`` of pictures."""
        return "ml" if any(case.spacing for case in self.cases) else "pixels"


def raw_facts(report: CheckReport, n_workers: int | None) -> Facts:
    """Facts of all cases that the check of a raw data set could read.

    Args:
        report: Of the check.
        n_workers: Processes, 0 for none; by the size of the data without it.
    """
    jobs = [
        _Job(
            case.case, case.role, case.images, case.label,
            () if is_picture(case.images[0]) else case.spacing,
        )
        for case in report.cases.values()
        if all(case.shape)
    ]  # fmt: skip
    return _facts_of(_raw_case, jobs, n_workers)


def preprocessed_facts(folder: Path, plans: Mapping[str, Any], n_workers: int | None) -> Facts:
    """Facts of the cases of one preprocessed configuration, with those beside it without labels.

    Args:
        folder: Such as ``gnnunetPlans_3d_fullres``.
        plans: Content of the plan that made it.
        n_workers: As of :func:`raw_facts`.
    """
    jobs = []
    axes = tuple(int(axis) for axis in plans.get("transpose_backward", (0, 1, 2)))
    orientation = str(plans.get("orientation", ""))
    for where, role in ((folder, "labeled"), (Path(f"{folder}{UNLABELED}"), "unlabeled")):
        for path in sorted(where.glob("*.pkl")) if where.is_dir() else ():
            array = path.with_suffix(".b2nd")
            label = path.with_name(f"{path.stem}_seg.b2nd")
            jobs.append(
                _Job(
                    path.stem,
                    role,
                    (array,),
                    label if label.is_file() else None,
                    (),
                    orientation,
                    axes,
                )
            )
    return _facts_of(_stored_case, jobs, n_workers)


def _facts_of(function: Any, jobs: Sequence[_Job], n_workers: int | None) -> Facts:
    if n_workers is None:
        files = [path for job in jobs for path in (*job.images, job.label) if path is not None]
        n_bytes = sum(path.stat().st_size for path in files if path.is_file())
        n_workers = default_workers(len(jobs)) if n_bytes > _SMALL_BYTES else 0
    cases = []
    for outcome in track(run_jobs(function, jobs, n_workers=n_workers), len(jobs), "read"):
        job = outcome.job
        cases.append(
            outcome.value if outcome.ok else CaseFacts(job.case, job.role, fault=outcome.error)
        )
    return Facts(sorted(cases, key=lambda facts: facts.case))


def _raw_case(job: _Job) -> CaseFacts:
    if is_picture(job.images[0]):
        channels: list[NDArray[Any]] = []
        for path in job.images:
            channels += list(read_picture(path))
        label = None if job.label is None else read_label_map(job.label).array
        return _described(job, channels, label, (), 1.0)
    volumes = [read_volume(path, n_dims=None, form="both") for path in job.images]
    direction = volumes[0].direction
    stored = orientation_of(direction) if len(direction) == 9 else ""
    label = None if job.label is None else _upright(read_label_map(job.label).array, stored)
    voxel_ml = math.prod(volumes[0].spacing) / 1000
    channels = [_upright(volume.array, stored) for volume in volumes]
    return _described(job, channels, label, job.spacing, voxel_ml)


def _upright(array: NDArray[Any], stored: str) -> NDArray[Any]:
    """Axes towards head, back and left, so that mirrored scans can be told by direction."""
    return turned(array, stored, _UPRIGHT) if stored and array.ndim == 3 else array


def _stored_case(job: _Job) -> CaseFacts:
    remedy = "Preprocess again (gnnunet_plan_and_preprocess)"
    if not job.images[0].is_file():
        raise InputError(f"{job.images[0].name} is missing", "", remedy)
    image = np.asarray(open_array(job.images[0], remedy)[:])
    shape = image.shape[1:]
    channels = [_upright(channel.transpose(job.axes), job.orientation) for channel in image]
    label = None
    if job.label is not None:
        stored = np.asarray(open_array(job.label, remedy)[:])[0]
        label = _upright(stored.transpose(job.axes), job.orientation)
    properties = load_properties(job.images[0].with_suffix(".pkl"))
    spacing = tuple(float(step) for step in properties["spacing"])
    return _described(job, channels, label, spacing, _voxel_ml(properties, shape))


def _voxel_ml(properties: Mapping[str, Any], shape: Sequence[int]) -> float:
    """Volume of a voxel after resampling, from the size of the scan before it."""
    before = properties["shape_after_cropping_and_before_resampling"]
    scale = math.prod(before) / max(math.prod(shape), 1)
    return math.prod(float(step) for step in properties["spacing"]) * scale / 1000


def _described(
    job: _Job,
    channels: Sequence[NDArray[Any]],
    label: NDArray[Any] | None,
    spacing: tuple[float, ...],
    voxel_ml: float,
) -> CaseFacts:
    digest = hashlib.sha256()
    for channel in channels:
        digest.update(np.ascontiguousarray(channel).data)
    volumes = None
    if label is not None:
        ids, counts = np.unique(label, return_counts=True)
        volumes = {int(i): float(n) * voxel_ml for i, n in zip(ids, counts, strict=True) if i > 0}
    return CaseFacts(
        job.case,
        job.role,
        job.images[0],
        job.label,
        tuple(channels[0].shape),
        spacing,
        tuple(_ends(channel) for channel in channels),
        volumes,
        thumbnail(channels[0]),
        None if label is None else thumbnail(label > 0),
        digest.hexdigest(),
    )


def _ends(channel: NDArray[Any]) -> tuple[float, float, float]:
    # every n-th voxel: percentiles of a million say the same as those of all
    values = channel.ravel()[:: max(1, channel.size // 10**6)]
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return math.nan, math.nan, math.nan
    low, middle, high = np.percentile(finite, (0.5, 50, 99.5))
    return float(low), float(middle), float(high)
