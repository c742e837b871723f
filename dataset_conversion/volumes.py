"""What all forms of data share: reading of sources, names, lists and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from graphnn_unet.data.check_labels import MAX_LABEL, largest_value
from graphnn_unet.dataset_conversion.records import Case, Source
from graphnn_unet.errors import BadFileError, Fault, InputError, MissingFileError
from graphnn_unet.images.find import VOLUMES, split_ending, walk
from graphnn_unet.images.header import read_grid
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.read import nearest_integers, read_volume
from graphnn_unet.images.room import require_room
from graphnn_unet.images.volume import Volume, with_axes_of
from graphnn_unet.storage.text import read_text

MAX_LABELS = 255
"""Values that the label maps of a data set can have, the background among them."""

MANY_INPUTS = 32
"""A case made from more files than this (a DICOM series) gets one hash for all of them."""


def load(source: Source, name: str, form: NiftiForm | None = None) -> Volume:
    """Read one volume, whatever it comes from.

    Args:
        source: A file, or a function that reads one.
        name: How messages call it.
        form: What is taken where qform and sform of a NIfTI header disagree.

    Raises:
        BadFileError: The file cannot be used.
    """
    if not isinstance(source, Path):
        return source()
    return read_volume(source, name, form=form)


def along_image(volume: Volume, image: Source, form: NiftiForm | None = None) -> Volume:
    """A label map along the axes of its image, where it is stored along others.

    Args:
        volume: The label map.
        image: Image of its case; only the header of a file is read.
        form: As of ``load``.

    Raises:
        BadFileError: The header cannot be used.
    """
    if not isinstance(image, Path):
        return volume
    grid = read_grid(image, image.name, form=form)
    return with_axes_of(volume, grid.direction) or volume


def whole_labels(array: NDArray[Any], what: str, unit: str = "voxels") -> tuple[NDArray[Any], str]:
    """A label map's integers; floats within 1/1000 of one are that integer.

    Args:
        array: As stored.
        what: How messages call the label map (``its label map``).
        unit: What it is made of, in the plural.

    Returns:
        The integers, and what was changed; empty where nothing was.

    Raises:
        BadFileError: It has values that are NaN, infinite, no integers or larger than any label.
    """
    remedy = "A label map holds one whole number a class; export it again"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadFileError("I12", f"{what} has NaN or infinite {unit}", remedy)
    integers = nearest_integers(array)
    if integers.n_wrong:
        cause = f"{what} has values that are no integers, such as {integers.example:g}"
        raise BadFileError("I24", cause, remedy)
    if (largest := largest_value(integers.values, array)) > MAX_LABEL:
        cause = f"{what} has the value {largest:g}, which is larger than any label"
        raise BadFileError("I23", cause, remedy)
    note = ""
    if integers.n_rounded:
        note = f"{what} was rounded to integers ({integers.n_rounded} {unit})"
    elif array.dtype.kind == "f":
        note = f"{what} was stored as {array.dtype}; written as integers"
    return integers.values, note


def beyond_the_limit(n_values: int) -> str:
    """Words behind the values of a label map that has more than it can; empty for any other."""
    if n_values <= MAX_LABELS:
        return ""
    return f"; it has {n_values} values, and a label map can have {MAX_LABELS}"


@lru_cache(maxsize=1)
def _read_4d(path: Path, form: NiftiForm | None) -> Volume:
    """All channels of a 4D file; kept for the next channel of the same case."""
    try:
        volume = read_volume(path, n_dims=4, form=form)
    except BadFileError as error:
        if error.code != "I13":
            raise
        volume = read_volume(path, form=form)
        return replace(volume, array=volume.array[np.newaxis])
    direction = tuple(volume.grid.axes[:3, :3].ravel().tolist())
    return Volume(volume.array, volume.spacing[1:], volume.origin[:3], direction)


def read_channel(
    path: Path, channel: int, n_channels: int, form: NiftiForm | None = None
) -> Volume:
    """One channel of a file that holds all of them (4D), or of a 3D file with a single one."""
    volume = _read_4d(path, form)
    if len(volume.array) != n_channels:
        raise BadFileError(
            "I20",
            f"{path.name} has {len(volume.array)} channels, dataset.json lists {n_channels}",
            "Correct the file or dataset.json",
        )
    return replace(volume, array=volume.array[channel])


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


def h5_case(
    case_id: str, path: Path, spacing: tuple[float, float, float], axes: str, patient: str = ""
) -> Case:
    """A labeled case of one h5 file; see ``read_h5``."""
    image, label = (partial(read_h5, path, key, spacing, axes) for key in ("image", "label"))
    return Case(case_id, (image,), label, "labeled", patient or case_id, (path,))


def read_h5_array(path: Path, key: str) -> np.ndarray:
    """The array ``key`` of an h5 file as it is stored."""
    try:
        with h5py.File(path, "r") as file:
            stored = file.get(key)
            if isinstance(stored, h5py.Dataset):
                require_room(int(stored.size or 0), int(stored.nbytes), path.name)
                return stored[()]
            keys = ", ".join(file)
    except OSError as error:
        cause = f"{path.name} cannot be read as h5 ({str(error).splitlines()[0]})"
        raise BadFileError("I05", cause, "Download or copy the file again") from error
    raise BadFileError("I39", f"{path.name} has no {key!r} (it has {keys})", "Give another file")


def by_id(cases: Iterable[Case], faults: list[Fault]) -> dict[str, Case]:
    """Cases by id, the first of several; a fault that names the files of both is appended."""
    table: dict[str, Case] = {}
    for case in cases:
        if (first := table.setdefault(case.case_id, case)) is not case:
            cause = f"two cases have this id: {first.inputs[0]} and {case.inputs[0]}"
            remedy = "Remove or rename one; ids keep letters, digits, '_', '-' and '.' only"
            faults.append(Fault(case.case_id, "convert", cause, remedy, code="I31"))
    return table


def not_taken(source: Path, cases: Iterable[Case]) -> list[tuple[str, str]]:
    """Volumes and h5 files below a folder that no case uses, for ``ConvertedDataset.skipped``."""
    taken = {path.resolve() for case in cases for path in case.inputs}
    return [
        (path.relative_to(source).as_posix(), "no case of this form uses it")
        for _, files in walk(source)
        for path in files
        if split_ending(path, (*VOLUMES, ".h5"))[1]
        and not path.name.startswith(".")
        and path.resolve() not in taken
    ]


def stem_of(path: Path | str) -> str:
    """Name of a file without folder and image ending."""
    return split_ending(path, (*VOLUMES, ".h5"))[0]


def read_list(path: Path) -> list[str]:
    """Case ids of a list file, one a line, in order, each once.

    Endings, folders and ``#`` lines are dropped; so is a name that stands there again.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is no text or names nothing.
    """
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError as error:
        raise MissingFileError(f"the list {path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {path} cannot be read", str(error)) from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise InputError(f"the list {path} is empty", "", "Write one case id a line")
    return list(dict.fromkeys(stem_of(name) for name in names))


def hash_inputs(paths: Sequence[Path], base: Path) -> dict[str, str]:
    """File (relative to ``base`` where it lies below it) to SHA-256 of its bytes.

    More than ``MANY_INPUTS`` files become one entry a folder: the hash of all their hashes.
    """
    digests: dict[Path, str] = {}
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        digests[path] = digest.hexdigest()
    if len(digests) <= MANY_INPUTS:
        return {_relative(path, base): digest for path, digest in digests.items()}
    folders: dict[Path, list[str]] = {}
    for path in sorted(digests):
        folders.setdefault(path.parent, []).append(digests[path])
    return {
        f"{_relative(folder, base)}/*": hashlib.sha256("".join(parts).encode()).hexdigest()
        for folder, parts in folders.items()
    }


def _relative(path: Path, base: Path) -> str:
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()
