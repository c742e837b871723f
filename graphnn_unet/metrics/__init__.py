"""Overlap and distance measures, both protocols, intervals.

``dice``, ``jaccard``, ``hd95`` and ``asd`` take two binary volumes; ``score_case`` takes two label
maps; ``graphnn_unet.evaluate`` takes two folders. ``summarize`` makes means and intervals.
"""

from graphnn_unet.metrics.aggregate import ClassSummary, Estimate, Summary, summarize
from graphnn_unet.metrics.distance import (
    SurfaceDistances,
    asd,
    hd95,
    image_diagonal_mm,
    surface_distances,
)
from graphnn_unet.metrics.overlap import OverlapCounts, count_overlap, dice, jaccard
from graphnn_unet.metrics.protocols import (
    COLUMNS,
    DEFINITIONS,
    PROTOCOLS,
    CaseScore,
    Presence,
    Protocol,
    score_case,
)

__all__ = [
    "COLUMNS",
    "DEFINITIONS",
    "PROTOCOLS",
    "CaseScore",
    "ClassSummary",
    "Estimate",
    "OverlapCounts",
    "Presence",
    "Protocol",
    "Summary",
    "SurfaceDistances",
    "asd",
    "count_overlap",
    "dice",
    "hd95",
    "image_diagonal_mm",
    "jaccard",
    "score_case",
    "summarize",
    "surface_distances",
]
