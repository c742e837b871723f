"""The label table of a raw folder: names and consecutive ids of the values in the label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from graphnn_unet.data.check_labels import MAX_LABEL, count_values, largest_value
from graphnn_unet.data.odd_labels import odd_labels
from graphnn_unet.dataset_conversion.masks import Mask
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset, LabelContent, Source
from graphnn_unet.dataset_conversion.segments import with_segments
from graphnn_unet.dataset_conversion.volumes import MAX_LABELS, along_image, load
from graphnn_unet.dataset_conversion.write_raw import workers_for
from graphnn_unet.errors import BadFileError, InputError, MissingFileError
from graphnn_unet.images.find import some
from graphnn_unet.images.flat_picture import RAW_ENDING
from graphnn_unet.images.gray_values import are_gray_values
from graphnn_unet.images.label_ids import default_name
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.orientation import evenly_drawn_axis, slice_axis
from graphnn_unet.images.read import nearest_integers
from graphnn_unet.images.volume import Volume
from graphnn_unet.progress import counted, track
from graphnn_unet.storage.processes import run_jobs

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
    dataset = replace(dataset, label_content=_read_content(dataset, n_workers))
    counts = {case: content.counts for case, content in dataset.label_content.items()}
    stored = sorted(set().union(names, {0}, *counts.values()))
    stored.sort(key=lambda value: (names.get(value) == IGNORE, value))
    mapping = {old: new for new, old in enumerate(value for value in stored if value >= 0)}
    _require_no_default_name(names, stored)
    labels: dict[str, int | list[int]] = {
        names.get(old, default_name(old)) if new else "background": new
        for old, new in mapping.items()
    }
    notes = _odd(counts, names, "pixel" if dataset.file_ending == RAW_ENDING else "voxel")
    return _mapped(replace(dataset, notes=[*dataset.notes, *notes]), labels, mapping)


def _odd(counts: Mapping[str, Mapping[int, int]], names: Mapping[int, str], unit: str) -> list[str]:
    """Questions about values that nobody named and that few label maps have."""
    sizes = {
        case: {value: counted(n, unit) for value, n in of_case.items()}
        for case, of_case in counts.items()
    }
    return odd_labels(sizes, set().union(*counts.values()) - set(names))


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


def _require_no_default_name(names: Mapping[int, str], stored: Sequence[int]) -> None:
    """Refuse a name that another value has because nobody named it.

    Raises:
        InputError: There is one.
    """
    value_of = {name.casefold(): value for value, name in names.items()}
    for value in stored:
        other = value_of.get(default_name(value).casefold(), 0)
        if value > 0 and value not in names and other:
            raise InputError(
                f"the value {other} is named {names[other]}",
                f"so is the value {value}, which the label maps have and which has no name",
                f"Name {value}, too, or give {other} another name",
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


def _read_content(dataset: ConvertedDataset, n_workers: int | None) -> dict[str, LabelContent]:
    """Case to content, of the label maps that will be written.

    Bad files, and those with more values than a label map can have, are reported later.
    """
    cases = [case for case in dataset.cases if case.label is not None]
    if n_workers is None:
        n_workers = workers_for(dataset)
    contents: dict[str, LabelContent] = {}
    outcomes = run_jobs(partial(_content_of, dataset.nifti_form), cases, n_workers=n_workers)
    for outcome in track(outcomes, len(cases), "read label values"):
        contents[outcome.job.case_id] = outcome.value or LabelContent()
    images = [case for case in cases if contents[case.case_id].is_image]
    if 2 * len(images) > len(cases):
        _require_not_swapped(images[0], dataset.nifti_form)
    contents = {case: of for case, of in contents.items() if len(of.counts) <= MAX_LABELS}
    for case in images:
        if isinstance(case.label, Mask) and case.label.meaning.doubt and case.case_id in contents:
            raise InputError(*case.label.meaning.doubt)
    values: set[int] = set()
    for case, content in contents.items():
        values.update(content.counts)
        if len(values) > MAX_LABELS:
            raise InputError(
                f"the label map of {case} brings the number of label values to {len(values)}",
                f"more than {MAX_LABELS} are no label map; it looks like an image",
                "Check that --images and --labels are not swapped",
            )
    return contents


def _require_not_swapped(case: Case, form: NiftiForm | None) -> None:
    """Refuse a case whose label map looks like an image, and the image like a label map.

    Raises:
        InputError: It does.
    """
    image = case.images[0]
    source = replace(case.label, path=image) if isinstance(case.label, Mask) else image
    content = _content_of(form, replace(case, label=source))
    if content.counts and not content.is_image:
        listed = f"{counted(len(content.counts), 'value')} ({some(map(str, content.counts))})"
        raise InputError(
            f"--images and --labels look swapped, as in {case.case_id}",
            f"its label map has the values of an image, its image {listed}",
            "Give the folder of images with --images and that of label maps with --labels",
        )


def _content_of(form: NiftiForm | None, case: Case) -> LabelContent:
    """What one label map holds; nothing when it cannot be used."""
    assert case.label is not None  # noqa: S101  # the caller has looked
    try:
        volume = load(case.label, "label map", form)
    except (BadFileError, OSError):
        return LabelContent()
    integers = nearest_integers(volume.array)
    if integers.n_wrong or largest_value(integers.values, volume.array) > MAX_LABEL:
        return LabelContent(is_image=True)
    volume = replace(volume, array=integers.values)
    counts = count_values(integers.values)
    is_image = are_gray_values(integers.values, len(counts))
    return LabelContent(counts, is_image, _even_axes(volume, case.images[0], form))


def _even_axes(volume: Volume, image: Source, form: NiftiForm | None) -> tuple[int, int] | None:
    """``LabelContent.even_axes`` of a label map."""
    if evenly_drawn_axis(volume.array) is None:
        return None
    with suppress(BadFileError, MissingFileError):  # a bad image is told with its case
        volume = along_image(volume, image, form)
    axis = evenly_drawn_axis(volume.array)
    return None if axis is None else (axis, slice_axis(volume.spacing))
