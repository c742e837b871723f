"""Masks of which only some slices are drawn: the others get nnU-Net's label to be ignored.

A slice is drawn where it holds any label. A slice that was looked at and is empty cannot be told
from one that nobody looked at: a table names such slices. No loss and no score reads the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from graphnn_unet.dataset_conversion.label_table import IGNORE
from graphnn_unet.dataset_conversion.records import ConvertedDataset, Source
from graphnn_unet.dataset_conversion.volumes import along_image, load
from graphnn_unet.errors import BadFileError, InputError, MissingFileError
from graphnn_unet.images.find import safe_id, some
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.orientation import slice_axis
from graphnn_unet.images.read import nearest_integers
from graphnn_unet.images.volume import Volume
from graphnn_unet.storage.csv_cells import read_csv

AXES = ("z", "y", "x")
"""Axes as a file stores them: slices, rows, columns."""

AUTO = "auto"
"""The axis with the largest spacing, of each image by itself."""

ALL = "all"
COLUMNS = ("case", "slices")


@dataclass(frozen=True)
class DrawnSlices:
    """Which slices of the masks count as drawn, beside those that hold a label.

    Attributes:
        axis: ``z``, ``y``, ``x`` or ``auto``.
        of_case: Case id to the numbers of slices from 0, or to ``all``.
    """

    axis: str = AUTO
    of_case: Mapping[str, tuple[int, ...] | str] = field(default_factory=dict)


def drawn_slices(axis: str, table: Path | str | None) -> DrawnSlices:
    """What the user says about the slices.

    Args:
        axis: ``z``, ``y``, ``x`` or ``auto``.
        table: CSV with the columns ``case`` and ``slices`` (``3 9 15`` or ``all``), such as
            ``suggest`` writes; other columns and rows without slices are not read.

    Raises:
        InputError: The axis or a line of the table cannot be read.
        MissingFileError: There is no such table.
    """
    if axis not in (*AXES, AUTO):
        raise InputError(f"axis {axis!r} is unknown", "", f"Use {', '.join(AXES)} or {AUTO}")
    if table is None:
        return DrawnSlices(axis)
    path = Path(table).expanduser()
    if not path.is_file():
        raise MissingFileError(f"the table of slices {path} is missing")
    rows = read_csv(path)
    if rows and not set(COLUMNS) <= set(rows[0]):
        raise InputError(
            f"{path} is no table of slices",
            f"it has the columns {', '.join(rows[0])}",
            "Give one with the columns case and slices",
        )
    of_case: dict[str, tuple[int, ...] | str] = {}
    for row in rows:
        if text := row["slices"].strip():
            of_case[safe_id(row["case"])] = _slices(text, row["case"], path)
    return DrawnSlices(axis, of_case)


def _slices(text: str, case: str, path: Path) -> tuple[int, ...] | str:
    if text.lower() == ALL:
        return ALL
    words = re.split(r"[\s;,]+", text)
    if not all(re.fullmatch(r"\d{1,6}", word) for word in words):
        raise InputError(
            f"slices {text[:40]!r} of {case} in {path} cannot be read",
            "",
            "Write numbers from 0, as in 3 9 15, or all",
        )
    return tuple(sorted({int(word) for word in words}))


def slice_notes(dataset: ConvertedDataset, drawn: DrawnSlices | None) -> list[str]:
    """A note where most masks look drawn in some slices only, and ``drawn`` does not say so.

    Args:
        dataset: With the content of its label maps.
        drawn: What the user says about the slices, if anything.
    """
    told = drawn or DrawnSlices()
    masks = {
        case.case_id: dataset.label_content[case.case_id]
        for case in dataset.with_role("labeled")
        if case.case_id in dataset.label_content and told.of_case.get(case.case_id) != ALL
    }
    n_masks = sum(any(content.counts.keys() - {0}) for content in masks.values())
    even = {case: content.even_axes for case, content in masks.items() if content.even_axes}
    axis, _ = next(iter(Counter(axis for axis, _ in even.values()).most_common(1)), (0, 0))
    used = {
        case: auto if told.axis == AUTO else AXES.index(told.axis)
        for case, (across, auto) in even.items()
        if across == axis
    }
    is_told = drawn is not None and set(used.values()) == {axis}
    if dataset.form != "nifti" or is_told or 2 * len(used) <= n_masks:
        return []
    flag = "--sparse" if not drawn and set(used.values()) == {axis} else f"--sparse {AXES[axis]}"
    return [
        f"{len(used)} of {n_masks} label maps ({some(used, 3)}) have labels only in slices across "
        f"{AXES[axis]} at equal distances: where the slices between were not drawn, give {flag}, "
        "or they train as background"
    ]


def with_sparse_labels(dataset: ConvertedDataset, drawn: DrawnSlices) -> ConvertedDataset:
    """The data set with slices that nobody drew as ``ignore``, in labeled cases.

    Masks of test cases stay as they are: scores need whole ones.

    Args:
        dataset: Its label table is final; a label ``ignore`` that it has is used.
        drawn: Which slices count as drawn.

    Raises:
        InputError: The labels are regions, or the table names cases that are not there.
    """
    labels = dict(dataset.labels)
    if any(isinstance(value, list) for value in labels.values()):
        raise InputError("--sparse cannot be used", "the labels are regions that overlap")
    labeled = {case.case_id for case in dataset.with_role("labeled")}
    if unknown := sorted(set(drawn.of_case) - {case.case_id for case in dataset.cases}):
        raise InputError(
            f"the table of slices names {some(unknown)}",
            f"the data set has no such case (they are named like {min(labeled, default='none')})",
        )
    mapping = dict(dataset.label_mapping)
    ids = [value for value in labels.values() if isinstance(value, int)]
    inside = ids[[*labels].index(IGNORE)] if IGNORE in labels else 1 + max(ids)
    if IGNORE not in labels:
        labels[IGNORE] = inside
        if mapping:
            mapping[max(mapping) + 1] = inside
    stored = next((old for old, new in mapping.items() if new == inside), inside)
    cases = [
        replace(case, label=sparse_source(case.label, case.images[0], case.case_id, drawn, stored,
                                          dataset.nifti_form))
        if case.case_id in labeled and case.label is not None
        else case
        for case in dataset.cases
    ]  # fmt: skip
    note = (
        f"slices without any label are 'ignore' ({stored}) in {len(labeled)} labeled cases: no "
        "loss and no score reads them"
    )
    if not drawn.of_case:
        note += "; name slices that you looked at and found empty with --sparse-slices"
    return replace(
        dataset,
        cases=cases,
        labels=labels,
        label_mapping=mapping,
        notes=[*dataset.notes, note],
    )


def sparse_source(
    label: Source,
    image: Source,
    case: str,
    drawn: DrawnSlices,
    ignore: int,
    form: NiftiForm | None,
) -> Source:
    """What reads a mask with the slices that nobody drew as ``ignore``.

    Args:
        label: The mask.
        image: Image of the case, whose axes count.
        case: Case id.
        drawn: Which slices count as drawn.
        ignore: Value of voxels to be ignored.
        form: As of ``read_volume``.
    """
    slices = drawn.of_case.get(case, ())
    if isinstance(slices, str):
        return label
    return partial(_read_sparse, label, image, drawn.axis, slices, ignore, form)


def _read_sparse(
    label: Source,
    image: Source,
    axis_name: str,
    slices: Sequence[int],
    ignore: int,
    form: NiftiForm | None,
) -> Volume:
    """A mask along the axes of its image, with ``ignore`` in the slices that nobody drew.

    Raises:
        BadFileError: The mask cannot be read, has no slice with a label, or not the slices that
            are named.
    """
    volume = along_image(load(label, "label map", form), image, form)
    integers = nearest_integers(volume.array)
    if integers.n_wrong:
        return volume  # told with the other faults of the label map
    axis = slice_axis(volume.spacing) if axis_name == AUTO else AXES.index(axis_name)
    array = np.moveaxis(integers.values, axis, 0)
    is_drawn = np.asarray(array.reshape(len(array), -1).any(axis=1))
    if outside := [number for number in slices if number >= len(array)]:
        cause = f"slice {outside[0]} is named as drawn, and axis {AXES[axis]} has {len(array)}"
        raise BadFileError("I15", cause, "Count slices from 0, or name the axis with --sparse")
    is_drawn[list(slices)] = True
    if not is_drawn.any():
        remedy = "Leave the mask out, then the scan trains without a label (--exclude)"
        raise BadFileError("I29", "its mask has no slice with a label", remedy)
    kind = np.promote_types(integers.values.dtype, np.min_scalar_type(ignore))
    array = array.astype(kind)
    array[~is_drawn] = ignore
    return replace(volume, array=np.moveaxis(array, 0, axis))
