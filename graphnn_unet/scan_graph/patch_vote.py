"""Votes of the voxels around the end of a link, each as alike as the patches around it are.

A registration is a voxel or two off where two brains differ. So a voxel asks not the one place that
its link leads to, but all places around it, and trusts each by the squared difference of the two
patches; the scale is that of the most alike one of all (Coupe et al. 2011,
https://doi.org/10.1016/j.neuroimage.2010.09.018, there without registration). In the graph of scans
these are further edges between voxels of two scans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from scipy import ndimage

from graphnn_unet.scan_graph.vote import Vote, share_of, warp

MEMORY_BYTES = 2**28
"""What the differences of a part of the scan may take; the result does not depend on it."""

Box = Sequence[slice]

_NOISE = 1e-4
"""Squared difference of intensities between 0 and 1 below which patches are equally alike."""


def patch_vote(
    labels: Sequence[np.ndarray],
    places: Sequence[Callable[[Box], np.ndarray]],
    fixed: np.ndarray,
    moving: Sequence[np.ndarray],
    trusts: Sequence[np.ndarray],
    n_classes: int,
    *,
    search: int = 1,
    radius: int = 1,
    bandwidth: float = 2.0,
) -> Vote:
    """Shares of the classes among the labels around the ends of links.

    A voxel u, its link's end shifted by d, and the mean squared difference D of the cubes of
    intensities around both give the weight ``exp(-D(u, d) / (bandwidth min_d D(u, d)))``, the
    minimum over all links.

    Memory beside the arguments and the result: ``MEMORY_BYTES`` and some copies of the images of
    a part.

    Args:
        labels: Label map ``(z', y', x')`` of each neighbor; other numbers than those of classes
            cast no vote.
        places: Box of voxels of the scan to their places ``(3, *box)`` in each neighbor.
        fixed: Intensities ``(z, y, x)`` between 0 and 1.
        moving: Intensities ``(z', y', x')`` of each neighbor, likewise.
        trusts: ``(z, y, x)`` trust in each link.
        n_classes: Classes, background included.
        search: The cube of places has ``2 search + 1`` voxels an axis.
        radius: The cubes that are compared have ``2 radius + 1`` voxels an axis.
        bandwidth: How fast trust falls with the difference.
    """
    shifts = list(product(range(-search, search + 1), repeat=3))
    total = np.zeros((n_classes, *fixed.shape), np.float32)
    links = list(zip(labels, places, moving, trusts, strict=True))
    for inner, outer, part in _parts(fixed.shape, len(links) * len(shifts), search + radius):
        target, images, carried = fixed[outer], [], []
        for label, places_of, image, _ in links:
            near, point = _near(places_of(outer), image.shape)
            images.append(warp(image[near], point))
            there = np.asarray(label[near])
            classes = [c for c in np.unique(there).tolist() if 0 <= c < n_classes]
            carried.append({c: warp((there == c).astype(np.float32), point) for c in classes})
        size = [axis.stop - axis.start for axis in inner]
        distances = np.empty((len(links) * len(shifts), *size), np.float32)
        for number, (image, shift) in enumerate(product(images, shifts)):
            difference = _mean_in_cubes((target - _shifted(image, shift)) ** 2, radius)
            distances[number] = difference[part]
        scale = bandwidth * np.maximum(distances.min(0), _NOISE)
        weights = np.exp(np.divide(distances, -scale, out=distances), out=distances)
        for number, (shares, (_, _, _, trust)) in enumerate(zip(carried, links, strict=True)):
            weights[number * len(shifts) : (number + 1) * len(shifts)] *= trust[inner]
            for place, shift in enumerate(shifts):
                weight = weights[number * len(shifts) + place]
                for number_of_class, share in shares.items():
                    total[(number_of_class, *inner)] += weight * _shifted(share, shift)[part]
    share = share_of(total)
    return Vote(share, np.where(share.any(0), np.max(trusts, axis=0), 0).astype(np.float32))


def _parts(
    shape: Sequence[int], n_candidates: int, halo: int
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]]]:
    """Boxes to vote on, those with what their cubes reach, and the place of these in those."""
    n_voxels = MEMORY_BYTES // (4 * n_candidates)
    edges = list(shape)
    for axis, length in enumerate(shape):
        room = n_voxels * edges[axis] // int(np.prod(edges))
        edges[axis] = min(length, max(room, 4 * halo + 1))  # thin boxes would be mostly halo
    for corner in product(*(range(0, n, edge) for n, edge in zip(shape, edges, strict=True))):
        ends = [min(n, low + edge) for n, low, edge in zip(shape, corner, edges, strict=True)]
        lows = [max(0, low - halo) for low in corner]
        highs = [min(n, end + halo) for n, end in zip(shape, ends, strict=True)]
        yield (
            tuple(map(slice, corner, ends)),
            tuple(map(slice, lows, highs)),
            tuple(slice(a - low, b - low) for a, b, low in zip(corner, ends, lows, strict=True)),
        )


def _near(point: np.ndarray, shape: Sequence[int]) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box of a neighbor that places lie in, and the places as voxels of this box."""
    near = []
    for axis, length in zip(point, shape, strict=True):
        # a voxel more on each side: what is interpolated there is what the whole image has
        low = int(np.clip(np.floor(axis.min()) - 1, 0, length - 1))
        high = int(np.clip(np.ceil(axis.max()) + 2, low + 1, length))
        near.append(slice(low, high))
    starts = np.array([axis.start for axis in near], np.float32).reshape(3, 1, 1, 1)
    return tuple(near), point - starts


def _shifted(volume: np.ndarray, shift: Sequence[int]) -> np.ndarray:
    """Values at each voxel's place plus ``shift``; beyond the border those of the border."""
    for axis, step in enumerate(shift):
        if step:
            places = np.clip(np.arange(volume.shape[axis]) + step, 0, volume.shape[axis] - 1)
            volume = volume.take(places, axis)
    return volume


def _mean_in_cubes(values: np.ndarray, radius: int) -> np.ndarray:
    return ndimage.uniform_filter(values, 2 * radius + 1, mode="nearest")
