"""The label table of a raw folder: names and consecutive ids of the values in the label maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from graphnn_unet.data.check_labels import count_values
from graphnn_unet.dataset_conversion.records import ConvertedDataset, Source
from graphnn_unet.dataset_conversion.volumes import load
from graphnn_unet.dataset_conversion.write_raw import workers_for
from graphnn_unet.errors import BadFileError, InputError
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.read import nearest_integers
from graphnn_unet.progress import track
from graphnn_unet.storage.processes import run_jobs

MAX_LABELS = 255


def with_label_table(
    dataset: ConvertedDataset, names: Mapping[int, str], n_workers: int | None
) -> ConvertedDataset:
    """The final label table: the form's own, renamed, or made from the values in the files.

    Args:
        dataset: Cases with their final roles; only the label maps that will be written are read.
        names: Stored value to name, from the user.
        n_workers: Worker processes, 0 for none; by the size of the data without it.

    Raises:
        InputError: The names do not fit, or there are more values than a label map can have.
    """
    if names.get(0, "background") != "background":
        raise InputError("the label 0 is the background", "", "Name the values from 1 on")
    names = {value: name for value, name in names.items() if value}
    if len(set(names.values())) < len(names):
        raise InputError("two label values have one name", "", "Give each its own")
    if dataset.labels:
        return replace(dataset, labels=_renamed(dataset.labels, names))
    stored = sorted(_stored_values(dataset, n_workers) | set(names) | {0})
    mapping = {old: new for new, old in enumerate(value for value in stored if value >= 0)}
    labels: dict[str, int | list[int]] = {
        names.get(old, f"label_{old}") if new else "background": new for old, new in mapping.items()
    }
    changed = [f"{old} is {new}" for old, new in mapping.items() if old != new]
    if not changed:
        return replace(dataset, labels=labels)
    note = (
        f"label values are consecutive inside, as nnU-Net needs them ({', '.join(changed)}); "
        "gnnunet_predict writes yours"
    )
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
    return {names.get(value, name): value for value, name in name_of.items()}


def _stored_values(dataset: ConvertedDataset, n_workers: int | None) -> set[int]:
    """All values in the label maps that will be written; bad files are reported later."""
    sources = [case.label for case in dataset.cases if case.label is not None]
    if n_workers is None:
        n_workers = workers_for(dataset)
    values: set[int] = set()
    outcomes = run_jobs(partial(_values_of, dataset.nifti_form), sources, n_workers=n_workers)
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


def _values_of(form: NiftiForm | None, source: Source) -> set[int]:
    """Integer values of one label map; empty when it cannot be used."""
    try:
        array = load(source, "label map", form).array
    except BadFileError:
        return set()
    integers = nearest_integers(array)
    return set() if integers.n_wrong else set(count_values(integers.values))
