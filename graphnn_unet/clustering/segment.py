"""From one image to one label map: features, graph, fit, polarity, pixels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from graphnn_unet.clustering.fit import Fit, State, fit_graph, make_graph
from graphnn_unet.clustering.images import Image
from graphnn_unet.clustering.nodes import NodeFeatures
from graphnn_unet.clustering.polarity import as_label_map, border_polarity
from graphnn_unet.clustering.settings import ClusterSettings


@dataclass(frozen=True)
class Finish:
    """What happens between the clusters of the nodes and the label map.

    Attributes:
        merge: One id for all foreground clusters.
        fill_holes: Fill holes of the foreground.
        largest_component: Keep only the largest component of the foreground.
        refine: Move edges to those of the image by a bilateral solver.
    """

    merge: bool = True
    fill_holes: bool = True
    largest_component: bool = False
    refine: bool = False


@dataclass(frozen=True)
class Segmentation:
    """The label map of one image and how it came about.

    Attributes:
        labels: Of the shape of the image, 0 background.
        facts: Row of ``clusters.csv`` without the case.
    """

    labels: NDArray[np.int64]
    facts: dict[str, object] = field(default_factory=dict)


def segment_nodes(
    nodes: NodeFeatures, settings: ClusterSettings, key: str, state: State | None = None
) -> Fit:
    """Cluster the nodes of one image; DeepCut's second stage splits the foreground into parts."""
    first = replace(settings, n_clusters=2) if settings.two_stage else settings
    fit = fit_graph(make_graph(nodes.values, first), first, key, state)
    if not settings.two_stage:
        return fit
    labels = fit.labels.numpy()
    polarity = border_polarity(labels, nodes.grid.ring)
    inside = torch.from_numpy(np.isin(labels, polarity.foreground))
    n_parts = settings.n_clusters - 1
    member = torch.zeros(len(labels), settings.n_clusters)
    member[~inside, 0] = 1
    flags = fit.flags
    if int(inside.sum()) >= max(n_parts, 2):
        second = replace(settings, n_clusters=n_parts, steps=100)
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
    finish: Finish,
    state: State | None = None,
) -> Segmentation:
    """Label map of an image whose nodes have features.

    Args:
        image: The image; its size is that of the label map.
        nodes: Nodes of the image without its frame.
        settings: How to cluster.
        finish: What happens afterwards.
        state: Shared initial weights of the collective schedule.
    """
    began = time.perf_counter()
    fit = segment_nodes(nodes, settings, image.source.case, state)
    labels = fit.labels.numpy()
    polarity = border_polarity(labels, nodes.grid.ring)
    of_nodes = as_label_map(labels, polarity, merge=finish.merge)
    inner_shape = tuple(part.stop - part.start for part in image.inner)
    found = resized_labels(nodes.grid.spread(of_nodes), inner_shape)
    if finish.refine and found.any():
        from graphnn_unet.clustering.bilateral import refine_labels

        found = refine_labels(found, image.array[(slice(None), *image.inner)], image.is_color)
    found = cleaned(found, finish)
    whole = np.zeros(image.shape, dtype=np.int64)
    whole[image.inner] = found
    flags = [*fit.flags, *(["object_on_border"] if polarity.is_on_border else [])]
    if not found.any():
        flags.append("empty")
    facts = {
        "nodes": nodes.grid.n_nodes,
        "clusters": len(np.unique(labels)),
        "foreground": round(float((whole > 0).mean()), 4),
        "loss": round(fit.loss, 6),
        "flags": " ".join(flags),
        "seconds": round(time.perf_counter() - began, 3),
    }
    return Segmentation(whole, facts)


def resized_labels(labels: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.int64]:
    """Nearest neighbor from the working image to the size of the image."""
    if labels.shape == tuple(shape):
        return labels
    index = [
        np.minimum(((np.arange(n) + 0.5) * size / n).astype(int), size - 1)
        for n, size in zip(shape, labels.shape, strict=True)
    ]
    return labels[np.ix_(*index)]


def cleaned(labels: NDArray[np.int64], finish: Finish) -> NDArray[np.int64]:
    """Holes filled and small components dropped, as ``finish`` says."""
    made = labels.copy()
    if finish.largest_component and made.any():
        parts, n_parts = ndimage.label(made > 0)
        sizes = np.bincount(parts.ravel())[1:]
        if n_parts > 1:
            made[parts != 1 + int(sizes.argmax())] = 0
    if finish.fill_holes and made.any():
        holes = ndimage.binary_fill_holes(made > 0) & (made == 0)
        if holes.any():
            # a hole takes the id of the nearest foreground pixel
            nearest = ndimage.distance_transform_edt(
                made == 0, return_distances=False, return_indices=True
            )
            made[holes] = made[tuple(index[holes] for index in nearest)]
    return made
