"""Corrected masks come back: unlabeled scans of a data set become labeled cases.

The raw folder is built anew beside the old one, from hard links and the new label maps, and takes
its place in one step, so that a kill at any instant leaves the old set or the new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphnn_unet.data.paths import folders, resolve_dataset
from graphnn_unet.dataset_conversion.convert import patient_named
from graphnn_unet.dataset_conversion.corrected_masks import find_masks, mask_source, require_folder
from graphnn_unet.dataset_conversion.forms import FIXES, existing_folders
from graphnn_unet.dataset_conversion.nifti_folder import find_images
from graphnn_unet.dataset_conversion.prepare import FILE_ENDING, CaseJob, CaseRow, prepare_case
from graphnn_unet.dataset_conversion.raw_set import IMAGE_FOLDERS, RawSet, read_raw_set
from graphnn_unet.dataset_conversion.records import Case
from graphnn_unet.dataset_conversion.write_raw import LOCKS, NAMES, SCHEMA_VERSION
from graphnn_unet.errors import BadFileError, Fault, FaultsError, InputError
from graphnn_unet.images.cases import case_of
from graphnn_unet.images.find import safe_id, some, split_channel, split_ending
from graphnn_unet.images.label_ids import as_user_has_them, id_names, ids_of_user, label_values
from graphnn_unet.images.nifti_forms import NiftiForm, require_form
from graphnn_unet.images.read import read_volume
from graphnn_unet.progress import track
from graphnn_unet.storage.atomic import (
    TEMPORARY_MARK,
    exchange_folder,
    link_or_copy,
    require_free_space,
    write_csv,
    write_json,
)
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.processes import run_jobs


@dataclass(frozen=True)
class CorrectionResult:
    """What ``add_corrected`` did, or would do.

    Attributes:
        dataset: Full name, ``Dataset101_LA``.
        folder: Its raw folder.
        written: Whether it was changed.
        added: Cases that are labeled now.
        replaced: Labeled cases whose label map was replaced.
        unchanged: Labeled cases that have this label map already.
        n_labeled: Labeled cases of the data set now.
        rows: One row for each added or replaced case.
        notes: Lines the user should read.
    """

    dataset: str
    folder: Path
    written: bool
    added: list[str]
    replaced: list[str]
    unchanged: list[str]
    n_labeled: int
    rows: tuple[CaseRow, ...] = ()
    notes: list[str] = field(default_factory=list)


def add_corrected(
    dataset: str | int,
    masks: Path | str,
    *,
    images: Path | str | Sequence[Path | str] | None = None,
    channels: Sequence[str] = (),
    patient_regex: str | None = None,
    exclude: Sequence[str] = (),
    fix_geometry: str | None = None,
    nifti_form: NiftiForm | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> CorrectionResult:
    """Make labeled cases of masks that were corrected in a viewer.

    Plan and draws of the data set are kept: the new cases follow the others in every draw, are held
    out in no fold and never kept for choosing, and test cases stay test cases. The next
    ``plan_and_preprocess`` preprocesses the new cases alone.

    Args:
        dataset: Name, id or both of the data set.
        masks: Folder of masks: NIfTI, NRRD (``.seg.nrrd`` of 3D Slicer too) and what else
            ``convert`` reads, with the user's ids, or the names of the segments, and named as the
            cases are. Masks that are still as ``predict`` wrote them are left out.
        images: Folders with the images of scans that are not in the data set yet.
        channels: Names of their channels, in order, where their files have names.
        patient_regex: Finds the patient in the id of such a scan.
        exclude: Cases to leave out.
        fix_geometry: As of ``convert``.
        nifti_form: As of ``convert``.
        overwrite: Replace label maps of cases that are labeled already.
        dry_run: Look at everything, write nothing.

    Raises:
        InputError: The data set or an option does not fit.
        MissingFileError: No such data set, or no masks.
        FaultsError: Masks that cannot be used; all are named and nothing was changed.
        LockedError: Another conversion writes the same data set.
    """
    if fix_geometry not in (None, *FIXES):
        raise InputError(
            f"fix_geometry {fix_geometry!r} is unknown", "", f"Use {' or '.join(FIXES)}"
        )
    require_form(nifti_form)
    name = resolve_dataset(dataset)
    folder = folders().raw / name
    mask_folder = require_folder(masks)
    with folder_lock(folder.parent / LOCKS / name, "gnnunet_convert --add-corrected"):
        raw = _read_set(folder)
        taken = _Taken(raw, nifti_form)
        taken.find(mask_folder, existing_folders(images), tuple(channels), patient_regex)
        taken.leave_out(exclude)
        work = folder.with_name(f"{TEMPORARY_MARK}new-{name}-{os.getpid()}")
        for left in folder.parent.glob(f"{TEMPORARY_MARK}new-{name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        require_free_space(folder, taken.n_bytes, "the new cases")
        try:
            rows = _prepare(taken, work, fix_geometry)
            changes = _changes(raw, rows, work, overwrite=overwrite)
            if changes.rows and not dry_run:
                _build(raw, taken, changes, work)
                exchange_folder(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return CorrectionResult(
        name,
        folder,
        bool(changes.rows) and not dry_run,
        changes.added,
        changes.replaced,
        changes.unchanged,
        len(raw.with_role("labeled")) + len(changes.added),
        tuple(changes.rows),
        [*taken.notes, *_row_notes(changes.rows)],
    )


def _read_set(folder: Path) -> RawSet:
    raw = read_raw_set(folder)
    if raw.ending != FILE_ENDING or "dataset" in raw.description:
        raise InputError(
            f"corrected masks cannot be added to {folder.name}",
            f"its files are not the *{FILE_ENDING} in imagesTr and labelsTr that gnnunet_convert "
            "writes of volumes",
            "Convert the data set with gnnunet_convert nifti",
        )
    return raw


class _Taken:
    """The masks that are taken, as cases, and what is wrong with the others."""

    def __init__(self, raw: RawSet, form: NiftiForm | None):
        self.raw = raw
        self.form: NiftiForm | None = form
        self.cases: dict[str, Case] = {}
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        users = as_user_has_them(raw.description)
        self._ids = {name: number for number, name in id_names(users).items()}
        if "ignore" in users["labels"]:
            self._ids["ignore"] = int(users["labels"]["ignore"])

    @property
    def n_bytes(self) -> int:
        """Room that images and masks take, at most."""
        sources = {path for case in self.cases.values() for path in (*case.images, *case.inputs)}
        return sum(p.stat().st_size for p in sources if isinstance(p, Path) and p.is_file())

    def find(
        self, masks: Path, images: Sequence[Path], channels: tuple[str, ...], pattern: str | None
    ) -> None:
        """Find the cases of all masks.

        Raises:
            MissingFileError: There is no mask.
            InputError: All masks are as they were predicted, or images cannot be told apart.
        """
        files = find_masks(masks, self.raw.case_of_name)
        self.faults += files.faults
        if files.as_predicted:
            listed = some(sorted(files.as_predicted))
            if not files.of_case and not files.others:
                raise InputError(
                    f"no mask in {masks} was edited",
                    f"{listed}: as predicted",
                    "Edit them; copy those that are right as they are to another folder",
                )
            self.notes.append(
                f"{len(files.as_predicted)} masks are as predicted and not taken ({listed}); copy "
                "those that you found right to another folder and add that"
            )
        if files.left_out:
            self.notes.append(f"left out of {masks}: {some(name for name, _ in files.left_out)}")
        for case, path in sorted(files.of_case.items()):
            self._add(case, self.raw.images(case), path, self.raw.patient(case))
        if images:
            self._find_new(masks, images, channels, pattern, files.others)
            return
        example = min(self.raw.roles, default="(none)")
        for stem, path in sorted(files.others.items()):
            cause = f"{path.name} fits no case of {self.raw.folder.name} (named like {example})"
            remedy = "Name it as its case, or give its image with --images DIR"
            self.faults.append(Fault(safe_id(stem), "convert", cause, remedy, code="I28"))

    def _find_new(
        self,
        masks: Path,
        images: Sequence[Path],
        channels: tuple[str, ...],
        pattern: str | None,
        others: Mapping[str, Path],
    ) -> None:
        """Scans that are not in the data set yet, as far as they have a mask."""
        files = find_images(images, masks, channels, "--images DIR --add-corrected")
        n_channels = len(self.raw.description["channel_names"])
        patient_of = patient_named(pattern)
        masked = set()
        for stem, path in sorted(others.items()):
            name = case_of(stem, files.cases)
            if name is None:
                cause = f"{path.name} has no image, in the data set or with --images"
                remedy = "Give both the same name or remove the mask"
                self.faults.append(Fault(safe_id(stem), "convert", cause, remedy, code="I28"))
                continue
            masked.add(name)
            case = safe_id(name)
            if case in self.raw.roles:
                cause = f"another case of the data set has the id of {name}"
                self.faults.append(Fault(case, "convert", cause, "Rename the scan", code="I31"))
            elif len(files.cases[name]) != n_channels:
                cause = f"it has {len(files.cases[name])} channels, the data set has {n_channels}"
                remedy = "Add the missing channel or remove the mask"
                self.faults.append(Fault(case, "convert", cause, remedy, code="I21"))
            else:
                of_case = tuple(files.cases[name][channel] for channel in files.channels)
                self._add(case, of_case, path, patient_of(case), name)
        if unmasked := sorted(set(files.cases) - masked):
            self.notes.append(f"images without a mask are left out: {some(unmasked)}")

    def _add(
        self, case: str, images: tuple[Path, ...], mask: Path, patient: str, name: str = ""
    ) -> None:
        if case in self.cases:
            cause = f"two masks fit it, {self.cases[case].inputs[-1].name} and {mask.name}"
            self.faults.append(Fault(case, "convert", cause, "Remove one of them", code="I28"))
            return
        cause = ""
        if self.raw.roles.get(case) == "test":
            cause = f"{mask.name} is the mask of a test case, which never trains"
        elif patient in self.raw.patients("test"):
            cause = f"patient {patient} has test cases, so that no scan of theirs may train"
        if cause:
            remedy = "Remove the mask; gnnunet_evaluate takes it as a reference"
            self.faults.append(Fault(case, "convert", cause, remedy, code="I31"))
            return
        try:
            label = mask_source(mask, self._ids, self.form)
        except InputError as error:
            code = error.code if isinstance(error, BadFileError) else ""
            cause = f"{error.what}: {error.why}" if error.why else error.what
            self.faults.append(Fault(case, "convert", cause, error.remedy, code=code))
            return
        self.cases[case] = Case(
            case,
            images,
            label,
            "labeled",
            patient,
            (mask,) if case in self.raw.roles else (*images, mask),
            name if name != case else "",
        )

    def leave_out(self, exclude: Sequence[str]) -> None:
        """Leave cases out that the user named.

        Raises:
            InputError: One of them has no mask.
            FaultsError: Masks that cannot be used are left.
        """
        known = {*self.cases, *(fault.case for fault in self.faults)}
        if unknown := sorted(set(exclude) - known):
            raise InputError(f"cases to exclude have no mask: {', '.join(unknown)}")
        self.cases = {id_: case for id_, case in self.cases.items() if id_ not in exclude}
        self.faults = [fault for fault in self.faults if fault.case not in exclude]
        if self.faults:
            raise FaultsError(self.faults)


def _prepare(taken: _Taken, work: Path, fix_geometry: str | None) -> list[CaseRow]:
    """Write images and label maps of the cases into the new folder; all faults are told.

    Raises:
        FaultsError: Masks that cannot be used.
    """
    description = taken.raw.description
    mapping = {outside: inside for inside, outside in ids_of_user(description).items()}
    jobs = [
        CaseJob(
            case,
            taken.raw.folder,
            work,
            len(description["channel_names"]),
            label_values(description["labels"]),
            mapping,
            fix_geometry,
            taken.form,
            widen_labels=case.inputs[-1].name.lower().endswith(".nrrd"),
        )
        for case in taken.cases.values()
    ]
    rows, faults = [], []
    for outcome in track(run_jobs(prepare_case, jobs, n_workers=0), len(jobs), "corrected masks"):
        if not outcome.ok:
            case = outcome.job.case.case_id
            faults.append(Fault(case, "convert", outcome.error, "Leave it out (--exclude)"))
            continue
        row, of_case = outcome.value
        faults += of_case
        rows += [row] if row else []
    if faults:
        raise FaultsError(faults)
    return rows


@dataclass
class _Changes:
    """What becomes of the prepared cases."""

    rows: list[CaseRow] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


def _changes(raw: RawSet, rows: Iterable[CaseRow], work: Path, *, overwrite: bool) -> _Changes:
    """Compare with the label maps that are there.

    Raises:
        FaultsError: Labeled cases have another label map, and are not to be overwritten.
    """
    changes = _Changes()
    faults = []
    for row in rows:
        if raw.roles.get(row.case) != "labeled":
            changes.added.append(row.case)
        elif _same_label(*(place / "labelsTr" / f"{row.case}{FILE_ENDING}"
                           for place in (raw.folder, work))):  # fmt: skip
            changes.unchanged.append(row.case)
            continue
        elif overwrite:
            changes.replaced.append(row.case)
        else:
            cause = "it is labeled already, and its label map is another"
            remedy = "Use --overwrite to replace it, or leave it out (--exclude)"
            faults.append(Fault(row.case, "convert", cause, remedy))
        changes.rows.append(row)
    if faults:
        raise FaultsError(faults)
    return changes


def _same_label(first: Path, second: Path) -> bool:
    ours, others = (read_volume(path, path.name, form="sform").array for path in (first, second))
    return np.array_equal(ours, others)


def _build(raw: RawSet, taken: _Taken, changes: _Changes, work: Path) -> None:
    """Complete the new folder: everything of the old one that did not change, and the tables."""
    changed = {row.case for row in changes.rows}
    for row_case in changes.unchanged:
        for name in ("imagesTr", "labelsTr"):
            for path in (work / name).glob(f"{row_case}[_.]*"):
                if _case_of_file(path) == row_case:
                    path.unlink()
    for path in sorted(raw.folder.rglob("*")):
        relative = path.relative_to(raw.folder)
        is_image = relative.parts[0] in (*IMAGE_FOLDERS.values(), "labelsTr")
        if path.is_dir():
            (work / relative).mkdir(parents=True, exist_ok=True)
        elif not (is_image and _case_of_file(path) in changed):
            (work / relative).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, work / relative)
    n_labeled = len({_case_of_file(path) for path in (work / "labelsTr").glob(f"*{FILE_ENDING}")})
    for table in ("dataset.json", "gnnunet.json", NAMES):
        (work / table).unlink(missing_ok=True)  # a link: writing it would change the old set
    write_json(work / "dataset.json", {**raw.description, "numTraining": n_labeled})
    write_json(work / "gnnunet.json", _metadata(raw, taken, changes))
    names = {case: name for name, case in raw.case_of_name.items() if name != case}
    names |= {c.case_id: c.name for c in taken.cases.values() if c.name and c.case_id in changed}
    if names:
        rows = [{"name": name, "case": case} for case, name in sorted(names.items())]
        write_csv(work / NAMES, rows, ("name", "case"))


def _case_of_file(path: Path) -> str:
    stem = split_ending(path, (FILE_ENDING,))[0]
    return split_channel(stem)[0] if path.parent.name.startswith("images") else stem


def _metadata(raw: RawSet, taken: _Taken, changes: _Changes) -> dict[str, Any]:
    """``gnnunet.json`` with the new cases behind the others."""
    old = raw.metadata
    labeled = raw.with_role("labeled")
    corrected: dict[str, Any] = dict(old.get("corrected", {}))
    order = list(old.get("label_order", []))
    order += [case for case in labeled if case not in order and case not in corrected]
    if labeled:
        corrected |= {case: {"round": raw.round} for case in changes.added}
    else:  # the first label maps of the data set: there is no plan and no draw to keep
        order += changes.added
    for row in changes.rows:
        if row.case in corrected:
            corrected[row.case]["source"] = str(taken.cases[row.case].inputs[-1])
    hashes = {path: digest for row in changes.rows for path, digest in row.sha256.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        **old,
        "sha256": {**old.get("sha256", {}), **hashes},
        "label_order": order,
        "patients": {
            **old.get("patients", {}),
            **{case: taken.cases[case].patient for case in changes.added},
        },
        "corrected": corrected,
    }


def _row_notes(rows: Iterable[CaseRow]) -> list[str]:
    texts: dict[str, list[str]] = {}
    for row in rows:
        for text in row.notes:
            texts.setdefault(text, []).append(row.case)
    return [f"{some(cases)}: {text}" for text, cases in texts.items()]
