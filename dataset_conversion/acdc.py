"""Cine MRI of the heart: the Automated Cardiac Diagnosis Challenge.

Two forms are known. That of the semi-supervised literature: h5 volumes ``patientNNN_frameMM.h5``
and h5 slices ``patientNNN_frameMM_slice_K.h5``, where training patients often exist as slices only
and are stacked here. And the challenge's own ``patientNNN/patientNNN_frameMM.nii.gz`` with
``..._gt.nii.gz``.

Who trains: the published training patients in their order, first. Who tests: the published test
patients. The published validation patients are left out, because the published experiments train
on the 70 training patients alone, labeled or not; a list file given as ``test`` brings them in.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from graphnn_unet.dataset_conversion.forms import Form, Request
from graphnn_unet.dataset_conversion.published import published
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset, file_case
from graphnn_unet.dataset_conversion.volumes import (
    by_id,
    h5_case,
    not_taken,
    read_h5_array,
    stem_of,
)
from graphnn_unet.errors import BadFileError, Fault, MissingFileError
from graphnn_unet.images.find import file_ending, files_below
from graphnn_unet.images.volume import Volume

H5_SPACING_MM = (10.0, 1.5, 1.5)
"""Assumed for h5 files, which store none: in the challenge's scans pixels are about 1.4 mm wide
and slices 5 to 10 mm apart, varying by patient. 2D networks ignore z."""

_REFERENCE = (
    "O. Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-structures "
    "Segmentation and Diagnosis: Is the Problem Solved?, IEEE TMI 37(11), 2018"
)
_LICENSE = "CC BY-NC-SA 4.0 (as named by copies of the data; the challenge asks to cite the paper)"
_NIFTI = (".nii.gz", ".nii")
_VOLUME = re.compile(r"(patient\d{3})_frame(\d{2})")
_SLICE = re.compile(r"(patient\d{3}_frame\d{2})_slice_(\d+)")


def read(request: Request) -> ConvertedDataset:
    """Find the cases of either form; validation patients that the user lists for testing are kept.

    Raises:
        MissingFileError: Neither form is there.
    """
    source = request.source_folder
    faults: list[Fault] = []
    notes: list[str] = []
    cases = _challenge_cases(source, faults) or _h5_cases(source, faults, notes)
    if not (cases or faults):
        raise MissingFileError(
            f"no ACDC scans in {source}",
            "looked for patientNNN_frameMM.nii.gz with _gt, and patientNNN_frameMM[_slice_K].h5",
            "Give the folder that holds them",
        )
    table = published("acdc")
    title = table.pop("name")
    ordered, skipped, order_notes = _with_roles(cases, table, request.listed_test)
    return ConvertedDataset(
        name="ACDC",
        default_id=102,
        form="ACDC",
        source=source,
        channel_names={0: "cine MRI"},
        labels={"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3},
        cases=ordered,
        published_splits={title: table},
        notes=notes + order_notes,
        skipped=[*skipped, *not_taken(source, cases.values())],
        reference=_REFERENCE,
        license=_LICENSE,
        faults=faults,
    )


FORM = Form(
    name="ACDC",
    help="heart: patientNNN_frameMM[_slice_K].h5, or patientNNN_frameMM.nii.gz with _gt",
    read=read,
)


def _with_roles(
    cases: dict[str, Case], table: dict, wanted_test: frozenset[str]
) -> tuple[list[Case], list[tuple[str, str]], list[str]]:
    """Cases in published order of patients, their roles, and who was left out."""
    part_of = {
        name.split("_")[0]: part for part in ("train", "test", "val") for name in table[part]
    }
    place = {patient: number for number, patient in enumerate(part_of)}
    ordered = sorted(cases.values(), key=lambda c: (place.get(c.patient, len(place)), c.case_id))
    listed = any(case.patient in part_of for case in ordered)
    kept: list[Case] = []
    skipped: list[tuple[str, str]] = []
    for case in ordered:
        part = part_of.get(case.patient, "")
        if case.case_id in wanted_test or part == "test":
            kept.append(replace(case, role="test"))
        elif part == "val":
            skipped.append((case.case_id, "published validation case; --test LIST takes it in"))
        elif not part and listed and any("testing" in path.parts for path in case.inputs):
            skipped.append((case.case_id, "the challenge's own test part; --test LIST takes it in"))
        else:
            kept.append(case)
    notes = []
    if n_missing := len(set(part_of) - {case.patient for case in ordered}):
        notes.append(f"{n_missing} of the {len(part_of)} published patients are not in the source")
    if skipped:
        notes.append(f"{len(skipped)} validation or challenge test cases were left out")
    unknown = [case.case_id for case in kept if case.patient not in part_of]
    if unknown and listed:
        notes.append(f"{len(unknown)} cases are in no list and come last, such as {unknown[0]}")
    return kept, skipped, notes


def _challenge_cases(source: Path, faults: list[Fault]) -> dict[str, Case]:
    volumes = [p for p in files_below(source, "patient*_frame*") if file_ending(p) in _NIFTI]
    label_of = {(path.parent, stem_of(path)): path for path in volumes}
    cases = (
        file_case(match[0], [path], label_of.get((path.parent, f"{match[0]}_gt")), match[1])
        for path in volumes
        if (match := _VOLUME.fullmatch(stem_of(path)))
    )
    return by_id(cases, faults)


def _h5_cases(source: Path, faults: list[Fault], notes: list[str]) -> dict[str, Case]:
    slices: dict[str, dict[int, Path]] = {}
    files = files_below(source, "patient*.h5")
    for path in files:
        if match := _SLICE.fullmatch(path.stem):
            twin = slices.setdefault(match[1], {}).setdefault(int(match[2]), path)
            if twin != path:
                cause = f"slice {match[2]} is there twice: {twin} and {path}"
                faults.append(Fault(match[1], "convert", cause, "Remove one", code="I31"))
    volumes = (
        h5_case(match[0], path, H5_SPACING_MM, "zyx", match[1])
        for path in files
        if (match := _VOLUME.fullmatch(path.stem))
    )
    cases = by_id(volumes, faults)
    stacked = sorted(set(slices) - set(cases))
    for name in stacked:
        numbers = sorted(slices[name])
        first = min(numbers[0], 1)  # numbers start at 1, in some copies at 0
        gaps = sorted(set(range(first, numbers[-1] + 1)) - set(numbers))
        if gaps:
            listed = ", ".join(map(str, gaps))
            cause = f"slices {listed} of {first} to {numbers[-1]} are missing"
            remedy = "Add them or remove the other slices of this volume"
            faults.append(Fault(name, "convert", cause, remedy, code="I21"))
            continue
        paths = tuple(slices[name][number] for number in numbers)
        image, label = partial(_stack, paths, "image"), partial(_stack, paths, "label")
        cases[name] = Case(name, (image,), label, "labeled", name.split("_")[0], paths)
    if stacked:
        notes.append(f"{len(stacked)} volumes exist as slices only and were stacked by number")
    if cases:
        z, y, x = H5_SPACING_MM
        notes.append(
            f"the h5 files store no spacing: {z:g} x {y:g} x {x:g} mm (z, y, x) is assumed, so "
            "distances in mm are nominal"
        )
    return cases


def _stack(paths: tuple[Path, ...], key: str) -> Volume:
    """A volume from its slices, given in the order of their numbers."""
    arrays = [read_h5_array(path, key) for path in paths]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        raise BadFileError("I15", f"its slices have several shapes: {sorted(shapes)}", "Check them")
    return Volume(np.stack(arrays), H5_SPACING_MM)
