"""What stands out in a data set: sizes of labels, spacings, intensities, mirrored and equal scans.

Every rule is a factor of the median of the other cases or a comparison of small copies of the
scans. They point at cases to look at; they decide nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FACTOR = 10.0
"""A label so many times as large as the median of its class, or as small, stands out."""

SPACING_FACTOR = 3.0
INTENSITY_FACTOR = 10.0
ENOUGH, ENOUGH_MIRRORED = 3, 6
"""Cases that a median, and a mean scan, need."""

THUMBNAIL = 12
"""Edge of a small copy, in voxels."""

_SIMILAR, _GAIN, _EQUAL = 0.5, 0.2, 0.9999
_USUAL_SHARE = 0.2
"""More mirrored cases than this share are how the data set is (left and right organs)."""

FLIPS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
_AXES = ("head to foot", "front to back", "left to right")
Thumbnail = NDArray[np.float32]


def median_factor(sizes: Mapping[str, float], factor: float = FACTOR) -> dict[str, float]:
    """Cases that are ``factor`` times the median of those above 0, or a ``factor``-th of it.

    Example:
        >>> median_factor({"a": 10.0, "b": 12.0, "c": 11.0, "d": 130.0, "e": 0.0})
        {'d': 11.304347826086957}
    """
    there = {case: size for case, size in sizes.items() if size > 0}
    if len(there) < ENOUGH:
        return {}
    median = float(np.median(list(there.values())))
    ratios = {case: size / median for case, size in there.items()}
    return {case: r for case, r in ratios.items() if r >= factor or r <= 1 / factor}


def size_words(name: str, factor: float) -> str:
    """A remark on a volume.

    Example:
        >>> size_words("core", 12.0), size_words("core", 0.05)
        ('core is 12 times its median size', 'core is 1/20 of its median size')
    """
    if factor >= 1:
        return f"{name} is {factor:.3g} times its median size"
    return f"{name} is 1/{1 / factor:.3g} of its median size"


def thumbnail(array: NDArray[np.generic]) -> Thumbnail:
    """A small copy by means of blocks, standardized; the mirrored scan has the mirrored copy.

    Args:
        array: ``(z, y, x)``, or ``(y, x)``.
    """
    values = np.asarray(array, np.float32)
    if values.ndim == 2:
        values = values[np.newaxis]
    values = np.nan_to_num(values, posinf=0, neginf=0)
    for axis in range(3):
        values = _shrunk(values, axis)
    values = values - values.mean()
    deviation = float(values.std())
    return values / deviation if deviation > 1e-9 else np.zeros_like(values)


def _shrunk(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Means of ``THUMBNAIL`` parts of an axis; parts share a voxel where they do not divide it."""
    n = values.shape[axis]
    ends = np.linspace(0, n, THUMBNAIL + 1)
    parts = []
    for low, high in itertools.pairwise(ends):
        first, last = int(low + 1e-6), max(int(np.ceil(high - 1e-6)), int(low + 1e-6) + 1)
        parts.append(values.take(range(first, min(last, n)), axis=axis).mean(axis=axis))
    return np.stack(parts, axis=axis)


@dataclass(frozen=True)
class Mirrored:
    """A scan that fits the others better when it is mirrored.

    Attributes:
        axes: 0 head to foot, 1 front to back, 2 left to right.
        twin: A case that it is the exact mirror image of; empty for none.
    """

    axes: tuple[int, ...]
    twin: str = ""

    @property
    def words(self) -> str:
        """A remark."""
        directions = " and ".join(_AXES[axis] for axis in self.axes)
        if self.twin:
            return f"the mirror image ({directions}) of {self.twin}"
        return f"looks mirrored {directions}"


def mirrored(thumbnails: Mapping[str, Thumbnail]) -> dict[str, Mirrored]:
    """Cases that lie otherwise than the others, though their headers say the same.

    Each is compared, as it is and mirrored in all ways, with the mean of the others. Where many
    fit mirrored, both ways are usual and none is told, but for exact mirror images of another.

    Args:
        thumbnails: Of cases in one orientation.
    """
    cases = [case for case, small in thumbnails.items() if small.any()]
    if len(cases) < 2:
        return {}
    stack = np.stack([thumbnails[case] for case in cases])
    hits = _twins(cases, stack)
    if len(cases) < ENOUGH_MIRRORED:
        return hits
    total = stack.sum(axis=0)
    odd: dict[str, Mirrored] = {}
    for case, small in zip(cases, stack, strict=True):
        others = total - small
        here = _correlation(small, others)
        by_flip = {axes: _correlation(np.flip(small, axes), others) for axes in FLIPS}
        best = max(by_flip, key=lambda axes: by_flip[axes])
        if by_flip[best] >= _SIMILAR and by_flip[best] - here >= _GAIN:
            odd[case] = Mirrored(best)
    if len(odd) > _USUAL_SHARE * len(cases):
        return hits
    return odd | hits


def _twins(cases: Sequence[str], stack: NDArray[np.float32]) -> dict[str, Mirrored]:
    """Later cases that equal an earlier one once they are mirrored, and not as they are."""
    n = len(cases)
    flat = stack.reshape(n, -1)
    as_is = flat @ flat.T / flat.shape[1]
    twins: dict[str, Mirrored] = {}
    for axes in FLIPS:
        turned = np.flip(stack, tuple(axis + 1 for axis in axes)).reshape(n, -1)
        equal = (turned @ flat.T / flat.shape[1] > _EQUAL) & (as_is < _EQUAL)
        for later, earlier in np.argwhere(np.tril(equal, -1)).tolist():
            twins.setdefault(cases[later], Mirrored(axes, cases[earlier]))
    return twins


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9))
