"""Beside label maps: how large each class is, and its name and color for viewers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.images.label_ids import as_user_has_them
from graphnn_unet.images.pictures import label_colors
from graphnn_unet.storage.atomic import write_csv, write_text

VOLUMES_CSV = "volumes.csv"
COLUMNS = ("case", "class", "voxels", "ml")
SLICER_TABLE, ITKSNAP_TABLE = "labels.ctbl", "labels_itksnap.txt"

_SNAP_MAX = 2**16 - 1
"""Largest id that ITK-SNAP has."""

Color = tuple[int, int, int]


def count_classes(labels: NDArray[Any], classes: Mapping[str, Any]) -> dict[str, int]:
    """Voxels of each class of a label map; background and the ignore label are none.

    Args:
        labels: ``(z, y, x)`` ids inside.
        classes: Name to id inside, or to the ids of a region.

    Example:
        >>> count_classes(np.array([[[0, 1, 2, 2]]]), {"background": 0, "organ": [1, 2], "core": 2})
        {'organ': 3, 'core': 2}
    """
    n_ids = int(labels.max(initial=0)) + 1
    # slice by slice: counting takes eight bytes a voxel
    counts = sum(np.bincount(part.ravel(), minlength=n_ids) for part in labels)
    return {
        name: sum(int(np.asarray(counts)[i]) for i in _listed(ids) if i < n_ids)
        for name, ids in classes.items()
        if name != "ignore" and set(_listed(ids)) != {0}
    }


def write_volumes(target: Path, cases: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Write a row for each case and class.

    Args:
        target: CSV file.
        cases: Case to class to voxels and ml; ml is ``None`` of pictures, which have no size.
    """
    rows = (
        {"case": case, "class": name, "voxels": voxels, "ml": "" if ml is None else f"{ml:.6g}"}
        for case, classes in sorted(cases.items())
        for name, (voxels, ml) in classes.items()
    )
    write_csv(target, rows, COLUMNS)


def write_color_tables(
    folder: Path, dataset_json: Mapping[str, Any], colors: Mapping[int, Color]
) -> None:
    """Write names and colors of the user's ids for 3D Slicer and for ITK-SNAP.

    Args:
        folder: Folder of label maps.
        dataset_json: Of the model.
        colors: Red, green and blue of some ids; the others get those of label pictures.
    """
    names = id_names(as_user_has_them(dataset_json))
    shades = label_colors(max(256, len(names) + 1))
    # an id beyond the palette takes the color of its place in the table
    table = [
        (number, name, colors.get(number, shades[number if number < len(shades) else place]))
        for place, (number, name) in enumerate(sorted(names.items()), 1)
    ]
    write_text(folder / SLICER_TABLE, _slicer_text(table))
    write_text(folder / ITKSNAP_TABLE, _itksnap_text(table))


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
        name: _listed(ids)
        for name, ids in description["labels"].items()
        if name != "ignore" and set(_listed(ids)) != {0}
    }
    if order is not None and any(len(ids) > 1 for ids in labels.values()):
        return {int(number): name for number, name in zip(order, labels, strict=True)}
    return {ids[0]: name for name, ids in labels.items()}


def _slicer_text(table: Sequence[tuple[int, str, Color]]) -> str:
    lines = ["# Color table of 3D Slicer: id name red green blue alpha", "0 background 0 0 0 0"]
    # names end at a space; Slicer shows the underscore as one
    lines += [
        f"{number} {'_'.join(name.split()) or '_'} {red} {green} {blue} 255"
        for number, name, (red, green, blue) in table
    ]
    return "\n".join(lines) + "\n"


def _itksnap_text(table: Sequence[tuple[int, str, Color]]) -> str:
    lines = [
        "# ITK-SnAP Label Description File",
        "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL",
        '    0     0    0    0        0  0  0    "Clear Label"',
    ]
    for number, name, (red, green, blue) in table:
        if number <= _SNAP_MAX:
            text = " ".join(name.replace('"', "'").split())
            lines.append(f'{number:5} {red:5} {green:4} {blue:4}        1  1  1    "{text}"')
    return "\n".join(lines) + "\n"


def _listed(ids: Any) -> list[int]:
    return [int(i) for i in ids] if isinstance(ids, (list, tuple)) else [int(ids)]
