"""Images of any common kind in, label maps of the same name and geometry out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import Fault, InputError
from graphnn_unet.images.cases import Wanted, channel_numbers
from graphnn_unet.images.find import (
    IMAGES,
    RAW_VOLUMES,
    all_parts,
    file_ending,
    image_files,
    split_channel,
)
from graphnn_unet.images.grid import compare_grids, grid_mismatch
from graphnn_unet.images.header import read_grid
from graphnn_unet.images.intensities import in_usual_unit
from graphnn_unet.images.nifti_forms import copy_nifti_forms
from graphnn_unet.images.pictures import label_picture, picture_size, read_picture
from graphnn_unet.images.read import read_volume
from graphnn_unet.images.volume import Volume, to_itk
from graphnn_unet.storage.atomic import Fingerprint, atomic_path, fingerprint
from graphnn_unet.storage.safe_load import CASE_ID

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
        ending: Of the label map: ``.png`` for pictures, else that of the image where one file holds
            a whole label map, ``.nii.gz`` where not.
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


def find_images(
    folder: Path, n_channels: int | None = None
) -> tuple[list[Source], list[Fault], list[str]]:
    """Images of a folder, one file each; volumes named ``CASE_0000``, ``CASE_0001`` are channels.

    Args:
        folder: Folder of images.
        n_channels: Channels of each volume; where it is not given, what all names say together.

    Returns:
        Images in the order of their names, faults of files that cannot be taken, and names of
        files that are no images.

    Raises:
        MissingFileError: The folder is missing.
        InputError: It holds no image, or names that can be cases or channels.
    """
    files = image_files(folder, what="input folder")
    skipped = list(files.left_out())
    if not files.paths:
        names = ", ".join(skipped[:3]) or "nothing"
        endings = ", ".join(IMAGES)
        raise InputError(f"no images in {folder}", f"found: {names}", f"Give files with {endings}")
    files.say_left_out()
    by_name, faults = files.by_case()
    usable = {}
    for name, path in by_name.items():
        # names may hold spaces and letters of any language, but nothing that leads elsewhere
        leads_elsewhere = not name.strip(". ") or any(mark in name for mark in '/\\:*?"<>|\n\r\t\0')
        if not CASE_ID.fullmatch(name) and leads_elsewhere:
            cause = f"the file name {path.name!r} cannot be that of a label map"
            faults.append(Fault(name, "find", cause, "Rename it"))
        else:
            usable[name] = path
    return _joined_channels(folder, usable, n_channels), faults, skipped


def _joined_channels(folder: Path, files: dict[str, Path], n_channels: int | None) -> list[Source]:
    """One source a case; volumes with channel numbers are joined where a case has several."""
    volumes = [name for name, path in files.items() if file_ending(path)]
    wanted = Wanted(("image",) * (n_channels or 0), type_channels="number")
    are_channels = bool(volumes) and channel_numbers(folder, volumes, wanted) is not None
    channels: dict[str, list[str]] = {}
    for name, path in files.items():
        case, channel = split_channel(name)
        is_channel = are_channels and channel is not None and file_ending(path)
        channels.setdefault(case if is_channel else name, []).append(name)
    sources = []
    for case, names in channels.items():
        paths = tuple(files[name] for name in sorted(names))
        case = case if len(names) > 1 else names[0]
        sources.append(Source(case, paths, _map_ending(paths[0])))
    return sorted(sources, key=lambda source: source.case)


def _map_ending(path: Path) -> str:
    """Ending of the label map of an image.

    ``.mhd`` and ``.img`` are two files, which no rename brings to their place together, and ITK
    does not write ``.mgz`` and ``.mgh``.
    """
    ending = file_ending(path) or ".png"
    return ending if ending in (".png", *RAW_VOLUMES) else ".nii.gz"


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
    if source.ending == ".png":
        return read_picture(source.paths[0]), (1.0, 1.0)
    volumes = [read_volume(path, n_dims=None) for path in source.paths]
    grid = volumes[0].grid
    for path, volume in zip(source.paths, volumes, strict=True):
        if why := grid_mismatch(path.name, volume.grid, source.paths[0].name, grid):
            raise InputError(why, "", "Resample the channels to one grid")
    return np.stack([volume.array for volume in volumes]).astype(np.float32), grid.spacing


def _to_unit_range(array: np.ndarray) -> Floats:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255  # pyright: ignore[reportReturnType]  # numpy's division widens
    if array.dtype == bool:
        return array.astype(np.float32)
    values = np.stack([in_usual_unit(channel) for channel in array.astype(np.float32)])
    axes = tuple(range(1, values.ndim))
    low, high = np.percentile(values, _WINDOW, axis=axes, keepdims=True).astype(np.float32)
    return np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)


def _inner(array: Floats) -> tuple[slice, ...]:
    """The part inside a frame of one color, as screens and scanners draw around pictures.

    A line at the edge belongs to the frame while it is uniform and clearly differs from the
    median of the image; at most ``_FRAME_SHARE`` of each side is taken away. Volumes have none.
    """
    whole = tuple(slice(0, n) for n in array.shape[1:])
    if array.ndim != 3:
        return whole
    middle = np.median(array, axis=(1, 2))
    inner = []
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
        inner.append(slice(start, stop) if stop - start >= 2 else slice(0, len(lines)))
    return tuple(inner)


def _run_length(flags: np.ndarray, limit: int) -> int:
    """Number of true values at the start; 0 where there are more than ``limit``: no frame."""
    ends = np.flatnonzero(~flags)
    length = int(ends[0]) if len(ends) else len(flags)
    return length if length <= limit else 0


def content_of(source: Source) -> Fingerprint | None:
    """Size and checksum of all files of an image; ``None`` where one cannot be read.

    Names, sizes and times say nothing of an image that was copied from elsewhere.
    """
    try:
        return fingerprint(all_parts(source.paths))
    except OSError:  # whoever reads the image says why
        return None


def write_label_map(labels: np.ndarray, image: Image, target: Path) -> None:
    """Write ids under the image's geometry; 8 bits where they allow.

    A picture is PNG with a palette, so that viewers show the clusters; its pixels are the ids.
    """
    array = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    if target.name.endswith(".png"):
        with atomic_path(target) as temporary:
            label_picture(array).save(temporary, format="PNG", optimize=False)
        return
    import SimpleITK as sitk

    grid = read_grid(image.source.paths[0])
    labeled = to_itk(Volume(array, grid.spacing, grid.origin, grid.direction))
    with atomic_path(target) as temporary:
        sitk.WriteImage(labeled, str(temporary), True)
        copy_nifti_forms(image.source.paths[0], temporary)


def is_whole(target: Path, source: Source) -> bool:
    """Whether a label map exists, can be read to its end, and is younger and as large as its image.

    Of the image the header alone is read. A volume must also lie on the image's grid. Whether it is
    the same image, ``content_of`` says.
    """
    image = source.paths[0]
    try:
        if target.stat().st_mtime < max(path.stat().st_mtime for path in source.paths):
            return False
        if source.ending == ".png":
            return read_picture(target).shape[1:] == picture_size(image)
        labels = read_volume(target, n_dims=None)
        return not compare_grids(labels.grid, read_grid(image)).is_mismatch
    except (InputError, OSError):
        return False
