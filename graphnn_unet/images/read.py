"""Label maps as they are scored, and whether two files lie on one grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images import volume_bytes as volume_files

ENDINGS = volume_files.FILE_ENDINGS

ROUNDING = 1e-3
"""A float label within this distance of an integer is that integer; a larger one is a fault."""

ORIGIN_TOLERANCE_VOXELS = 0.1
RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Volume:
    """An image or label map with its place in space.

    Attributes:
        array: ``(z, y, x)`` or ``(y, x)``.
        spacing: mm in the order of the array's axes.
        origin: Position of the first voxel in mm, ITK's order and signs (x, y, z; LPS).
        direction: Direction cosines, row-major, ITK's order and signs.
    """

    array: NDArray[Any]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


def case_id(path: Path) -> str:
    """The file's name without its ending; empty where the ending is not one of ``ENDINGS``."""
    for ending in ENDINGS:
        if path.name.endswith(ending):
            return path.name[: -len(ending)]
    return ""


def read_volume(path: Path) -> Volume:
    """Read a file with one of the ``ENDINGS``.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is cut off, damaged, of another format or not one volume of 2 or 3 axes.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is missing")
    try:
        found = volume_files.read_volume(path, n_dims=None)
    except volume_files.BadFileError as error:
        raise InputError(error.cause, "", error.remedy) from error
    grid = found.grid
    return Volume(found.array, grid.spacing, grid.origin, grid.direction)


def read_label_map(path: Path) -> Volume:
    """Read a label map; its array comes back as the smallest unsigned integer type.

    Raises:
        MissingFileError: There is no such file.
        InputError: It cannot be read, or holds values that are not integers from 0 on.
    """
    volume = read_volume(path)
    return replace(volume, array=_as_labels(volume.array, path))


def geometry_differences(one: Volume, other: Volume) -> list[str]:
    """What keeps two volumes from being compared voxel by voxel; empty when nothing does.

    Rounding in headers is tolerated: spacing and directions to 0.1 %, the origin to a tenth of
    a voxel.
    """
    order = " (z y x)" if one.array.ndim == 3 else " (y x)"
    if one.array.shape != other.array.shape:
        return [
            f"size {_numbers(one.array.shape)} against {_numbers(other.array.shape)} voxels{order}"
        ]
    differences: list[str] = []
    if not np.allclose(one.spacing, other.spacing, rtol=RELATIVE_TOLERANCE, atol=0):
        differences.append(
            f"spacing {_numbers(one.spacing)} against {_numbers(other.spacing)} mm{order}"
        )
    if not np.allclose(one.direction, other.direction, rtol=0, atol=RELATIVE_TOLERANCE):
        differences.append(
            f"direction {_numbers(one.direction)} against {_numbers(other.direction)}"
        )
    shift = math.dist(one.origin, other.origin)
    if shift > ORIGIN_TOLERANCE_VOXELS * min(one.spacing):
        differences.append(f"origin {_numbers(one.origin)} against {_numbers(other.origin)} mm")
    return differences


def _numbers(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _as_labels(array: NDArray[Any], path: Path) -> NDArray[Any]:
    remedy = "Check that this is a label map and write it again with integer values"
    if array.dtype.kind not in "buif":
        raise InputError(f"{path} is no label map", f"its voxels are {array.dtype}", remedy)
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(array - rounded) <= ROUNDING)
        if n_wrong := int(np.count_nonzero(wrong)):
            first = array[wrong][0]
            raise InputError(
                f"{path} is no label map",
                f"{n_wrong} voxels are no integers, the first is {first:g}",
                remedy,
            )
        array = rounded
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0:
        raise InputError(f"{path} is no label map", f"it holds {lowest}", remedy)
    return array.astype(np.min_scalar_type(highest))
