"""The two places that a NIfTI header gives its voxels: qform and sform.

Programs choose by rules of their own: nibabel takes the sform where it has a code, ITK
mostly the qform. That is the same while the two agree. Where they do not, nothing is guessed: the
user chooses, and what is written beside an image gets the image's own forms, so that it lies on the
image whichever of them a viewer takes.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from graphnn_unet.errors import BadFileError, InputError
from graphnn_unet.images.find import partner
from graphnn_unet.images.grid import Grid, compare_grids
from graphnn_unet.images.one_file import as_one_file
from graphnn_unet.images.room import require_room

NiftiForm = Literal["sform", "qform"]
NIFTI_FORMS: tuple[NiftiForm, ...] = ("sform", "qform")

_GZIP = b"\x1f\x8b"
_ONE_FILE, _PAIR = (b"n+1", b"n+2"), (b"ni1", b"ni2")
"""Marks of a header with its voxels behind it, and of one in a file of its own (``.hdr``)."""
_HEADER_BYTES = 540
_PLACE_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_SPATIAL_UNIT = 7
"""The bits of ``xyzt_units`` that say what a length is."""
_SAME_NUMBER = 1e-5
_PERPENDICULAR = 1e-3


def require_form(form: str | None) -> None:
    """Refuse a choice that is none of ``NIFTI_FORMS``.

    Raises:
        InputError: It is another word.
    """
    if form is not None and form not in NIFTI_FORMS:
        known = " or ".join(NIFTI_FORMS)
        raise InputError(f"nifti_form {form!r} is unknown", "", f"Use {known}")


def parse_header(
    content: bytes, name: str, magic: tuple[bytes, ...] = _ONE_FILE
) -> nib.Nifti1Header:
    """The NIfTI header at the start of a file's unpacked bytes.

    Args:
        content: At least the first 348 bytes, 540 of NIfTI-2.
        name: How messages call the file.
        magic: How the mark of its kind may begin.

    Raises:
        BadFileError: There is none.
    """
    broken = BadFileError("I06", f"{name} has no readable NIfTI header")
    if len(content) < 348:
        raise BadFileError("I01", f"{name} is truncated within its header")
    sizes = {int.from_bytes(content[:4], order) for order in ("little", "big")}
    kind = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header
    if not sizes & {348, 540}:
        raise broken
    try:
        header = kind.from_fileobj(io.BytesIO(content), check=False)
        if not bytes(header["magic"]).startswith(magic):
            raise broken
        header.get_data_dtype()
    except (HeaderDataError, ValueError, KeyError) as error:
        raise broken from error
    return header


def stored_header(path: Path) -> nib.Nifti1Header | None:
    """The header of a NIfTI file or pair; ``None`` of any other file and of a damaged one."""
    try:
        if path.name.lower().endswith(".img"):
            other = partner(path)
            return other if other is None else parse_header(other.read_bytes(), other.name, _PAIR)
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            return None
        with path.open("rb") as file:
            content = file.read(4096)
        if content[:2] == _GZIP:
            content = zlib.decompressobj(31).decompress(content, _HEADER_BYTES)
        return parse_header(content, path.name)
    except (OSError, zlib.error, BadFileError):
        return None


def place(path: Path, name: str, form: NiftiForm | None) -> tuple[Grid, Grid] | None:
    """Both places of a NIfTI file whose forms disagree, the chosen one first.

    Args:
        path: Any image file.
        name: How messages call it.
        form: The form to take; the sform without a choice.

    Returns:
        ``None`` where the header leaves no doubt, or is no NIfTI header.

    Raises:
        BadFileError: The chosen form is not there or places no upright voxels.
    """
    header = stored_header(path)
    if header is None:
        return None
    grids = _grids(header)
    if len(grids) < 2 or not compare_grids(*grids.values()).is_mismatch:
        return None
    first = form or "sform"
    second = next(key for key in grids if key != first)
    if first not in grids:
        cause = f"{name} has no {first}, and the voxel size of its header is not that of its sform"
        raise BadFileError("I53", cause, "Choose the sform, or write the true voxel size into it")
    if form and not _is_upright(grids[form]):
        cause = f"{name} cannot be placed in space: the axes of its {form} are not perpendicular"
        raise BadFileError("I18", cause, "Choose the other form, or resample it")
    shape = _stored_shape(header)
    return _with_axes(grids[first], shape), _with_axes(grids[second], shape)


def forms_fault(name: str, places: tuple[Grid, Grid]) -> BadFileError:
    """The error about a file whose forms disagree while none was chosen."""
    sform, qform = places
    if not np.isfinite([*sform.origin, *qform.origin, *sform.spacing, *qform.spacing]).all():
        cause = f"{name} cannot be placed in space: its header holds NaN"
        return BadFileError("I18", cause, "Choose the other form with --nifti-form, or repair it")
    words = compare_grids(sform, qform).words
    cause = f"{name} says twice where it lies: its sform and its qform (or voxel size) differ, "
    remedy = "Look which is right in a viewer, then choose with --nifti-form sform or qform"
    return BadFileError("I53", f"{cause}{words}", f"{remedy} (gnnunet_convert, gnnunet_predict)")


def place_note(path: Path, form: NiftiForm | None) -> str:
    """What a user should know about how a NIfTI file was placed; empty where all is plain."""
    header = stored_header(path)
    if header is None:
        return ""
    if place(path, path.name, form) is not None:
        return f"qform and sform disagree; the {form or 'sform'} was taken"
    if not int(header["qform_code"]) > 0 and not int(header["sform_code"]) > 0:
        return (
            "the header says nothing about position and axes (qform and sform codes are 0); axes "
            "are taken as left, posterior, superior"
        )
    return ""


def is_plain(path: Path) -> bool:
    """Whether all programs read a file alike: one position, in millimeters, and one scale."""
    header = stored_header(path)
    if header is None:
        return True
    has_place = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    is_placed = has_place and _unit(header) == 1.0 and place(path, path.name, None) is None
    return is_placed and scale_of(header)[1]


def scale_of(header: nib.Nifti1Header) -> tuple[tuple[float, float], bool]:
    """Slope and intercept of the stored values by the standard, and whether all readers use them.

    A slope of 0 means that values are as stored, whatever the intercept; ITK adds it nevertheless.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isfinite(slope) and slope != 0:
        is_plain = math.isfinite(intercept)
        return (slope, intercept if is_plain else 0.0), is_plain
    return (1.0, 0.0), intercept == 0 or math.isnan(intercept)


def nifti_forms(path: Path) -> dict[str, Any] | None:
    """Position, axes, voxel size and unit as a NIfTI header stores them, as plain values.

    Returns:
        For ``write_nifti_forms``; ``None`` of other files.
    """
    header = stored_header(path)
    if header is None:
        return None
    forms: dict[str, Any] = {key: header[key].tolist() for key in _PLACE_FIELDS}
    forms["pixdim"] = header["pixdim"][:4].tolist()
    forms["unit"] = int(header["xyzt_units"]) & _SPATIAL_UNIT
    forms["shape"] = _shape(header)
    return forms


def write_nifti_forms(temporary: Path, forms: dict[str, Any] | None) -> None:
    """Give a NIfTI file the place of another, as ``nifti_forms`` read it; voxels stay.

    Nothing is done where the two headers say the same already, where one is no NIfTI file and
    where the sizes differ.

    Args:
        temporary: A file that this process has just written, before it gets its name.
        forms: What to write.
    """
    content = temporary.read_bytes() if forms is not None else b""
    is_packed = content[:2] == _GZIP
    try:
        unpacked = gzip.decompress(content) if is_packed else content
        header = parse_header(unpacked[:_HEADER_BYTES], temporary.name)
    except BadFileError:
        return
    if forms is None or _shape(header) != tuple(forms["shape"]) or _says(header, forms):
        return
    for key in _PLACE_FIELDS:
        header[key] = forms[key]
    header["pixdim"][:4] = forms["pixdim"]
    header["xyzt_units"] = (int(header["xyzt_units"]) & ~_SPATIAL_UNIT) | forms["unit"]
    patched = header.binaryblock + unpacked[len(header.binaryblock) :]
    temporary.write_bytes(gzip.compress(patched, 6, mtime=0) if is_packed else patched)


def copy_nifti_forms(image: Path, temporary: Path) -> None:
    """Give a written NIfTI file both forms of the image that it belongs to."""
    write_nifti_forms(temporary, nifti_forms(image))


@contextmanager
def plain_files(paths: Sequence[Path], form: NiftiForm | None) -> Iterator[list[Path]]:
    """Files for readers that choose by a rule of their own.

    Args:
        paths: Images.
        form: What to take where the forms of one disagree.

    Yields:
        The same paths, with copies that have the chosen place alone, and the standard's scale,
        instead of files in doubt; the copies are gone afterwards.
    """
    with TemporaryDirectory(prefix="gnnunet-forms-") as folder:
        yield [
            _as_one_reads(path, form, Path(folder) / f"{number}.nii")
            for number, path in enumerate(paths)
        ]


def _as_one_reads(path: Path, form: NiftiForm | None, temporary: Path) -> Path:
    """The path itself, or that of a copy whose header leaves no choice."""
    header = stored_header(path)
    places_twice = form is not None and place(path, path.name, form) is not None
    if header is None or not (places_twice or not scale_of(header)[1]):
        return path
    content = as_one_file(path, path.read_bytes(), path.name)
    # no more than the header claims, with the extension that may stand before the voxels
    n_bytes = math.prod(_stored_shape(header)) * header.get_data_dtype().itemsize
    require_room(0, n_bytes, path.name)
    if content[:2] == _GZIP:
        with gzip.open(path) as file:
            unpacked = file.read(n_bytes + 2**20)
    else:
        unpacked = content
    header = parse_header(unpacked[:_HEADER_BYTES], path.name)
    if form is not None and places_twice:
        affine = _affine(header, form)
        header.set_qform(affine, 1)
        header.set_sform(affine, 1)
    header["scl_slope"], header["scl_inter"] = scale_of(header)[0]
    temporary.write_bytes(header.binaryblock + unpacked[len(header.binaryblock) :])
    return temporary


def _grids(header: nib.Nifti1Header) -> dict[str, Grid]:
    """Place by each form that has a code; with the sform alone, its own voxel size against it."""
    grids = {
        form: _grid(header, _affine(header, form))
        for form in NIFTI_FORMS
        if int(header[f"{form}_code"]) > 0
    }
    if list(grids) == ["sform"]:
        sizes = tuple(abs(float(v)) * _unit(header) for v in header["pixdim"][3:0:-1])
        sform = grids["sform"]
        grids["voxel size"] = Grid(sform.shape, sizes, sform.origin, sform.direction)
    return grids


def _affine(header: nib.Nifti1Header, form: str) -> NDArray[np.float64]:
    """Voxel x y z to position R A S in the header's unit."""
    if form == "sform":
        return np.asarray(header.get_sform(), dtype=float)
    upright = header.copy()
    if upright["pixdim"][0] not in (-1, 1):
        upright["pixdim"][0] = 1
    try:
        return np.asarray(upright.get_qform(), dtype=float)
    except (HeaderDataError, ValueError):
        return np.full((4, 4), np.nan)


def _grid(header: nib.Nifti1Header, affine: NDArray[np.float64]) -> Grid:
    """The grid, with ITK's signs and order, of an affine of the header."""
    axes = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    length = np.linalg.norm(axes, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        direction = axes / length
    unit = _unit(header)
    origin = affine[:3, 3] * (-unit, -unit, unit)
    return Grid(
        _shape(header)[::-1],
        tuple((length[::-1] * unit).tolist()),
        tuple(origin.tolist()),
        tuple(direction.ravel().tolist()),
    )


def _shape(header: nib.Nifti1Header) -> tuple[int, int, int]:
    """The three axes of space, x first."""
    n_dims = int(header["dim"][0])
    x, y, z = (int(header["dim"][i]) if i <= n_dims else 1 for i in (1, 2, 3))
    return x, y, z


def _stored_shape(header: nib.Nifti1Header) -> tuple[int, ...]:
    """All axes of the file, x first, without closing axes of length 1 beyond the third."""
    shape = [int(n) for n in header["dim"][1 : int(header["dim"][0]) + 1]]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def _with_axes(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """A grid of space for a file with another number of axes, as ITK has it."""
    n_dims = len(shape)
    if n_dims == 3:
        return grid
    kept = min(n_dims, 3)
    direction = np.eye(n_dims)
    direction[:kept, :kept] = grid.axes[:kept, :kept]
    more = n_dims - kept
    return Grid(
        shape[::-1],
        (1.0,) * more + grid.spacing[3 - kept :],
        grid.origin[:kept] + (0.0,) * more,
        tuple(direction.ravel().tolist()),
    )


def _unit(header: nib.Nifti1Header) -> float:
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & _SPATIAL_UNIT, 1.0)


def _is_upright(grid: Grid) -> bool:
    return bool(np.abs(grid.axes.T @ grid.axes - np.eye(3)).max() < _PERPENDICULAR)


def _says(header: nib.Nifti1Header, forms: dict[str, Any]) -> bool:
    """Whether a header gives the place of ``forms`` already, but for its own rounding."""
    units = {int(header["xyzt_units"]) & _SPATIAL_UNIT, forms["unit"]}
    if len(units) > 1 and not units <= {0, 2}:
        return False
    pairs = [(header[key], forms[key]) for key in _PLACE_FIELDS]
    pairs.append((header["pixdim"][:4], forms["pixdim"]))
    return all(np.allclose(a, b, _SAME_NUMBER, _SAME_NUMBER) for a, b in pairs)
