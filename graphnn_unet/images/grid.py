"""Where voxels lie, and the one rule by which two files lie on one grid.

Voxels of two files are paired by index, in training, evaluation and clustering alike. That is right
when each corner of the one volume lies where the same corner of the other does; spacing, direction
and origin matter only through that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

TOLERANCE_VOXELS = 0.1
"""Grids whose corners lie this close, in voxels along each axis, are one grid.

Between what headers lose and what people mean: float32 headers move a corner by 1e-4 voxels, a
spacing with four decimals (0.7031 for 0.703125) that of 512 voxels by 0.02, an origin rounded to
1/100 mm by about as much. The smallest true mistake, a position of a voxel's corner taken for its
center, moves it by 0.5."""

ROUNDING_VOXELS = 2e-4
"""Differences below this come from float32 headers and are not worth a word."""

_UNIT = {"size": " voxels (z, y, x)", "spacing": " mm (z, y, x)", "origin": " mm (x, y, z)"}


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file lie; the axes of a slice or of a 4D file likewise.

    Attributes:
        shape: Voxels, z y x.
        spacing: Voxel size in mm, z y x.
        origin: Position of the first voxel's center in mm, x y z (ITK's order and signs, LPS).
        direction: Direction cosines, row-major (ITK's order and signs): nine of a volume.
        other_form: The second place that the header of a NIfTI file gives, where qform and sform
            disagree and neither was chosen.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    other_form: Grid | None = None

    @property
    def axes(self) -> NDArray[np.float64]:
        """``(axis, axis)`` direction cosines; column j is the way of stored axis j (x first)."""
        n_dims = len(self.shape)
        return np.asarray(self.direction, dtype=float).reshape(n_dims, n_dims)


@dataclass(frozen=True)
class GridDifference:
    """How far two grids are apart.

    Attributes:
        part: What is to blame: ``size``, ``spacing``, ``direction``, or ``origin`` where nothing
            else differs by more than the tolerance.
        voxels: Largest distance between the same corner of both along an axis, in voxels of the
            reference; infinite where the sizes differ.
        words: What differs, for messages.
    """

    part: str
    voxels: float
    words: str

    @property
    def is_mismatch(self) -> bool:
        """Whether the two are no one grid."""
        return not self.voxels <= TOLERANCE_VOXELS

    @property
    def is_rounding(self) -> bool:
        """Whether one header is rounded: one grid, and yet not the same numbers."""
        return ROUNDING_VOXELS < self.voxels <= TOLERANCE_VOXELS


def compare_grids(grid: Grid, reference: Grid) -> GridDifference:
    """How far a grid is from another; of grids with two forms, the form that is further apart.

    Args:
        grid: Any grid.
        reference: The one that it should be.

    Example:
        >>> image = Grid((9, 8, 8), (3.0, 1.0, 1.0), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        >>> label = Grid((9, 8, 8), (3.0, 1.0, 1.0), (0, 0, 6), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        >>> difference = compare_grids(label, image)
        >>> difference.is_mismatch, difference.words
        (True, 'origin (0, 0, 6) against (0, 0, 0) mm (x, y, z), 2 voxels apart')
    """
    if grid.other_form or reference.other_form:
        firsts = (replace(side, other_form=None) for side in (grid, reference))
        others = (side.other_form or side for side in (grid, reference))
        pairs = (compare_grids(*firsts), compare_grids(*others))
        return max(pairs, key=lambda difference: difference.voxels)
    if grid.shape != reference.shape:
        return GridDifference("size", math.inf, _against("size", grid.shape, reference.shape))
    shift = _shift_by_part(grid, reference)
    voxels = _largest(_corners(grid) - _corners(reference), reference)
    named = [name for name, value in shift.items() if value > TOLERANCE_VOXELS]
    if "direction" in named and "origin" in named:
        named.remove("origin")  # the first voxel lies in another corner: a consequence
    named = named or [max(shift, key=lambda name: shift[name])]
    # where spacing or direction differ, the origin is not to blame
    part = max(named, key=lambda name: (name != "origin", shift[name]))
    differences = [_against(name, getattr(grid, name), getattr(reference, name)) for name in named]
    return GridDifference(part, voxels, f"{'; '.join(differences)}, {voxels:.2g} voxels apart")


def grid_mismatch(name: str, grid: Grid, reference_name: str, reference: Grid) -> str:
    """One line that says what keeps a file from the grid of another; empty where nothing does.

    Args:
        name: How the message calls the file.
        grid: Its grid.
        reference_name: How the message calls the file that it should fit.
        reference: The grid of that.
    """
    difference = compare_grids(grid, reference)
    if not difference.is_mismatch:
        return ""
    return f"{name} is not on the grid of {reference_name}: {difference.words}"


def numbers(values: Sequence[float]) -> str:
    """``(1.25, 0.63, 0.63)`` of any floats, short."""
    return "(" + ", ".join(f"{value + 0.0:.6g}" for value in values) + ")"


def _against(part: str, values: Sequence[float], wanted: Sequence[float]) -> str:
    return f"{part} {numbers(values)} against {numbers(wanted)}{_UNIT.get(part, '')}"


def _corners(grid: Grid) -> NDArray[np.float64]:
    """``(corner, axis)`` positions in mm, x first, of the outer corners of the corner voxels."""
    index = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape[::-1]))))
    return np.asarray(grid.origin) + (index * grid.spacing[::-1]) @ grid.axes.T


def _largest(shift: NDArray[np.float64], reference: Grid) -> float:
    """The largest of some shifts in mm, in voxels along the axes of a grid; infinite for NaN."""
    voxels = np.abs(shift @ reference.axes) / reference.spacing[::-1]
    return float(voxels.max()) if np.isfinite(voxels).all() else math.inf


def _shift_by_part(grid: Grid, reference: Grid) -> dict[str, float]:
    """How far the corners would move if one part alone differed, in voxels."""
    corners = _corners(reference)
    alone = {
        "spacing": replace(reference, spacing=grid.spacing),
        "direction": replace(reference, direction=grid.direction),
        "origin": replace(reference, origin=grid.origin),
    }
    return {part: _largest(_corners(moved) - corners, reference) for part, moved in alone.items()}
