"""The image files of one case: voxels that are no numbers, empty scans, grids that differ.

Three verdicts on two grids: the same, a rounded header (a warning), a mismatch (an error); the rule
is that of ``images.grid``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphnn_unet.errors import BadFileError, Fault
from graphnn_unet.images.find import PICTURES, file_ending, split_ending
from graphnn_unet.images.flat_picture import flat_channels
from graphnn_unet.images.grid import Grid, compare_grids
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.read import read_volume
from graphnn_unet.images.volume import Volume
from graphnn_unet.storage.unpacked import keeping_copy

STAGE = "check"
GRID_CODES = {"spacing": "I16", "origin": "I17", "direction": "I18"}
"""Codes of faults in parts of a grid; a fault in size has one that says of which file."""


@dataclass(frozen=True)
class FileRecord:
    """What is kept of an image file whose voxels were looked at.

    Attributes:
        path: The file.
        grid: Where its voxels lie.
        sha256: Hash of the file's bytes.
        content: Hash of its voxels; equal for copies packed anew.
    """

    path: Path
    grid: Grid
    sha256: str
    content: str


def grid_faults(
    case: str,
    first: tuple[str, Grid],
    second: tuple[str, Grid],
    *,
    allow_origin: bool = False,
    size_code: str = "I15",
) -> list[Fault]:
    """What keeps two files of one case from one grid; a rounded header is a warning.

    Args:
        case: Case id.
        first: Name and grid of the image.
        second: Name and grid of the label map or of another channel.
        allow_origin: Take a differing origin as a warning.
        size_code: Code of a fault in size: I15 for a label map, I19 for a channel.
    """
    (name, grid), (other_name, other) = first, second
    difference = compare_grids(other, grid)
    if not (difference.is_mismatch or difference.is_rounding):
        return []
    code = GRID_CODES.get(difference.part, size_code)
    if difference.is_rounding:
        cause = f"{other_name} has a rounded header beside {name}: {difference.words}"
        return [fault(case, code, cause, "Nothing to do", "warning")]
    cause = f"{other_name} is not on the grid of {name}: {difference.words}"
    if allow_origin and difference.part == "origin":
        return [fault(case, code, cause, "Allowed; look at an overlay", "warning")]
    remedy = "Fix the wrong header or resample (convert: --fix-geometry)"
    return [fault(case, code, cause, remedy)]


def fault(case: str, code: str, cause: str, remedy: str, severity: str = "error") -> Fault:
    """A fault of the stage ``check``."""
    return Fault(case, STAGE, cause, remedy, severity, code)


def non_finite_faults(
    array: np.ndarray, name: str, case: str, codes: tuple[str, str]
) -> list[Fault]:
    """A fault for NaN voxels and one for infinite ones, with their number and the first position.

    Args:
        array: ``(z, y, x)`` of any type.
        name: How messages call the file.
        case: Case id.
        codes: Of the two faults.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return []
    faults = []
    masks = (("NaN", np.isnan(array)), ("infinite", np.isinf(array)))
    for (word, mask), code in zip(masks, codes, strict=True):
        if n_voxels := int(mask.sum()):
            first = tuple(int(i) for i in np.unravel_index(int(mask.argmax()), mask.shape))
            cause = f"{name} has {n_voxels} {word} voxels, the first at {first} (z, y, x)"
            faults.append(fault(case, code, cause, "Replace them or export the file again"))
    return faults


def file_stamp(path: Path) -> tuple[int, int]:
    """Time of the last change in ns, and size: a file with another one may have been edited."""
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size


def check_images(
    case: str,
    paths: Sequence[Path],
    names: Sequence[str],
    *,
    n_dims: int = 3,
    zero_is_error: bool = True,
    nifti_form: NiftiForm | None = None,
    unpacked: Path | None = None,
) -> tuple[list[FileRecord], list[Fault]]:
    """Read and check the channels of one case, one in memory at a time.

    Args:
        case: Case id.
        paths: One file a channel, in channel order.
        names: How messages call them.
        n_dims: Number of axes of the data set.
        zero_is_error: A case of zeros only is an error (a warning without it).
        nifti_form: What is taken where qform and sform of a NIfTI header disagree.
        unpacked: Folder for unpacked copies of the files.

    Returns:
        What is kept of the channels that could be read, and the faults.
    """
    records: list[FileRecord] = []
    faults: list[Fault] = []
    constant: dict[str, list[float]] = {}
    for path, name in zip(paths, names, strict=True):
        try:
            volumes = _channels(path, name, n_dims, nifti_form, unpacked)
        except BadFileError as error:
            faults.append(error.as_fault(case, STAGE))
            continue
        codes = ("I08", "I09") if file_ending(path) in (".nii.gz", ".nii") else ("I10", "I11")
        for volume in volumes:
            value_faults = non_finite_faults(volume.array, name, case, codes)
            if not value_faults and (low := volume.array.min()) == volume.array.max():
                constant.setdefault(name, []).append(float(low))
            faults += value_faults
            if records:
                first = (names[0], records[0].grid)
                faults += grid_faults(case, first, (name, volume.grid), size_code="I19")
            records.append(FileRecord(path, volume.grid, volume.sha256, volume.content_hash()))
    return records, faults + _constant_faults(case, constant, len(records), zero_is_error)


def _channels(
    path: Path, name: str, n_dims: int, form: NiftiForm | None, folder: Path | None
) -> list[Volume]:
    """The channels of a file: one of a volume, one or three of a picture."""
    if path.name.lower().endswith(PICTURES):
        return flat_channels([path], [name])
    return [read_volume(path, name, n_dims=n_dims, form=form, unpacked=keeping_copy(path, folder))]


def _constant_faults(
    case: str, constant: dict[str, list[float]], n_channels: int, zero_is_error: bool
) -> list[Fault]:
    """Warnings for channels of one value; an error where all are zero."""
    values = [value for of_file in constant.values() for value in of_file]
    if values and len(values) == n_channels and not any(values):
        severity = "error" if zero_is_error else "warning"
        cause = f"{', '.join(constant)}: all voxels are 0"
        return [fault(case, "I48", cause, "Export the scan again", severity)]
    return [
        fault(case, "I47", f"{name}: all voxels are {value:g}", "Look at it", "warning")
        for name, of_file in constant.items()
        for value in of_file
    ]


def check_case_images(
    paths: Sequence[Path],
    *,
    n_dims: int = 3,
    case: str = "",
    nifti_form: NiftiForm | None = None,
) -> list[Fault]:
    """Check the image files of one case, as prediction does for each.

    Args:
        paths: One file a channel, in channel order.
        n_dims: Number of axes each must have.
        case: Case id for the messages; taken from the first file's name without one.
        nifti_form: What is taken where qform and sform of a NIfTI header disagree.

    Returns:
        Faults, empty for a good case. An image of zeros is a warning.
    """
    paths = [Path(path) for path in paths]
    case = case or split_ending(paths[0])[0].removesuffix("_0000")
    names = [path.name for path in paths]
    return check_images(
        case, paths, names, n_dims=n_dims, zero_is_error=False, nifti_form=nifti_form
    )[1]
