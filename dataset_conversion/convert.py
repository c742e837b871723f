"""From a user's files to a raw folder: ``gnnunet_convert`` as a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphnn_unet.data.paths import REPORT, folders, new_dataset_name, remove_refused
from graphnn_unet.dataset_conversion.forms import FIXES, SEVERAL_PATIENTS, Request, form_named
from graphnn_unet.dataset_conversion.label_table import with_label_table
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset
from graphnn_unet.dataset_conversion.sparse import (
    AUTO,
    drawn_slices,
    slice_notes,
    with_sparse_labels,
)
from graphnn_unet.dataset_conversion.write_raw import ConversionResult, require_new, write_raw
from graphnn_unet.errors import InputError
from graphnn_unet.images.find import safe_id
from graphnn_unet.images.nifti_forms import require_form
from graphnn_unet.ranges import MAX_WORKERS, require_count

__all__ = ["ConversionResult", "convert"]


def convert(form: str, source: Path | str | None = None, **options: Any) -> ConversionResult:
    """Convert data of a known form to a raw folder.

    Args:
        form: Name of a form (``forms.forms()`` lists them); case does not matter.
        source: Folder of the data; for ``nifti`` the images, unless ``images`` is given.
        options: Fields of :class:`~graphnn_unet.dataset_conversion.forms.Request` by name:
            ``dataset``, ``labeled``, ``test``, ``images``, ``labels``, ``dry_run`` ...

    Returns:
        Raw folder, one row a case, notes for the user.

    Raises:
        InputError: Arguments that do not fit each other or the data.
        MissingFileError: The source is not there or is not of this form.
        FaultsError: Some cases cannot be used; nothing was written but ``dataset_report.json`` in
            the preprocessed folder of the data set, which names all of them. A dry run writes
            nothing.
        RefusedError: The raw folder exists.
    """
    request = Request(source, **options)
    require_count("labeled", request.labeled)
    require_count("unlabeled", request.unlabeled)
    require_count("n_workers", request.n_workers, 0, MAX_WORKERS)
    if request.fix_geometry not in (None, *FIXES):
        raise InputError(
            f"fix_geometry {request.fix_geometry!r} is unknown", "", f"Use {' or '.join(FIXES)}"
        )
    require_form(request.nifti_form)
    drawn = None
    if request.sparse is not None or request.sparse_slices is not None:
        drawn = drawn_slices(request.sparse or AUTO, request.sparse_slices)
    converter = form_named(form)
    converter.check(request)
    dataset = converter.read(request)
    full_name = new_dataset_name(request.dataset or dataset.name, dataset.default_id, dataset.name)
    folder = folders().raw / full_name
    if not request.dry_run:
        require_new(folder, overwrite=request.overwrite)
    dataset = replace(dataset, name=full_name[11:])
    dataset = _without(dataset, request.exclude)
    dataset = _with_channels(dataset, request.channels)
    dataset = _with_patients(dataset, request.patient_regex)
    dataset = _with_roles(dataset, request)
    dataset = replace(dataset, nifti_form=request.nifti_form)
    dataset = with_label_table(dataset, request.names_of_values, request.n_workers)
    dataset = replace(dataset, notes=[*dataset.notes, *slice_notes(dataset, drawn)])
    if drawn is not None:
        dataset = with_sparse_labels(dataset, drawn)
    report = folders().preprocessed / full_name / REPORT
    result = write_raw(
        dataset,
        folder,
        overwrite=request.overwrite,
        dry_run=request.dry_run,
        fix_geometry=request.fix_geometry,
        n_workers=request.n_workers,
        report=report,
    )
    if result.written and not (report.parent / "dataset.json").exists():
        report.unlink(missing_ok=True)  # of a conversion that found faults
    if result.written:
        remove_refused(full_name)
    return result


def _without(dataset: ConvertedDataset, exclude: Sequence[str]) -> ConvertedDataset:
    if not exclude:
        return dataset
    faulty = {fault.case for fault in dataset.faults}
    ids = {case.case_id for case in dataset.cases}
    unknown = sorted(set(exclude) - ids - faulty)
    if unknown:
        raise InputError(
            f"cases to exclude are not in the data: {', '.join(unknown)}",
            f"cases are named like {min(ids, default='(none)')}",
        )
    return replace(
        dataset,
        cases=[case for case in dataset.cases if case.case_id not in exclude],
        faults=[fault for fault in dataset.faults if fault.case not in exclude],
        skipped=[*dataset.skipped, *((case, "excluded") for case in exclude)],
    )


def _with_channels(dataset: ConvertedDataset, channels: Sequence[str]) -> ConvertedDataset:
    """Select or rename channels."""
    names = list(dataset.channel_names.values())
    if not channels or list(channels) == names:
        return dataset
    cases = dataset.cases
    if set(channels) <= set(names):
        _require_one_of_each(channels, names)
        indices = [names.index(name) for name in channels]
        cases = [
            replace(case, images=tuple(case.images[i] for i in indices))
            if len(case.images) == len(names)
            else case
            for case in cases
        ]
    elif len(channels) != len(names):
        raise InputError(
            f"{len(channels)} channel names for {len(names)} channels",
            f"the data have {', '.join(names)}",
            "Name all of them, or choose some of these names",
        )
    return replace(dataset, channel_names=dict(enumerate(channels)), cases=cases)


def _require_one_of_each(channels: Sequence[str], names: Sequence[str]) -> None:
    """Refuse to select by a name that is asked for twice, or that two channels have.

    Raises:
        InputError: It cannot be told which channel is meant.
    """
    for name in channels:
        if max(channels.count(name), names.count(name)) > 1:
            raise InputError(
                f"--channels {' '.join(channels)} leaves open which channels are meant",
                f"{name} is asked for {_times(channels.count(name))}, "
                f"and the data have it {_times(names.count(name))} ({', '.join(names)})",
                "Select by names that are there once, or give all channels names of their own",
            )


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _with_patients(dataset: ConvertedDataset, pattern: str | None) -> ConvertedDataset:
    if pattern is None:
        return dataset
    patient_of = patient_named(pattern)
    cases = [replace(case, patient=patient_of(case.case_id)) for case in dataset.cases]
    n_patients = len({case.patient for case in cases})
    note = f"{len(cases)} cases belong to {n_patients} patients (by {pattern!r})"
    return replace(dataset, cases=cases, notes=[*dataset.notes, note])


def patient_named(pattern: str | None) -> Callable[[str], str]:
    """A function from case id to patient.

    Args:
        pattern: Searched in the case id, its first group is the patient; without it each case is
            its own patient.

    Raises:
        InputError: The pattern is not valid; the function raises it where the pattern does not fit.
    """
    if pattern is None:
        return str
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--patient-regex {pattern!r} is not valid", str(error)) from error

    def patient(case: str) -> str:
        match = compiled.search(case)
        if match is None:
            raise InputError(
                f"--patient-regex {pattern!r} does not fit case {case}",
                "every case needs a patient",
                r"Example for pat7_scan2: '^(pat\d+)_'",
            )
        return match[1] if compiled.groups else match[0]

    return patient


def _with_roles(dataset: ConvertedDataset, request: Request) -> ConvertedDataset:
    """Test, labeled and unlabeled cases as asked for."""
    try:
        with_test = _with_test(dataset, request)
        with_labeled = _with_labeled(with_test, request.labeled)
        return _with_unlabeled(with_labeled, request.unlabeled)
    except InputError:
        if not dataset.faults:
            raise
        return dataset  # cases may be too few because of faults, which are told


def _with_test(dataset: ConvertedDataset, request: Request) -> ConvertedDataset:
    """Give more cases the role ``test``; no patient may have cases on both sides then."""
    if request.test is None:
        return dataset
    if listed := request.listed_test:
        test_ids = _in_list(dataset, listed, request.test)
        notes = [f"{len(test_ids)} of the {len(listed)} cases in {request.test} are test cases"]
    else:
        test_ids, notes = _last_labeled(dataset, int(str(request.test))), []
    cases = [replace(c, role="test") if c.case_id in test_ids else c for c in dataset.cases]
    train = {case.patient for case in cases if case.role != "test"}
    if both := train & {case.patient for case in cases if case.role == "test"}:
        remedy = "Choose whole patients with --test"
        if dataset.form == "dicom" and request.patient_regex is None:
            remedy += f", or give {SEVERAL_PATIENTS} if one patient id stands for several patients"
        raise InputError(
            f"patient {min(both)} would be in training and in test",
            "scores would be measured on patients the network has seen",
            remedy,
        )
    return replace(dataset, cases=cases, notes=[*dataset.notes, *notes])


def _in_list(
    dataset: ConvertedDataset, listed: frozenset[str], list_file: int | str | Path
) -> set[str]:
    """Ids of the cases that a list names."""
    ids = {case.case_id for case in dataset.cases} & {safe_id(name) for name in listed}
    if not ids:
        example = next((case.case_id for case in dataset.cases), "none")
        raise InputError(
            f"none of the {len(listed)} cases in {list_file} is in the data",
            f"the list has {min(listed)}, the data have {example}",
        )
    return ids


def _last_labeled(dataset: ConvertedDataset, n_test: int) -> set[str]:
    """Ids of the last labeled cases; one labeled case must stay."""
    labeled = dataset.with_role("labeled")
    if not 0 <= n_test < max(len(labeled), 1):
        raise InputError(
            f"{n_test} test cases cannot be taken",
            f"there are {len(labeled)} labeled cases and one must stay",
        )
    return {case.case_id for case in labeled[len(labeled) - n_test :]}


def _with_labeled(dataset: ConvertedDataset, n_labeled: int | None) -> ConvertedDataset:
    """Keep the label maps of the first ``n_labeled`` cases; drop every trace of the others'."""
    if n_labeled is None:
        return dataset
    labeled = [case.case_id for case in dataset.with_role("labeled")]
    if not 1 <= n_labeled <= len(labeled):
        raise InputError(
            f"{n_labeled} labeled cases were asked for", f"there are {len(labeled)} with label map"
        )
    hidden = set(labeled[n_labeled:])
    cases = [_without_label(c) if c.case_id in hidden else c for c in dataset.cases]
    notes = [f"the first {n_labeled} labeled cases in order keep their label maps"]
    patients = {case.patient for case in cases if case.role == "labeled"}
    shared = {case.patient for case in cases if case.role == "unlabeled"} & patients
    if shared:
        notes.append(f"patient {min(shared)} has labeled and unlabeled cases")
    return replace(dataset, cases=cases, notes=[*dataset.notes, *notes])


def _without_label(case: Case) -> Case:
    hidden = getattr(case.label, "path", case.label)
    inputs = tuple(path for path in case.inputs if path != hidden)
    return replace(case, role="unlabeled", label=None, inputs=inputs)


def _with_unlabeled(dataset: ConvertedDataset, n_unlabeled: int | None) -> ConvertedDataset:
    """Keep the first ``n_unlabeled`` unlabeled cases."""
    if n_unlabeled is None:
        return dataset
    unlabeled = [case.case_id for case in dataset.with_role("unlabeled")]
    if not 0 <= n_unlabeled <= len(unlabeled):
        raise InputError(
            f"{n_unlabeled} unlabeled cases were asked for", f"there are {len(unlabeled)}"
        )
    left_out = set(unlabeled[n_unlabeled:])
    cases = [case for case in dataset.cases if case.case_id not in left_out]
    notes = [f"{len(left_out)} unlabeled cases are left out, as asked"] if left_out else []
    return replace(dataset, cases=cases, notes=[*dataset.notes, *notes])
