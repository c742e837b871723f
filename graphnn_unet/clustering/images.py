"""Images of any common kind in, label maps of the same name and geometry out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import Fault, InputError, MissingFileError
from graphnn_unet.images.pictures import PICTURES, read_picture
from graphnn_unet.images.read import read_volume
from graphnn_unet.storage.atomic import atomic_path
from graphnn_unet.storage.safe_load import CASE_ID

VOLUMES = (".nii.gz", ".nii", ".mha", ".nrrd")
ENDINGS = VOLUMES + PICTURES
"""Endings of files that are taken, in any case of letters; the longest first."""

STAGE_FIND, STAGE_READ = "find", "read"

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_WINDOW = (0.5, 99.5)  # percentiles that become 0 and 1 where a file does not say its range
_FRAME_SHARE = 0.15  # a frame takes at most this share of each side
_FRAME_SPREAD, _FRAME_STEP = 0.04, 0.12  # of the range of intensities

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """An image file, or the channels of one image.

    Attributes:
        case: Name of the label map without its ending.
        paths: One file, or one a channel in channel order.
        ending: ``.png`` for pictures, else the ending of the image.
    """

    case: str
    paths: tuple[Path, ...]
    ending: str

    @property
    def target_name(self) -> str:
        """File name of the label map."""
        return self.case + self.ending


@dataclass(frozen=True)
class Image:
    """An image in memory.

    Attributes:
        array: ``(channel, y, x)`` or ``(channel, z, y, x)`` float32, 0 to 1 for the most part.
        spacing: Of the spatial axes; mm, or 1 for pictures.
        is_color: The three channels are red, green and blue.
        inner: The part without a frame of one color around it, one slice an axis.
        source: Where it is from.
    """

    array: Floats
    spacing: tuple[float, ...]
    is_color: bool
    inner: tuple[slice, ...]
    source: Source = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.array.shape[1:]


def split_ending(name: str) -> tuple[str, str]:
    """Name without its ending, and the ending in small letters; empty where it is none of ours."""
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)], ending
    return name, ""


def find_images(folder: Path) -> tuple[list[Source], list[Fault], list[str]]:
    """Images of a folder, one file each; volumes named ``CASE_0000``, ``CASE_0001`` are channels.

    Returns:
        Images in the order of their names, faults of files that cannot be taken, and names of
        files that are no images.

    Raises:
        MissingFileError: The folder is missing.
        InputError: It holds no image.
    """
    if not folder.is_dir():
        raise MissingFileError(f"input folder {folder} is missing", "", "Give a folder with -i")
    files: dict[str, list[Path]] = {}
    skipped: list[str] = []
    for path in sorted(folder.iterdir()):
        name, ending = split_ending(path.name)
        if path.name.startswith(".") or not path.is_file() or not ending:
            if not path.name.startswith("."):
                skipped.append(path.name)
            continue
        files.setdefault(name, []).append(path)
    if not files:
        found = ", ".join(skipped[:3]) or "nothing"
        raise InputError(
            f"no images in {folder}", f"found: {found}", f"Give files with {', '.join(ENDINGS)}"
        )
    sources, faults = _grouped(files)
    return sources, faults, skipped


def _grouped(files: dict[str, list[Path]]) -> tuple[list[Source], list[Fault]]:
    """One source a case; volumes with channel numbers are joined where a case has several."""
    faults: list[Fault] = []
    channels: dict[str, list[Path]] = {}
    plain: dict[str, Path] = {}
    for name, paths in files.items():
        if len(paths) > 1:
            listed = ", ".join(path.name for path in paths)
            cause = f"several files have one name ({listed})"
            faults.append(Fault(name, STAGE_FIND, cause, "Keep one of them, or rename"))
        elif not CASE_ID.fullmatch(name) and _unsafe(name):
            cause = f"the file name {paths[0].name!r} cannot be that of a label map"
            faults.append(Fault(name, STAGE_FIND, cause, "Rename it"))
        elif split_ending(paths[0].name)[1] in VOLUMES and (match := _CHANNEL.fullmatch(name)):
            channels.setdefault(match[1], []).append(paths[0])
        else:
            plain[name] = paths[0]
    sources = [Source(name, (path,), _target_ending(path)) for name, path in plain.items()]
    for case, paths in channels.items():
        if len(paths) == 1:
            sources.append(Source(split_ending(paths[0].name)[0], (paths[0],), _ending(paths[0])))
        else:
            sources.append(Source(case, tuple(sorted(paths)), _ending(paths[0])))
    return sorted(sources, key=lambda source: source.case), faults


def _unsafe(name: str) -> bool:
    """Names may hold spaces and letters of any language, but nothing that leads elsewhere."""
    return not name.strip(". ") or any(mark in name for mark in '/\\:*?"<>|\n\r\t\0')


def _ending(path: Path) -> str:
    return split_ending(path.name)[1]


def _target_ending(path: Path) -> str:
    ending = _ending(path)
    return ending if ending in VOLUMES else ".png"


def read_image(source: Source) -> Image:
    """Read an image and bring its intensities to about 0 to 1.

    Pictures of 8 bits are divided by 255; of other images the percentiles 0.5 and 99.5 of each
    channel become 0 and 1. An alpha channel is dropped.

    Raises:
        InputError: A file is damaged, has too many or too few axes or pixels, or holds values
            that are not finite.
    """
    array, spacing = read_array(source)
    color = len(array) == 3 and source.ending == ".png"
    if min(array.shape[1:]) < 2:
        raise InputError(
            f"{source.paths[0].name} has {' x '.join(map(str, array.shape[1:]))} pixels",
            "clusters need at least 2 along each axis",
        )
    if not np.isfinite(array).all():
        n_bad = int((~np.isfinite(array)).sum())
        raise InputError(
            f"{source.paths[0].name} holds {n_bad} values that are not finite", "",
            "Replace them, or leave the image out",
        )  # fmt: skip
    scaled = _to_unit_range(array)
    return Image(scaled, spacing, color, _inner(scaled), source)


def read_array(source: Source) -> tuple[np.ndarray, tuple[float, ...]]:
    """Intensities as they are in the files, ``(channel, *spatial)``, and the spacing.

    Raises:
        InputError: A file is damaged, or the channels are not on one grid.
    """
    if source.ending in VOLUMES:
        return _read_volumes(source)
    return read_picture(source.paths[0]), (1.0, 1.0)


def _read_volumes(source: Source) -> tuple[np.ndarray, tuple[float, ...]]:
    """Channels of a volume; all on one grid."""
    volumes = [read_volume(path) for path in source.paths]
    first = volumes[0]
    for path, volume in zip(source.paths, volumes, strict=True):
        if volume.array.shape != first.array.shape or not np.allclose(
            volume.spacing, first.spacing, rtol=1e-3
        ):
            raise InputError(
                f"{path.name} is not on the grid of {source.paths[0].name}",
                f"sizes {volume.array.shape} and {first.array.shape}",
                "Resample the channels to one grid",
            )
    array = np.stack([volume.array for volume in volumes]).astype(np.float32)
    return array, first.spacing


def _to_unit_range(array: np.ndarray) -> Floats:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.dtype == bool:
        return array.astype(np.float32)
    made = array.astype(np.float32)
    axes = tuple(range(1, made.ndim))
    low, high = np.percentile(made, _WINDOW, axis=axes, keepdims=True).astype(np.float32)
    return np.clip((made - low) / np.maximum(high - low, 1e-12), 0, 1)


def _inner(array: Floats) -> tuple[slice, ...]:
    """The part inside a frame of one color, as screens and scanners draw around pictures.

    A line at the edge belongs to the frame while it is uniform and clearly differs from the
    median of the image; at most ``_FRAME_SHARE`` of each side is taken away. Volumes have none.
    """
    whole = tuple(slice(0, n) for n in array.shape[1:])
    if array.ndim != 3:
        return whole
    middle = np.median(array, axis=(1, 2))
    found = []
    for axis in (1, 2):
        lines = np.moveaxis(array, axis, 0)  # (line, channel, along)
        inner_part = lines[:, :, lines.shape[2] // 8 : -max(lines.shape[2] // 8, 1)]
        spread = inner_part.std(axis=2).max(axis=1)
        step = np.abs(np.median(inner_part, axis=2) - middle).max(axis=1)
        is_frame = (spread < _FRAME_SPREAD) & (step > _FRAME_STEP)
        limit = int(len(lines) * _FRAME_SHARE)
        start = _run_length(is_frame, limit)
        stop = len(lines) - _run_length(is_frame[::-1], limit)
        # the line behind a frame mixes both colors
        start, stop = start + (start > 0), stop - (stop < len(lines))
        found.append(slice(start, stop) if stop - start >= 2 else slice(0, len(lines)))
    return tuple(found)


def _run_length(flags: np.ndarray, limit: int) -> int:
    """Number of true values at the start; 0 where there are more than ``limit``: no frame."""
    ends = np.flatnonzero(~flags)
    length = int(ends[0]) if len(ends) else len(flags)
    return length if length <= limit else 0


def write_label_map(labels: np.ndarray, image: Image, target: Path) -> None:
    """Write a label map under the image's geometry; 8 bits where the ids allow.

    Args:
        labels: Integers from 0 on, of the spatial shape of the image.
        image: The image it belongs to.
        target: Final path, ``.png`` or the ending of a volume.

    Raises:
        NoSpaceError: The disk is full.
    """
    array = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    if target.name.endswith(".png"):
        from PIL import Image as Pillow

        with atomic_path(target) as temporary:
            Pillow.fromarray(array).save(temporary, format="PNG", optimize=False)
        return
    import SimpleITK as sitk

    reference = sitk.ReadImage(str(image.source.paths[0]))
    made = sitk.GetImageFromArray(array)
    made.CopyInformation(reference)
    with atomic_path(target) as temporary:
        sitk.WriteImage(made, str(temporary), True)


def is_whole(target: Path, source: Source) -> bool:
    """Whether a label map exists, can be read, and is younger than its image.

    Its size is compared with that of the image, from the headers where these give it.
    """
    try:
        if target.stat().st_mtime < max(path.stat().st_mtime for path in source.paths):
            return False
        if target.name.endswith(".png"):
            return read_picture(target).shape[1:] == read_picture(source.paths[0]).shape[1:]
        found = read_volume(target)
        return found.array.shape == read_volume(source.paths[0]).array.shape
    except (InputError, MissingFileError, OSError):
        return False
