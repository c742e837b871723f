"""Edges of a mask moved to where the colors of both sides meet, on the graph of its pixels."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from torch import Tensor

from graphnn_unet.clustering.fit import kmeans
from graphnn_unet.graph.diffusion import conjugate_gradients
from graphnn_unet.graph.explicit import compressed_rows

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
_TOLERANCE, _MAX_STEPS = 1e-4, 500


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

    Source: random walker with priors (Grady, CVPR 2005) with the color models of GrabCut (Rother
    et al., 2004). Cost: linear in the pixels near the edge, times steps of conjugate gradients.
    """
    n_inside = int(mask.sum())
    if min(n_inside, mask.size - n_inside) < MIN_PIXELS:
        return mask
    distance = ndimage.distance_transform_edt
    depth = distance(mask)
    near = np.where(mask, depth <= min(width, CORE * depth.max()), distance(~mask) <= width)
    box = tuple(
        slice(max(0, part.start - 1), part.stop + 1)
        for part in ndimage.find_objects(near.astype(np.int8))[0]
    )
    rows = torch.from_numpy(color[:, near].T.astype(np.float64))
    ratio = mixture_likelihood(rows, _sample(color, mask))
    ratio -= mixture_likelihood(rows, _sample(color, ~mask))
    ratio.clamp_(-_CLIP, _CLIP)
    affinity = pixel_affinity(near[box], color[(slice(None), *box)])
    made = mask.copy()
    made[near] = _relaxed(affinity, near[box].ravel(), mask[box].ravel(), ratio).numpy() > 0.5
    shared = (made & mask).sum() / (made | mask).sum()
    return made if shared >= LEAST_SHARED else mask


def pixel_affinity(near: NDArray[np.bool_], color: NDArray[np.float32]) -> sparse.csr_matrix:
    """Weights between neighbors of which one is near the edge, ``(pixel, pixel)``."""
    place = np.arange(near.size).reshape(near.shape)
    ends, lengths = [], []
    for step in product((-1, 0, 1), repeat=near.ndim):
        if step <= (0,) * near.ndim:
            continue  # the other direction of an edge that is there
        sides = list(zip(step, near.shape, strict=True))
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in sides)
        there = tuple(slice(max(0, s), n + min(0, s)) for s, n in sides)
        used = near[here] | near[there]
        ends.append(np.stack([place[here][used], place[there][used]]))
        lengths.append(np.full(ends[-1].shape[1], math.sqrt(sum(s * s for s in step))))
    first, second = np.concatenate(ends, axis=1)
    colors = color.reshape(len(color), -1).astype(np.float64)
    square = ((colors[:, first] - colors[:, second]) ** 2).sum(axis=0)
    weight = np.exp(-square / max(2 * square.mean(), 1e-9)) / np.concatenate(lengths)
    weight *= SMOOTHNESS / (2 * sum(1 / length[0] for length in lengths if len(length)))
    half = sparse.csr_matrix((weight, (first, second)), shape=(near.size, near.size))
    return half + half.T


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
    matrix = compressed_rows(*parts, len(target))
    found = conjugate_gradients(
        lambda signal: signal - matrix @ signal,
        target[:, None], tolerance=_TOLERANCE, max_iterations=_MAX_STEPS,
    )  # fmt: skip
    return found.value[:, 0] * root


def mixture_likelihood(rows: Tensor, sample: Tensor) -> Tensor:
    """Log density of rows under a mixture fitted to a sample by k-means, ``(row,)``.

    Args:
        rows: ``(row, channel)`` float64.
        sample: ``(n, channel)`` float64.
    """
    n_parts = min(_N_PARTS, max(1, len(sample) // _PIXELS_A_PART))
    part_of = kmeans(sample, n_parts, n_steps=15, n_starts=2)
    terms = []
    for part in range(n_parts):
        own = sample[part_of == part]
        if not len(own):
            continue
        mean = own.mean(dim=0)
        offset = own - mean
        spread = offset.T @ offset / len(own) + _SPREAD * torch.eye(len(mean), dtype=rows.dtype)
        root = torch.linalg.cholesky(spread)
        whitened = torch.linalg.solve_triangular(root, (rows - mean).T, upper=False)
        share = math.log(len(own) / len(sample))
        terms.append(share - whitened.square().sum(dim=0) / 2 - root.diagonal().log().sum())
    return torch.logsumexp(torch.stack(terms), dim=0)


def _sample(color: NDArray[np.float32], side: NDArray[np.bool_]) -> Tensor:
    """Colors of at most 4000 pixels of a side, evenly along its pixels, ``(n, channel)``."""
    places = np.flatnonzero(side)
    places = places[:: -(-len(places) // _SAMPLE)]
    return torch.from_numpy(color.reshape(len(color), -1)[:, places].T.astype(np.float64))
