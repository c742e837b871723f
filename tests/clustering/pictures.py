"""Small pictures with an object that the clustering tests make."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image as Pillow

from graphnn_unet.clustering.images import Image, Source

QUICK = {"side": 56, "steps": 12, "lr": 0.02, "n_workers": 0}
"""Options of ``cluster`` that take a fraction of a second a picture."""


def blob(height: int = 48, width: int = 56, radius: int = 12, seed: int = 0):
    """RGB from 0 to 255 with a dark textured disc on a bright ground, and its mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    mask = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < radius**2
    ground = np.array([200, 210, 190]) + rng.normal(0, 3, (height, width, 3))
    inside = np.array([90, 140, 80]) + rng.normal(0, 12, (height, width, 3))
    return np.clip(np.where(mask[..., None], inside, ground), 0, 255).astype(np.uint8), mask


def blob_volume(shape: tuple[int, ...] = (12, 20, 24), seed: int = 0):
    """A bright ball, ``(z, y, x)`` float32, and its mask."""
    rng = np.random.default_rng(seed)
    distance = sum((axis - n / 2) ** 2 for axis, n in zip(np.indices(shape), shape, strict=True))
    mask = distance < (min(shape) / 3) ** 2
    return (100 * mask + rng.normal(20, 4, shape)).astype(np.float32), mask


def write_volume(path: Path, array: np.ndarray) -> Path:
    """Write ``(z, y, x)`` with spacing 3, 1.5, 1.5 as any kind of volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".mgz", ".mgh", ".img"):
        kind = nib.Nifti1Pair if path.suffix == ".img" else nib.MGHImage
        nib.save(kind(array.T, np.diag([1.5, 1.5, 3.0, 1.0])), path)
        return path
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([1.5, 1.5, 3.0])
    sitk.WriteImage(image, str(path))
    return path


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(array).save(path)
    return path


def as_image(rgb: np.ndarray, case: str = "a") -> Image:
    array = np.moveaxis(rgb, -1, 0).astype(np.float32) / 255
    whole = tuple(slice(0, n) for n in array.shape[1:])
    return Image(array, (1.0, 1.0), True, whole, Source(case, (Path(f"{case}.png"),), ".png"))


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    return float((mask & other).sum() / (mask | other).sum())


def read(path: Path) -> np.ndarray:
    return np.asarray(Pillow.open(path))
