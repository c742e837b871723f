"""Synthetic scans for the demonstration: small, but not trivial.

Two structures of varying shape, size, place and contrast lie in an uneven background with a bias
field, noise and bright distractors, so that a threshold does not solve the task.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, map_coordinates

from graphnn_unet.storage.atomic import atomic_path

SHAPE = (28, 36, 36)
SPACING = (1.5, 1.0, 1.0)
LABEL_NAMES = {1: "organ", 2: "lesion"}


def synthetic_scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 and labels uint8, both ``SHAPE`` (z, y, x); 1 organ, 2 lesion inside it."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")).astype(float)
    bent = _bend(grid, rng)
    center = np.array(SHAPE) / 2 + rng.uniform(-3, 3, 3)
    radii = rng.uniform((6, 8, 8), (9, 12, 12))
    organ = _ellipsoid(bent, center, radii) < 1
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    middle = center + 0.45 * radii * direction
    lesion = (_ellipsoid(bent, middle, radii * rng.uniform(0.35, 0.55)) < 1) & organ
    labels = np.where(lesion, 2, np.where(organ, 1, 0)).astype(np.uint8)
    image = 100 + 7 * _texture(rng, 2.0)
    image[organ] += rng.uniform(28, 48)
    image[lesion] += rng.uniform(25, 45)
    for _ in range(rng.integers(1, 4)):  # bright and dark blobs that are neither
        spot = _ellipsoid(grid, rng.uniform(2, np.array(SHAPE) - 2), rng.uniform(2, 5, 3)) < 1
        image[spot & ~organ] += rng.uniform(-35, 45)
    image = gaussian_filter(image, 0.6)
    image *= 1 + 0.12 * _texture(rng, 12.0)
    image += rng.normal(0, rng.uniform(5, 9), SHAPE)
    return image.astype(np.float32), labels


def _ellipsoid(grid: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    scaled = (grid - center.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)
    return (scaled**2).sum(0)


def _texture(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Smooth noise with unit variance."""
    noise = gaussian_filter(rng.normal(size=SHAPE), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def _bend(grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coordinates after a smooth random displacement of about two voxels."""
    shift = np.stack([2.0 * _texture(rng, 6.0) for _ in range(3)])
    return np.stack([map_coordinates(axis, grid + shift, order=1, mode="nearest") for axis in grid])


def write_scans(folder: Path, *, n_labeled: int, n_unlabeled: int, n_test: int) -> None:
    """Write ``images``, ``labels``, ``test_images`` and ``test_labels`` as NIfTI files.

    Label maps exist for the first ``n_labeled`` cases and for the test cases.
    """
    for number in range(n_labeled + n_unlabeled + n_test):
        image, labels = synthetic_scan(1000 + number)
        is_test = number >= n_labeled + n_unlabeled
        prefix, name = "test_" if is_test else "", f"case_{number:02d}.nii.gz"
        _write(folder / f"{prefix}images" / name, image)
        if is_test or number < n_labeled:
            _write(folder / f"{prefix}labels" / name, labels)


def _write(target: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    with atomic_path(target) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
