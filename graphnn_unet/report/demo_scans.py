"""Synthetic scans for the demonstration: patients with one anatomy.

A body holds an organ of two parts that are equally bright, so that only the place tells front from
back, two darker organs on the other side, and two cavities. Each patient is scaled, shifted and
bent; contrasts vary, and a bias field and noise lie over all.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from graphnn_unet.storage.atomic import atomic_path

SHAPE = (28, 36, 36)
SPACING = (1.5, 1.0, 1.0)
LABEL_NAMES = {1: "front", 2: "back"}


class _Part(NamedTuple):
    """An ellipsoid; center and radii (z, y, x) as shares of half the image."""

    tissue: str
    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    label: int = 0


_ANATOMY = (
    _Part("body", (0, 0, 0), (0.85, 0.85, 0.85)),
    _Part("organ", (0.05, 0.16, -0.34), (0.42, 0.28, 0.26), 2),
    _Part("organ", (-0.05, -0.28, -0.32), (0.45, 0.30, 0.28), 1),
    _Part("other organ", (-0.05, -0.28, 0.34), (0.45, 0.30, 0.26)),
    _Part("other organ", (0.05, 0.16, 0.34), (0.38, 0.26, 0.26)),
    _Part("cavity", (0, 0.55, 0), (0.3, 0.16, 0.3)),
    _Part("cavity", (0, -0.62, 0.02), (0.3, 0.12, 0.3)),
)
"""Where two parts meet, the later one counts."""


def synthetic_scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 and labels uint8, both ``SHAPE`` (z, y, x); 1 front, 2 back of the organ."""
    rng = np.random.default_rng(seed)
    place = _anatomical_place(rng)
    body = rng.uniform(95, 110)
    contrast = rng.uniform(15, 45)
    light = {
        "body": body,
        "organ": body + contrast,
        "other organ": body - 0.7 * contrast,
        "cavity": body - rng.uniform(15, 30),
    }
    image, labels = np.full(SHAPE, 60.0), np.zeros(SHAPE, np.uint8)
    for part in _ANATOMY:
        inside = (((place - _column(part.center)) / _column(part.radii)) ** 2).sum(0) < 1
        image[inside] = light[part.tissue]
        labels[inside] = part.label
    image = gaussian_filter(image + 2 * _texture(rng, 2.0), 0.6)
    image *= 1 + 0.12 * _texture(rng, 12.0)
    image += rng.normal(0, 4, SHAPE)
    return image.astype(np.float32), labels


def _anatomical_place(rng: np.random.Generator) -> np.ndarray:
    """For each voxel its place in the anatomy (3, z, y, x), -1 to 1 from one side to the other."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")).astype(float)
    bend = np.stack([_texture(rng, 4.0) + 0.5 * _texture(rng, 8.0) for _ in range(3)])
    scale, shift = rng.uniform(0.85, 1.15, 3), rng.uniform(-2.5, 2.5, 3)
    half = _column((np.array(SHAPE) - 1) / 2)
    return (grid + bend - half - _column(shift)) / half * _column(scale)


def _column(values: tuple[float, float, float] | np.ndarray) -> np.ndarray:
    return np.reshape(values, (3, 1, 1, 1))


def _texture(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Smooth noise with unit variance."""
    noise = gaussian_filter(rng.normal(size=SHAPE), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def write_scans(
    folder: Path, *, n_labeled: int, n_unlabeled: int, n_test: int, seed: int = 0
) -> None:
    """Write ``images``, ``labels``, ``test_images`` and ``test_labels`` as NIfTI files.

    Label maps exist for the first ``n_labeled`` cases and for the test cases. Each ``seed`` makes
    other patients, up to 100.
    """
    for number in range(n_labeled + n_unlabeled + n_test):
        image, labels = synthetic_scan(1000 + 100 * seed + number)
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
