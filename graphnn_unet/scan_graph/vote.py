"""Labels carried along links: warps, how far a link can be trusted, and the weighted vote.

Papers:
    Local weighted voting (Artaechevarria et al. 2009): https://doi.org/10.1109/TMI.2009.2014372
    Inverse consistency as trust: graph of scans
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MIN_CORRELATION = 0.01


@dataclass(frozen=True)
class Vote:
    """What neighbors say about a scan.

    Attributes:
        share: ``(k, z, y, x)`` float32 shares of the votes; sums to 1 where there is a vote.
        trust: ``(z, y, x)`` float32: largest weight of a vote cast there, between 0 and 1; 0 where
            there is none.
    """

    share: np.ndarray
    trust: np.ndarray


def warp(volume: np.ndarray, point: np.ndarray, *, outside: float = 0.0) -> np.ndarray:
    """Values of a volume at points, linear in between.

    Args:
        volume: ``(z', y', x')``.
        point: ``(3, z, y, x)`` voxels of ``volume``.
        outside: Value of points outside of it.

    Returns:
        ``(z, y, x)`` float32.
    """
    return ndimage.map_coordinates(
        volume, point, output=np.float32, order=1, mode="constant", cval=outside, prefilter=False
    )


def is_inside(point: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Whether points ``(3, z, y, x)`` lie in a volume of this shape, border included."""
    length = np.asarray(shape).reshape(3, 1, 1, 1)
    return np.all((point >= 0) & (point <= length - 1), axis=0)


def local_correlation(first: np.ndarray, second: np.ndarray, radius: int = 2) -> np.ndarray:
    """Correlation of two volumes in a cube around each voxel, ``(z, y, x)`` in [-1, 1].

    Where one of them is constant in the cube the correlation is 0: it tells nothing.

    Args:
        first: ``(z, y, x)``.
        second: ``(z, y, x)``.
        radius: The cube has ``2 radius + 1`` voxels an axis.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    a, b = a - a.mean(), b - b.mean()  # local variances of large offsets would cancel

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, 2 * radius + 1, mode="nearest")

    mean_a, mean_b = mean(a), mean(b)
    covariance = mean(a * b) - mean_a * mean_b
    variance = (mean(a * a) - mean_a**2) * (mean(b * b) - mean_b**2)
    floor = 1e-8 * float(a.var() * b.var()) + np.finfo(np.float64).tiny
    correlation = np.where(variance > floor, covariance / np.sqrt(np.maximum(variance, floor)), 0)
    return np.clip(correlation, -1, 1).astype(np.float32)


def return_error(forth: np.ndarray, back: np.ndarray) -> np.ndarray:
    """How far a voxel lands from itself after going there and back, in voxels, ``(z, y, x)``.

    Args:
        forth: ``(3, z, y, x)``: places of the voxels in the other scan.
        back: ``(3, z', y', x')``: places of the other scan's voxels in this one.

    Returns:
        Distances; ``inf`` where the way there leaves the other scan.
    """
    returned = np.stack([warp(axis, forth) for axis in back])
    distance = np.sqrt(((returned - np.indices(forth.shape[1:])) ** 2).sum(0))
    return np.where(is_inside(forth, back.shape[1:]), distance, np.inf).astype(np.float32)


def link_weight(
    fixed: np.ndarray,
    moving: np.ndarray,
    forth: np.ndarray,
    back: np.ndarray | None = None,
    *,
    power: float = 4.0,
    radius: int = 2,
    tolerance: float = 2.0,
) -> np.ndarray:
    """How far a link is trusted at each voxel of ``fixed``, ``(z, y, x)`` in [0, 1].

    ``max(local correlation, 0.01)^power``, times ``exp(-(return error / tolerance)^2)`` where the
    way back is known; 0 where the link leaves the other scan.

    Args:
        fixed: Intensities ``(z, y, x)``.
        moving: Intensities ``(z', y', x')``.
        forth: ``(3, z, y, x)`` places of ``fixed`` in ``moving``.
        back: ``(3, z', y', x')`` places of ``moving`` in ``fixed``.
        power: Exponent of the correlation.
        radius: Of the cube of the correlation.
        tolerance: Return error in voxels at which trust has fallen to ``1 / e``.
    """
    weight = np.ones(fixed.shape, np.float32)
    if power > 0:
        correlation = local_correlation(fixed, warp(moving, forth), radius)
        weight = np.maximum(correlation, MIN_CORRELATION) ** power
    if back is not None:
        weight = weight * np.exp(-((return_error(forth, back) / tolerance) ** 2))
    return np.where(is_inside(forth, moving.shape), weight, 0).astype(np.float32)


def weighted_vote(
    labels: Iterable[np.ndarray], points: Iterable[np.ndarray], weights: Sequence[np.ndarray]
) -> Vote:
    """Shares of the classes among the labels that links bring.

    Args:
        labels: ``(k, z', y', x')`` one-hot label map of each neighbor.
        points: ``(3, z, y, x)`` places in each neighbor.
        weights: ``(z, y, x)`` trust in each link.
    """
    total, trust = np.zeros(1, np.float32), np.zeros(weights[0].shape, np.float32)
    for label, point, weight in zip(labels, points, weights, strict=True):
        carried = np.stack([warp(channel, point) for channel in label])
        trust = np.maximum(trust, weight * carried.sum(0))
        total = total + np.multiply(carried, weight, out=carried)
    return Vote(share_of(total), trust)


def share_of(total: np.ndarray) -> np.ndarray:
    """Weights of the classes ``(k, z, y, x)``, which are replaced, as shares; 0 where none are."""
    mass = total.sum(0)
    return np.divide(total, mass, out=total, where=mass > 0)
