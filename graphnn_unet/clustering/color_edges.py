"""Edges of a mask moved to where the colors of both sides meet, on the graph of its pixels."""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from torch import Tensor

from graphnn_unet.graph._untyped import csr_tensor
from graphnn_unet.graph.diffusion import conjugate_gradients

SMOOTHNESS = 140.0
"""Weight of all edges of a pixel to neighbors of one color, beside the log likelihood ratio."""

CORE = 0.5
"""Pixels deeper than this share of the depth of the mask stay: thin objects do not vanish."""

LEAST_SHARED = 0.5
"""Intersection over union with the mask itself below which the colors do not bear it out: masks of
pure noise grow into each other. No development image came below 0.6."""

MIN_PIXELS = 20
"""With fewer pixels on one side its colors are not known."""

_N_PARTS, _PIXELS_A_PART, _SAMPLE = 5, 30, 4000
_SPREAD = 1.0  # of Lab or percent: added to every variance
_CLIP = 6.0
_MIXTURE_STEPS = 100
_TOLERANCE, _MAX_STEPS = 1e-4, 500

Floats = NDArray[np.float64]


def color_edges(
    mask: NDArray[np.bool_], color: NDArray[np.float32], width: float
) -> NDArray[np.bool_]:
    """Decide anew about the pixels near the edge of a mask, by their colors and their neighbors.

    Minimizes, over values ``x`` of the pixels at most ``width`` from the edge,

        sum_i |r_i| (x_i - [r_i > 0])^2 + sum_ij s exp(-|c_i - c_j|^2 / 2 v) / d_ij (x_i - x_j)^2

    where ``r`` is the log likelihood ratio of mixtures of the colors inside and outside, clipped
    at 6, ``v`` the mean of ``|c_i - c_j|^2`` over neighbors, diagonal ones among them, ``d`` their
    distance, and ``s`` such that the ``s / d`` of one pixel add up to 140. Pixels farther away, and
    the inner half of a thin mask, keep their value; the new mask is ``x > 0.5``.

    Args:
        mask: ``(*spatial)``.
        color: ``(channel, *spatial)``, Lab or percent.
        width: In pixels.

    Returns:
        ``(*spatial)``; the mask itself where one side has too few pixels to know its colors, or
        where the colors would make another mask of it.

    Source: random walker with priors (Grady, CVPR 2005, https://doi.org/10.1109/CVPR.2005.239) with
    the color models of GrabCut (Rother et al., 2004, https://doi.org/10.1145/1015706.1015720).
    Cost: linear in the pixels near the edge, times steps of conjugate gradients.
    """
    n_inside = int(mask.sum())
    if min(n_inside, mask.size - n_inside) < MIN_PIXELS:
        return mask
    distance = ndimage.distance_transform_edt
    depth = distance(mask)
    near = np.where(mask, depth <= min(width, CORE * depth.max()), distance(~mask) <= width)  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue, reportOptionalMemberAccess]  # scipy's inferred types are too wide
    box = tuple(
        slice(max(0, part.start - 1), part.stop + 1)
        for part in ndimage.find_objects(near.astype(np.int8))[0]
    )
    rows = color[:, near].T.astype(np.float64)
    ratio = likelihood_ratio(rows, _sample(color, mask), _sample(color, ~mask))
    affinity, reached = pixel_affinity(near[box], color[(slice(None), *box)])
    moved = mask.copy()
    moved[near] = _relaxed(affinity, near[box][reached], mask[box][reached], ratio).numpy() > 0.5
    shared = (moved & mask).sum() / (moved | mask).sum()
    return moved if shared >= LEAST_SHARED else mask


def pixel_affinity(
    near: NDArray[np.bool_], color: NDArray[np.float32]
) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
    """Weights between neighbors of which one is near the edge.

    Returns:
        ``(pixel, pixel)`` over the pixels near the edge and their neighbors, in the order of the
        image, and which pixels these are, ``(*spatial)``.
    """
    from skimage.graph import pixel_graph

    reached = ndimage.binary_dilation(near, np.ones((3,) * near.ndim))
    is_near, colors = near.ravel(), color.reshape(len(color), -1).astype(np.float64)

    def weight(first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> np.ndarray:
        square = ((colors[:, first] - colors[:, second]) ** 2).sum(axis=0)
        used = is_near[first] | is_near[second]
        scale = max(2 * square[used].mean(), 1e-9)
        return np.where(used, np.exp(-square / scale) / distance, 0.0)

    place = np.arange(near.size).reshape(near.shape)
    affinity, _ = pixel_graph(place, mask=reached, edge_function=weight, connectivity=near.ndim)
    steps = (step for step in product((-1, 0, 1), repeat=near.ndim) if any(step))
    total = sum(1 / math.hypot(*step) for step in steps)
    return sparse.csr_matrix(affinity) * (SMOOTHNESS / total), reached  # pyright: ignore[reportReturnType]  # scipy's inferred types are too wide


def _relaxed(
    affinity: sparse.csr_matrix, near: NDArray[np.bool_], mask: NDArray[np.bool_], ratio: Tensor
) -> Tensor:
    """Values of the pixels near the edge; the system is scaled to a diagonal of 1."""
    rows = affinity[near]
    certain = ratio.abs()
    diagonal = torch.from_numpy(np.asarray(rows.sum(axis=1)).ravel()) + certain
    root = diagonal.clamp_min(1e-9).rsqrt()  # 0 where no edge and no color says anything
    target = (certain * (ratio > 0) + torch.from_numpy(rows @ (mask & ~near))) * root
    scale = sparse.diags(root.numpy())
    inner = (scale @ rows[:, near] @ scale).tocsr()
    inner.sort_indices()
    parts = (torch.from_numpy(part) for part in (inner.indptr, inner.indices, inner.data))
    matrix = csr_tensor(*parts, (len(target), len(target)))  # pyright: ignore[reportCallIssue]  # scipy's inferred types are too wide
    solution = conjugate_gradients(
        lambda signal: signal - matrix @ signal,
        target[:, None], tolerance=_TOLERANCE, max_iterations=_MAX_STEPS,
    )  # fmt: skip
    return solution.value[:, 0] * root


def likelihood_ratio(rows: Floats, inside: Floats, outside: Floats) -> Tensor:
    """Log likelihood ratio of colors ``(row, channel)`` under mixtures of both sides, clipped."""
    ratio = mixture_likelihood(rows, inside) - mixture_likelihood(rows, outside)
    return torch.from_numpy(np.clip(ratio, -_CLIP, _CLIP))


def mixture_likelihood(rows: Floats, sample: Floats) -> Floats:
    """Log density of rows under a mixture of normal distributions of a sample, ``(row,)``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    n_parts = min(_N_PARTS, max(1, len(sample) // _PIXELS_A_PART))
    mixture = GaussianMixture(n_parts, reg_covar=_SPREAD, max_iter=_MIXTURE_STEPS, random_state=0)
    with threadpool_limits(1), warnings.catch_warnings():
        # fewer different colors than parts, or a mixture that would still move: good enough here
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(sample).score_samples(rows)


def _sample(color: NDArray[np.float32], side: NDArray[np.bool_]) -> Floats:
    """Colors of at most 4000 pixels of a side, evenly along its pixels, ``(n, channel)``."""
    places = np.flatnonzero(side)
    places = places[:: -(-len(places) // _SAMPLE)]
    return color.reshape(len(color), -1)[:, places].T.astype(np.float64)
