"""How a file stores its axes, and arrays turned from one order of storage to another.

A network knows its scans in the order in which the training files store them: the same body stored
along other axes, or from the other end, is another picture to it. So all scans of a data set are
turned to one orientation when they are read, and what is predicted is turned back.

An orientation is three letters, one a stored axis (x first), that say whereto it runs: ``LPS`` runs
to the patient's left, back and head, ``RAS`` to the right, front and head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import nibabel.orientations as nio
import numpy as np
from numpy.typing import NDArray

TURNED = "gnnunet_turned"
"""Key of a case's properties: the orientation of its file and that of its arrays."""

_LPS = (("R", "L"), ("A", "P"), ("I", "S"))
"""Names of the negative and positive way of each axis of ITK's space."""


def orientation_of(direction: Sequence[float]) -> str:
    """Three letters for the closest orientation; of oblique axes too.

    Args:
        direction: Direction cosines of a volume, row-major, in ITK's order and signs.

    Example:
        >>> orientation_of((1, 0, 0, 0, 1, 0, 0, 0, 1))
        'LPS'
        >>> orientation_of((0, 0, -1, 1, 0, 0, 0, 1, 0))
        'PSR'
    """
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (3, 3))
    return "".join(nio.ornt2axcodes(nio.io_orientation(affine), _LPS))


def most_common(orientations: Iterable[str]) -> str:
    """The orientation that most files have, the first in the alphabet of several; empty of none."""
    counts = Counter(filter(None, orientations))
    return min(counts, key=lambda codes: (-counts[codes], codes), default="")


def stored_otherwise(orientations: Mapping[str, str], usual: str) -> dict[str, list[str]]:
    """Cases by each orientation but the usual one, where there is a usual one.

    Cases without any orientation are not among them. Where only test scans have one, there is no
    usual one.

    Example:
        >>> stored_otherwise({"a": "LPS", "b": "PIR", "c": "", "d": "PIR"}, "LPS")
        {'PIR': ['b', 'd']}
    """
    others: dict[str, list[str]] = {}
    for case, stored in orientations.items():
        if usual and stored not in ("", usual):
            others.setdefault(stored, []).append(case)
    return dict(sorted(others.items()))


def turned(array: NDArray[Any], stored: str, wanted: str) -> NDArray[Any]:
    """The same voxels in another orientation; nothing is interpolated.

    Args:
        array: ``(..., z, y, x)`` as stored.
        stored: Orientation of the array.
        wanted: Orientation of the result.

    Returns:
        A contiguous copy, or the array itself where the two are the same.

    Example:
        >>> turned(np.array([[[1, 2, 3]]]), "LPS", "RPS")
        array([[[3, 2, 1]]])
    """
    if stored == wanted:
        return array
    x_first = array.transpose(*reversed(range(array.ndim)))
    result = nio.apply_orientation(x_first, _transform(stored, wanted))
    return np.ascontiguousarray(result.transpose(*reversed(range(array.ndim))))


def turned_back(array: NDArray[Any], properties: Mapping[str, Any]) -> NDArray[Any]:
    """A map on the arrays of a case as the case's file stores its axes.

    Args:
        array: ``(..., z, y, x)`` in the orientation of the plan.
        properties: What reading the case noted; without the key ``TURNED`` nothing is turned.
    """
    stored, wanted = properties.get(TURNED, ("", ""))
    return turned(array, wanted, stored)


def turned_axes(values: Sequence[Any], stored: str, wanted: str) -> tuple[Any, ...]:
    """What belongs to the axes z, y, x (a shape, a spacing) in the order of another orientation.

    Example:
        >>> turned_axes((5.0, 1.0, 2.0), "LPS", "SLP")
        (1.0, 2.0, 5.0)
    """
    x_first: list[Any] = [None] * 3
    for value, (axis, _) in zip(values[::-1], _transform(stored, wanted), strict=True):
        x_first[int(axis)] = value
    return tuple(x_first[::-1])


def _transform(stored: str, wanted: str) -> NDArray[Any]:
    return nio.ornt_transform(nio.axcodes2ornt(stored, _LPS), nio.axcodes2ornt(wanted, _LPS))


def slice_axis(spacing: Sequence[float]) -> int:
    """The axis across which slices are drawn: that of the largest spacing, the first of equal ones.

    Args:
        spacing: mm, in the order of the array's axes.

    Example:
        >>> slice_axis((3.0, 0.7, 0.7)), slice_axis((1.0, 1.0, 1.0)), slice_axis((0.7, 0.7, 5.0))
        (0, 0, 2)
    """
    nearly_largest = 0.99 * max(spacing)  # headers round
    return next(axis for axis, step in enumerate(spacing) if step >= nearly_largest)


def evenly_drawn_axis(label_map: NDArray[Any]) -> int | None:
    """The axis across which a label map seems to be drawn in some slices only.

    Three or more slices hold a label, two or more empty ones lie between any two, and no distance
    is more than 1.5 times another. Lesions that are one slice thick lie at uneven distances.

    Args:
        label_map: Volume; 0 is the background.

    Example:
        >>> array = np.zeros((20, 4, 4))
        >>> array[[2, 7, 12, 17], 1:3, 1:3] = 1
        >>> evenly_drawn_axis(array)
        0
    """
    is_drawn = label_map != 0
    for axis in range(label_map.ndim):
        others = tuple(other for other in range(label_map.ndim) if other != axis)
        distances = np.diff(np.flatnonzero(is_drawn.any(axis=others)))
        if len(distances) >= 2 and distances.min() >= 3:
            return axis if distances.max() <= 1.5 * distances.min() else None
    return None


def equal_distances(n_slices: int, count: int) -> list[int]:
    """Numbers of ``count`` slices at equal distances, each in the middle of its share.

    Example:
        >>> equal_distances(20, 4), equal_distances(3, 5)
        ([2, 7, 12, 17], [0, 1, 2])
    """
    count = min(count, n_slices)
    return [int((number + 0.5) * n_slices / count) for number in range(count)]
