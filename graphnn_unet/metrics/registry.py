"""The measures: name, unit, best and worst value, digits, definition and function of each.

A new measure is one entry of :data:`METRICS`. ``metrics.csv``, ``summary.json``, intervals, printed
tables and the tables of the docs all read this registry, in its order.

Which measure suits which question: Metrics reloaded, https://arxiv.org/abs/2206.01653.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from graphnn_unet.errors import InputError
from graphnn_unet.metrics.distance import NSD_TOLERANCE_MM, SurfaceDistances, surface_distances
from graphnn_unet.metrics.overlap import BoolVolume, OverlapCounts


@dataclass(frozen=True)
class Comparison:
    """One structure that is in both maps of a case.

    Attributes:
        prediction: ``(z, y, x)`` or ``(y, x)``, not empty; may be a crop that holds both.
        reference: Same shape, not empty.
        spacing: mm in the order of the axes; ``None`` measures in voxels.
        counts: Voxels by agreement.
        nsd_tolerance_mm: Of the surface Dice.
    """

    prediction: BoolVolume
    reference: BoolVolume
    spacing: Sequence[float] | None
    counts: OverlapCounts
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM

    @cached_property
    def distances(self) -> SurfaceDistances:
        """Surface distances, computed once for all measures that need them."""
        return surface_distances(self.prediction, self.reference, self.spacing)


@dataclass(frozen=True)
class Metric:
    """One measure.

    Attributes:
        name: Column of ``metrics.csv``, flag value, key of results in Python.
        key: Key in ``summary.json``.
        definition: What it means, one line.
        function: Its value for a structure that is in both maps.
        best: Value of a perfect prediction. Of two values the one nearer to it is better.
        worst: What a missed or an invented structure scores; ``None`` for the diagonal of the
            image in mm, which no distance in it exceeds.
        needs_reference: Whether an invented structure has no value, because there is nothing to
            compare it with.
        unit: ``fraction``, which pages show in percent, or ``distance``: mm, under the published
            protocol voxels.
        digits: Decimals in printed tables.
        title: Head of columns in printed tables; ``key`` where it is empty.
        is_published: Whether the programs behind the published tables report it; the others have
            no value under that protocol.
    """

    name: str
    key: str
    definition: str
    function: Callable[[Comparison], float]
    best: float = 1.0
    worst: float | None = 0.0
    needs_reference: bool = False
    unit: Literal["fraction", "distance"] = "fraction"
    digits: int = 4
    title: str = ""
    is_published: bool = False

    def heading(self, distance_unit: str) -> str:
        """Head of its column in printed tables, with the unit where it has one."""
        title = self.title or self.key
        return f"{title} {distance_unit}" if self.unit == "distance" else title


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "dice",
            "Dice",
            "2 |P and R| / (|P| + |R|), a fraction, on the whole volume",
            lambda structure: structure.counts.dice,
            is_published=True,
        ),
        Metric(
            "jaccard",
            "Jaccard",
            "|P and R| / |P or R|, a fraction, on the whole volume; IoU is the same",
            lambda structure: structure.counts.jaccard,
            is_published=True,
        ),
        Metric(
            "nsd",
            "NSD",
            "surface Dice: share of the surface voxels of both maps with a distance of at most "
            "nsd_tolerance_mm to the other surface",
            lambda structure: structure.distances.nsd(structure.nsd_tolerance_mm),
        ),
        Metric(
            "hd95",
            "HD95",
            "95th percentile (linear) of the distances of both surfaces to the other one, "
            "both directions put together",
            lambda structure: structure.distances.hd95,
            best=0.0,
            worst=None,
            unit="distance",
            digits=2,
            title="95HD",
            is_published=True,
        ),
        Metric(
            "asd",
            "ASD",
            "mean distance from the prediction's surface to the reference's, one direction only",
            lambda structure: structure.distances.asd,
            best=0.0,
            worst=None,
            unit="distance",
            digits=2,
            is_published=True,
        ),
        Metric(
            "volume_error",
            "VolumeError",
            "(|P| - |R|) / |R|, a fraction; -1 where it is missed, no value where it is invented",
            lambda structure: structure.counts.volume_error,
            best=0.0,
            worst=-1.0,
            needs_reference=True,
            title="Vol. error",
        ),
        Metric(
            "precision",
            "Precision",
            "|P and R| / |P|, a fraction",
            lambda structure: structure.counts.precision,
        ),
        Metric(
            "recall",
            "Recall",
            "|P and R| / |R|, a fraction",
            lambda structure: structure.counts.recall,
        ),
    )
}
"""All measures by name, in the order of the columns."""

SHOWN = ("dice", "jaccard", "hd95", "asd")
"""Measures of printed tables where no others are asked for."""


def metrics_of(names: Sequence[str]) -> tuple[Metric, ...]:
    """The measures of these names.

    Raises:
        InputError: There is no such measure.

    Example:
        >>> [metric.heading("mm") for metric in metrics_of(["dice", "hd95"])]
        ['Dice', '95HD mm']
    """
    for name in names:
        if name not in METRICS:
            raise InputError(f"there is no measure {name!r}", "", f"Use {', '.join(METRICS)}")
    return tuple(METRICS[name] for name in names)
