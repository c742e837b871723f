"""What a user would otherwise take: classical segmentation of one image, as masks.

All get what our own methods get: the image without its frame, foreground selection by the border,
holes filled. OpenCV is needed for GrabCut alone and is no dependency of the package.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from skimage.color import rgb2gray, rgb2lab
from skimage.filters import threshold_otsu

from graphnn_unet.clustering.border_features import image_margin
from graphnn_unet.clustering.fit import kmeans
from graphnn_unet.clustering.foreground_selection import as_label_map, select_foreground
from graphnn_unet.graph import unit_rows


def mask_from_labels(labels: np.ndarray) -> np.ndarray:
    """Foreground of a map of clusters by the image margin."""
    edge = np.ones(labels.shape, dtype=bool)
    edge[1:-1, 1:-1] = False
    selection = select_foreground(labels.ravel(), edge.ravel())
    mask = as_label_map(labels.ravel(), selection, merge=True).reshape(labels.shape) > 0
    return ndimage.binary_fill_holes(mask)


def otsu(rgb: np.ndarray) -> np.ndarray:
    """Otsu's threshold of the brightness."""
    gray = rgb2gray(rgb)
    return mask_from_labels((gray > threshold_otsu(gray)).astype(np.int64))


def kmeans_lab(rgb: np.ndarray) -> np.ndarray:
    """Two clusters of Lab colors."""
    lab = rgb2lab(rgb)
    rows = torch.from_numpy(lab.reshape(-1, 3).astype(np.float32))
    sample = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:4000]
    clusters = kmeans(rows[sample], 2)
    centers = torch.stack([rows[sample][clusters == c].mean(dim=0) for c in (0, 1)])
    labels = torch.cdist(rows, centers).argmin(dim=1).numpy()
    return mask_from_labels(labels.reshape(lab.shape[:2]))


def kmeans_nodes(nodes) -> np.ndarray:
    """Two clusters of the features of nodes, on the working image."""
    labels = kmeans(unit_rows(nodes.values), 2).numpy()
    selection = select_foreground(labels, nodes.grid.margin)
    mask = as_label_map(labels, selection, merge=True)[nodes.grid.node_map] > 0
    return ndimage.binary_fill_holes(mask)


def border_color(rgb: np.ndarray) -> np.ndarray:
    """Mahalanobis distance to the Lab colors of the image margin, and Otsu's threshold of it."""
    lab = rgb2lab(rgb)
    margin = image_margin(lab.shape[:2])
    mean, cov = lab[margin].mean(axis=0), np.cov(lab[margin].T) + np.eye(3)
    offset = lab - mean
    distance = np.sqrt(np.einsum("yxi,ij,yxj->yx", offset, np.linalg.inv(cov), offset))
    return ndimage.binary_fill_holes(distance > threshold_otsu(distance))


def grabcut(rgb: np.ndarray) -> np.ndarray:
    """GrabCut started with the image margin as background and all else as probable foreground."""
    import cv2  # type: ignore[import-not-found]  # optional, see the module's head

    pixels = np.ascontiguousarray((255 * rgb[..., ::-1]).astype(np.uint8))
    mask = np.full(rgb.shape[:2], cv2.GC_PR_FGD, np.uint8)
    mask[image_margin(rgb.shape[:2])] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    foreground = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return ndimage.binary_fill_holes(foreground)


def slic_merged(rgb: np.ndarray) -> np.ndarray:
    """Superpixels, those of similar mean color merged."""
    from skimage import graph
    from skimage.segmentation import slic

    segments = slic(rgb, n_segments=200, compactness=10, start_label=0)
    lab = rgb2lab(rgb)
    links = graph.rag_mean_color(lab, segments)
    return mask_from_labels(graph.cut_threshold(segments, links, thresh=8.0).astype(np.int64))


def felzenszwalb(rgb: np.ndarray) -> np.ndarray:
    """Felzenszwalb's segments; what holds a tenth of the border is background."""
    from skimage.segmentation import felzenszwalb as segment

    return mask_from_labels(segment(rgb, scale=300, sigma=0.8, min_size=50).astype(np.int64))


CLASSICAL: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Otsu": otsu,
    "k-means, Lab": kmeans_lab,
    "border color + Otsu": border_color,
    "GrabCut from the border": grabcut,
    "SLIC + merging": slic_merged,
    "Felzenszwalb": felzenszwalb,
}
