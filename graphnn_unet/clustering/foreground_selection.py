"""Which clusters are background: by the border of the image, never by looking at a true mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOREGROUND_SHARE = 0.1
"""With more than two clusters, one with less of the image margin than this is foreground."""

ON_MARGIN = 0.25
"""From this share of the margin on, the foreground is said to lie on the border."""

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ForegroundSelection:
    """Clusters seen as foreground and background.

    Attributes:
        foreground: Ids of clusters that are foreground, the largest first.
        is_on_border: Whether the object reaches along more than a quarter of the border.
    """

    foreground: tuple[int, ...]
    is_on_border: bool = False


def select_foreground(labels: Labels, margin: NDArray[np.bool_]) -> ForegroundSelection:
    """Tell foreground from background by the clusters of the border nodes.

    Background is the cluster with the largest share of the margin; of equal ones the larger
    cluster, then that of the first node. With two clusters the other one is foreground; with more,
    all that hold less than a tenth of the margin, at least the one that holds least; none where all
    nodes are in one cluster. Labels and margin are ``(node,)``.
    """
    used = np.unique(labels)
    if len(used) == 1:
        return ForegroundSelection(())
    share = {int(c): float((labels[margin] == c).mean()) for c in used}
    size = {int(c): int((labels == c).sum()) for c in used}
    background = max(share, key=lambda c: (share[c], size[c], c == labels[0]))
    others = [c for c in share if c != background]
    if len(used) > 2:
        inside = [c for c in others if share[c] < FOREGROUND_SHARE]
        others = inside or [min(others, key=lambda c: (share[c], -size[c]))]
    others.sort(key=lambda c: -size[c])
    return ForegroundSelection(tuple(others), sum(share[c] for c in others) > ON_MARGIN)


def as_label_map(labels: Labels, selection: ForegroundSelection, *, merge: bool) -> Labels:
    """Ids of a label map: 0 background, 1 the foreground, or 1, 2, ... its clusters by size."""
    label_map = np.zeros_like(labels)
    for number, cluster in enumerate(selection.foreground, start=1):
        label_map[labels == cluster] = 1 if merge else number
    return label_map


def select_by_corners(labels: Labels, size: Sequence[int]) -> ForegroundSelection:
    """DeepCut's rule for two clusters: the second is foreground, unless it holds most corners."""
    corners = labels.reshape(size)[np.ix_(*((0, -1) for _ in size))]
    foreground = 0 if int((corners == 1).sum()) > corners.size // 2 else 1
    return ForegroundSelection((foreground,) if bool((labels == foreground).any()) else ())
