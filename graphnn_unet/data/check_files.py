"""The image files of one case: voxels that are no numbers, empty scans, grids that differ.

Three verdicts on two grids: the same, a rounded header (a warning), a mismatch (an error).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from graphnn_unet.errors import Fault
from graphnn_unet.images.volume_bytes import (
    BadFileError,
    Grid,
    VolumeFile,
    file_ending,
    read_volume,
)

ROUNDING_OF_SPACING = 1e-3
"""Headers that differ by less than this share of a voxel (or this direction cosine) are rounded."""

SAME_GRID = 1e-5
"""Differences below this share of a voxel come from float32 headers and are not worth a word."""


def grid_differences(grid: Grid, other: Grid) -> dict[str, float]:
    """How far two grids of one shape are apart; an empty table means they are the same.

    Returns:
        ``spacing`` (share of a voxel), ``origin`` (in voxels), ``direction`` (largest difference
        of a cosine), only those above ``SAME_GRID``. Values up to ``ROUNDING_OF_SPACING`` come
        from rounded headers.
    """
    spacing, other_spacing = np.asarray(grid.spacing), np.asarray(other.spacing)
    offset = np.abs(np.subtract(grid.origin, other.origin))
    found = {
        "spacing": float(np.max(np.abs(spacing - other_spacing) / spacing)),
        "origin": float(np.max(offset) / spacing.min()),
        "direction": float(np.max(np.abs(np.subtract(grid.direction, other.direction)))),
    }
    return {key: value for key, value in found.items() if value > SAME_GRID}


def numbers(values: Sequence[float]) -> str:
    """``(1.25, 0.63, 0.63)`` of any floats, short."""
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def compare_grids(
    case: str,
    first: tuple[str, Grid],
    second: tuple[str, Grid],
    *,
    allow_origin: bool = False,
    shape_code: str = "I15",
) -> list[Fault]:
    """Three verdicts on two files of one case: same, rounded header, or mismatch.

    Args:
        case: Case id.
        first: Name and grid of the image.
        second: Name and grid of the label map or of another channel.
        allow_origin: Take a differing origin as a warning.
        shape_code: Code of a fault in shape: I15 for a label map, I19 for a channel.
    """
    (name, grid), (other_name, other) = first, second
    if grid.shape != other.shape:
        cause = f"{name} has {grid.shape} voxels (z, y, x), {other_name} has {other.shape}"
        return [fault(case, shape_code, cause, "Bring both to one grid, or leave it out")]
    faults = []
    differences = grid_differences(grid, other)
    if differences.get("direction", 0) > ROUNDING_OF_SPACING:
        differences.pop("origin", None)  # the first voxel lies in another corner: a consequence
    for key, value in differences.items():
        code = {"spacing": "I16", "origin": "I17", "direction": "I18"}[key]
        unit = "" if key == "direction" else " mm"
        cause = (
            f"{key} of {name} and {other_name} differ: {numbers(getattr(grid, key))}{unit} "
            f"and {numbers(getattr(other, key))}{unit}"
        )
        if value <= ROUNDING_OF_SPACING:
            cause = f"{cause} (rounded header, {value:.1g} voxels)"
            faults.append(fault(case, code, cause, "Nothing to do", "warning"))
        elif key == "origin" and allow_origin:
            faults.append(fault(case, code, cause, "Allowed; look at an overlay", "warning"))
        else:
            remedy = "Voxels are paired by index: mend the wrong header or resample"
            faults.append(fault(case, code, cause, f"{remedy} (convert: --fix-geometry)"))
    return faults


def fault(case: str, code: str, cause: str, remedy: str, severity: str = "error") -> Fault:
    """A fault of the stage ``check``."""
    return Fault(case, "check", cause, remedy, severity, code)


def check_values(volume: VolumeFile, name: str, case: str, *, label: bool = False) -> list[Fault]:
    """NaN and infinite voxels, with their number and the first position."""
    array = volume.array
    if array.dtype.kind != "f":
        return []
    finite = np.isfinite(array)
    if finite.all():
        return []
    nifti = file_ending(volume.path) in (".nii.gz", ".nii")
    faults = []
    for word, mask, code in (
        ("NaN", np.isnan(array), "I12" if label else "I08" if nifti else "I10"),
        ("infinite", np.isinf(array), "I12" if label else "I09" if nifti else "I11"),
    ):
        if n_voxels := int(mask.sum()):
            first = tuple(int(i) for i in np.unravel_index(int(mask.argmax()), mask.shape))
            cause = f"{name} has {n_voxels} {word} voxels, the first at {first} (z, y, x)"
            faults.append(fault(case, code, cause, "Replace them or export the file again"))
    return faults


def check_images(
    case: str,
    paths: Sequence[Path],
    names: Sequence[str],
    *,
    n_dims: int = 3,
    zero_is_error: bool = True,
) -> tuple[list[VolumeFile], list[Fault]]:
    """Read and check the channels of one case.

    Args:
        case: Case id.
        paths: One file a channel, in channel order.
        names: How messages call them.
        n_dims: Number of axes of the data set.
        zero_is_error: A case of zeros only is an error (a warning without it).

    Returns:
        The channels that could be read, without their voxels, so that one channel is in memory
        at a time; and the faults.
    """
    volumes: list[VolumeFile] = []
    faults: list[Fault] = []
    constant: list[tuple[str, float]] = []
    for path, name in zip(paths, names, strict=True):
        try:
            volume = read_volume(path, name, n_dims=n_dims)
        except BadFileError as error:
            faults.append(fault(case, error.code, error.cause, error.remedy))
            continue
        bad = check_values(volume, name, case)
        if not bad and (low := volume.array.min()) == volume.array.max():
            constant.append((name, float(low)))
        faults += bad
        if volumes:
            faults += compare_grids(
                case, (names[0], volumes[0].grid), (name, volume.grid), shape_code="I19"
            )
        volumes.append(replace(volume, array=np.empty(0, volume.array.dtype)))
    if constant and len(constant) == len(paths) and all(value == 0 for _, value in constant):
        severity = "error" if zero_is_error else "warning"
        cause = f"{', '.join(n for n, _ in constant)}: all voxels are 0"
        faults.append(fault(case, "I48", cause, "Export the scan again", severity))
    else:
        faults += [
            fault(case, "I47", f"{name}: all voxels are {value:g}", "Look at it", "warning")
            for name, value in constant
        ]
    return volumes, faults


def check_case_images(paths: Sequence[Path], *, n_dims: int = 3, case: str = "") -> list[Fault]:
    """Check the image files of one case, as prediction does for each.

    Args:
        paths: One file a channel, in channel order.
        n_dims: Number of axes each must have.
        case: Case id for the messages; taken from the first file's name without one.

    Returns:
        Faults, empty for a good case. An image of zeros is a warning.
    """
    paths = [Path(path) for path in paths]
    case = case or paths[0].name.removesuffix(file_ending(paths[0])).removesuffix("_0000")
    return check_images(case, paths, [p.name for p in paths], n_dims=n_dims, zero_is_error=False)[1]
