"""Features that say how a place differs from the border of the image, and what lies between.

An object that was photographed on purpose seldom touches the border, so the border shows the
background. Colors of the border, smoothly varying with the light, and the way from the border to
a place, measured across edges, tell the object even where it is as transparent as the water.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from graphnn_unet.clustering.hand_features import to_lab
from graphnn_unet.clustering.nodes import Grid, NodeFeatures, standardized

MARGIN = 0.04
"""Width of the image margin, a share of the shorter side."""

EDGE_SCALES = (0.7, 1.0, 1.5)
"""Gaussian scales of the gradient, in pixels of the working image."""

NOISE_QUANTILES = (0.5, 0.7)
"""Shares of the margin's gradients that count as noise and cost nothing to cross."""

FAINTEST_EDGE = 0.5
"""Steepest gradient, in percent of the range a pixel, below which an image counts as constant."""

CENTER_WEIGHT = 0.2
"""Weight of the center prior beside the other columns."""

_FLOOR = 0.1  # of the largest distance; below it differences are noise
_N_ROUNDS = 6
_SLOPE_COST = 1e-3  # a step on flat ground, so that ways are short

Floats = NDArray[np.float32]


def border_features(array: Floats, grid: Grid, *, is_color: bool) -> NodeFeatures:
    """How much each cell differs from the border: log distances above or below a threshold.

    Each column is the logarithm of a distance, mean over the cell, in units of its deviation and
    measured from Otsu's threshold of the column: positive where it speaks for an object, negative
    for background, near 0 where it does not know. The cosine of two such rows is near 1 for nodes
    of one kind and near -1 for nodes of two, whatever share of the image the object takes.

    Columns: the shortest way from the border across edges, for each scale of the gradient and each
    noise level; the difference from the border's color; center prior, weighed less. All are 0 for
    an image without any edge. ``array`` is ``(channel, *spatial)``, about 0 to 1.

    Source: geodesic saliency (Wei et al., ECCV 2012, https://doi.org/10.1007/978-3-642-33712-3_3)
    with the noise of the border as its clip; the surface of the background and the log ratios are
    ours.
    """
    color = (100 * to_lab(array, is_color=is_color)).astype(np.float32)
    margin = image_margin(color.shape[1:])
    if float(gradient(color, EDGE_SCALES[0]).max()) < FAINTEST_EDGE:
        n_columns = len(EDGE_SCALES) + len(NOISE_QUANTILES) + 1
        return NodeFeatures(torch.zeros(grid.n_nodes, n_columns), grid)
    maps = [_log(distance) for distance in edge_distances(color, margin)]
    maps.append(_log(color_difference(color, margin)))
    columns = otsu_centered(standardized(grid.pooled(np.stack(maps))))
    center = standardized(grid.pooled(center_prior(color.shape[1:])[None]))
    values = torch.cat([columns, CENTER_WEIGHT * center], dim=1)
    return NodeFeatures(values, grid)


def otsu_centered(columns: Tensor) -> Tensor:
    """Columns ``(node, channel)`` measured from their Otsu thresholds."""
    from skimage.filters import threshold_otsu

    limits = [
        float(threshold_otsu(column.numpy())) if bool((column != column[0]).any()) else 0.0
        for column in columns.T
    ]
    return columns - torch.tensor(limits)


def image_margin(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels near the border."""
    width = max(2, int(MARGIN * min(shape)))
    margin = np.ones(shape, dtype=bool)
    margin[tuple(slice(min(width, n // 2 - 1), n - min(width, n // 2 - 1)) for n in shape)] = False
    return margin


def edge_distances(color: Floats, margin: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Shortest ways from the border to each pixel, where only edges above the noise cost.

        cost = max(|gradient| - quantile of |gradient| on the margin, 0)

    One map for each scale (at the first noise level) and one for each further noise level.
    """
    from skimage.graph import MCP_Geometric

    start = np.ones(color.shape[1:], dtype=bool)
    start[tuple(slice(1, -1) for _ in start.shape)] = False
    seeds = np.argwhere(start)
    levels = [(scale, NOISE_QUANTILES[0]) for scale in EDGE_SCALES]
    levels += [(EDGE_SCALES[0], noise) for noise in NOISE_QUANTILES[1:]]
    gradients = {scale: gradient(color, scale) for scale in EDGE_SCALES}
    distances = []
    for scale, noise in levels:
        steep = gradients[scale]
        cost = np.maximum(steep - np.quantile(steep[margin], noise), 0) + _SLOPE_COST
        distances.append(MCP_Geometric(cost).find_costs(seeds)[0])
    return distances


def gradient(color: Floats, scale: float) -> Floats:
    """Length of the gradient over all channels."""
    squares = [
        ndimage.gaussian_gradient_magnitude(channel, scale).astype(np.float64) ** 2
        for channel in color
    ]
    return np.sqrt(sum(squares)).astype(np.float64)  # pyright: ignore[reportReturnType]  # sum() of arrays is no int here


def color_difference(color: Floats, margin: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Difference from the color that the border predicts, in units of its spread there."""
    residual = np.stack([channel - background_surface(channel, margin) for channel in color])
    smooth = np.stack([ndimage.gaussian_filter(channel, 1.0) for channel in residual])
    spread = [1.48 * np.median(np.abs(c[margin] - np.median(c[margin]))) + 1.0 for c in smooth]
    return np.sqrt(sum((c / s) ** 2 for c, s in zip(smooth, spread, strict=True)))


def background_surface(channel: Floats, margin: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Quadratic surface through the border that disregards what does not fit it.

    Light falls off towards the edge of a microscope's field. The fit starts at the margin; pixels
    everywhere join it with a small weight as far as they follow it.
    """
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in channel.shape), indexing="ij")
    terms = [np.ones_like(axes[0]), *axes]
    terms += [axes[i] * axes[j] for i in range(len(axes)) for j in range(i, len(axes))]
    base = np.stack([term.ravel() for term in terms], axis=1)
    value, on_margin = channel.ravel().astype(np.float64), margin.ravel()
    weight = on_margin.astype(np.float64)
    surface = np.zeros_like(value)
    for _ in range(_N_ROUNDS):
        weighted = base * weight[:, None]
        normal = weighted.T @ base + 1e-3 * weight.sum() * np.eye(base.shape[1])
        surface = base @ np.linalg.solve(normal, weighted.T @ value)
        residual = value - surface
        spread = 1.48 * np.median(np.abs(residual[on_margin])) + 0.5
        # Geman-McClure: far outliers, the object among them, lose all weight
        weight = (1 + (residual / (2 * spread)) ** 2) ** -2 * (0.15 + on_margin)
    return surface.reshape(channel.shape)


def center_prior(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Minus the squared distance to the middle, -1 to 1 along each axis."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    return -sum(axis**2 for axis in axes) + np.zeros(shape)


def _log(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(distance + _FLOOR * max(float(distance.max()), 1e-12))
