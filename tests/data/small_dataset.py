"""A small raw data set, and the ways to spoil it: one fault for each row of the fault codes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

SHAPE = (12, 14, 16)
CASES = ("case_000", "case_001", "case_002")


def image_array(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def label_array() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 3:8, 3:8] = 1
    label[6:9, 3:8, 3:8] = 2
    return label


def save(array: np.ndarray, path: Path, **header) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(header.get("spacing", (1.0, 1.0, 2.0)))
    image.SetOrigin(header.get("origin", (3.0, -4.0, 5.0)))
    if "direction" in header:
        image.SetDirection(header["direction"])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), path.suffix != ".nii")
    return path


def make_dataset(
    folder: Path, ending: str = ".nii.gz", n_channels: int = 1, cases: Sequence[str] = CASES
) -> Path:
    """Labeled cases, a scan without label and a test case."""
    for number, case in enumerate(cases):
        for channel in range(n_channels):
            array = image_array(10 * number + channel)
            save(array, folder / "imagesTr" / f"{case}_{channel:04d}{ending}")
        save(label_array(), folder / "labelsTr" / f"{case}{ending}")
    for channel in range(n_channels):
        save(image_array(90 + channel), folder / "imagesUn" / f"scan_9_{channel:04d}{ending}")
        save(image_array(80 + channel), folder / "imagesTs" / f"test_8_{channel:04d}{ending}")
    save(label_array(), folder / "labelsTs" / f"test_8{ending}")
    names = {str(i): f"c{i}" for i in range(n_channels)}
    edit(folder, channel_names=names, file_ending=ending, numTraining=len(cases))
    return folder


def edit(folder: Path, **keys) -> None:
    """Set keys of dataset.json; ``None`` removes one."""
    path = folder / "dataset.json"
    content = {"labels": {"background": 0, "a": 1, "b": 2}, "numTraining": len(CASES)}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
    content.update(keys)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def image_path(folder: Path, channel: int = 0) -> Path:
    ending = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["file_ending"]
    return folder / "imagesTr" / f"case_001_{channel:04d}{ending}"


def label_path(folder: Path) -> Path:
    return folder / "labelsTr" / image_path(folder).name.replace("_0000", "")


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def cut_bytes(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def cut_inside(path: Path) -> None:
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: len(content) // 2]))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_header(path: Path, offset: int, value: bytes) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[offset : offset + len(value)] = value
    path.write_bytes(gzip.compress(bytes(content)))


def set_voxels(path: Path, value: float, where: tuple = (slice(4, 6), 2, 3), dtype=None) -> None:
    """Write a value, around SimpleITK, which would hide NaN in what it reads."""
    if path.name.endswith(".nii.gz"):
        loaded = nib.load(path)
        array = np.asarray(loaded.dataobj).copy()
        array = array.astype(dtype or array.dtype)
        array.T[where] = value
        header = loaded.header.copy()
        header.set_data_dtype(array.dtype)
        nib.save(nib.Nifti1Image(array, loaded.affine, header), path)
        return
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array[where] = value
    new = sitk.GetImageFromArray(array)
    new.CopyInformation(image)
    sitk.WriteImage(new, str(path), True)


def rewrite(path: Path, array: np.ndarray | None = None, **header) -> None:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image) if array is None else array
    defaults = {"spacing": image.GetSpacing(), "origin": image.GetOrigin()}
    save(array, path, **{**defaults, **header})


def int16(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


def float32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


Spoil = Callable[[Path], object]

# code, spoil, words of the message; the case is case_001 where none is given
FAULTS: list[tuple[str, Spoil, str, str]] = [
    ("I01", lambda f: cut(image_path(f), 0.5), "truncated", "case_001"),
    ("I01", lambda f: cut(image_path(f), 0.99), "truncated", "case_001"),
    ("I02", lambda f: cut_inside(image_path(f)), "truncated", "case_001"),
    ("I03", lambda f: cut_bytes(image_path(f), 8), "lost the end", "case_001"),
    ("I03b", lambda f: flip_bit(image_path(f)), "damaged", "case_001"),
    ("I04", lambda f: cut_inside(label_path(f)), "labelsTr/case_001.nii.gz", "case_001"),
    ("I06", lambda f: edit_header(image_path(f), 42, int16(32000)), "claims", "case_001"),
    ("I06", lambda f: edit_header(image_path(f), 42, int16(8)), "claims", "case_001"),
    ("I07", lambda f: image_path(f).write_bytes(b""), "is empty", "case_001"),
    ("I08", lambda f: set_voxels(image_path(f), np.nan), "2 NaN voxels, the first at", "case_001"),
    ("I09", lambda f: set_voxels(image_path(f), np.inf), "2 infinite voxels", "case_001"),
    (
        "I12",
        lambda f: set_voxels(label_path(f), np.nan, dtype=np.float32),
        "NaN voxels",
        "case_001",
    ),
    (
        "I13",
        lambda f: sitk.WriteImage(
            sitk.GetImageFromArray(image_array(4)[3]), str(image_path(f)), True
        ),
        "has 2 dimensions, the data set has 3",
        "case_001",
    ),
    (
        "I14",
        lambda f: nib.save(
            nib.Nifti1Image(np.zeros((16, 14, 12, 2), np.int16), np.eye(4)), image_path(f)
        ),
        "is a 4D file",
        "case_001",
    ),
    (
        "I15",
        lambda f: rewrite(label_path(f), label_array()[3:]),
        "labelsTr/case_001.nii.gz is not on the grid of imagesTr/case_001_0000.nii.gz: "
        "size (9, 14, 16) against (12, 14, 16) voxels (z, y, x)",
        "case_001",
    ),
    ("I16", lambda f: rewrite(label_path(f), spacing=(1.0, 1.0, 4.0)), "spacing", "case_001"),
    ("I17", lambda f: rewrite(label_path(f), origin=(53.0, -4.0, 5.0)), "origin", "case_001"),
    (
        "I18",
        lambda f: rewrite(label_path(f), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)),
        "direction",
        "case_001",
    ),
    (
        "I18",
        lambda f: nib.save(
            nib.Nifti1Image(
                image_array(3).T,
                np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]),
            ),
            image_path(f),
        ),
        "not perpendicular",
        "case_001",
    ),
    ("I22", lambda f: shutil.copy(image_path(f), image_path(f, 1)), "0001", "case_001"),
    ("I23", lambda f: set_voxels(label_path(f), 7), "7 (2 voxels)", "case_001"),
    ("I24", lambda f: set_voxels(label_path(f), 0.5, dtype=np.float32), "0.5", "case_001"),
    (
        "I25",
        lambda f: set_voxels(label_path(f), 1.9999, dtype=np.float32),
        "just beside an integer",
        "case_001",
    ),
    ("I26", lambda f: set_voxels(label_path(f), -1, dtype=np.int16), "-1 (2 voxels)", "case_001"),
    ("I27", lambda f: label_path(f).unlink(), "labelsTr/case_001.nii.gz is missing", "case_001"),
    ("I28", lambda f: image_path(f).unlink(), "has no image", "case_001"),
    (
        "I31",
        lambda f: shutil.copy(f / "imagesTr" / "case_000_0000.nii.gz", image_path(f)),
        "equal those of case_000",
        "case_001",
    ),
    (
        "I31",
        lambda f: shutil.copy(image_path(f), f / "imagesTs" / "copy_0000.nii.gz"),
        "equal those of case_001 (imagesTr)",
        "copy",
    ),
    (
        "I31",
        lambda f: shutil.copy(image_path(f), f / "imagesUn" / image_path(f).name),
        "in imagesTr and in imagesUn",
        "case_001",
    ),
    (
        "I33",
        lambda f: shutil.copy(image_path(f), f / "imagesTr" / "localizer.nii.gz"),
        "_0000.nii.gz",
        "localizer",
    ),
    (
        "I35",
        lambda f: image_path(f).rename(f / "imagesTr" / "case_001.nii.gz"),
        "must end in _0000.nii.gz",
        "case_001",
    ),
    (
        "I36",
        lambda f: (image_path(f).unlink(), os.mkfifo(image_path(f))),
        "imagesTr/case_001_0000.nii.gz is a pipe",
        "case_001",
    ),
    (
        "I36",
        lambda f: (image_path(f).unlink(), image_path(f).symlink_to("nowhere.nii.gz")),
        "link that leads nowhere",
        "case_001",
    ),
    ("I37", lambda f: (f / "dataset.json").unlink(), "is missing", "dataset.json"),
    (
        "I38",
        lambda f: (f / "dataset.json").write_text(
            (f / "dataset.json").read_text(encoding="utf-8")[:60]
        ),
        "line 1, column",
        "dataset.json",
    ),
    ("I39", lambda f: edit(f, labels=None, numTraining=None), "lacks labels", "dataset.json"),
    ("I40", lambda f: edit(f, file_ending=".nrrd"), "found: .nii.gz", "imagesTr"),
    ("I40", lambda f: edit(f, file_ending=".jpg"), "not supported", "dataset.json"),
    (
        "I41",
        lambda f: edit(f, labels={"background": 0, "a": 1, "b": 1, "c": 2}),
        "same value",
        "dataset.json",
    ),
    ("I42", lambda f: edit(f, labels={"a": 1, "b": 2}), "background", "dataset.json"),
    ("I44", lambda f: edit(f, numTraining=9), "9, there are 3", "dataset.json"),
    (
        "I45",
        lambda f: edit(f, labels={"background": 0, "a": 1, "b": 3}),
        "not consecutive: [0, 1, 3]",
        "dataset.json",
    ),
    ("I48", lambda f: rewrite(image_path(f), np.zeros(SHAPE, np.int16)), "are 0", "case_001"),
    (
        "I49",
        lambda f: [rewrite(p, spacing=(1e3, 1e3, 1e3)) for p in (image_path(f), label_path(f))],
        "after resampling",
        "case_001",
    ),
    (
        "I50",
        lambda f: [rewrite(p, spacing=(0.01, 0.01, 0.01)) for p in (image_path(f), label_path(f))],
        "nothing of it would be left",
        "case_001",
    ),
    ("I51", lambda f: edit_header(image_path(f), 80, float32(0, 1, 1)), "(0.0, 1.0", "case_001"),
    ("I51", lambda f: edit_header(image_path(f), 88, float32(np.nan)), "nan", "case_001"),
    (
        "S12",
        lambda f: image_path(f).rename(f / "imagesTr" / "a..b_0000.nii.gz"),
        "'..'",
        "a..b",
    ),
    (
        "S13",
        lambda f: image_path(f).rename(f / "imagesTr" / "b c;$(x)_0000.nii.gz"),
        "letters, digits",
        "b c;$(x)",
    ),
]
