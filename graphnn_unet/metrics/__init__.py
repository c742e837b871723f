"""Overlap and distance measures, both protocols, intervals.

``dice``, ``hd95`` and the other measures take two binary volumes; ``score_case`` takes two label
maps; ``graphnn_unet.evaluate`` takes two folders. ``summarize`` makes means and intervals.
``METRICS`` holds all measures; a new one is one entry.
"""

from graphnn_unet.metrics.aggregate import ClassSummary, Estimate, Summary, summarize
from graphnn_unet.metrics.distance import (
    SurfaceDistances,
    asd,
    hd95,
    image_diagonal_mm,
    nsd,
    surface_distances,
)
from graphnn_unet.metrics.overlap import (
    OverlapCounts,
    count_overlap,
    dice,
    jaccard,
    precision,
    recall,
    volume_error,
)
from graphnn_unet.metrics.protocols import (
    PROTOCOLS,
    CaseScore,
    Presence,
    Protocol,
    csv_columns,
    definitions,
    score_case,
)
from graphnn_unet.metrics.registry import METRICS, Comparison, Metric
from graphnn_unet.metrics.result import read_metrics_csv

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "CaseScore",
    "ClassSummary",
    "Comparison",
    "Estimate",
    "Metric",
    "OverlapCounts",
    "Presence",
    "Protocol",
    "Summary",
    "SurfaceDistances",
    "asd",
    "count_overlap",
    "csv_columns",
    "definitions",
    "dice",
    "hd95",
    "image_diagonal_mm",
    "jaccard",
    "nsd",
    "precision",
    "read_metrics_csv",
    "recall",
    "score_case",
    "summarize",
    "surface_distances",
    "volume_error",
]
