"""Beside label maps: how large each class is, and its name and color for viewers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.images.label_ids import as_user_has_them, id_names, listed_ids
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
        name: sum(int(np.asarray(counts)[i]) for i in listed_ids(ids) if i < n_ids)
        for name, ids in classes.items()
        if name != "ignore" and set(listed_ids(ids)) != {0}
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
    table = color_table(dataset_json, colors)
    write_text(folder / SLICER_TABLE, _slicer_text(table))
    write_text(folder / ITKSNAP_TABLE, _itksnap_text(table))


def color_table(
    dataset_json: Mapping[str, Any], colors: Mapping[int, Color]
) -> list[tuple[int, str, Color]]:
    """The user's ids with name and color, by id; arguments as of :func:`write_color_tables`."""
    names = id_names(as_user_has_them(dataset_json))
    shades = label_colors(max(256, len(names) + 1))
    # an id beyond the palette takes the color of its place in the table
    return [
        (number, name, colors.get(number, shades[number if number < len(shades) else place]))
        for place, (number, name) in enumerate(sorted(names.items()), 1)
    ]


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
