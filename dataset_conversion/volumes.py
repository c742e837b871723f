"""Volumes on their way from a user's file to a raw folder: reading, axes, grids, hashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from graphnn_unet.dataset_conversion.records import Source, Volume
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.storage.volume_files import BadFileError, Grid, file_ending, read_volume

MANY_INPUTS = 32
"""A case made from more files than this (a DICOM series) gets one hash for all of them."""


def load(source: Source, name: str) -> Volume:
    """Read one volume, whatever it comes from.

    Raises:
        BadFileError: The file cannot be used.
    """
    if not isinstance(source, Path):
        return source()
    file = read_volume(source, name)
    return Volume(file.array, file.grid.spacing, file.grid.origin, file.grid.direction)


@lru_cache(maxsize=1)
def _read_4d(path: Path) -> Volume:
    """All channels of a 4D file; kept for the next channel of the same case."""
    try:
        file = read_volume(path, n_dims=4)
    except BadFileError as error:
        if error.code != "I13":
            raise
        file = read_volume(path)
        return Volume(
            file.array[np.newaxis], file.grid.spacing, file.grid.origin, file.grid.direction
        )
    direction = np.reshape(file.grid.direction, (4, 4))[:3, :3].ravel()
    return Volume(file.array, file.grid.spacing[1:], file.grid.origin[:3], tuple(direction))


def read_channel(path: Path, channel: int, n_channels: int) -> Volume:
    """One channel of a file that holds all of them (4D), or of a 3D file with a single one."""
    volume = _read_4d(path)
    if len(volume.array) != n_channels:
        raise BadFileError(
            "I20",
            f"{path.name} has {len(volume.array)} channels, dataset.json lists {n_channels}",
            "Correct the file or dataset.json",
        )
    return Volume(volume.array[channel], volume.spacing, volume.origin, volume.direction)


def read_h5(path: Path, key: str, spacing: tuple[float, float, float], axes: str) -> Volume:
    """A volume of an h5 file, which stores no geometry.

    Args:
        path: The h5 file.
        key: ``image`` or ``label``.
        spacing: Voxel size in mm, z y x, as it is known or assumed for this form.
        axes: Order of the stored axes: ``xyz`` or ``zyx``.

    Raises:
        BadFileError: The file is damaged, lacks the key or is no volume.
    """
    array = read_h5_array(path, key)
    if array.ndim != 3:
        cause = f"{key} of {path.name} has {array.ndim} dimensions, a volume has 3"
        raise BadFileError("I13", cause, "Give whole volumes")
    return Volume(array.transpose(2, 1, 0) if axes == "xyz" else array, spacing)


def read_h5_array(path: Path, key: str) -> np.ndarray:
    """The array ``key`` of an h5 file as it is stored."""
    try:
        with h5py.File(path, "r") as file:
            found = file.get(key)
            if isinstance(found, h5py.Dataset):
                return found[()]
            keys = ", ".join(file)
    except OSError as error:
        cause = f"{path.name} cannot be read as h5 ({str(error).splitlines()[0]})"
        raise BadFileError("I05", cause, "Download or copy the file again") from error
    raise BadFileError("I39", f"{path.name} has no {key!r} (it has {keys})", "Give another file")


def grid_of(volume: Volume) -> Grid:
    """Shape and geometry of a volume."""
    return Grid(volume.array.shape, volume.spacing, volume.origin, volume.direction)


def to_itk(volume: Volume) -> sitk.Image:
    """A SimpleITK image with the volume's geometry."""
    array = np.ascontiguousarray(volume.array)
    image = sitk.GetImageFromArray(array.astype(array.dtype.newbyteorder("="), copy=False))
    image.SetSpacing(volume.spacing[::-1])
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image


def from_itk(image: sitk.Image) -> Volume:
    """The volume of a SimpleITK image."""
    z, y, x = image.GetSpacing()[::-1]
    array = sitk.GetArrayFromImage(image)
    return Volume(array, (z, y, x), image.GetOrigin(), image.GetDirection())


def with_axes_of(volume: Volume, direction: Sequence[float]) -> Volume | None:
    """The same voxels at the same places, stored along other axes; nothing is interpolated.

    Args:
        volume: Any volume.
        direction: Wanted direction cosines, row-major.

    Returns:
        The reordered volume, or ``None`` where the axes of the two are not parallel.
    """
    wanted = np.reshape(direction, (3, 3))
    own = np.reshape(volume.direction, (3, 3))
    turn = wanted.T @ own  # column j: stored axis j in terms of the wanted axes
    rounded = np.rint(turn)
    if np.abs(turn - rounded).max() > 1e-3 or (np.abs(rounded).sum(axis=0) != 1).any():
        return None
    source_of = np.abs(rounded).argmax(axis=1)  # wanted axis i comes from stored axis source_of[i]
    if len(set(source_of.tolist())) != 3:
        return None
    array, spacing = volume.array, np.asarray(volume.spacing[::-1])
    origin = np.asarray(volume.origin, dtype=float)
    flipped = []
    for axis in range(3):
        stored = int(source_of[axis])
        if rounded[axis, stored] < 0:
            flipped.append(2 - axis)
            length = array.shape[2 - stored] - 1
            origin = origin + own[:, stored] * spacing[stored] * length
    array = array.transpose([2 - int(source_of[2 - k]) for k in range(3)])
    z, y, x = spacing[source_of][::-1].tolist()
    corner = (float(origin[0]), float(origin[1]), float(origin[2]))
    return Volume(
        np.flip(array, tuple(flipped)), (z, y, x), corner, tuple(float(d) for d in direction)
    )


def resampled(volume: Volume, grid: Grid, *, nearest: bool) -> Volume:
    """The volume on another grid; nearest neighbor for label maps, linear for images."""
    z, y, x = grid.shape
    method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    image = to_itk(volume)
    new = sitk.Resample(
        image, (x, y, z), sitk.Transform(), method, grid.origin, grid.spacing[::-1],
        grid.direction, 0.0 if nearest else float(volume.array.min()), image.GetPixelID(),
    )  # fmt: skip
    return from_itk(new)


def safe_id(name: str) -> str:
    """A case id made from any name: letters, digits, ``_``, ``-``, ``.``."""
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return re.sub(r"\.{2,}", ".", text).strip("._-")[:128] or "case"


def stem_of(path: Path | str) -> str:
    """Name of a file without folder and image ending."""
    name = Path(path).name
    ending = file_ending(name)
    if ending:
        return name[: -len(ending)]
    return name[:-3] if name.lower().endswith(".h5") else name


def read_list(path: Path) -> list[str]:
    """Case ids of a list file, one a line, in order; endings, folders and ``#`` lines are dropped.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is no text or names nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise MissingFileError(f"the list {path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {path} cannot be read", str(error)) from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise InputError(f"the list {path} is empty", "", "Write one case id a line")
    return [stem_of(name) for name in names]


def in_published_order(found: Iterable[str], published: Sequence[str]) -> list[str]:
    """``found`` with the published ones first, in their order; the others behind them, sorted."""
    names = set(found)
    return [n for n in published if n in names] + sorted(names - set(published))


def hash_inputs(paths: Sequence[Path], base: Path) -> dict[str, str]:
    """File (relative to ``base`` where it lies below it) to SHA-256 of its bytes.

    More than ``MANY_INPUTS`` files become one entry a folder: the hash of all their hashes.
    """
    found: dict[Path, str] = {}
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        found[path] = digest.hexdigest()
    if len(found) <= MANY_INPUTS:
        return {_relative(path, base): digest for path, digest in found.items()}
    folders: dict[Path, list[str]] = {}
    for path in sorted(found):
        folders.setdefault(path.parent, []).append(found[path])
    return {
        f"{_relative(folder, base)}/*": hashlib.sha256("".join(digests).encode()).hexdigest()
        for folder, digests in folders.items()
    }


def _relative(path: Path, base: Path) -> str:
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()
