"""From one image to one label map: features, graph, fit, foreground selection, pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from graphnn_unet.clustering.border_features import center_prior
from graphnn_unet.clustering.color_edges import color_edges
from graphnn_unet.clustering.fit import Fit, State, fit_graph, make_graph
from graphnn_unet.clustering.foreground_selection import (
    ForegroundSelection,
    as_label_map,
    select_by_corners,
    select_foreground,
)
from graphnn_unet.clustering.hand_features import to_lab
from graphnn_unet.clustering.images import Image
from graphnn_unet.clustering.nodes import NodeFeatures
from graphnn_unet.clustering.settings import ClusterSettings, PostProcessing

MAIN_SHARE, CENTER_PULL = 0.5, 2.0
"""Chosen on the development part of the microorganism images, see docs/methods/unsupervised.md."""

EDGE_CELLS = 3.0
"""How far from the edge pixels are decided anew by their colors, in cells of the nodes."""


@dataclass(frozen=True)
class Segmentation:
    """The label map of one image and how it came about.

    Attributes:
        labels: Of the shape of the image, 0 background.
        facts: Row of ``clusters.csv`` without the case.
    """

    labels: NDArray[np.int64]
    facts: dict[str, Any]


def _parts_of_foreground(nodes: NodeFeatures, fit: Fit, settings: ClusterSettings, key: str) -> Fit:
    """DeepCut's second stage: the nodes of the foreground clustered again, into parts."""
    labels = fit.labels.numpy()
    inside = np.isin(labels, select_foreground(labels, nodes.grid.margin).foreground)
    inside = torch.from_numpy(inside)
    n_parts = settings.n_clusters - 1
    member = torch.zeros(len(inside), settings.n_clusters)
    member[~inside, 0] = 1
    flags = fit.flags
    if int(inside.sum()) >= max(n_parts, 2):
        changes = {"n_clusters": n_parts, "steps": 100, "two_stage": False}
        second = settings.model_copy(update=changes)
        parts = fit_graph(make_graph(nodes.values[inside], second), second, f"{key}/parts")
        member[inside, 1:] = parts.assignment
        flags = tuple(dict.fromkeys((*flags, *parts.flags)))
    else:
        member[inside, 1] = 1
    return Fit(member, fit.loss, flags)


def segment_image(
    image: Image,
    nodes: NodeFeatures,
    settings: ClusterSettings,
    finish: PostProcessing,
    state: State | None = None,
) -> Segmentation:
    """Label map of an image whose nodes have features.

    ``state`` are the shared initial weights of the collective schedule.
    """
    first = settings.model_copy(update={"n_clusters": 2}) if settings.two_stage else settings
    fit = fit_graph(make_graph(nodes.values, first), first, image.source.case, state)
    if settings.two_stage:
        fit = _parts_of_foreground(nodes, fit, settings, image.source.case)
    labels = fit.labels.numpy()
    selection = select_foreground(labels, nodes.grid.margin)
    if finish.nearest and settings.n_clusters == 2:
        selection = select_by_corners(labels, nodes.grid.size)
    box = image.inner
    foreground = _pixel_labels(fit, nodes, selection, finish, tuple(p.stop - p.start for p in box))
    if finish.color_edges and finish.merge:
        inside = cleaned(foreground, finish) > 0
        width = EDGE_CELLS * max(n / m for n, m in zip(inside.shape, nodes.grid.size, strict=True))
        color = 100 * to_lab(image.array[(slice(None), *box)], is_color=image.is_color)
        foreground = color_edges(inside, color, width).astype(np.int64)
    if finish.refine and foreground.any():
        from graphnn_unet.clustering.bilateral import PUBLISHED, refine_labels

        solver = PUBLISHED if finish.nearest else None
        picture = image.array[(slice(None), *box)]
        foreground = refine_labels(foreground, picture, image.is_color, solver)
    foreground = cleaned(foreground, finish)
    whole = np.zeros(image.shape, dtype=np.int64)
    whole[box] = foreground
    flags = [*fit.flags, *(["object_on_border"] if selection.is_on_border else [])]
    if not foreground.any():
        flags.append("empty")
    facts = {
        "nodes": nodes.grid.n_nodes,
        "clusters": len(np.unique(labels)),
        "foreground": round(float((whole > 0).mean()), 4),
        "loss": round(fit.loss, 6),
        "flags": " ".join(flags),
    }
    return Segmentation(whole, facts)


def _pixel_labels(
    fit: Fit,
    nodes: NodeFeatures,
    selection: ForegroundSelection,
    finish: PostProcessing,
    shape: tuple[int, ...],
) -> NDArray[np.int64]:
    """Ids of the label map at each pixel; memberships are interpolated unless ``nearest``."""
    if finish.nearest:
        of_nodes = as_label_map(fit.labels.numpy(), selection, merge=finish.merge)
        return resized_labels(of_nodes[nodes.grid.node_map], shape)
    n_clusters = fit.assignment.shape[1]
    member = fit.assignment.T.reshape(1, n_clusters, *nodes.grid.size)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    best = torch.full(shape, -1.0)
    labels = torch.zeros(shape, dtype=torch.int64)
    for cluster in range(n_clusters):  # one at a time: volumes are large
        share = functional.interpolate(member[:, cluster : cluster + 1], shape, mode=mode)[0, 0]
        labels[share > best] = cluster
        best = torch.maximum(best, share)
    return as_label_map(labels.numpy(), selection, merge=finish.merge)


def resized_labels(labels: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.int64]:
    """Nearest neighbor from the working image to the size of the image."""
    if labels.shape == tuple(shape):
        return labels
    index = [
        np.minimum(((np.arange(n) + 0.5) * size / n).astype(int), size - 1)
        for n, size in zip(shape, labels.shape, strict=True)
    ]
    return labels[np.ix_(*index)]


def cleaned(labels: NDArray[np.int64], finish: PostProcessing) -> NDArray[np.int64]:
    """Holes filled and small components dropped, as ``finish`` says."""
    kept = labels.copy()
    if finish.largest_component:
        kept[~_heavy_components(kept > 0, share=1.0, pull=0.0)] = 0
    elif finish.main_components:
        kept[~_heavy_components(kept > 0, share=MAIN_SHARE, pull=CENTER_PULL)] = 0
    if finish.fill_holes and kept.any():
        holes = ndimage.binary_fill_holes(kept > 0) & (kept == 0)
        if holes.any():
            # a hole takes the id of the nearest foreground pixel
            nearest = ndimage.distance_transform_edt(
                kept == 0, return_distances=False, return_indices=True
            )
            kept[holes] = kept[tuple(index[holes] for index in nearest)]  # pyright: ignore[reportOptionalIterable]  # scipy's inferred types are too wide
    return kept


def _heavy_components(mask: NDArray[np.bool_], *, share: float, pull: float) -> NDArray[np.bool_]:
    """Components of at least a share of the heaviest one's weight.

    The weight of a pixel is ``exp(-pull r^2)``, ``r`` its distance to the middle with 1 at the
    middle of each side.
    """
    parts, n_parts = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]  # scipy's inferred types are too wide
    if n_parts < 2:
        return mask
    weight = np.exp(pull * center_prior(mask.shape))
    total = ndimage.sum_labels(weight, parts, np.arange(1, n_parts + 1))
    if share >= 1:
        return parts == 1 + int(total.argmax())
    return np.isin(parts, 1 + np.flatnonzero(total >= share * total.max()))
