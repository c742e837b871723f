"""Everything that can be wrong with a raw data set, found in one pass over its files.

Each file is read once; one case's images are judged by ``check_files``, label
maps by ``check_labels``, names and ``dataset.json`` by ``check_layout``; here are the data set as a
whole and the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from graphnn_unet.data.check_files import (
    STAGE,
    FileRecord,
    check_case_images,
    check_images,
    fault,
    file_stamp,
    grid_faults,
)
from graphnn_unet.data.check_labels import (
    ClassMetadata,
    class_metadata,
    count_values,
    integer_labels,
    voxels_of,
)
from graphnn_unet.data.check_layout import (
    Description,
    case_id_fault,
    channel_faults,
    list_images,
    list_labels,
    no_images_fault,
    read_description,
)
from graphnn_unet.data.check_pictures import channel_count_faults, n_files_of, storage_faults
from graphnn_unet.data.check_whole import Scan, copies, report_of, unlikely_spacings
from graphnn_unet.errors import BadFileError, Fault
from graphnn_unet.images.find import some
from graphnn_unet.images.flat_picture import flat_labels, is_picture
from graphnn_unet.images.orientation import (
    most_common,
    orientation_of,
    stored_otherwise,
    turned_axes,
)
from graphnn_unet.images.read import read_volume
from graphnn_unet.progress import track
from graphnn_unet.storage.processes import default_workers, run_jobs
from graphnn_unet.storage.unpacked import keeping_copy, worth_keeping

__all__ = [
    "CaseMetadata",
    "CheckReport",
    "ClassMetadata",
    "check_case_images",
    "check_dataset",
]

SMALL_DATASET_BYTES = 100 * 2**20
"""Below this all files are read in this process: starting workers would take longer."""

_IMAGES = {"labeled": "imagesTr", "unlabeled": "imagesUn", "test": "imagesTs"}
_LABELS = {"labeled": "labelsTr", "test": "labelsTs"}
_CUT = ("I01", "I02")
"""Codes of cut images; a cut label map has one of its own."""


@dataclass(frozen=True)
class CaseMetadata:
    """What the check found out about one case.

    Attributes:
        case: Case id.
        role: ``labeled``, ``unlabeled`` or ``test``.
        images: One file a channel, in channel order.
        label: Label map, or ``None``.
        sha256: File (relative to the raw folder) to the hash of its bytes.
        stamps: The same files to their ``file_stamp`` before they were read.
        shape: Voxels along the axes of the data set's orientation, z y x; zeros when no image
            could be read (there is an error then).
        spacing: Voxel size in mm, likewise.
        orientation: How the file stores its axes, such as ``LPS``; empty for pictures.
        n_channels: Number of channels that could be read.
        label_values: Values in the label map, sorted; empty without one.
        classes: Foreground value to its components.
        content: Hash of the voxels of each channel, the same for copies.
        files: Hash of the bytes of each channel's file.
    """

    case: str
    role: str
    images: tuple[Path, ...]
    label: Path | None
    sha256: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    shape: tuple[int, ...] = (0, 0, 0)
    spacing: tuple[float, ...] = (0.0, 0.0, 0.0)
    orientation: str = ""
    n_channels: int = 0
    label_values: tuple[int, ...] = ()
    classes: dict[int, ClassMetadata] = field(default_factory=dict)
    content: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def scan(self) -> Scan:
        """What is compared with other cases."""
        return Scan(self.role, self.shape, self.spacing, self.content, self.files)


@dataclass(frozen=True)
class CheckReport:
    """All that one pass over a data set has found.

    Attributes:
        folder: The raw folder.
        faults: Errors and warnings, data set first, then by case.
        cases: Metadata of every case with an image file, sorted by case id.
        notes: Files that were passed over.
        orientation: To which all scans are turned when they are read: that of most training
            scans. Empty for pictures.
    """

    folder: Path
    faults: list[Fault]
    cases: dict[str, CaseMetadata]
    notes: list[str]
    orientation: str = ""

    @property
    def errors(self) -> list[Fault]:
        """Faults that stop the command."""
        return [f for f in self.faults if f.severity == "error"]

    @property
    def warnings(self) -> list[Fault]:
        """Faults that do not."""
        return [f for f in self.faults if f.severity != "error"]

    def as_json(self) -> dict[str, Any]:
        """The report as plain values, as it stands in ``dataset_report.json``."""
        return report_of(
            self.faults,
            folder=str(self.folder),
            n_cases={role: sum(f.role == role for f in self.cases.values()) for role in _IMAGES},
            orientation=self.orientation,
            notes=self.notes,
            cases={
                case: {
                    **asdict(metadata),
                    "images": [str(path) for path in metadata.images],
                    "label": None if metadata.label is None else str(metadata.label),
                    "classes": {str(value): asdict(c) for value, c in metadata.classes.items()},
                }
                for case, metadata in self.cases.items()
            },
        )


@dataclass(frozen=True)
class _Job:
    """One case on its way to a worker."""

    root: Path
    label_values: tuple[int, ...]
    n_channels: int
    allow_origin_mismatch: bool
    case: str
    role: str
    images: tuple[Path, ...]
    label: Path | None
    unpacked: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Images and label map."""
        return [*self.images, *([self.label] if self.label is not None else [])]

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def check_dataset(
    raw_folder: Path | str,
    *,
    n_workers: int | None = None,
    allow_origin_mismatch: bool = False,
    unpacked: Path | None = None,
) -> CheckReport:
    """Check all files of a raw data set; nothing is written into it.

    Args:
        raw_folder: ``DatasetNNN_Name`` with ``dataset.json``, ``imagesTr`` ...
        n_workers: Worker processes, 0 for none; chosen from the size of the data without it.
        allow_origin_mismatch: Take a label map with another origin than its image as a warning.
        unpacked: Folder for unpacked copies of the files of training cases.

    Returns:
        The report. Errors are in it, not raised.
    """
    folder = Path(raw_folder).absolute()
    description, faults = read_description(folder)
    if description is None:
        return CheckReport(folder, faults, {}, [])
    make_job = partial(
        _Job, folder, description.label_values, description.n_channels, allow_origin_mismatch
    )
    notes: list[str] = []
    if description.files is None:
        jobs = _jobs_from_folders(folder, description, make_job, faults, notes)
    else:
        jobs = _jobs_from_section(folder, description, make_job, faults)
    n_training = sum(job.role == "labeled" for job in jobs)
    if n_training and description.n_training != n_training:
        cause = f"numTraining is {description.n_training}, there are {n_training} labeled cases"
        faults.append(fault("dataset.json", "I44", cause, f"Write {n_training}"))
    if n_workers is None:
        n_bytes = sum(path.stat().st_size for job in jobs for path in job.files)
        n_workers = default_workers(len(jobs)) if n_bytes > SMALL_DATASET_BYTES else 0
    if unpacked is not None:
        training = [path for job in jobs if job.role != "test" for path in job.files]
        kept = worth_keeping(training, unpacked)
        jobs = [replace(job, unpacked=unpacked) if kept & {*job.files} else job for job in jobs]
    cases: dict[str, CaseMetadata] = {}
    of_cases: list[Fault] = []
    outcomes = track(run_jobs(_check_case, jobs, n_workers=n_workers), len(jobs), "check")
    for outcome in outcomes:
        if outcome.ok:
            metadata, case_faults = outcome.value
            of_cases += case_faults
            cases[metadata.case] = metadata
        else:
            remedy = "Free memory or use fewer workers, then check again"
            of_cases.append(fault(outcome.job.case, "C15", outcome.error, remedy))
    cases, orientation, turned = _in_one_orientation(dict(sorted(cases.items())))
    faults += turned
    constant = {f.case for f in of_cases if f.code in ("I47", "I48")}
    scans = {case: m.scan for case, m in cases.items()}
    of_cases += copies(scans, constant, _IMAGES) + unlikely_spacings(scans)
    of_cases = _without_foreground(cases, of_cases, description.ignore)
    of_cases.sort(key=lambda f: (f.case, f.severity != "error"))
    return CheckReport(folder, faults + of_cases, cases, notes, orientation)


def _in_one_orientation(
    cases: dict[str, CaseMetadata],
) -> tuple[dict[str, CaseMetadata], str, list[Fault]]:
    """All cases in the orientation of most training scans, and a warning where some are turned."""
    usual = most_common(m.orientation for m in cases.values() if m.role != "test")
    others = stored_otherwise({case: m.orientation for case, m in cases.items()}, usual)
    for stored, turned in others.items():
        for case in turned:
            shape = turned_axes(cases[case].shape, stored, usual)
            spacing = turned_axes(cases[case].spacing, stored, usual)
            cases[case] = replace(cases[case], shape=shape, spacing=spacing)
    faults = [
        fault(
            "dataset",
            "I52",
            f"{some(turned)}: stored as {stored}, most scans as {usual}; turned when they are read",
            "Nothing to do",
            "warning",
        )
        for stored, turned in others.items()
    ]
    return cases, usual, faults


def _jobs_from_folders(
    folder: Path,
    description: Description,
    make_job: Callable[..., _Job],
    faults: list[Fault],
    notes: list[str],
) -> list[_Job]:
    """One job a case from ``imagesTr`` and its neighbors; faults and notes are appended."""
    ending = description.file_ending
    jobs: dict[str, _Job] = {}
    for role, images in _IMAGES.items():
        listing = list_images(folder / images, ending)
        labels, label_listing = list_labels(folder / _LABELS.get(role, "-"), ending)
        notes += listing.notes + label_listing.notes
        faults += [
            # an image without channel number is a misnamed case when there is a label map for it
            replace(f, code="I35") if f.code == "I33" and f.case in labels else f
            for f in listing.faults
        ]
        faults += label_listing.faults
        n_files = n_files_of(ending, description.n_channels, listing.cases.values())
        faults += channel_faults(images, listing.cases, n_files)
        if role == "labeled" and not listing.cases and not listing.faults:
            faults.append(no_images_fault(folder / images, ending))
        misnamed = {f.case for f in listing.faults}
        for case in sorted(set(labels) - set(listing.cases) - misnamed):
            cause = f"{_LABELS[role]}/{case}{ending} has no image in {images}"
            faults.append(fault(case, "I28", cause, "Add the image or remove the label map"))
        bad_labels = {f.case for f in label_listing.faults}
        for case, channels in sorted(listing.cases.items()):
            if role == "labeled" and case not in labels and case not in bad_labels:
                cause = f"labelsTr/{case}{ending} is missing"
                remedy = "Add it, or move the images to imagesUn to train without label"
                faults.append(fault(case, "I27", cause, remedy))
            if case in jobs:
                cause = f"it is in {_IMAGES[jobs[case].role]} and in {images}"
                remedy = "Keep it in one folder, or its score is measured on training data"
                faults.append(fault(case, "I31", cause, remedy))
                continue
            files = tuple(channels[i] for i in sorted(channels))
            jobs[case] = make_job(case, role, files, labels.get(case))
    return list(jobs.values())


def _jobs_from_section(
    folder: Path, description: Description, make_job: Callable[..., _Job], faults: list[Fault]
) -> list[_Job]:
    """One job a case from the section ``dataset`` of ``dataset.json``."""
    jobs = []
    for case, files in sorted((description.files or {}).items()):
        if bad := case_id_fault(case, "dataset.json"):
            faults.append(bad)
            continue
        try:
            listed = [*files["images"], files["label"]]
            paths = [folder / str(name) for name in listed]
        except (KeyError, TypeError):
            cause = f"dataset.json does not give images and label of {case}"
            faults.append(fault(case, "I39", cause, 'Write {"images": [...], "label": ...}'))
            continue
        outside = [str(n) for n, p in zip(listed, paths, strict=True) if not _inside(p, folder, n)]
        missing = [str(n) for n, p in zip(listed, paths, strict=True) if not p.is_file()]
        if outside:
            cause = f"dataset.json points outside the data set: {', '.join(outside)}"
            faults.append(fault(case, "S14", cause, "Move the files into the data set's folder"))
        elif missing:
            cause = f"{', '.join(missing)} named in dataset.json is missing"
            faults.append(fault(case, "I27", cause, "Add the file or remove the case"))
        else:
            channels = dict(enumerate(paths[:-1]))
            n_files = n_files_of(paths[0].name, description.n_channels, [channels])
            faults += channel_faults("dataset.json", {case: channels}, n_files)
            jobs.append(make_job(case, "labeled", tuple(paths[:-1]), paths[-1]))
    return jobs


def _inside(path: Path, folder: Path, name: Any) -> bool:
    return "$" not in str(name) and path.resolve().is_relative_to(folder.resolve())


def _check_case(job: _Job) -> tuple[CaseMetadata, list[Fault]]:
    """Read all files of one case; runs in a worker."""
    names = [job.name(path) for path in job.images]
    stamps = {job.name(path): file_stamp(path) for path in job.files}
    records, faults = check_images(job.case, job.images, names, unpacked=job.unpacked)
    faults += channel_count_faults(job.case, job.images, len(records), job.n_channels)
    if not faults:
        faults += storage_faults(job.case, job.images, job.label)
    metadata = CaseMetadata(job.case, job.role, job.images, job.label, stamps=stamps)
    if records:
        in_a_body = not is_picture(job.images[0])
        metadata = replace(
            metadata,
            sha256={job.name(record.path): record.sha256 for record in records},
            shape=records[0].grid.shape,
            spacing=records[0].grid.spacing,
            orientation=orientation_of(records[0].grid.direction) if in_a_body else "",
            n_channels=len(records),
            content=tuple(record.content for record in records),
            files=tuple(record.sha256 for record in records),
        )
    if job.label is not None:
        sha256, classes, label_faults = _check_label(job, records[0] if records else None)
        faults += label_faults
        if sha256 and records:
            hashes = {**metadata.sha256, job.name(job.label): sha256}
            metadata = replace(metadata, sha256=hashes)
        if sha256 and records and classes is not None:
            values = tuple(sorted({*classes, 0}))
            metadata = replace(metadata, label_values=values, classes=classes)
    return metadata, faults


def _check_label(
    job: _Job, image: FileRecord | None
) -> tuple[str, dict[int, ClassMetadata] | None, list[Fault]]:
    """Read a label map, compare it with its image, judge its values and count its components.

    Returns:
        Hash of its bytes (empty where it cannot be read), components by value (``None`` where its
        values are not those of labels), faults.
    """
    assert job.label is not None  # noqa: S101  # the caller has looked
    name = job.name(job.label)
    try:
        if is_picture(job.label):
            label = flat_labels(job.label, name)
        else:
            unpacked = keeping_copy(job.label, job.unpacked)
            label = read_volume(job.label, name, unpacked=unpacked)
    except BadFileError as error:
        unread = error.as_fault(job.case, STAGE)
        return "", None, [replace(unread, code="I04") if unread.code in _CUT else unread]
    faults = []
    if image is not None:
        faults += grid_faults(
            job.case,
            (job.name(image.path), image.grid),
            (name, label.grid),
            allow_origin=job.allow_origin_mismatch,
        )
    values, value_faults = integer_labels(label.array, name, job.case)
    faults += value_faults
    if values is None:
        return label.sha256, None, faults
    counts = count_values(values)
    if strange := _value_faults(job, name, counts):
        return label.sha256, None, faults + strange
    return label.sha256, class_metadata(values, counts), faults


def _value_faults(job: _Job, name: str, counts: Mapping[int, int]) -> list[Fault]:
    """Values of a label map that dataset.json does not list."""
    faults = []
    if unknown := {v: n for v, n in counts.items() if v >= 0 and v not in job.label_values}:
        cause = f"{name} has values that dataset.json does not list: {voxels_of(unknown)}"
        faults.append(fault(job.case, "I23", cause, "Correct the label map or name the label"))
    if negative := {v: n for v, n in counts.items() if v < 0}:
        cause = f"{name} has negative values: {voxels_of(negative)}"
        faults.append(fault(job.case, "I26", cause, "Use 0 for background"))
    return faults


def _without_foreground(
    cases: Mapping[str, CaseMetadata], faults: list[Fault], ignore: int | None
) -> list[Fault]:
    """Add a warning for every empty label map, or one error when all are empty."""
    labeled = [f for f in cases.values() if f.role == "labeled" and f.label is not None]
    nothing = set() if ignore is None else {ignore}
    empty = [m for m in labeled if m.label_values and m.classes.keys() <= nothing]
    if empty and len(empty) == len(labeled):  # one with strange values is not empty
        cause = f"no label map has any foreground ({len(empty)} looked at)"
        return [*faults, fault("labelsTr", "I30", cause, "Look at the label maps")]
    return faults + [
        fault(metadata.case, "I29", "its label map is all background", "Look at it", "warning")
        for metadata in empty
    ]
