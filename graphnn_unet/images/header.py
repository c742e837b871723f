"""What a volume file says about itself, read without its voxels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from graphnn_unet.errors import COPY_AGAIN, BadFileError
from graphnn_unet.images.find import file_ending
from graphnn_unet.images.grid import Grid
from graphnn_unet.images.nifti_forms import NiftiForm, forms_fault, place
from graphnn_unet.images.one_file import FREESURFER, freesurfer_grid

_ITK_READER = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".img": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
}
"""ITK itself would not know ``.MHA``, in capitals."""


def read_grid(
    path: Path, name: str | None = None, *, form: NiftiForm | Literal["both"] | None = None
) -> Grid:
    """Size and place of a volume from its header alone, as SimpleITK and so nnU-Net has them.

    Whether the voxels behind the header are there is not looked at.

    Args:
        path: A volume file.
        name: How messages call it; the path without one.
        form: The place to take where qform and sform of a NIfTI header disagree; ``both`` keeps
            them for comparisons; without it such a file is refused.

    Raises:
        BadFileError: There is no such file, or its header is damaged or places it nowhere, or at
            two places.
    """
    name = str(path) if name is None else name
    places = place(path, name, None if form == "both" else form)
    if places is not None and form is None:
        raise forms_fault(name, places)
    if places is not None:
        first, second = places
        return replace(first, other_form=second) if form == "both" else first
    if file_ending(path) in FREESURFER:
        return freesurfer_grid(path, name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_ITK_READER.get(file_ending(path), ""))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        axes = "orthonormal" in str(error)
        cause = "its axes are not perpendicular" if axes else last_line(error)
        remedy = "Resample it to a grid with perpendicular axes" if axes else COPY_AGAIN
        raise BadFileError("I18", f"{name} cannot be placed in space: {cause}", remedy) from error
    shape = tuple(int(n) for n in reader.GetSize())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    n_dims = len(shape)
    spacing = tuple(float(value) for value in reader.GetSpacing()[:n_dims])
    require_spacing(spacing[:3], name)
    direction = np.asarray(reader.GetDirection()).reshape(reader.GetDimension(), -1)
    origin = tuple(float(value) for value in reader.GetOrigin()[:n_dims])
    if not (np.isfinite(origin).all() and np.isfinite(direction).all()):
        cause = f"{name} cannot be placed in space: its header holds NaN"
        raise BadFileError("I18", cause, "Write a valid orientation into the header")
    cosines = tuple(float(value) for value in direction[:n_dims, :n_dims].ravel())
    return Grid(shape[::-1], spacing[::-1], origin, cosines)


def require_spacing(spacing: Sequence[float], name: str) -> None:
    """Refuse a voxel size that is not finite and positive.

    Raises:
        BadFileError: It is not.
    """
    if not all(math.isfinite(value) and value > 0 for value in spacing):
        raise BadFileError(
            "I51",
            f"{name}: the header's spacing is {tuple(spacing)} mm (x, y, z)",
            "Write the true voxel size into the header",
        )


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's own warnings off the screen; what matters is reported as a fault."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def last_line(error: Exception) -> str:
    """The last line of an error's text: ITK's own words stand there."""
    return (str(error).strip().splitlines() or ["unknown"])[-1].strip()
