"""The label table of a raw folder: names and consecutive ids of the values in the label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from graphnn_unet.data.check_labels import MAX_LABEL, count_values, largest_value
from graphnn_unet.dataset_conversion.records import ConvertedDataset, Source
from graphnn_unet.dataset_conversion.segments import with_segments
from graphnn_unet.dataset_conversion.volumes import load
from graphnn_unet.dataset_conversion.write_raw import workers_for
from graphnn_unet.errors import BadFileError, InputError
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.read import nearest_integers
from graphnn_unet.progress import track
from graphnn_unet.storage.processes import run_jobs

MAX_LABELS = 255
IGNORE = "ignore"


def with_label_table(
    dataset: ConvertedDataset, names: Mapping[int, str], n_workers: int | None
) -> ConvertedDataset:
    """The final label table: the form's own, renamed, or made from the values in the files.

    A label called ``ignore`` gets the highest id, as nnU-Net needs it. Segments that 3D Slicer
    names in its files are matched by their names.

    Args:
        dataset: Cases with their final roles; only the label maps that will be written are read.
        names: Stored value to name, from the user.
        n_workers: Worker processes, 0 for none; by the size of the data without it.

    Raises:
        InputError: The names do not fit, or there are more values than a label map can have.
    """
    names = _checked(names)
    if dataset.labels:
        return _ignore_last(replace(dataset, labels=_renamed(dataset.labels, names)))
    dataset, names = with_segments(dataset, names)
    names = _checked(names)
    stored = sorted(_stored_values(dataset, n_workers) | set(names) | {0})
    stored.sort(key=lambda value: (names.get(value) == IGNORE, value))
    mapping = {old: new for new, old in enumerate(value for value in stored if value >= 0)}
    labels: dict[str, int | list[int]] = {
        names.get(old, f"label_{old}") if new else "background": new for old, new in mapping.items()
    }
    return _mapped(dataset, labels, mapping)


def _checked(names: Mapping[int, str]) -> dict[int, str]:
    """Names of the values from 1 on; ``ignore`` in any spelling is nnU-Net's."""
    if names.get(0, "background").lower() != "background":
        raise InputError("the label 0 is the background", "", "Name the values from 1 on")
    checked = {
        value: IGNORE if name.lower() == IGNORE else name for value, name in names.items() if value
    }
    require_distinct_names([*checked.values(), "background"])
    return checked


def require_distinct_names(names: Sequence[str]) -> None:
    """Refuse names of classes that are equal, or equal but for capitals.

    Raises:
        InputError: Two are.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if seen[name.casefold()] is not name or names.count(name) > 1:
            how = "have one name" if other == name else "have names that differ in capitals only"
            raise InputError(
                f"two label values {how}", f"{other!r} and {name!r}", "Give each its own"
            )


def _ignore_last(dataset: ConvertedDataset) -> ConvertedDataset:
    """The form's own table with ``ignore`` as the highest id."""
    ids = {name: value for name, value in dataset.labels.items() if isinstance(value, int)}
    if IGNORE not in ids or len(ids) < len(dataset.labels) or ids[IGNORE] == max(ids.values()):
        return dataset
    order = sorted(ids, key=lambda name: (name == IGNORE, ids[name]))
    moved = {ids[name]: new for new, name in enumerate(order)}
    before = dataset.label_mapping or {value: value for value in ids.values()}
    mapping = {old: moved[inside] for old, inside in before.items()}
    return _mapped(dataset, {name: moved[ids[name]] for name in order}, mapping)


def _mapped(
    dataset: ConvertedDataset, labels: dict[str, int | list[int]], mapping: dict[int, int]
) -> ConvertedDataset:
    """The data set with a table of labels, and a note about the values that change."""
    changed = [f"{old} is {new}" for old, new in mapping.items() if old != new]
    if not changed:
        return replace(dataset, labels=labels)
    note = (
        f"label values are consecutive inside, as nnU-Net needs them ({', '.join(changed)}); "
        "gnnunet_predict writes yours"
    )
    if IGNORE in labels:
        note += f" ('{IGNORE}' is the highest)"
    notes = [*dataset.notes, note]
    return replace(dataset, labels=labels, label_mapping=mapping, notes=notes)


def _renamed(
    labels: Mapping[str, int | list[int]], names: Mapping[int, str]
) -> dict[str, int | list[int]]:
    """The form's own table with the user's names."""
    name_of = {value: name for name, value in labels.items() if isinstance(value, int)}
    unknown = sorted(set(names) - set(name_of))
    if unknown:
        raise InputError(f"label {unknown[0]} cannot be named", f"the data have {sorted(name_of)}")
    if not names:
        return dict(labels)
    renamed = {value: names.get(value, name) for value, name in name_of.items()}
    require_distinct_names(list(renamed.values()))
    return {name: value for value, name in renamed.items()}


def _stored_values(dataset: ConvertedDataset, n_workers: int | None) -> set[int]:
    """All values in the label maps that will be written; bad files are reported later."""
    sources = [case.label for case in dataset.cases if case.label is not None]
    if n_workers is None:
        n_workers = workers_for(dataset)
    values: set[int] = set()
    outcomes = run_jobs(partial(_values_of, dataset.nifti_form), sources, n_workers=n_workers)
    for outcome in track(outcomes, len(sources), "read label values"):
        of_file: set[int] = outcome.value or set()
        if len(of_file) <= MAX_LABELS:
            values |= of_file
        if len(values) > MAX_LABELS:
            what = outcome.job.name if isinstance(outcome.job, Path) else "a label map"
            raise InputError(
                f"{what} brings the number of label values to {len(values)}",
                f"more than {MAX_LABELS} are no label map; it looks like an image",
                "Check that --images and --labels are not swapped",
            )
    return values


def _values_of(form: NiftiForm | None, source: Source) -> set[int]:
    """Integer values of one label map; empty when it cannot be used."""
    try:
        array = load(source, "label map", form).array
    except BadFileError:
        return set()
    integers = nearest_integers(array)
    if integers.n_wrong or largest_value(integers.values, array) > MAX_LABEL:
        return set()
    return set(count_values(integers.values))
