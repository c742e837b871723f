"""Volumes slice by slice: each is clustered as a picture, ids are carried on by overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.clustering.images import Image
from graphnn_unet.clustering.segment import Segmentation
from graphnn_unet.metrics.unsupervised import match_clusters, overlap_counts


def slice_axis(image: Image) -> int:
    """The axis across the slices: that of the largest spacing, the first of equal ones."""
    return int(np.argmax(image.spacing))


def segment_slices(image: Image, segment: Callable[[Image], Segmentation]) -> Segmentation:
    """Label map of a volume from those of its slices; the facts are sums over slices.

    The ids of a slice are matched to those of the slice before by the largest overlap; what
    overlaps nothing there gets a new id only while fewer are in use than in the slice itself.
    """
    axis = slice_axis(image)
    slices = []
    rows = []
    before = None
    for number in range(image.shape[axis]):
        array = np.take(image.array, number, axis=axis + 1)
        source = replace(image.source, case=f"{image.source.case}/{number}")
        spacing = tuple(s for a, s in enumerate(image.spacing) if a != axis)
        whole = tuple(slice(0, n) for n in array.shape[1:])
        segmented = segment(Image(array, spacing, False, whole, source))
        labels = segmented.labels if before is None else carried_on(before, segmented.labels)
        # an empty slice has no ids to carry on
        before = labels if labels.any() or before is None else before
        slices.append(labels)
        rows.append(segmented.facts)
    stacked = np.stack(slices, axis=axis)
    flags = sorted({flag for row in rows for flag in row["flags"].split() if flag != "empty"})
    facts = {
        "nodes": sum(row["nodes"] for row in rows),
        "clusters": max(row["clusters"] for row in rows),
        "foreground": round(float((stacked > 0).mean()), 4),
        "loss": round(float(np.mean([row["loss"] for row in rows])), 6),
        "flags": " ".join([*flags, *([] if stacked.any() else ["empty"])]),
    }
    return Segmentation(stacked, facts)


def carried_on(before: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels of a slice under the ids of its neighbor; 0 stays 0."""
    inside = (before > 0) & (labels > 0)
    ids = [int(i) for i in np.unique(labels) if i]
    new: dict[int, int] = {}
    if inside.any():
        counts, here, there = overlap_counts(labels[inside], before[inside])
        for row, column in match_clusters(counts).items():
            if counts[row, column]:
                new[here[row]] = there[column]
    free = (i for i in range(1, len(ids) + len(new) + 1) if i not in new.values())
    for label in ids:
        if label not in new:
            new[label] = next(free)
    renamed = np.zeros_like(labels)
    for label, carried in new.items():
        renamed[labels == label] = carried
    return renamed
