"""A volume in memory with its place in space; reordered and resampled without a guess."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from graphnn_unet.images.grid import Grid, compare_grids

UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_PARALLEL = 1e-3
"""Axes are parallel when their direction cosines differ by less than this."""


@dataclass(frozen=True)
class Volume:
    """An image or label map in memory.

    Attributes:
        array: ``(z, y, x)``, or ``(y, x)`` of a slice, or ``(c, z, y, x)``; any numeric dtype.
        spacing: Voxel size in mm, in the order of the array's axes.
        origin: Position of the first voxel in mm, x y z (ITK's order and signs, LPS).
        direction: Direction cosines, row-major (ITK's order and signs).
        sha256: Hash of the file's bytes; empty where it is from no file.
        other_form: As of :class:`~graphnn_unet.images.grid.Grid`.

    Example:
        >>> volume = Volume(np.zeros((4, 5, 6), np.uint8), (3.0, 1.0, 1.0))
        >>> volume.grid.shape, volume.grid.origin
        ((4, 5, 6), (0.0, 0.0, 0.0))
    """

    array: NDArray[Any]
    spacing: tuple[float, ...]
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = UPRIGHT
    sha256: str = ""
    other_form: Grid | None = None

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.array.shape, self.spacing, self.origin, self.direction, self.other_form)

    def content_hash(self) -> str:
        """Hash of voxel type, shape and voxels; equal for copies packed anew."""
        voxels = hashlib.sha256(f"{self.array.dtype.str}{self.array.shape}".encode())
        voxels.update(np.ascontiguousarray(self.array).data)
        return voxels.hexdigest()

    def on(self, grid: Grid) -> Volume:
        """The same voxels with another place in space."""
        return Volume(self.array, grid.spacing, grid.origin, grid.direction)


def to_itk(volume: Volume) -> sitk.Image:
    """A SimpleITK image with the volume's geometry."""
    array = np.ascontiguousarray(volume.array)
    image = sitk.GetImageFromArray(array.astype(array.dtype.newbyteorder("="), copy=False))
    image.SetSpacing(volume.spacing[::-1])
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image


def from_itk(image: sitk.Image) -> Volume:
    """The volume of a SimpleITK image."""
    return Volume(
        sitk.GetArrayFromImage(image),
        image.GetSpacing()[::-1],
        image.GetOrigin(),
        image.GetDirection(),
    )


def with_axes_of(volume: Volume, direction: Sequence[float]) -> Volume | None:
    """The same voxels at the same places, stored along other axes; nothing is interpolated.

    Args:
        volume: ``(z, y, x)``.
        direction: Wanted direction cosines, row-major.

    Returns:
        The reordered volume, whose direction is the wanted one but for its own rounding, or
        ``None`` where the axes of the two are not parallel.
    """
    wanted, stored = np.reshape(direction, (3, 3)), volume.grid.axes
    turn = wanted.T @ stored  # column j: stored axis j in terms of the wanted axes
    sign = np.rint(turn)
    if np.abs(turn - sign).max() > _PARALLEL or (np.abs(sign).sum(axis=0) != 1).any():
        return None
    source_of = np.abs(sign).argmax(axis=1)  # wanted axis i comes from stored axis source_of[i]
    if len(set(source_of.tolist())) != 3:
        return None
    array, spacing = volume.array, np.asarray(volume.spacing[::-1])
    origin = np.asarray(volume.origin, dtype=float)
    flipped = []
    for axis in range(3):
        source = int(source_of[axis])
        if sign[axis, source] < 0:
            flipped.append(2 - axis)
            length = array.shape[2 - source] - 1
            origin = origin + stored[:, source] * spacing[source] * length
    array = array.transpose([2 - int(source_of[2 - k]) for k in range(3)])
    return Volume(
        np.flip(array, tuple(flipped)),
        tuple(spacing[source_of][::-1].tolist()),
        tuple(origin.tolist()),
        tuple((stored[:, source_of] * sign[np.arange(3), source_of] + 0.0).ravel().tolist()),
    )


def widened(volume: Volume, grid: Grid) -> Volume | None:
    """A label map that was cropped to what is drawn, on the grid that it was cropped from.

    Args:
        volume: ``(z, y, x)``.
        grid: The whole grid.

    Returns:
        The label map with background around it, or ``None`` where its voxels are none of the grid.

    Example:
        >>> whole = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), UPRIGHT)
        >>> part = Volume(np.ones((1, 2, 2), np.uint8), (1.0, 1.0, 1.0), (2.0, 1.0, 3.0))
        >>> label = widened(part, whole)
        >>> label.grid == whole, np.argwhere(label.array)[0].tolist()
        (True, [3, 1, 2])
    """
    shift = (np.asarray(volume.origin) - grid.origin) @ grid.axes / grid.spacing[::-1]
    first = np.rint(shift[::-1]).astype(int)
    last = first + volume.array.shape
    if (first < 0).any() or (last > grid.shape).any():
        return None
    start = np.asarray(grid.origin) + (first[::-1] * grid.spacing[::-1]) @ grid.axes.T
    here = replace(grid, shape=volume.array.shape, origin=tuple(start.tolist()))
    if compare_grids(volume.grid, here).is_mismatch:
        return None
    array = np.zeros(grid.shape, volume.array.dtype)
    array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = volume.array
    return Volume(array, grid.spacing, grid.origin, grid.direction)


def resampled(volume: Volume, grid: Grid, *, nearest: bool) -> Volume:
    """The volume on another grid; nearest neighbor for label maps, linear for images."""
    method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    image = to_itk(volume)
    fill = 0.0 if nearest else float(volume.array.min())
    return from_itk(
        sitk.Resample(
            image,
            grid.shape[::-1],
            sitk.Transform(),
            method,
            grid.origin,
            grid.spacing[::-1],
            grid.direction,
            fill,
            image.GetPixelID(),
        )
    )
