"""Pictures of any common kind, read with one kind of error."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphnn_unet.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings that are read, in any case of letters."""

_MAX_PIXELS = 2**31


def read_picture(path: Path, *, indexed: bool = False) -> np.ndarray:
    """A picture as ``(channel, y, x)`` with 1 or 3 channels; an alpha channel is dropped.

    Args:
        path: A file with one of ``PICTURES``.
        indexed: Give the numbers of a palette instead of its colors, as label maps want.

    Raises:
        InputError: It is damaged, or no picture of one plane.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes)", "", "Copy the file again")
    if path.name.lower().endswith((".tif", ".tiff")):
        array = _read_tiff(path)
    else:
        array = _read_pillow(path, indexed=indexed)
    if array.ndim == 3 and array.shape[-1] not in (1, 2, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] > 4:
        raise InputError(
            f"{path.name} has axes {array.shape}", "a picture has one plane of 1 to 4 channels",
            "Give each plane as a file, or a volume as NIfTI",
        )  # fmt: skip
    n_channels = {1: 1, 2: 1, 3: 3, 4: 3}[array.shape[-1]]
    return np.moveaxis(array[..., :n_channels], -1, 0)


def _read_pillow(path: Path, *, indexed: bool) -> np.ndarray:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    colored = {"P", "CMYK", "YCbCr", "HSV", "LAB", "PA"} - ({"P"} if indexed else set())
    try:
        with Pillow.open(path) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise InputError(f"{path.name} claims {opened.width} x {opened.height} pixels")
            opened.load()
            if opened.mode in colored:
                opened = opened.convert("RGB")
            elif opened.mode == "1":
                opened = opened.convert("L")
            return np.asarray(opened)
    except (
        OSError, SyntaxError, ValueError, UnidentifiedImageError, Pillow.DecompressionBombError
    ) as error:  # fmt: skip
        if isinstance(error, InputError):
            raise
        raise _damaged(path, error) from error


def _read_tiff(path: Path) -> np.ndarray:
    import tifffile

    try:
        return np.asarray(tifffile.imread(path)).squeeze()
    # tifffile raises what struct, zlib and its own parser raise
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError, TypeError,
            RuntimeError, ArithmeticError, EOFError, MemoryError) as error:  # fmt: skip
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
    return InputError(f"{path.name} cannot be read", why, "Copy the file again")
