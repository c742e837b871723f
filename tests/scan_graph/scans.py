"""Scans in memory: bent ellipsoids whose displacement is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from graphnn_unet.scan_graph.registration import Displacement

SHAPE = (20, 24, 22)


@dataclass(frozen=True)
class MemoryScan:
    """A scan as the graph of scans sees it."""

    case_id: str
    voxels: np.ndarray
    labels: np.ndarray | None = None

    def image(self) -> np.ndarray:
        return self.voxels

    def label(self) -> np.ndarray:
        if self.labels is None:
            raise PermissionError(f"{self.case_id} is unlabeled in this run")
        return self.labels


def bent(shape=SHAPE, amount: float = 1.5, phase: float = 0.0) -> np.ndarray:
    """A smooth displacement of some voxels, ``(3, z, y, x)`` places."""
    grid = np.indices(shape, dtype=np.float64)
    waves = [np.sin(2 * np.pi * grid[(axis + 1) % 3] / shape[axis] + phase) for axis in range(3)]
    return grid + amount * np.stack(waves)


def body(seed: int = 0, *, place: np.ndarray | None = None, with_label: bool = True) -> MemoryScan:
    """An organ (1) with a core (2) in textured surroundings, seen at other places."""
    rng = np.random.default_rng(0)  # the anatomy is the same for all
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.0)
    grid = np.indices(SHAPE, dtype=np.float64)
    center = (np.asarray(SHAPE).reshape(3, 1, 1, 1) - 1) / 2
    distance = np.sqrt(
        (((grid - center) / np.array([6.0, 7.5, 6.5]).reshape(3, 1, 1, 1)) ** 2).sum(0)
    )
    label = (distance < 1).astype(np.float64) + (distance < 0.55)
    image = ndimage.gaussian_filter(label, 0.7) + 2.0 * texture
    if place is not None:
        image = ndimage.map_coordinates(image, place, order=1, mode="nearest")
        label = ndimage.map_coordinates(label, place, order=0, mode="constant")
    image = image + np.random.default_rng(seed).normal(0, 0.02, SHAPE)
    return MemoryScan(
        f"scan_{seed}", image[None].astype(np.float32),
        label[None].astype(np.int16) if with_label else None,
    )  # fmt: skip


def displacement(place: np.ndarray) -> Displacement:
    """Places ``(3, z, y, x)`` as a link has them."""
    shift = (place - np.indices(place.shape[1:])).astype(np.float32)
    return Displacement(shift, (1, 1, 1), place.shape[1:])
