"""The only writer of raw folders.

A data set is built in a hidden folder beside its place and moved there when it is whole; until
then an older one of the same name stays as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphnn_unet._version import __version__
from graphnn_unet.data.check_whole import Scan, copies, report_of, unlikely_spacings
from graphnn_unet.dataset_conversion.prepare import (
    FOLDERS,
    CaseJob,
    CaseRow,
    prepare_case,
)
from graphnn_unet.dataset_conversion.prepare_picture import prepare_picture_case
from graphnn_unet.dataset_conversion.records import ConvertedDataset
from graphnn_unet.errors import Fault, FaultsError, GraphnnError, RefusedError
from graphnn_unet.images.find import some
from graphnn_unet.images.flat_picture import MAX_BITS, RAW_ENDING, READER
from graphnn_unet.images.label_ids import (
    ORIGINAL,
    label_values,
    listed_ids,
    original_labels,
)
from graphnn_unet.images.orientation import most_common, stored_otherwise, turned_axes
from graphnn_unet.progress import say, track
from graphnn_unet.storage.atomic import (
    TEMPORARY_MARK,
    exchange_folder,
    require_free_space,
    write_csv,
    write_json,
)
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.processes import default_workers, run_jobs

SCHEMA_VERSION = 1
NAMES = "names.csv"
"""Table of a user's names and the case ids made from them."""

LOCKS = ".gnnunet-locks"
"""Folder of locks beside the data sets: a lock inside one would move with it."""

SMALL_INPUT_BYTES = 50 * 2**20
"""Below this all cases are prepared in this process: starting workers would take longer."""

_PLACES = {"labeled": "labeled", "unlabeled": "unlabeled", "test": "a test case"}
_LOOKS_LIKE_CT = -500.0


@dataclass(frozen=True)
class ConversionResult:
    """What ``convert`` made, or would make.

    Attributes:
        dataset: Full name, ``Dataset101_LA``.
        folder: Its raw folder.
        written: Whether the folder was written (not with ``dry_run``).
        channel_names: Channel index to name.
        labels: Label name to id (or ids of a region).
        rows: One row a case, in order.
        notes: Lines the user should read.
        skipped: Files that were seen and not taken, with the reason.
    """

    dataset: str
    folder: Path
    written: bool
    channel_names: dict[int, str]
    labels: dict[str, Any]
    rows: tuple[CaseRow, ...]
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    def count(self, role: str) -> int:
        """Number of cases of one role."""
        return sum(row.role == role for row in self.rows)


def require_new(folder: Path, *, overwrite: bool, flag: str = "-d") -> None:
    """Refuse to replace a raw folder unless that was asked for; ``flag`` gave its name."""
    if folder.exists() and not overwrite:
        raise RefusedError(
            f"{folder} exists",
            "it would be replaced",
            f"Give another name with {flag}, or --overwrite to replace it",
        )


def write_raw(
    dataset: ConvertedDataset,
    folder: Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    fix_geometry: str | None = None,
    n_workers: int | None = None,
    report: Path | None = None,
) -> ConversionResult:
    """Write a data set to its raw folder, or find out what would be written.

    Args:
        dataset: Cases with their roles; the label table is final.
        folder: ``$nnUNet_raw/DatasetNNN_Name``.
        overwrite: Replace an existing folder.
        dry_run: Read and check everything, write nothing.
        fix_geometry: ``None``, ``header`` or ``resample`` (see ``prepare.CaseJob``).
        n_workers: Worker processes, 0 for none; chosen from the size of the data without it.
        report: File for all faults and warnings, where there are faults; not in a dry run.

    Raises:
        FaultsError: Some cases cannot be used; all of them are named and nothing was written.
        RefusedError: The folder exists.
        LockedError: Another conversion writes the same data set.
        NoSpaceError: The disk is too small.
    """
    if n_workers is None:
        n_workers = workers_for(dataset)
    if dry_run or dataset.faults:
        with _reported(dataset, folder, None if dry_run else report):
            rows, warnings = _prepare(dataset, None, fix_geometry, n_workers)
        return _result(dataset, folder, rows, warnings, written=False)
    with folder_lock(folder.parent / LOCKS / folder.name, "gnnunet_convert"):
        require_new(folder, overwrite=overwrite)
        require_free_space(folder, _input_bytes(dataset), "the raw data set")
        for left in folder.parent.glob(f"{TEMPORARY_MARK}new-{folder.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        work = folder.with_name(f"{TEMPORARY_MARK}new-{folder.name}-{os.getpid()}")
        try:
            for role in {case.role for case in dataset.cases}:
                for name in filter(None, FOLDERS[role]):
                    (work / name).mkdir(parents=True)
            with _reported(dataset, folder, report):
                rows, warnings = _prepare(dataset, work, fix_geometry, n_workers)
            result = _result(dataset, folder, rows, warnings, written=True)
            write_json(work / "dataset.json", dataset_json(dataset))
            write_json(work / "gnnunet.json", gnnunet_json(dataset, result))
            if changed := _changed_names(dataset):
                write_csv(work / NAMES, changed, ("name", "case"))
            for name in ("imagesTr", "labelsTr"):  # stock nnU-Net expects both
                (work / name).mkdir(exist_ok=True)
            if not any((work / "labelsTs").glob("*")):
                shutil.rmtree(work / "labelsTs", ignore_errors=True)
            exchange_folder(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return result


def workers_for(dataset: ConvertedDataset) -> int:
    """Worker processes for the size of the data; 0 for small sets."""
    if _input_bytes(dataset) <= SMALL_INPUT_BYTES:
        return 0
    return default_workers(len(dataset.cases))


def _input_bytes(dataset: ConvertedDataset) -> int:
    paths = {path for case in dataset.cases for path in case.inputs}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _prepare(
    dataset: ConvertedDataset, target: Path | None, fix_geometry: str | None, n_workers: int
) -> tuple[list[CaseRow], list[Fault]]:
    """All cases, in order, and what is odd about them.

    Raises:
        FaultsError: Every fault of every case and of the data set, with the warnings.
    """
    values = label_values(dataset.labels)
    n_channels = len(dataset.channel_names)
    jobs = [
        CaseJob(
            case,
            dataset.source,
            target,
            n_channels,
            values,
            dataset.label_mapping,
            fix_geometry,
            dataset.nifti_form,
            color_bits=dataset.color_bits,
        )
        for case in dataset.cases
    ]
    rows: dict[str, CaseRow] = {}
    faults = list(dataset.faults)
    verb = "convert" if target else "look at"
    prepare = prepare_picture_case if dataset.file_ending == RAW_ENDING else prepare_case
    for outcome in track(run_jobs(prepare, jobs, n_workers=n_workers), len(jobs), verb):
        case_id = outcome.job.case.case_id
        if not outcome.ok:
            faults.append(Fault(case_id, "convert", outcome.error, "Leave it out (--exclude)"))
            continue
        row, case_faults = outcome.value
        faults += case_faults
        if row is not None:
            rows[case_id] = row
    faults += _of_the_whole(rows)
    warnings = [fault for fault in faults if fault.severity != "error"]
    if len(warnings) < len(faults):
        order = {case.case_id: number for number, case in enumerate(dataset.cases)}
        raise FaultsError(sorted(faults, key=lambda fault: order.get(fault.case, -1)))
    return [rows[case.case_id] for case in dataset.cases], warnings


def _of_the_whole(rows: Mapping[str, CaseRow]) -> list[Fault]:
    """Copies, and spacings that cannot be right, as planning would find them."""
    usual = most_common(row.orientation for row in rows.values() if row.role != "test")
    others = stored_otherwise({case: row.orientation for case, row in rows.items()}, usual)
    turned = {case for cases in others.values() for case in cases}
    scans = {}
    for case, row in rows.items():
        shape, spacing = row.shape, row.spacing
        if case in turned:
            shape = turned_axes(shape, row.orientation, usual)
            spacing = turned_axes(spacing, row.orientation, usual)
        scans[case] = Scan(row.role, shape, spacing, row.content, row.files)
    return [
        replace(fault, stage="convert", remedy=f"{fault.remedy} (--exclude leaves a case out)")
        for fault in (*copies(scans, (), _PLACES), *unlikely_spacings(scans))
    ]


@contextmanager
def _reported(dataset: ConvertedDataset, folder: Path, report: Path | None) -> Iterator[None]:
    """Write the report of the faults that the block raises, and tell the errors among them."""
    try:
        yield
    except FaultsError as error:
        errors = [fault for fault in error.faults if fault.severity == "error"]
        if report is not None:
            facts = {"folder": str(folder), "source": str(dataset.source), "notes": dataset.notes}
            try:
                write_json(report, report_of(error.faults, **facts))
            except GraphnnError as unwritten:
                say(f"note: {unwritten.line}")
                report = None
        raise FaultsError(errors, report=report) from None


def _result(
    dataset: ConvertedDataset,
    folder: Path,
    rows: list[CaseRow],
    warnings: list[Fault],
    *,
    written: bool,
) -> ConversionResult:
    return ConversionResult(
        folder.name,
        folder,
        written,
        dict(dataset.channel_names),
        dict(dataset.labels),
        tuple(rows),
        (*_notes(dataset, rows), *(warning.line for warning in warnings)),
        tuple(dataset.skipped),
    )


def _notes(dataset: ConvertedDataset, rows: list[CaseRow]) -> list[str]:
    """What the user should read: of the data set, of each case, and about the whole."""
    notes = list(dataset.notes)
    for text in dict.fromkeys(note for row in rows for note in row.notes):
        cases = [row.case for row in rows if text in row.notes]
        listed = ", ".join(cases[:3]) + (f" and {len(cases) - 3} more" if len(cases) > 3 else "")
        notes.append(f"{listed}: {text}")
    notes += _orientation_notes(rows)
    if changed := _changed_names(dataset):
        listed = ", ".join(f"{row['name']!r} is {row['case']}" for row in changed)
        notes.append(f"names that became case ids ({len(changed)}, kept in {NAMES}): {listed}")
    names = [name.lower() for name in dataset.channel_names.values()]
    if rows and "ct" not in names and min(row.minimum for row in rows) < _LOOKS_LIKE_CT:
        notes.append(
            "intensities reach below -500, as in CT: give --channels CT so that they are "
            "normalized as Hounsfield units"
        )
    notes += _unseen_classes(dataset, rows)
    if not any(row.role == "labeled" for row in rows):
        notes.append("there is no labeled case: training needs at least one")
    return notes


def _unseen_classes(dataset: ConvertedDataset, rows: list[CaseRow]) -> list[str]:
    """A note on classes without a voxel, where there are label maps at all."""
    seen = {value for row in rows for value in row.label_values}
    stored = {inside: str(value) for value, inside in dataset.label_mapping.items()}
    stored |= {inside: color for color, inside in dataset.label_colors.items()}
    unseen = [
        f"{', '.join(stored.get(i, str(i)) for i in listed_ids(ids))} ({name})"
        for name, ids in dataset.labels.items()
        if name not in ("background", "ignore") and seen.isdisjoint(listed_ids(ids))
    ]
    if not (seen and unseen):
        return []
    return [
        f"no label map has {some(unseen)}: it stays a class, which nothing trains; check the "
        "values, or leave its name out"
    ]


def _orientation_notes(rows: list[CaseRow]) -> list[str]:
    """What is said where scans are stored along different axes."""
    # as planning chooses: test scans do not count
    usual = most_common(row.orientation for row in rows if row.role != "test")
    others = stored_otherwise({row.case: row.orientation for row in rows}, usual)
    return [
        f"{some(cases)}: stored as {orientation}, most scans as {usual}; files stay as they are, "
        "planning and prediction turn what they read to one orientation and the answer back"
        for orientation, cases in others.items()
    ]


def _changed_names(dataset: ConvertedDataset) -> list[dict[str, str]]:
    """The user's name and the id of each case whose name could not be its id."""
    return [
        {"name": case.name, "case": case.case_id}
        for case in dataset.cases
        if case.name not in ("", case.case_id)
    ]


def dataset_json(dataset: ConvertedDataset) -> dict[str, Any]:
    """nnU-Net's description of the data set."""
    content: dict[str, Any] = {
        "channel_names": {str(i): name for i, name in sorted(dataset.channel_names.items())},
        "labels": dataset.labels,
        "numTraining": len(dataset.with_role("labeled")),
        "file_ending": dataset.file_ending,
        "name": dataset.name,
        "reference": dataset.reference,
        "licence": dataset.license,
        "converted_by": f"gnnunet_convert {__version__}",
    }
    if dataset.label_mapping:
        content[ORIGINAL] = original_labels(dataset.labels, dataset.label_mapping)
    if dataset.file_ending == RAW_ENDING:
        content["overwrite_image_reader_writer"] = READER
    if dataset.label_colors:
        content["label_colors"] = dataset.label_colors
    if dataset.color_bits < MAX_BITS:
        content["color_bits"] = dataset.color_bits
    if any(isinstance(value, (list, tuple)) for value in dataset.labels.values()):
        content["regions_class_order"] = _region_order(dataset.labels)
    return content


def _region_order(labels: Mapping[str, Any]) -> list[int]:
    """For each region, in order, the id that it alone adds to the regions inside it."""
    regions = [
        set(value) if isinstance(value, (list, tuple)) else {value}
        for name, value in labels.items()
        if name not in ("background", "ignore")
    ]
    order = []
    for region in regions:
        inner = set().union(*(other for other in regions if other < region))
        order.append(min(region - inner or region))
    return order


def gnnunet_json(dataset: ConvertedDataset, result: ConversionResult) -> dict[str, Any]:
    """What stock nnU-Net has no place for: order, splits, patients, where it all came from."""
    return {
        "schema_version": SCHEMA_VERSION,
        "format": dataset.form,
        "source": str(dataset.source),
        "sha256": {path: digest for row in result.rows for path, digest in row.sha256.items()},
        "label_order": [case.case_id for case in dataset.with_role("labeled")],
        "published_splits": dataset.published_splits,
        "patients": {case.case_id: case.patient for case in dataset.cases},
        "label_mapping": {str(old): new for old, new in dataset.label_mapping.items()},
        "label_colors": dataset.label_colors,
        "nifti_form": dataset.nifti_form,
        "notes": list(result.notes),
        "skipped": [{"file": name, "reason": reason} for name, reason in result.skipped],
        "license": dataset.license,
        "reference": dataset.reference,
    }
