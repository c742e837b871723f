"""Images and label maps as they are scored: read whole, or refused with the reason.

SimpleITK fills what is missing of a truncated ``.nii.gz`` with zeros and turns NaN into 0, and
nibabel does not look at the checksum. NIfTI files are therefore unpacked here to the end of their
stream and measured against their own header before the voxels are used.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from numpy.typing import NDArray

from graphnn_unet.errors import InputError, MissingFileError

ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Endings of files that can be read, the longest first."""

MAX_DEFLATE_RATIO = 1032
"""No deflate stream unpacks to more than this many times its size (zlib's technical notes)."""

ROUNDING = 1e-3
"""A float label within this distance of an integer is that integer; a larger one is a fault."""

ORIGIN_TOLERANCE_VOXELS = 0.1
RELATIVE_TOLERANCE = 1e-3
_UNITS_IN_MM = {1: 1000.0, 3: 1e-3}  # NIfTI xyzt_units: meter, micron; 0 and 2 are mm
_SPATIAL_UNITS = 7

nib: Any = nibabel  # it has no type hints


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
    if path.stat().st_size == 0:
        raise InputError(f"{path} cannot be read", "the file is empty", "Make it again")
    if path.name.endswith((".nii", ".nii.gz")):
        return _read_nifti(path)
    if case_id(path):
        return _read_with_itk(path)
    raise InputError(f"{path} cannot be read", "", f"Give one of {', '.join(ENDINGS)}")


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


def _read_nifti(path: Path) -> Volume:
    content = _nifti_bytes(path)
    try:
        kind = nib.Nifti2Image if _header_size(content) == 540 else nib.Nifti1Image
        image = kind.from_bytes(content)
        array = np.asanyarray(image.dataobj)
    except (HeaderDataError, ImageFileError) as error:
        raise _damaged(path, str(error)) from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    _check_axes(array.shape, path)
    unit = _UNITS_IN_MM.get(int(image.header["xyzt_units"]) & _SPATIAL_UNITS, 1.0)
    n_axes = array.ndim
    affine = np.asarray(image.affine, dtype=float)[:3] * unit
    affine[:2] *= -1  # NIfTI points to the right and front (RAS), ITK to the left and back (LPS)
    steps = np.linalg.norm(affine[:, :3], axis=0)
    if not (np.isfinite(affine).all() and (steps > 0).all()):
        raise InputError(f"{path} cannot be read", "its header holds no voxel size")
    direction = (affine[:, :3] / steps)[:n_axes, :n_axes]
    return Volume(
        array=array.T,
        spacing=tuple(float(step) for step in steps[:n_axes][::-1]),
        origin=tuple(float(value) for value in affine[:n_axes, 3]),
        direction=tuple(float(value) for value in direction.ravel()),
    )


def _nifti_bytes(path: Path) -> bytes:
    """The whole unpacked file, once its checksum and its length are known to be right."""
    packed = path.name.endswith(".gz")
    limit = path.stat().st_size * (MAX_DEFLATE_RATIO if packed else 1)
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(544)
            expected = _expected_bytes(head, path)
            if expected > limit:
                raise _too_short(path, expected, limit, "can hold at most")
            rest = file.read(expected - len(head))
            while file.read(2**20):  # the checksum stands at the end of the stream
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    content = head + rest
    if len(content) < expected:
        raise _too_short(path, expected, len(content), "holds")
    return content


def _header_size(content: bytes) -> int:
    """348 for NIfTI-1, 540 for NIfTI-2 (its header begins with its own length), else 0."""
    for order in ("little", "big"):
        size = int.from_bytes(content[:4], order)  # type: ignore[arg-type]  # a literal of two
        if size in (348, 540):
            return size
    return 0


def _expected_bytes(head: bytes, path: Path) -> int:
    size = _header_size(head)
    if len(head) < max(size, 1) or not size:
        raise _damaged(path, "it does not begin with a NIfTI header")
    kind = nib.Nifti2Header if size == 540 else nib.Nifti1Header
    try:
        header = kind.from_fileobj(io.BytesIO(head))
        shape, item = header.get_data_shape(), header.get_data_dtype().itemsize
        offset = int(header["vox_offset"])
    except (HeaderDataError, HeaderTypeError) as error:
        raise _damaged(path, str(error)) from error
    if offset < size or not shape or min(shape) < 1:
        raise _damaged(path, f"its header claims the size {_numbers(shape)}")
    return offset + math.prod(int(n) for n in shape) * item


def _read_with_itk(path: Path) -> Volume:
    import SimpleITK

    sitk: Any = SimpleITK  # it has no type hints
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _damaged(path, str(error).strip().splitlines()[-1].strip()) from error
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{path} is not one volume", "it has several values a voxel", "Give one file a channel"
        )
    _check_axes(image.GetSize(), path)
    return Volume(
        array=array,
        spacing=tuple(image.GetSpacing()[::-1]),
        origin=tuple(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )


def _check_axes(size: tuple[int, ...], path: Path) -> None:
    if len(size) not in (2, 3):
        raise InputError(
            f"{path} is not one volume",
            f"it has {len(size)} axes, size {_numbers(size)}",
            "Give one 2D or 3D file a case",
        )


def _too_short(path: Path, expected: int, found: int, verb: str) -> InputError:
    return _damaged(path, f"its header claims {expected} bytes, the file {verb} {found}")


def _damaged(path: Path, cause: str) -> InputError:
    return InputError(
        f"{path} is truncated or damaged", cause.rstrip("."), "Copy the file again or make it anew"
    )
