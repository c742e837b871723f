"""Tiny volumes on disk in every form that is converted."""

from __future__ import annotations

import locale
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
import small_dataset

from graphnn_unet.dataset_conversion.records import ConvertedDataset
from graphnn_unet.dataset_conversion.volumes import load
from graphnn_unet.images.volume import Volume

SHAPE = (6, 8, 10)


def image_array(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def label_array(value: int = 1, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """One asymmetric structure, so that every flip and transposition shows."""
    label = np.zeros(shape, np.uint8)
    label[1:3, 1:4, 2:7] = value
    label[3, 1, 2] = value
    return label


def save(array: np.ndarray, path: Path, **header) -> Path:
    return small_dataset.save(array, path, **{"spacing": (1.0, 1.5, 2.0), **header})


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def save_h5(path: Path, image: np.ndarray, label: np.ndarray | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = image
        if label is not None:
            file["label"] = label


def save_series(
    folder: Path,
    array: np.ndarray,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.5, 2.0),
    uid: str = "1.2.3.4",
    patient: str = "P1",
    number: str = "1",
    positions: list[tuple[float, float, float]] | None = None,
) -> None:
    """One DICOM series; files are named against the order of their positions."""
    folder.mkdir(parents=True, exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    n_slices = len(array)
    for k, plane in enumerate(array):
        position = positions[k] if positions else (0.0, 0.0, k * spacing[2])
        image = sitk.GetImageFromArray(plane.astype(np.int16))
        image.SetSpacing(spacing[:2])
        tags = {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{k + 1}",
            "0010|0010": "Doe^Jane",
            "0010|0020": patient,
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0011": number,
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{value:.4f}" for value in position),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{n_slices - k:03d}_{uid}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves that of C, which is ASCII


def roles(dataset: ConvertedDataset) -> dict[str, str]:
    """Case id to role, in order."""
    return {case.case_id: case.role for case in dataset.cases}


def volume(dataset: ConvertedDataset, case_id: str) -> tuple[Volume, Volume]:
    """Image and label map of a case."""
    case = next(case for case in dataset.cases if case.case_id == case_id)
    assert case.label is not None
    return load(case.images[0], case_id), load(case.label, case_id)
