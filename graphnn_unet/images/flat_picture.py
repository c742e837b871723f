"""Pictures as networks and label maps want them: flat volumes of whole numbers.

A picture is a volume of one slice, a channel for gray or three for red, green and blue. Spacing
and axes are those of nnU-Net's reader of natural images, so that its plans, and stock nnU-Net
itself, fit the same files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import BadFileError
from graphnn_unet.images.find import PICTURES
from graphnn_unet.images.grid import Grid
from graphnn_unet.images.pictures import decode_picture, has_deep_colors, picture_size
from graphnn_unet.images.volume import UPRIGHT, Volume

FLAT_SPACING = (999.0, 1.0, 1.0)
"""Of a picture as a volume of one slice, z y x: nnU-Net's own value, by which its planner sees that
there is nothing to look at across the slice. Pixels are 1 apart, whatever they are in mm."""

RAW_ENDING = ".png"
"""Ending of pictures in raw folders; JPEG would change label maps."""

MAX_BITS = 16
"""Of a value of a picture."""

_DARK = 32
"""A picture whose brightest value of 255 is less may have used fewer bits than it should."""

READER = "NaturalImage2DIO"
"""nnU-Net's reader of pictures."""


@dataclass(frozen=True)
class NetworkPicture:
    """A picture with the channels that a network takes.

    Attributes:
        array: ``(channel, y, x)`` uint8, or uint16 of a gray picture.
        notes: What was changed or left out.
        sha256: Hash of the file's bytes.
    """

    array: NDArray[Any]
    notes: tuple[str, ...]
    sha256: str


def is_picture(path: Path | str) -> bool:
    """Whether a name has one of the endings of ``PICTURES``."""
    return str(path).lower().endswith(PICTURES)


def is_gray(array: NDArray[Any]) -> bool:
    """Whether a picture ``(channel, y, x)`` shows no color, however it is stored."""
    return len(array) == 1 or bool((array[:1] == array).all())


def used_bits(path: Path) -> int:
    """Bits that the brightest value of a picture needs, 8 at least.

    Cameras of 12 bits store 16 and seldom say so. One picture does not tell, as it may be a dark
    one; the brightest of a data set does.

    Raises:
        BadFileError: It is damaged, or holds other than whole numbers from 0 on.
    """
    return max(8, int(_whole_numbers(decode_picture(path).array, path.name).max()).bit_length())


def network_picture(path: Path, n_channels: int, color_bits: int = MAX_BITS) -> NetworkPicture:
    """Read a picture for a network of one or three channels.

    Gray stored as color is gray; a gray picture among colored ones has three equal channels.

    Args:
        path: A file with one of ``PICTURES``.
        n_channels: 1 or 3.
        color_bits: Of deeper colors than 8 bits, the same of all pictures of a data set: these are
            reduced to 8, whatever this picture uses.

    Raises:
        BadFileError: It is damaged or no picture of one plane, holds other than whole numbers from
            0 on, or shows colors where gray is wanted.
    """
    picture = decode_picture(path)
    array, notes = _whole_numbers(picture.array, path.name), []
    if picture.alpha is not None:
        notes.append("its alpha channel (transparency) was left out")
    if is_gray(array):
        array = array[:1]
    if len(array) < n_channels:
        array = np.repeat(array, n_channels, axis=0)
        notes.append("it is gray; red, green and blue are equal")
    elif len(array) > n_channels:
        what = f"{path.name} is a color picture, the others are gray ({n_channels} channel)"
        raise BadFileError("I22", what, "Save it in gray, or leave it out")
    if len(array) == 3 and array.dtype != np.uint8:
        n_brighter = int((array >= 2**color_bits).sum())
        array = np.minimum(array >> (color_bits - 8), 255).astype(np.uint8)
        note = f"its colors of {color_bits} bits were reduced to 8"
        if n_brighter:
            note += f"; {n_brighter} values beyond are 255"
        elif array.max() < _DARK:
            note += f"; its brightest is {array.max()} of 255"
        notes.append(note)
    return NetworkPicture(array, tuple(notes), picture.sha256)


def flat_channels(paths: Sequence[Path], names: Sequence[str]) -> list[Volume]:
    """The channels of pictures as they are stored, a flat volume each.

    Raises:
        BadFileError: As ``network_picture``.
    """
    volumes = []
    for path, name in zip(paths, names, strict=True):
        picture = decode_picture(path)
        array = _whole_numbers(picture.array, name)
        volumes += [
            Volume(channel[np.newaxis], FLAT_SPACING, sha256=picture.sha256) for channel in array
        ]
    return volumes


def flat_labels(path: Path, name: str) -> Volume:
    """The pixel values of a label map, those of a palette its numbers, as a flat volume.

    Raises:
        BadFileError: It is damaged, colored or holds other than whole numbers from 0 on.
    """
    picture = decode_picture(path, indexed=True)
    if not is_gray(picture.array):
        what = f"{name} is a color picture, a label map has one number a pixel"
        raise BadFileError("I14", what, "gnnunet_convert pictures makes numbers of its colors")
    array = _whole_numbers(picture.array, name)[:1]
    return Volume(array, FLAT_SPACING, sha256=picture.sha256)


def flat_grid(path: Path) -> Grid:
    """Where the pixels of a picture lie, from its header alone.

    Raises:
        BadFileError: The header is damaged.
    """
    return Grid((1, *picture_size(path)), FLAT_SPACING, (0.0, 0.0, 0.0), UPRIGHT)


def stored_plainly(path: Path, *, is_label: bool) -> str:
    """Why nnU-Net's reader would see another picture than this product; empty where it does not.

    nnU-Net takes pixels as they are stored: turned by no EXIF tag, with a palette's colors in place
    of its numbers, with alpha as a fourth channel.
    """
    from PIL import Image as Pillow

    with Pillow.open(path) as picture:
        mode = picture.mode
        if mode == "P" and is_label:
            return "it has a palette, and nnU-Net would read its colors"
        if mode not in ("L", "RGB", "I;16"):
            return f"it is stored as {mode}, which nnU-Net reads in another way"
        if "exif" in picture.info and picture.getexif().get(0x0112, 1) != 1:
            return "it is stored turned (EXIF), which nnU-Net does not see"
        if picture.format == "PNG" and has_deep_colors(path):
            return "its colors have 16 bits, of which nnU-Net reads 8"
        return "it has a transparent color" if "transparency" in picture.info else ""


def _whole_numbers(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The array as uint8 or uint16."""
    if array.dtype in (np.uint8, np.uint16):
        return array
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() < 2**16:
        return array.astype(np.uint16)
    range_ = f"{array.min():g} to {array.max():g}"
    what = f"{name} holds {array.dtype} pixels ({range_}), pictures hold 0 to 65535"
    raise BadFileError("I14", what, "Save it with whole numbers of 8 or 16 bits")
