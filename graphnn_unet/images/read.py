"""Volumes and label maps read from files, each to its last byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import BadFileError, InputError, MissingFileError
from graphnn_unet.images.find import MISSING, PICTURES, not_a_file
from graphnn_unet.images.header import read_grid
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.one_file import as_one_file
from graphnn_unet.images.pictures import read_picture
from graphnn_unet.images.room import require_room
from graphnn_unet.images.volume import Volume
from graphnn_unet.images.volume_bytes import decode_volume

NEARLY_INTEGER = 1e-3
"""A float label within this distance of an integer is that integer; a larger one is a fault."""


@dataclass(frozen=True)
class Integers:
    """A label map's values as integers.

    Attributes:
        values: Integers of the map's shape; meaningless where ``n_wrong`` is not 0.
        n_rounded: Voxels that were just beside an integer.
        n_wrong: Voxels that are no integers, NaN among them.
        example: One of them.
    """

    values: NDArray[np.integer]
    n_rounded: int = 0
    n_wrong: int = 0
    example: float = 0.0


def read_volume(
    path: Path,
    name: str | None = None,
    *,
    n_dims: int | None = 3,
    form: NiftiForm | Literal["both"] | None = None,
    unpacked: Callable[[bytes], None] | None = None,
) -> Volume:
    """Read one file with one of ``VOLUMES`` to its last byte.

    Voxels come from the file's own bytes; origin, direction and spacing from SimpleITK, because
    nnU-Net reads them there.

    Args:
        path: The file.
        name: How messages call it; the path without one.
        n_dims: Number of axes the file must have; ``None`` for 2 or 3.
        form: What to take where qform and sform of a NIfTI header disagree, as in ``read_grid``.
        unpacked: Is given what a whole ``.nii.gz`` unpacks to.

    Returns:
        The volume, its array read-only, with the header's scale applied.

    Raises:
        MissingFileError: There is no such file.
        BadFileError: Empty, cut off, damaged, of another dimension, without a usable spacing ...
    """
    name = str(path) if name is None else name
    if reason := not_a_file(path):
        if reason == MISSING:
            raise MissingFileError(f"{name} is missing")
        raise BadFileError("I36", f"{name} is {reason}", "Remove or replace it")
    require_room(0, path.stat().st_size, name)
    content = path.read_bytes()
    if not content:
        raise BadFileError("I07", f"{name} is empty (0 bytes)")
    content = as_one_file(path, content, name)
    array = decode_volume(content, path, name, n_dims, unpacked)
    grid = read_grid(path, name, form=form)
    if grid.shape != array.shape:
        raise BadFileError("I06", f"{name} has {array.shape} voxels, SimpleITK reads {grid.shape}")
    sha256 = hashlib.sha256(content).hexdigest()
    return Volume(array, grid.spacing, grid.origin, grid.direction, sha256, grid.other_form)


def read_label_map(path: Path) -> Volume:
    """Read a label map of any kind; its array comes back as an unsigned integer type.

    A picture has the grid of its pixels: spacing 1, the first pixel at 0. Gray saved as color
    counts as gray. A NIfTI file whose qform and sform disagree keeps both places, so that it fits
    files with the same two.

    Raises:
        MissingFileError: There is no such volume.
        InputError: It is damaged, has several channels, or holds values that are not integers
            from 0 on.
    """
    if path.name.lower().endswith(PICTURES):
        return _picture_labels(path)
    volume = read_volume(path, n_dims=None, form="both")
    return replace(volume, array=_as_labels(volume.array, path))


def nearest_integers(array: NDArray) -> Integers:
    """Integers of a map that may be stored as floats or flags.

    Example:
        >>> nearest_integers(np.array([0.0, 1.0002])).values
        array([0, 1])
        >>> nearest_integers(np.array([0.5])).n_wrong
        1
    """
    if array.dtype.kind in "iu":
        return Integers(array)
    if array.dtype.kind == "b":
        return Integers(array.astype(np.uint8))
    rounded = np.rint(array)
    with np.errstate(invalid="ignore"):
        distance = np.abs(array - rounded)
        is_wrong = ~(distance <= NEARLY_INTEGER)
        values = rounded.astype(np.int64)
    n_wrong = int(np.count_nonzero(is_wrong))
    example = float(array[is_wrong][0]) if n_wrong else 0.0
    return Integers(values, int(np.count_nonzero(distance > 0)), n_wrong, example)


def _picture_labels(path: Path) -> Volume:
    array = read_picture(path, indexed=True)
    if len(array) == 3 and (array[:1] == array).all():
        array = array[:1]
    if len(array) != 1:
        raise InputError(
            f"{path} is no label map",
            f"it has {len(array)} channels of {array.dtype}",
            "Give one integer a pixel",
        )
    return Volume(_as_labels(array[0], path), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))


def _as_labels(array: NDArray, path: Path) -> NDArray[np.unsignedinteger]:
    remedy = "Check that this is a label map and write it again with integer values"
    if array.dtype.kind not in "buif":
        raise InputError(f"{path} is no label map", f"its voxels are {array.dtype}", remedy)
    integers = nearest_integers(array)
    if integers.n_wrong:
        why = f"{integers.n_wrong} voxels are no integers, the first is {integers.example:g}"
        raise InputError(f"{path} is no label map", why, remedy)
    lowest, highest = int(integers.values.min()), int(integers.values.max())
    if lowest < 0:
        raise InputError(f"{path} is no label map", f"it holds {lowest}", remedy)
    return integers.values.astype(np.min_scalar_type(highest))
