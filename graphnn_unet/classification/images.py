"""A folder of pictures or volumes of any size as one tensor.

Pictures keep their brightness and color against each other: they are normalized with the mean and
deviation of the whole set, because a stain or an exposure says something. Volumes have no common
scale (MR), so each is brought to mean 0 and deviation 1. Images keep their proportions, volumes in
mm; what is left of the square or cube is filled with the values of the border.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from graphnn_unet.errors import Fault, FaultsError, InputError, MissingFileError
from graphnn_unet.images.cases import Wanted, channel_numbers
from graphnn_unet.images.find import IMAGES, file_ending, image_files
from graphnn_unet.images.intensities import in_usual_unit
from graphnn_unet.images.pictures import read_picture
from graphnn_unet.images.read import read_volume
from graphnn_unet.progress import track
from graphnn_unet.storage.processes import default_workers, run_jobs

PICTURE_SIZE, VOLUME_SIZE = 64, 32
_MANY_BYTES = 2**28
"""From this many bytes of files on, several processes read them."""
_TAKE_OUT = "Or take it out of the folder"


@dataclass(frozen=True)
class ImageSet:
    """Images of one folder, in the order of their ids.

    Attributes:
        cases: Ids.
        pixels: ``(n, c, y, x)`` uint8 for pictures, ``(n, c, z, y, x)`` float16 for volumes.
        faults: Files that could not be read; they are not among the cases.
    """

    cases: tuple[str, ...]
    pixels: Tensor
    faults: tuple[Fault, ...] = ()

    @property
    def n_dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.pixels.dim() - 2


@dataclass(frozen=True)
class Normalization:
    """What brings pixels to mean 0 and deviation 1, a value a channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, images: ImageSet) -> Normalization:
        """Of a whole set of pictures; volumes are normalized already."""
        n_channels = images.pixels.shape[1]
        if images.n_dims == 3:
            return cls((0.0,) * n_channels, (1.0,) * n_channels)
        level = torch.arange(256, dtype=torch.float64)
        mean, deviation = [], []
        for channel in range(n_channels):
            parts = images.pixels[:, channel].split(4096)
            counts = sum(torch.bincount(part.flatten().long(), minlength=256) for part in parts)
            share = torch.as_tensor(counts).double() / images.pixels[:, channel].numel()
            mean.append(float((share * level).sum()))
            spread = float((share * (level - mean[-1]).square()).sum()) ** 0.5
            deviation.append(max(spread, 1.0))  # all of one gray: nothing to stretch
        return cls(tuple(mean), tuple(deviation))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalized float32 images."""
        shape = (1, -1, *[1] * (pixels.dim() - 2))
        mean = torch.tensor(self.mean, device=pixels.device).view(shape)
        deviation = torch.tensor(self.deviation, device=pixels.device).view(shape)
        return (pixels.float() - mean) / deviation


def find_images(folder: Path | str) -> dict[str, Path]:
    """Image files of a folder by case id, sorted.

    Raises:
        MissingFileError: No such folder, or no image in it.
        FaultsError: Two files would be one case.
        InputError: Pictures and volumes side by side, or several channels a case.
    """
    files = image_files(Path(folder), what="the folder of images")
    if not files.paths:
        endings = ", ".join(IMAGES)
        raise MissingFileError(
            f"{folder} holds no image", f"looked for {endings}", "Give the folder with the files"
        )
    files.say_left_out()
    volumes = [path for path in files.paths if file_ending(path)]
    if volumes and len(volumes) < len(files.paths):
        picture = next(path for path in files.paths if path not in volumes)
        raise InputError(
            f"{folder} holds pictures and volumes",
            f"for example {picture.name} and {volumes[0].name}",
            "Put them in folders of their own",
        )
    cases = dict(sorted(files.one_per_case("check").items()))
    if volumes:  # several channels an image would become images of their own
        channel_numbers(Path(folder), list(cases), Wanted(("image",), type_channels=""))
    return cases


def load_images(files: Mapping[str, Path], size: int = 0, *, n_channels: int = 0) -> ImageSet:
    """Read images and bring them to one size; those that cannot be read are faults of the result.

    Args:
        files: Path of each case, all pictures or all volumes.
        size: Edge in pixels or voxels; 0 for the default of the kind.
        n_channels: 1 or 3 for pictures; 0 takes 3 where any picture has colors.

    Raises:
        FaultsError: None could be read.
    """
    is_volume = bool(file_ending(next(iter(files.values()))))
    size = size or (VOLUME_SIZE if is_volume else PICTURE_SIZE)
    n_bytes = sum(path.stat().st_size for path in files.values() if path.exists())
    n_workers = default_workers(len(files)) if n_bytes > _MANY_BYTES else 0
    read = partial(read_image, size=size)
    arrays: dict[str, NDArray] = {}
    faults = []
    case_of = {path: case for case, path in files.items()}
    outcomes = run_jobs(read, files.values(), n_workers=n_workers)
    for outcome in track(outcomes, len(files), "reading images", "image"):
        case = case_of[outcome.job]
        if outcome.ok:
            arrays[case] = outcome.value
        else:
            faults.append(Fault(case, "read", outcome.error, _TAKE_OUT))
    faults.sort(key=lambda fault: fault.case)
    if not arrays:
        raise FaultsError(faults, "no image could be read")
    if is_volume:
        n_channels = 1
    elif not n_channels:
        n_channels = 3 if any(len(array) == 3 for array in arrays.values()) else 1
    cases = tuple(sorted(arrays))
    pixels = torch.stack([_with_channels(arrays[case], n_channels) for case in cases])
    return ImageSet(cases, pixels, tuple(faults))


def read_image(path: Path, size: int) -> NDArray:
    """One image as ``(c, size, size)`` uint8 or ``(1, size, size, size)`` float16.

    Raises:
        InputError: The file is damaged or not an image; the message names it.
    """
    if file_ending(path):
        volume = read_volume(path, path.name)
        array = torch.from_numpy(in_usual_unit(np.array(volume.array, dtype=np.float32)))[None]
        if not bool(torch.isfinite(array).all()):
            raise InputError(f"{path.name} has values that are not finite")
        array = (array - array.mean()) / array.std(correction=0).clamp(min=1e-6)
        return fitted(array, volume.spacing, size).half().numpy()
    picture = torch.from_numpy(_eight_bits(read_picture(path), path.name).astype(np.float32))
    return fitted(picture, (1.0, 1.0), size).round().clamp(0, 255).byte().numpy()


def _eight_bits(picture: NDArray, name: str) -> NDArray:
    """Values 0 to 255; of deeper pictures the darkest becomes 0 and the brightest 255."""
    if picture.dtype == np.uint8:
        return picture
    values = picture.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{name} has values that are not finite")
    values = in_usual_unit(values)
    span = max(float(values.max() - values.min()), 1e-6)
    return 255 * (values - values.min()) / span


def fitted(image: Tensor, spacing: Sequence[float], size: int) -> Tensor:
    """An image ``(c, [z,] y, x)`` in a square or cube: proportions kept, border continued."""
    length = [n * step for n, step in zip(image.shape[1:], spacing, strict=True)]
    goal = [max(1, round(size * edge / max(length))) for edge in length]
    if len(goal) == 2:
        resized = functional.interpolate(
            image[None], size=goal, mode="bilinear", antialias=True, align_corners=False
        )
    else:  # there is no antialiasing in 3D: average what shrinks, then interpolate what grows
        pooled = [min(n, g) for n, g in zip(image.shape[1:], goal, strict=True)]
        resized = functional.adaptive_avg_pool3d(image[None], pooled)  # pyright: ignore[reportArgumentType]  # adaptive pools take a list
        resized = functional.interpolate(resized, size=goal, mode="trilinear", align_corners=False)
    room = [size - n for n in goal]
    padding = [side for free in reversed(room) for side in (free // 2, free - free // 2)]
    return functional.pad(resized, padding, mode="replicate")[0]


def _with_channels(array: NDArray, n_channels: int) -> Tensor:
    if len(array) < n_channels:
        array = np.repeat(array, n_channels, axis=0)
    elif len(array) > n_channels:  # a model for gray pictures meets a colored one
        array = array.astype(np.float32).mean(0, keepdims=True).round().astype(array.dtype)
    return torch.from_numpy(np.ascontiguousarray(array))
