"""From a user's files to a raw folder: ``gnnunet_convert`` as a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphnn_unet.data.check_labels import count_values
from graphnn_unet.data.paths import folders, new_dataset_name
from graphnn_unet.dataset_conversion import (
    acdc,
    decathlon,
    dicom,
    left_atrium,
    nifti_folder,
    pancreas,
)
from graphnn_unet.dataset_conversion.prepare import CaseRow
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset, Source
from graphnn_unet.dataset_conversion.volumes import load, read_list, safe_id
from graphnn_unet.dataset_conversion.write_raw import (
    ConversionResult,
    require_new,
    workers_for,
    write_raw,
)
from graphnn_unet.errors import BadFileError, InputError, MissingFileError
from graphnn_unet.images.read import nearest_integers
from graphnn_unet.progress import track
from graphnn_unet.storage.processes import run_jobs

__all__ = ["FORMS", "CaseRow", "ConversionResult", "convert"]

FORMS = ("LA", "ACDC", "Pancreas", "MSD", "nifti", "dicom")
FIXES = ("header", "resample")
MAX_LABELS = 255


def convert(
    form: str,
    source: Path | str | None = None,
    *,
    dataset: str | None = None,
    labeled: int | None = None,
    unlabeled: int | None = None,
    test: int | str | Path | None = None,
    images: Path | str | Sequence[Path | str] | None = None,
    labels: Path | str | None = None,
    test_images: Path | str | Sequence[Path | str] | None = None,
    test_labels: Path | str | None = None,
    label_names: Mapping[int, str] | None = None,
    channels: Sequence[str] = (),
    patient_regex: str | None = None,
    exclude: Sequence[str] = (),
    fix_geometry: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    n_workers: int | None = None,
) -> ConversionResult:
    """Convert data of a known form to a raw folder.

    Args:
        form: One of ``FORMS``; case does not matter.
        source: Folder of the data; for ``nifti`` the images, unless ``images`` is given.
        dataset: Name, id or both of the new data set; the form's own without it.
        labeled: Keep the label maps of the first N labelled cases; the others become unlabelled
            and their label maps are not written. All without it.
        unlabeled: Keep the first N unlabelled cases and leave the others out. All without it.
        test: The last N labelled cases become test cases; or a list file with their ids.
        images: Image folder, or one a channel (``nifti``).
        labels: Folder of label maps (``nifti``, ``dicom``).
        test_images: Folder of test images, or one a channel (``nifti``).
        test_labels: Folder of their label maps (``nifti``).
        label_names: Names of the stored label values.
        channels: Names of the channels, in order; a subset of the form's own names selects.
        patient_regex: Searched in each case id; its first group names the patient.
        exclude: Case ids to leave out.
        fix_geometry: What to do with label maps (or channels) that do not lie on the image's grid:
            ``header`` pairs voxels by index, ``resample`` trusts both headers.
        overwrite: Replace an existing raw folder.
        dry_run: Find out what would be written; write nothing.
        n_workers: Worker processes, 0 for none.

    Returns:
        Raw folder, one row a case, notes for the user.

    Raises:
        InputError: Arguments that do not fit each other or the data.
        MissingFileError: The source is not there or is not of this form.
        FaultsError: Some cases cannot be used; all are named, nothing was written.
        RefusedError: The raw folder exists.
    """
    if fix_geometry not in (None, *FIXES):
        raise InputError(
            f"fix_geometry {fix_geometry!r} is unknown", "", f"Use {' or '.join(FIXES)}"
        )
    wanted_test = _listed_test(test)
    found = _read(
        form, source, wanted_test,
        images=images, labels=labels, test_images=test_images, test_labels=test_labels,
        channels=channels,
    )  # fmt: skip
    full_name = new_dataset_name(dataset or found.name, found.default_id, found.name)
    folder = folders().raw / full_name
    if not dry_run:
        require_new(folder, overwrite=overwrite)
    found = replace(found, name=full_name[11:])
    found = _without(found, exclude)
    if found.form != "nifti":
        found = _with_channels(found, channels)
    found = _with_patients(found, patient_regex)
    found = _with_test(found, test, wanted_test)
    found = _with_labeled(found, labeled)
    found = _with_unlabeled(found, unlabeled)
    found = _with_label_table(found, dict(label_names or {}), n_workers)
    return write_raw(
        found,
        folder,
        overwrite=overwrite,
        dry_run=dry_run,
        fix_geometry=fix_geometry,
        n_workers=n_workers,
    )


def _read(
    form: str,
    source: Path | str | None,
    wanted_test: frozenset[str],
    *,
    images: Any,
    labels: Path | str | None,
    test_images: Any,
    test_labels: Path | str | None,
    channels: Sequence[str],
) -> ConvertedDataset:
    """Call the converter of the form with what it takes."""
    names = {name.lower(): name for name in FORMS}
    if form.lower() not in names:
        raise InputError(f"form {form!r} is unknown", "", f"Use one of {', '.join(FORMS)}")
    form = names[form.lower()]
    if form == "nifti":
        image_folders = _paths(images) or _paths(source)
        if not image_folders:
            raise InputError("no image folder was given", "", "Add --images DIR")
        return nifti_folder.read(
            [_existing(path) for path in image_folders],
            None if labels is None else _existing(labels),
            test_images=[_existing(path) for path in _paths(test_images)],
            test_labels=None if test_labels is None else _existing(test_labels),
            channels=channels,
        )
    if images is not None or test_images is not None or test_labels is not None:
        raise InputError(f"--images and --test-... belong to form nifti, not to {form}")
    if source is None:
        raise InputError(f"form {form} needs the folder of the data", "", "Give it as SOURCE")
    folder = _existing(source)
    if form == "dicom":
        return dicom.read(folder, None if labels is None else _existing(labels))
    if form == "Pancreas":
        return pancreas.read(folder, None if labels is None else _existing(labels))
    if labels is not None:
        raise InputError(f"--labels belongs to forms nifti, dicom and Pancreas, not to {form}")
    if form == "ACDC":
        return acdc.read(folder, wanted_test)
    readers: dict[str, Callable[[Path], ConvertedDataset]] = {
        "LA": left_atrium.read,
        "MSD": decathlon.read,
    }
    return readers[form](folder)


def _paths(value: Any) -> list[Path]:
    if value is None:
        return []
    return [Path(value)] if isinstance(value, (str, Path)) else [Path(item) for item in value]


def _existing(path: Path | str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise MissingFileError(f"{folder} {what}", "", "Give an existing folder")
    return folder.absolute()


def _listed_test(test: int | str | Path | None) -> frozenset[str]:
    """Case ids of a list file; empty when a number or nothing was given."""
    if test is None or isinstance(test, int) or str(test).isdigit():
        return frozenset()
    return frozenset(read_list(Path(test).expanduser()))


def _without(found: ConvertedDataset, exclude: Sequence[str]) -> ConvertedDataset:
    if not exclude:
        return found
    ids = {case.case_id for case in found.cases}
    unknown = sorted(set(exclude) - ids)
    if unknown:
        raise InputError(
            f"cases to exclude are not in the data: {', '.join(unknown)}",
            f"cases are named like {min(ids, default='(none)')}",
        )
    return replace(
        found,
        cases=[case for case in found.cases if case.case_id not in exclude],
        skipped=[*found.skipped, *((case, "excluded") for case in exclude)],
    )


def _with_channels(found: ConvertedDataset, channels: Sequence[str]) -> ConvertedDataset:
    """Select or rename channels."""
    if not channels:
        return found
    own = list(found.channel_names.values())
    if set(channels) <= set(own):
        chosen = [own.index(name) for name in channels]
        cases = [
            replace(case, images=tuple(case.images[i] for i in chosen))
            if len(case.images) == len(own)
            else case
            for case in found.cases
        ]
        return replace(found, channel_names=dict(enumerate(channels)), cases=cases)
    if len(channels) != len(own):
        raise InputError(
            f"{len(channels)} channel names for {len(own)} channels",
            f"the data have {', '.join(own)}",
            "Name all of them, or choose some of these names",
        )
    return replace(found, channel_names=dict(enumerate(channels)))


def _with_patients(found: ConvertedDataset, pattern: str | None) -> ConvertedDataset:
    if pattern is None:
        return found
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--patient-regex {pattern!r} is not valid", str(error)) from error
    cases = []
    for case in found.cases:
        match = compiled.search(case.case_id)
        if match is None:
            raise InputError(
                f"--patient-regex {pattern!r} does not fit case {case.case_id}",
                "every case needs a patient",
                r"Example for pat7_scan2: '^(pat\d+)_'",
            )
        cases.append(replace(case, patient=match[1] if compiled.groups else match[0]))
    n_patients = len({case.patient for case in cases})
    note = f"{len(cases)} cases belong to {n_patients} patients (by {pattern!r})"
    return replace(found, cases=cases, notes=[*found.notes, note])


def _with_test(
    found: ConvertedDataset, test: int | str | Path | None, listed: frozenset[str]
) -> ConvertedDataset:
    """Give more cases the role ``test``; those that have it keep it."""
    if test is None:
        return found
    if listed:
        ids = {safe_id(name) for name in listed}
        chosen = {case.case_id for case in found.cases} & ids
        if not chosen:
            raise InputError(
                f"none of the {len(listed)} cases in {test} is in the data",
                f"the list has {min(listed)}, the data have {_example(found.cases)}",
            )
        notes = [f"{len(chosen)} of the {len(listed)} cases in {test} are test cases"]
    else:
        n_test = int(test)  # type: ignore[arg-type]
        labeled = found.with_role("labeled")
        if not 0 <= n_test < max(len(labeled), 1):
            raise InputError(
                f"{n_test} test cases cannot be taken",
                f"there are {len(labeled)} labelled cases and one must stay",
            )
        chosen = {case.case_id for case in labeled[len(labeled) - n_test :]}
        notes = []
    cases = [replace(case, role="test") if case.case_id in chosen else case for case in found.cases]
    train = {case.patient for case in cases if case.role != "test"}
    both = sorted({case.patient for case in cases if case.role == "test"} & train)
    if both:
        raise InputError(
            f"patient {both[0]} would be in training and in test",
            "scores would be measured on patients the network has seen",
            "Choose whole patients with --test",
        )
    return replace(found, cases=cases, notes=[*found.notes, *notes])


def _example(cases: Iterable[Case]) -> str:
    return next((case.case_id for case in cases), "none")


def _with_labeled(found: ConvertedDataset, n_labeled: int | None) -> ConvertedDataset:
    """Keep the label maps of the first ``n_labeled`` cases; drop every trace of the others'."""
    if n_labeled is None:
        return found
    labeled = [case.case_id for case in found.with_role("labeled")]
    if not 1 <= n_labeled <= len(labeled):
        raise InputError(
            f"{n_labeled} labelled cases were asked for", f"there are {len(labeled)} with label map"
        )
    kept = set(labeled[:n_labeled])
    cases = [
        case
        if case.role != "labeled" or case.case_id in kept
        else replace(
            case,
            role="unlabeled",
            label=None,
            inputs=tuple(path for path in case.inputs if path != case.label),
        )
        for case in found.cases
    ]
    patients = {case.patient for case in cases if case.case_id in kept}
    shared = sorted({c.patient for c in cases if c.role == "unlabeled"} & patients)
    notes = [f"the first {n_labeled} labelled cases in order keep their label maps"]
    if shared:
        notes.append(f"patient {shared[0]} has labelled and unlabelled cases")
    return replace(found, cases=cases, notes=[*found.notes, *notes])


def _with_unlabeled(found: ConvertedDataset, n_unlabeled: int | None) -> ConvertedDataset:
    """Keep the first ``n_unlabeled`` unlabelled cases."""
    if n_unlabeled is None:
        return found
    unlabeled = [case.case_id for case in found.with_role("unlabeled")]
    if not 0 <= n_unlabeled <= len(unlabeled):
        raise InputError(
            f"{n_unlabeled} unlabelled cases were asked for", f"there are {len(unlabeled)}"
        )
    left_out = set(unlabeled[n_unlabeled:])
    cases = [case for case in found.cases if case.case_id not in left_out]
    notes = [f"{len(left_out)} unlabelled cases are left out, as asked"] if left_out else []
    return replace(found, cases=cases, notes=[*found.notes, *notes])


def _with_label_table(
    found: ConvertedDataset, names: dict[int, str], n_workers: int | None
) -> ConvertedDataset:
    """The final label table: the form's own, renamed, or made from the values in the files."""
    if names.get(0, "background") != "background":
        raise InputError("the label 0 is the background", "", "Name the values from 1 on")
    names.pop(0, None)
    if len(set(names.values())) < len(names):
        raise InputError("two label values have one name", "", "Give each its own")
    if found.labels:
        own = {value: name for name, value in found.labels.items() if isinstance(value, int)}
        unknown = sorted(set(names) - set(own))
        if unknown:
            raise InputError(f"label {unknown[0]} cannot be named", f"the data have {sorted(own)}")
        return replace(found, labels={names.get(v, n): v for v, n in own.items()})
    stored = sorted(_stored_values(found, n_workers) | set(names) | {0})
    mapping = {old: new for new, old in enumerate(v for v in stored if v >= 0)}
    labels: dict[str, int | list[int]] = {"background": 0}
    for old, new in mapping.items():
        if new:
            labels[names.get(old, f"label_{old}")] = new
    notes = list(found.notes)
    if all(old == new for old, new in mapping.items()):
        mapping = {}
    else:
        told = ", ".join(f"{old} is {new}" for old, new in mapping.items() if old != new)
        notes.append(f"label values were made consecutive, as nnU-Net needs them: {told}")
    return replace(found, labels=labels, label_mapping=mapping, notes=notes)


def _stored_values(found: ConvertedDataset, n_workers: int | None) -> set[int]:
    """All values in the label maps that will be written; bad files are reported later."""
    sources = [case.label for case in found.cases if case.label is not None]
    if n_workers is None:
        n_workers = workers_for(found)
    values: set[int] = set()
    outcomes = run_jobs(_values_of, sources, n_workers=n_workers)
    for outcome in track(outcomes, len(sources), "read label values"):
        values |= outcome.value or set()
        if len(values) > MAX_LABELS:
            what = outcome.job.name if isinstance(outcome.job, Path) else "a label map"
            raise InputError(
                f"{what} brings the number of label values to {len(values)}",
                f"more than {MAX_LABELS} are no label map; is it an image",
                "Check the --labels folder",
            )
    return values


def _values_of(source: Source) -> set[int]:
    """Integer values of one label map; empty when it cannot be used."""
    try:
        array = load(source, "label map").array
    except BadFileError:
        return set()
    integers = nearest_integers(array)
    return set() if integers.n_wrong else set(count_values(integers.values))
