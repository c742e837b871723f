"""Gray values of masks: classes, or two levels that compression and smooth edges have blurred.

A class fills areas, or is drawn in lines that are brighter or darker than what is around. Blurred
values lie on slopes, between darker and brighter ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NOISE = 24
"""Values this far from a level, at most, are that level blurred by compression (8 bits)."""

CLEAN_SHARE = 0.95
"""Share of the pixels that must lie at a level or on an edge, for blurred masks to be used."""

_AREA_SHARE = 0.05
"""Of the pixels of a class lie inside of an area of it, at least; edges have no inside."""

_SLOPE_SHARE = 0.3
"""Of the pixels of blurred values lie between darker and brighter ones, at least. Measured: 0.6 to
1 after JPEG of quality 20 to 95, resizing and blur; at most 0.2 of classes, also drawn in lines."""

_TOP_SHARE = 0.25
"""Of the bright pixels of two values lie at the brighter one, at least; few of a heat map do."""

_PEAK, _PEAK_SHARE, _PEAK_LEAST = 17, 0.25, 1e-4
"""Blurred areas of a class: so many neighboring values have so much of what is flat, and so much of
all pixels (lines of 4 pixels in JPEG: 1e-3; two soft values, by chance: 1e-6)."""


@dataclass(frozen=True)
class GrayCounts:
    """What gray masks hold, of one or of all.

    Attributes:
        values: Gray value to number of pixels.
        area: The same of pixels in the middle of 3 x 3 of that value.
        flat: The same of 3 x 3 that differ by ``NOISE`` at most.
        slope: The same of 3 x 3 with both darker and brighter pixels, as edges have them.
    """

    values: Mapping[int, int] = field(default_factory=dict)
    area: Mapping[int, int] = field(default_factory=dict)
    flat: Mapping[int, int] = field(default_factory=dict)
    slope: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, gray: NDArray[Any]) -> GrayCounts:
        """Those of a mask ``(y, x)``; of one of 0 and 255 alone nobody asks for more."""
        values = _counted(gray)
        if not set(values) - {0, 255}:
            return cls(values)
        lowest, highest = around(gray)
        spread = highest.astype(int) - lowest
        return cls(
            values,
            area=_counted(gray[spread == 0]),
            flat=_counted(gray[spread <= NOISE]),
            slope=_counted(gray[(lowest < gray) & (gray < highest)]),
        )

    @classmethod
    def total(cls, masks: Sequence[GrayCounts]) -> GrayCounts:
        """Those of all masks together."""
        names = ("values", "area", "flat", "slope")
        return cls(*(_total(getattr(mask, name) for mask in masks) for name in names))

    @property
    def n_pixels(self) -> int:
        """All pixels."""
        return sum(self.values.values())

    def two_levels(self) -> tuple[int, ...]:
        """0 and the brightest value, 255 where it is near that."""
        top = max(self.values)
        return (0, 255 if 255 - NOISE <= top <= 255 else top)

    def is_blurred(self, levels: Sequence[int]) -> bool:
        """Whether most of the other values are those of blur: no areas, but slopes.

        A class has areas, or is drawn in lines, which are brighter or darker than what is around.
        """
        others = [value for value in self.values if value not in levels]
        soft = [value for value in others if not self._has_area(value)]
        n_slope = sum(self.slope.get(value, 0) for value in soft)
        n_soft = sum(self.values[value] for value in soft)
        return len(soft) > len(others) / 2 and n_slope >= _SLOPE_SHARE * n_soft

    def doubt_of(self, levels: Sequence[int]) -> str:
        """Why blurred masks may have other classes than these; empty where they do not.

        Pixels within ``NOISE`` of a level are that level, and those on a slope its edge.
        """
        between = {value for value in self.values if _distance(value, levels) > NOISE}
        n_strange = sum(self.values[value] - self.slope.get(value, 0) for value in between)
        if n_strange > (1 - CLEAN_SHARE) * self.n_pixels:
            return f"{n_strange / self.n_pixels:.0%} of the pixels lie at none of {listed(levels)}"
        peak = self._peak(between)
        return "" if peak is None else f"flat pixels gather around {peak}, beside {listed(levels)}"

    def doubt_of_two(self, levels: Sequence[int]) -> str:
        """Why blurred masks may have other values than 0 and the brightest."""
        top = levels[-1]
        n_bright = sum(n for value, n in self.values.items() if value > NOISE)
        n_top = sum(n for value, n in self.values.items() if value >= top - NOISE)
        if top < 4 * NOISE:
            return f"the brightest, {top}, is too near to 0 to tell them apart"
        if n_top < _TOP_SHARE * n_bright:
            return f"few pixels lie at the brightest, {top}"
        areas = [value for value in self.values if value not in levels and self._has_area(value)]
        return f"{listed(areas)} fill areas" if len(areas) > 2 else ""

    def _has_area(self, value: int) -> bool:
        return self.area.get(value, 0) >= _AREA_SHARE * self.values[value]

    def _peak(self, between: Collection[int]) -> int | None:
        """The value around which flat pixels gather; those of wide, soft edges have all values."""
        n_flat = sum(self.flat.get(value, 0) for value in between)
        least = max(_PEAK_SHARE * n_flat, _PEAK_LEAST * self.n_pixels, 1)
        peaks = []
        for value in between:
            below, here, above = (self._gathered(value + step) for step in (-_PEAK, 0, _PEAK))
            if here >= max(least, below, above):
                peaks.append((here, self.flat.get(value, 0), value))
        return max(peaks)[-1] if peaks else None

    def _gathered(self, value: int) -> int:
        around = range(value - _PEAK // 2, value + _PEAK // 2 + 1)
        return sum(self.flat.get(near, 0) for near in around)


def around(gray: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lowest and highest value of the 3 x 3 pixels around each."""
    return ndimage.minimum_filter(gray, 3), ndimage.maximum_filter(gray, 3)


def listed(values: Any, shown: int = 8) -> str:
    """The first values in words."""
    ordered = sorted(values)
    rest = " ..." if len(ordered) > shown else ""
    return ", ".join(map(str, ordered[:shown])) + rest


def _counted(values: NDArray[Any]) -> dict[int, int]:
    numbers, counts = np.unique(values, return_counts=True)
    return {int(value): int(n) for value, n in zip(numbers, counts, strict=True)}


def _total(tables: Iterable[Mapping[Any, int]]) -> dict[int, int]:
    counts = Counter[int]()
    for table in tables:
        for value, n in table.items():
            counts[int(value)] += n
    return dict(counts)


def _distance(value: int, levels: Sequence[int]) -> int:
    return min(abs(value - level) for level in levels)
