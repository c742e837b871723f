"""The ids of a user's label maps and those inside, which nnU-Net wants consecutive.

``dataset.json`` names each class with the id inside (``labels``). Where the user's files have other
ids, the table ``original_labels`` gives theirs: it travels with the data set, the model and its
export, and every label map that leaves the program carries them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import InputError
from graphnn_unet.storage.safe_load import read_json

ORIGINAL = "original_labels"
_Labels = Mapping[str, int | list[int]]


def default_name(value: int) -> str:
    """Name of a class that nobody has named.

    Args:
        value: Its id in the user's files.
    """
    return f"label_{value}"


def original_labels(labels: _Labels, mapping: Mapping[int, int]) -> dict[str, int | list[int]]:
    """Names to the ids of the user's files.

    Args:
        labels: Name to id inside, or to the ids of a region.
        mapping: The user's id to the one inside.

    Example:
        >>> original_labels({"background": 0, "organ": 1, "lesion": 2}, {0: 0, 1: 1, 4: 2})
        {'background': 0, 'organ': 1, 'lesion': 4}
    """
    user = {inside: outside for outside, inside in mapping.items()}
    return {
        name: [user.get(i, i) for i in ids] if isinstance(ids, list) else user.get(ids, ids)
        for name, ids in labels.items()
    }


def label_values(labels: Mapping[str, Any]) -> tuple[int, ...]:
    """All ids of a label table, regions included, sorted."""
    return tuple(sorted({int(i) for ids in labels.values() for i in listed_ids(ids)}))


def ids_of_user(dataset_json: Mapping[str, Any]) -> dict[int, int]:
    """Id inside to the user's; empty where they are the same.

    Raises:
        InputError: The two tables of a ``dataset.json`` do not belong together.
    """
    original = dataset_json.get(ORIGINAL)
    if original is None:
        return {}
    labels = dataset_json["labels"]
    try:
        pairs = {
            inside: int(outside)
            for name, ids in labels.items()
            for inside, outside in zip(listed_ids(ids), listed_ids(original[name]), strict=True)
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"dataset.json: {ORIGINAL!r} does not fit 'labels'",
            "each class needs its id in both",
            "Convert the data set again, or take the table out",
        ) from error
    changed = any(inside != outside for inside, outside in pairs.items())
    return pairs if changed else {}


def as_user_has_them(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """A ``dataset.json`` whose ``labels`` are the user's, for a folder of such label maps."""
    content = {key: value for key, value in dataset_json.items() if key != ORIGINAL}
    if ids_of_user(dataset_json):
        content["labels"] = dict(dataset_json[ORIGINAL])
        order = dataset_json.get("regions_class_order")
        if order is not None:
            ids = ids_of_user(dataset_json)
            content["regions_class_order"] = [ids.get(i, i) for i in order]
    return content


def id_names(description: Mapping[str, Any]) -> dict[int, str]:
    """Id in the label maps to the class that it stands for.

    Of regions, each has the id by which the map shows it: that of ``regions_class_order``.

    Example:
        >>> id_names({"labels": {"background": 0, "organ": 1, "lesion": 4}})
        {1: 'organ', 4: 'lesion'}
        >>> regions = {"background": 0, "all": [1, 2], "core": 2}
        >>> id_names({"labels": regions, "regions_class_order": [1, 2]})
        {1: 'all', 2: 'core'}
    """
    order = description.get("regions_class_order")
    labels = {
        name: listed_ids(ids)
        for name, ids in description["labels"].items()
        if name != "ignore" and set(listed_ids(ids)) != {0}
    }
    if order is not None and any(len(ids) > 1 for ids in labels.values()):
        return {int(number): name for number, name in zip(order, labels, strict=True)}
    return {ids[0]: name for name, ids in labels.items()}


def description_of(folder: Path) -> Path | None:
    """The ``dataset.json`` of a folder of label maps.

    Predictions have their own, ``labelsTr`` lies in the raw folder, the validation of a fold two
    floors below that of the model. Label maps from elsewhere have none.
    """
    folder = folder.absolute()
    places = (place / "dataset.json" for place in (folder, *folder.parents[:2]))
    return next((path for path in places if path.is_file()), None)


def described_ids(folder: Path) -> dict[int, int]:
    """Id inside to the user's, of the label maps in a folder of this program; else empty."""
    path = description_of(folder)
    content = read_json(path) if path else None
    return ids_of_user(content) if isinstance(content, dict) else {}


def with_ids(array: NDArray[Any], ids: Mapping[int, int]) -> NDArray[Any]:
    """A label map with other ids; ids that are not in the table stay.

    Args:
        array: Integers, 0 or more.
        ids: Old id to new id; an empty table returns the array itself.

    Returns:
        The smallest unsigned type that holds all new ids.

    Example:
        >>> with_ids(np.array([0, 1, 2], np.uint8), {0: 0, 1: 1, 2: 400})
        array([  0,   1, 400], dtype=uint16)
    """
    if not ids:
        return array
    size = max(int(array.max(initial=0)), *ids) + 1
    table = np.arange(size, dtype=np.int64)
    for old, new in ids.items():
        table[old] = new
    return table.astype(np.min_scalar_type(int(table.max())))[array]


def listed_ids(ids: Any) -> list[int]:
    """The ids of a class, or of a region."""
    return [int(i) for i in ids] if isinstance(ids, (list, tuple)) else [int(ids)]
