"""Volumes in two files, and FreeSurfer's, brought to the bytes of one file of a common kind.

``decode_volume`` then looks at them as it looks at any other: ``.mhd`` with its raw file becomes
``.mha``, ``.img`` with its header and ``.mgz`` become ``.nii``.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1PairHeader
from nibabel.spatialimages import HeaderDataError

from graphnn_unet.errors import COPY_AGAIN, BadFileError
from graphnn_unet.images.find import file_ending, other_parts, partner, raw_file_name
from graphnn_unet.images.grid import Grid

KIND = {".mhd": ".mha", ".img": ".nii", ".mgz": ".nii", ".mgh": ".nii"}
"""What the bytes of ``as_one_file`` are, by the ending of the file."""

FREESURFER = (".mgz", ".mgh")
"""Kinds that SimpleITK cannot place in space."""

_NIFTI_HEADER = 348


def as_one_file(path: Path, content: bytes, name: str) -> bytes:
    """All bytes of a volume as one file of the kind ``KIND`` says; others come back as they are.

    Args:
        path: The file.
        content: Its bytes.
        name: How messages call it.

    Raises:
        BadFileError: The other half is missing or lies elsewhere, or says not enough.
    """
    ending = file_ending(path)
    if ending == ".mhd":
        return _with_raw_file(path, content, name)
    if ending == ".img":
        return _with_header(path, content, name)
    if ending in FREESURFER:
        image = _freesurfer(path, name)
        return nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine).to_bytes()
    return content


def freesurfer_grid(path: Path, name: str) -> Grid:
    """Size and place of an ``.mgz`` in the signs of ITK (LPS).

    Raises:
        BadFileError: It is damaged, or its axes are not perpendicular.
    """
    image = _freesurfer(path, name)
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, dtype=float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / np.where(spacing > 0, spacing, 1)
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        cause = f"{name} cannot be placed in space: its axes are not perpendicular"
        raise BadFileError("I18", cause, "Resample it to a grid with perpendicular axes")
    cosines, origin = direction.ravel().tolist(), affine[:3, 3].tolist()
    return Grid(shape[::-1], tuple(spacing[::-1].tolist()), tuple(origin), tuple(cosines))


def _freesurfer(path: Path, name: str) -> nib.MGHImage:
    try:
        image = nib.MGHImage.from_filename(path)
        np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        cause = f"{name} is damaged: {str(error) or 'it is cut off'}"
        raise BadFileError("I05", cause.splitlines()[0]) from error
    return image


def _with_raw_file(path: Path, content: bytes, name: str) -> bytes:
    """A MetaImage header and the voxels that it names, as ``.mha``."""
    raw = raw_file_name(content)
    if raw.upper() == "LOCAL":
        return content
    parts = other_parts(path)
    if not parts:
        cause = f"{name} keeps its voxels in {raw or 'no file'}, which is not in its folder"
        raise BadFileError("I05", cause, "Put both files into one folder, or save it as .mha")
    header, _, _ = content.partition(b"ElementDataFile")
    if b"HeaderSize" in header:
        cause = f"{name} keeps its voxels behind a header of their own (HeaderSize)"
        raise BadFileError("I06", cause, "Save it as .mha")
    return header + b"ElementDataFile = LOCAL\n" + parts[0].read_bytes()


def _with_header(path: Path, content: bytes, name: str) -> bytes:
    """The two files of a NIfTI pair, as ``.nii``."""
    other = partner(path)
    if other is None:
        raise BadFileError("I05", f"{name} lacks its header (.hdr)", COPY_AGAIN)
    header = other.read_bytes()
    if len(header) < _NIFTI_HEADER or header[344:347] != b"ni1":
        cause = f"{name} is of the kind Analyze 7.5, which does not say where left and right are"
        raise BadFileError("I06", cause, "Convert it to .nii.gz where its orientation is known")
    pair = Nifti1PairHeader(header[:_NIFTI_HEADER], check=False)
    offset = max(int(pair["vox_offset"]), 0)
    whole = nib.Nifti1Header(header[:_NIFTI_HEADER], check=False)
    whole["magic"], whole["vox_offset"] = b"n+1", _NIFTI_HEADER + 4
    return whole.binaryblock + bytes(4) + content[offset:]
