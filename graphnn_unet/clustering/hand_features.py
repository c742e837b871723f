"""Hand-made features: color, gradients and texture at several scales, on cells of a grid.

They need no weights, so a folder can be clustered at once and offline.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from graphnn_unet.clustering.nodes import Grid, NodeFeatures, standardized

SCALES = (1.0, 2.0, 4.0)
"""Gaussian scales in pixels of the working image."""

N_ORIENTATIONS = 8
N_PATTERNS = 10
POSITION_WEIGHT = 0.25

Floats = NDArray[np.float32]


def hand_features(array: Floats, grid: Grid, *, is_color: bool) -> NodeFeatures:
    """The features of specification: 60 columns for RGB, 48 for gray, 3D analogues for volumes.

    For each cell: mean and standard deviation of the color (Lab; each channel as it is for other
    images) at Gaussian scales of 1, 2 and 4 pixels; eigenvalues of the structure tensor and an
    8-bin histogram of gradient orientation at these scales; a histogram of uniform local binary
    patterns; coordinates times 0.25. In 3D the squared gradient along each axis takes the place of
    orientations and patterns. Columns are standardized over the image; a constant one is 0.
    ``array`` is ``(channel, *spatial)``, about 0 to 1.

    Cost: about 40 filters of the image.
    """
    color = to_lab(array, is_color=is_color)
    light = color[0] if is_color else array.mean(axis=0)
    maps = [*color_moments(color), *structure(light)]
    if light.ndim == 2:
        maps += [*orientations(light), *patterns(light)]
    position = np.indices(grid.size, dtype=np.float32).reshape(len(grid.size), -1).T
    values = standardized(np.concatenate([grid.pooled(np.stack(maps)), position], axis=1))
    values[:, -len(grid.size) :] *= POSITION_WEIGHT
    return NodeFeatures(values, grid)


def to_lab(array: Floats, *, is_color: bool) -> Floats:
    """CIE Lab of ``(3, y, x)`` RGB from 0 to 1, divided by 100; other channels as they are."""
    if not is_color:
        return array
    from skimage.color import rgb2lab

    return (rgb2lab(array, channel_axis=0) / 100).astype(np.float32)


def color_moments(color: Floats) -> list[Floats]:
    """Mean and standard deviation of each channel under Gaussian windows of each scale."""
    maps: list[Floats] = []
    for scale in SCALES:
        for channel in color:
            mean = ndimage.gaussian_filter(channel, scale)
            square = ndimage.gaussian_filter(channel * channel, scale)
            maps += [mean, np.sqrt(np.maximum(square - mean * mean, 0))]
    return maps


def structure(light: Floats) -> list[Floats]:
    """Eigenvalues of the structure tensor at each scale, largest first; 3D: gradients as well."""
    maps: list[Floats] = []
    for scale in SCALES:
        slopes = _slopes(light, scale)
        products = {
            (i, j): ndimage.gaussian_filter(slopes[i] * slopes[j], scale)
            for i in range(light.ndim)
            for j in range(i, light.ndim)
        }
        if light.ndim == 2:
            half = (products[0, 0] + products[1, 1]) / 2
            root = np.sqrt(((products[0, 0] - products[1, 1]) / 2) ** 2 + products[0, 1] ** 2)
            maps += [np.sqrt(half + root), np.sqrt(np.maximum(half - root, 0))]
        else:
            maps += [np.sqrt(np.maximum(products[axis, axis], 0)) for axis in range(light.ndim)]
            maps.append(ndimage.gaussian_gradient_magnitude(light, scale))  # pyright: ignore[reportArgumentType]  # scipy's inferred types are too narrow
    return maps


def orientations(light: Floats) -> list[Floats]:
    """Gradient magnitude by its orientation in 8 bins over half a turn, at each scale."""
    maps: list[Floats] = []
    for scale in SCALES:
        down, right = _slopes(light, scale)
        magnitude = np.hypot(down, right)
        bins = np.floor(np.arctan2(down, right) / np.pi * N_ORIENTATIONS) % N_ORIENTATIONS
        maps += [np.where(bins == b, magnitude, 0).astype(np.float32) for b in range(8)]
    return maps


def patterns(light: Floats) -> list[Floats]:
    """Which of the 10 uniform local binary patterns of 8 neighbors each pixel shows."""
    from skimage.feature import local_binary_pattern

    # whole numbers: differences of rounding would otherwise decide about flat parts
    codes = local_binary_pattern(np.round(light * 255).astype(np.uint8), 8, 1, method="uniform")
    return [(codes == pattern).astype(np.float32) for pattern in range(N_PATTERNS)]


def _slopes(light: Floats, scale: float) -> list[Floats]:
    """Derivative along each axis under a Gaussian."""
    orders = np.eye(light.ndim, dtype=int)
    return [ndimage.gaussian_filter(light, scale, order=tuple(order)) for order in orders]  # pyright: ignore[reportArgumentType, reportReturnType]  # scipy's inferred types are too narrow
