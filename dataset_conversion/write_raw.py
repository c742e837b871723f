"""The only writer of raw folders.

A data set is built in a hidden folder beside its place and moved there when it is whole; until
then an older one of the same name stays as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphnn_unet._version import __version__
from graphnn_unet.dataset_conversion.prepare import (
    FOLDERS,
    CaseJob,
    CaseRow,
    prepare_case,
)
from graphnn_unet.dataset_conversion.prepare_picture import prepare_picture_case
from graphnn_unet.dataset_conversion.records import ConvertedDataset
from graphnn_unet.errors import Fault, FaultsError, RefusedError
from graphnn_unet.images.find import some
from graphnn_unet.images.flat_picture import RAW_ENDING, READER
from graphnn_unet.images.label_ids import ORIGINAL, label_values, original_labels
from graphnn_unet.images.orientation import most_common, stored_otherwise
from graphnn_unet.progress import track
from graphnn_unet.storage.atomic import (
    TEMPORARY_MARK,
    replace_folder,
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


def require_new(folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace a raw folder unless that was asked for."""
    if folder.exists() and not overwrite:
        raise RefusedError(
            f"{folder} exists",
            "it would be replaced",
            "Give another name with -d, or --overwrite to replace it",
        )


def write_raw(
    dataset: ConvertedDataset,
    folder: Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    fix_geometry: str | None = None,
    n_workers: int | None = None,
) -> ConversionResult:
    """Write a data set to its raw folder, or find out what would be written.

    Args:
        dataset: Cases with their roles; the label table is final.
        folder: ``$nnUNet_raw/DatasetNNN_Name``.
        overwrite: Replace an existing folder.
        dry_run: Read and check everything, write nothing.
        fix_geometry: ``None``, ``header`` or ``resample`` (see ``prepare.CaseJob``).
        n_workers: Worker processes, 0 for none; chosen from the size of the data without it.

    Raises:
        FaultsError: Some cases cannot be used; all of them are named and nothing was written.
        RefusedError: The folder exists.
        LockedError: Another conversion writes the same data set.
        NoSpaceError: The disk is too small.
    """
    if n_workers is None:
        n_workers = workers_for(dataset)
    if dry_run:
        rows = _prepare(dataset, None, fix_geometry, n_workers)
        return _result(dataset, folder, rows, written=False)
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
            rows = _prepare(dataset, work, fix_geometry, n_workers)
            result = _result(dataset, folder, rows, written=True)
            write_json(work / "dataset.json", dataset_json(dataset))
            write_json(work / "gnnunet.json", gnnunet_json(dataset, result))
            if changed := _changed_names(dataset):
                write_csv(work / NAMES, changed, ("name", "case"))
            for name in ("imagesTr", "labelsTr"):  # stock nnU-Net expects both
                (work / name).mkdir(exist_ok=True)
            if not any((work / "labelsTs").glob("*")):
                shutil.rmtree(work / "labelsTs", ignore_errors=True)
            replace_folder(work, folder)
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
) -> list[CaseRow]:
    """All cases, in order; every fault of every case in one error."""
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
        )
        for case in dataset.cases
    ]
    rows: dict[str, CaseRow] = {}
    faults: list[Fault] = []
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
    if faults:
        order = {case.case_id: number for number, case in enumerate(dataset.cases)}
        raise FaultsError(sorted(faults, key=lambda fault: order[fault.case]))
    return [rows[case.case_id] for case in dataset.cases]


def _result(
    dataset: ConvertedDataset, folder: Path, rows: list[CaseRow], *, written: bool
) -> ConversionResult:
    return ConversionResult(
        folder.name,
        folder,
        written,
        dict(dataset.channel_names),
        dict(dataset.labels),
        tuple(rows),
        tuple(_notes(dataset, rows)),
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
    if not any(row.role == "labeled" for row in rows):
        notes.append("there is no labeled case: training needs at least one")
    return notes


def _orientation_notes(rows: list[CaseRow]) -> list[str]:
    """What is said where scans are stored along different axes."""
    # as planning chooses: test scans do not count
    usual = most_common(row.orientation for row in rows if row.role != "test")
    others = stored_otherwise({row.case: row.orientation for row in rows}, usual)
    return [
        f"{some(cases)}: stored as {orientation}, most scans as {usual}; files stay as they are, "
        "planning and prediction turn what they read to one orientation and the answer back"
        for orientation, cases in others.items()
        if usual
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
