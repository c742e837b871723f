"""Votes of the voxels around the end of a link, each as alike as the patches around it are.

A registration is a voxel or two off where two brains differ. So a voxel asks not the one place that
its link leads to, but all places around it, and trusts each by the squared difference of the two
patches; the scale is that of the most alike one of all (Coupe et al. 2011,
https://doi.org/10.1016/j.neuroimage.2010.09.018, there without registration). In the graph of scans
these are further edges between voxels of two scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from scipy import ndimage

from graphnn_unet.scan_graph.vote import Vote, share_of, warp

MEMORY_BYTES = 2**28
"""What the differences of a slab of slices may take; the result does not depend on it."""

_NOISE = 1e-4
"""Squared difference of intensities between 0 and 1 below which patches are equally alike."""


def patch_vote(
    labels: Sequence[np.ndarray],
    points: Sequence[np.ndarray],
    fixed: np.ndarray,
    moving: Sequence[np.ndarray],
    trusts: Sequence[np.ndarray],
    *,
    search: int = 1,
    radius: int = 1,
    bandwidth: float = 2.0,
) -> Vote:
    """Shares of the classes among the labels around the ends of links.

    A voxel u, its link's end shifted by d, and the mean squared difference D of the cubes of
    intensities around both give the weight ``exp(-D(u, d) / (bandwidth min_d D(u, d)))``, the
    minimum over all links.

    Args:
        labels: ``(k, z', y', x')`` one-hot label map of each neighbor.
        points: ``(3, z, y, x)`` places in each neighbor.
        fixed: Intensities ``(z, y, x)`` between 0 and 1.
        moving: Intensities ``(z', y', x')`` of each neighbor, likewise.
        trusts: ``(z, y, x)`` trust in each link.
        search: The cube of places has ``2 search + 1`` voxels an axis.
        radius: The cubes that are compared have ``2 radius + 1`` voxels an axis.
        bandwidth: How fast trust falls with the difference.
    """
    shifts = list(product(range(-search, search + 1), repeat=3))
    total = np.zeros((len(labels[0]), *fixed.shape), np.float32)
    links = list(zip(labels, points, moving, trusts, strict=True))
    for inner, outer, part in _slabs(fixed.shape, len(links) * len(shifts), search + radius):
        target, images, carried = fixed[outer], [], []
        for label, point, image, _ in links:
            images.append(warp(image, point[:, outer]))
            carried.append(np.stack([warp(channel, point[:, outer]) for channel in label]))
        distances = np.stack([
            _mean_in_cubes((target - _shifted(image, shift)) ** 2, radius)[part]
            for image in images for shift in shifts
        ])  # fmt: skip
        scale = bandwidth * np.maximum(distances.min(0), _NOISE)
        weights = np.exp(np.divide(distances, -scale, out=distances), out=distances)
        for number, (shares, (_, _, _, trust)) in enumerate(zip(carried, links, strict=True)):
            weights[number * len(shifts) : (number + 1) * len(shifts)] *= trust[inner]
            for place, shift in enumerate(shifts):
                weight = weights[number * len(shifts) + place]
                for channel, share in enumerate(shares):
                    total[channel, inner] += weight * _shifted(share, shift)[part]
    share = share_of(total)
    return Vote(share, np.where(share.any(0), np.max(trusts, axis=0), 0).astype(np.float32))


def _slabs(
    shape: Sequence[int], n_candidates: int, halo: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Slices to vote on, those with what their cubes reach, and the place of these in those."""
    n_bytes = 4 * n_candidates * int(np.prod(shape[1:]))
    depth = max(1, MEMORY_BYTES // n_bytes)
    for first in range(0, shape[0], depth):
        last = min(shape[0], first + depth)
        low, high = max(0, first - halo), min(shape[0], last + halo)
        yield slice(first, last), slice(low, high), slice(first - low, last - low)


def _shifted(volume: np.ndarray, shift: Sequence[int]) -> np.ndarray:
    """Values at each voxel's place plus ``shift``; beyond the border those of the border."""
    for axis, step in enumerate(shift):
        if step:
            places = np.clip(np.arange(volume.shape[axis]) + step, 0, volume.shape[axis] - 1)
            volume = volume.take(places, axis)
    return volume


def _mean_in_cubes(values: np.ndarray, radius: int) -> np.ndarray:
    return ndimage.uniform_filter(values, 2 * radius + 1, mode="nearest")
