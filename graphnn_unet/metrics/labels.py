"""Names and ids of the classes that are scored, from ``dataset.json`` or from the label maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from graphnn_unet.errors import InputError
from graphnn_unet.images.label_ids import ORIGINAL, description_of
from graphnn_unet.metrics.protocols import LabelIds
from graphnn_unet.storage.safe_load import read_json

MAX_FOUND_CLASSES = 255
"""More ids than this in one map, without a ``dataset.json``, are taken for the gray values of an
image: whole-body atlases name about 120 structures, brain parcellations about 200."""


@dataclass(frozen=True)
class LabelTable:
    """The classes of a data set.

    Attributes:
        classes: Name to id or, for a region, to its ids; without background and ignore.
        ignore: Id of voxels that are not scored, or ``None``.
        source: The ``dataset.json`` they were read from; ``None`` for ids found in the maps.
    """

    classes: Mapping[str, LabelIds]
    ignore: int | None = None
    source: Path | None = None

    @property
    def known_ids(self) -> frozenset[int]:
        """All values that a reference may hold."""
        ids = {0} if self.ignore is None else {0, self.ignore}
        for value in self.classes.values():
            ids.update([value] if isinstance(value, int) else value)
        return frozenset(ids)


def find_dataset_json(predictions: Path, labels: Path) -> Path | None:
    """``dataset.json`` in the predictions' folder, or the nearest of the labels or predictions."""
    beside = predictions / "dataset.json"
    return beside if beside.is_file() else description_of(labels) or description_of(predictions)


def read_labels(dataset_json: Path) -> LabelTable:
    """Classes of a ``dataset.json`` of nnU-Net (name to id or ids) or the Decathlon (id to name).

    Where the user's label maps have other ids than those inside, the user's are taken.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is not JSON, names no class, or an id is not an integer from 0 on.
    """
    labels = _table_of(read_json(dataset_json), dataset_json)
    if all(key.isdigit() and isinstance(value, str) for key, value in labels.items()):
        labels = {name: int(number) for number, name in labels.items()}
    ignore = labels.pop("ignore", None)
    if ignore is not None and not _is_id(ignore):
        raise _bad(dataset_json, f"the label 'ignore' is {ignore!r}, not an id")
    classes: dict[str, LabelIds] = {}
    for name, value in labels.items():
        ids = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not ids or not all(_is_id(number) for number in ids):
            raise _bad(dataset_json, f"the label {name!r} is {value!r}, not an id or a list of ids")
        if set(ids) != {0}:  # background
            classes[name] = tuple(ids) if isinstance(value, list) else value
    if not classes:
        raise _bad(dataset_json, "its table 'labels' names nothing but background")
    return LabelTable(classes, ignore, dataset_json)


def table_of_ids(ids: Iterable[int]) -> LabelTable:
    """A table in which every id but 0 is a class of its own name.

    Example:
        >>> table_of_ids({0, 2, 1}).classes
        {'1': 1, '2': 2}
    """
    return LabelTable({str(number): number for number in sorted(ids) if number})


def summary_key(ids: LabelIds) -> str:
    """How nnU-Net's ``summary.json`` writes a class.

    Example:
        >>> summary_key(1), summary_key([1, 2])
        ('1', '(1, 2)')
    """
    return str(ids) if isinstance(ids, int) else str(tuple(ids))


def _table_of(content: Any, source: Path) -> dict[str, Any]:
    table = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    labels: Any = table.get(ORIGINAL, table.get("labels"))
    if not isinstance(labels, dict) or not labels:
        raise _bad(source, "it has no table 'labels'")
    return cast("dict[str, Any]", labels)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _bad(path: Path, cause: str) -> InputError:
    return InputError(
        f"{path} does not name the classes", cause, "Give the dataset.json of these label maps"
    )
