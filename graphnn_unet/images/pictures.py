"""Pictures of any common kind, read with one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphnn_unet.errors import InputError

if TYPE_CHECKING:
    from PIL import Image as Pillow

_MAX_PIXELS = 2**31
_COLORED = frozenset({"P", "CMYK", "YCbCr", "HSV", "LAB", "PA"})


def read_picture(path: Path, *, indexed: bool = False) -> np.ndarray:
    """A picture as ``(channel, y, x)`` with 1 or 3 channels; an alpha channel is dropped.

    Args:
        path: A file with one of ``PICTURES``.
        indexed: Give the numbers of a palette instead of its colors, as label maps want.

    Raises:
        InputError: It is missing or damaged, or no picture of one plane.
    """
    if _is_tiff(path):
        import tifffile

        with _naming_damage(path):
            array = np.asarray(tifffile.imread(path)).squeeze()
    else:
        with _opened(path) as picture:
            picture.load()
            if picture.mode in _COLORED - ({"P"} if indexed else set()):
                picture = picture.convert("RGB")
            elif picture.mode == "1":
                picture = picture.convert("L")
            array = np.asarray(picture)
    if _has_channels_first(array.shape):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] > 4:
        raise InputError(
            f"{path.name} has axes {array.shape}",
            "a picture has one plane of 1 to 4 channels",
            "Give each plane as a file, or a volume as NIfTI",
        )
    n_channels = {1: 1, 2: 1, 3: 3, 4: 3}[array.shape[-1]]
    return np.moveaxis(array[..., :n_channels], -1, 0)


def picture_size(path: Path) -> tuple[int, ...]:
    """Pixels ``(y, x)`` from the header alone; whether they are there is not looked at.

    Raises:
        InputError: It is missing, or its header is damaged.
    """
    if not _is_tiff(path):
        with _opened(path) as picture:
            return picture.height, picture.width
    import tifffile

    with _naming_damage(path), tifffile.TiffFile(path) as file:
        shape = tuple(n for n in file.series[0].shape if n > 1)
    return shape[1:] if _has_channels_first(shape) else shape[:2]


def _is_tiff(path: Path) -> bool:
    return path.name.lower().endswith((".tif", ".tiff"))


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[-1] not in (1, 2, 3, 4) and shape[0] in (1, 3, 4)


@contextmanager
def _opened(path: Path) -> Iterator[Pillow.Image]:
    from PIL import Image as Pillow

    with _naming_damage(path), Pillow.open(path) as picture:
        if picture.width * picture.height > _MAX_PIXELS:
            raise InputError(f"{path.name} claims {picture.width} x {picture.height} pixels")
        yield picture


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Raise what the libraries raise over damaged files as one error that names the file."""
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes)", "", "Copy the file again")
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the parsers raise whatever they stumble on
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        raise InputError(f"{path.name} cannot be read", why, "Copy the file again") from error
