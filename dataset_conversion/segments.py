"""Label maps from 3D Slicer, whose files say by name what each value is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from graphnn_unet.dataset_conversion.records import ConvertedDataset
from graphnn_unet.errors import BadFileError, InputError
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.read import nearest_integers, read_volume
from graphnn_unet.images.segments import Segment, segments_of
from graphnn_unet.images.volume import Volume


def with_segments(
    dataset: ConvertedDataset, names: Mapping[int, str]
) -> tuple[ConvertedDataset, dict[int, str]]:
    """Names of the label values as far as Slicer's files give them.

    Where the files agree on what each value is, nothing but the names is taken from them. Where
    they do not, each is read by its names, and the values become those of one table.

    Args:
        dataset: Cases whose label maps will be written.
        names: Stored value to name, from the user; they win where the files agree.

    Returns:
        The data set, and the names of all values.

    Raises:
        InputError: The files disagree, and some have no names or the user has named values.
    """
    spelling: dict[str, str] = {}
    named = _names_by_case(dataset, spelling)
    if not named:
        return dataset, dict(names)
    pairs = {pair for table in named.values() for pair in table.items()}
    values, words = ({pair[i] for pair in pairs} for i in (0, 1))
    if len(pairs) == len(values) == len(words):
        listed = ", ".join(f"{value}={name}" for value, name in sorted(pairs))
        note = f"names of segments were taken from the files: {listed}"
        return replace(dataset, notes=[*dataset.notes, note]), {**dict(pairs), **names}
    _require_names_alone(dataset, named, names)
    ids = {name: i for i, name in enumerate(_by_first_use(named), start=1)}
    cases = [
        replace(
            case,
            label=partial(
                read_by_names,
                case.label,
                {value: ids[name] for value, name in named[case.case_id].items()},
                dataset.nifti_form,
            ),
        )
        if isinstance(case.label, Path)
        else case
        for case in dataset.cases
    ]
    listed = ", ".join(f"{name}={i}" for name, i in ids.items())
    note = f"the files number their segments in several orders; matched by name: {listed}"
    return replace(dataset, cases=cases, notes=[*dataset.notes, note]), {
        i: name for name, i in ids.items()
    }


def read_by_names(path: Path, ids: Mapping[int, int], form: NiftiForm | None) -> Volume:
    """A label map of Slicer with the ids of the data set.

    Args:
        path: The file.
        ids: Value in this file to id.
        form: As of ``read_volume``.

    Raises:
        BadFileError: The file is damaged, or has voxels of no segment.
    """
    volume = read_volume(path, path.name, form=form)
    integers = nearest_integers(volume.array)
    strange = sorted(set(np.unique(integers.values).tolist()) - {0, *ids})
    if integers.n_wrong or strange:
        what = f"the value {strange[0]}" if strange else "values that are no integers"
        cause = f"{path.name} has {what}, which none of its segments is"
        raise BadFileError("I23", cause, "Save the segmentation again in Slicer")
    array = np.zeros(integers.values.shape, np.min_scalar_type(max(ids.values(), default=0)))
    for value, new in ids.items():
        array[integers.values == value] = new
    return replace(volume, array=array)


def require_one_layer(segments: Sequence[Segment], name: str) -> None:
    """Refuse segments that overlap.

    Args:
        segments: Those of a file.
        name: How the message calls it.

    Raises:
        InputError: They lie in several layers.
    """
    if n_layers := max((segment.layer for segment in segments), default=0):
        raise InputError(
            f"{name} keeps overlapping segments in {n_layers + 1} layers",
            "a label map has one class a voxel",
            "Export it from Slicer as a label map (Segmentations, Export to files), or remove "
            "the overlap and save again",
        )


def _names_by_case(
    dataset: ConvertedDataset, spelling: dict[str, str]
) -> dict[str, dict[int, str]]:
    """Case to value to name, of the label maps with names; capitals as in the first file."""
    named: dict[str, dict[int, str]] = {}
    for case in dataset.cases:
        if not isinstance(case.label, Path) or not case.label.is_file():
            continue
        try:
            segments = segments_of(case.label)
        except BadFileError as error:
            raise InputError(f"{case.case_id}: {error.what}", "", error.remedy) from error
        require_one_layer(segments, f"{case.case_id}: {case.label.name}")
        if segments:
            named[case.case_id] = {
                s.value: spelling.setdefault(s.name.casefold(), s.name) for s in segments
            }
    return named


def _require_names_alone(
    dataset: ConvertedDataset, named: Mapping[str, Mapping[int, str]], names: Mapping[int, str]
) -> None:
    """Values cannot be matched by number where the files number segments in several orders."""
    what = "label values mean different segments in different files"
    if names:
        raise InputError(what, "the files name them", "Leave --label-names out")
    without = [c.case_id for c in dataset.cases if c.label is not None and c.case_id not in named]
    if without:
        raise InputError(
            what,
            f"and {without[0]} does not name its segments",
            "Save all label maps from Slicer, or all with the same values",
        )


def _by_first_use(named: Mapping[str, Mapping[int, str]]) -> list[str]:
    """All names, in the order of values and cases; ``ignore`` and the like are sorted later."""
    return list(dict.fromkeys(name for table in named.values() for name in table.values()))
