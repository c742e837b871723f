"""Pictures of any common kind, as a viewer shows them, read with one kind of error.

Whoever reads a picture reads it here: the turn that its camera noted is applied, palettes become
colors, white-is-zero becomes black-is-zero, and a file of several pages or frames is refused.
"""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import BadFileError
from graphnn_unet.images.room import require_room

if TYPE_CHECKING:
    import tifffile
    from PIL import Image as Pillow

_COLORED = frozenset({"P", "CMYK", "YCbCr", "HSV", "LAB", "PA", "RGBX", "RGBa"})
_ORIENTATION = 0x0112
"""Tag of EXIF and TIFF: how the stored rows and columns lie in the picture, 1 to 8."""
_PNG_HEAD = 26
"""Bytes of a PNG file up to its bits a color and its kind of color."""

_SEVERAL_PAGES = "Give each page as a file, or a volume as NIfTI"
_HUE_STEP = 0.618034  # golden ratio: neighbors in number are far apart in hue


@dataclass(frozen=True)
class Picture:
    """A picture in memory, upright.

    Attributes:
        array: ``(channel, y, x)`` with 1 or 3 channels.
        alpha: ``(y, x)`` opacity as stored, or ``None``; no reader mixes it into the colors.
        sha256: Hash of the file's bytes.
    """

    array: NDArray[Any]
    alpha: NDArray[Any] | None = None
    sha256: str = ""


def read_picture(path: Path, *, indexed: bool = False) -> np.ndarray:
    """A picture as ``(channel, y, x)`` with 1 or 3 channels; an alpha channel is dropped.

    Args:
        path: A file with one of ``PICTURES``.
        indexed: Give the numbers of a palette instead of its colors, as label maps want.

    Raises:
        BadFileError: It is missing or damaged, or no picture of one plane.
    """
    return decode_picture(path, indexed=indexed).array


def decode_picture(path: Path, *, indexed: bool = False) -> Picture:
    """A picture with its alpha channel; arguments and errors as ``read_picture``."""
    array = _decode_tiff(path, indexed) if _is_tiff(path) else _decode_other(path, indexed)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] > 4:
        what = f"{path.name} has axes {array.shape}: a picture has one plane of 1 to 4 channels"
        raise BadFileError("I14", what, "Give each plane as a file, or a volume as NIfTI")
    n_channels = {1: 1, 2: 1, 3: 3, 4: 3}[array.shape[-1]]
    alpha = array[..., -1] if array.shape[-1] in (2, 4) else None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Picture(np.moveaxis(array[..., :n_channels], -1, 0), alpha, digest)


def picture_size(path: Path) -> tuple[int, int]:
    """Pixels ``(y, x)`` from the header alone; whether they are there is not looked at.

    Raises:
        BadFileError: It is missing, or its header is damaged.
    """
    if not _is_tiff(path):
        with _opened(path) as picture:
            height, width = picture.height, picture.width
            # asking for the EXIF data of a PNG without any reads all of its pixels
            turned = (picture.format != "PNG" or "exif" in picture.info) and (
                _orientation(picture) > 4
            )
            return (width, height) if turned else (height, width)
    with _tiff_page(path) as page:
        height, width = int(page.imagelength), int(page.imagewidth)
        return (width, height) if _tiff_orientation(page) > 4 else (height, width)


def label_colors(n_ids: int = 256) -> list[tuple[int, int, int]]:
    """A color for each label id: black for 0, then hues that differ from those before.

    Example:
        >>> label_colors(3)
        [(0, 0, 0), (230, 57, 57), (57, 108, 230)]
    """
    colors = [(0, 0, 0)]
    for number in range(n_ids - 1):
        hue = number * _HUE_STEP % 1
        value = (0.9, 0.7, 1.0)[number // 7 % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors[:n_ids]


def label_picture(
    labels: NDArray[Any], colors: Mapping[int, tuple[int, int, int]] | None = None
) -> Pillow.Image:
    """A label map as a picture whose pixel values are the ids and whose palette shows them.

    Ids above 255 have no place in a palette: such a map is gray of 16 bits.

    Args:
        labels: ``(y, x)`` integers from 0 on.
        colors: Red, green and blue of some ids; the others get ``label_colors``.
    """
    from PIL import Image as Pillow

    if labels.max(initial=0) > 255:
        return Pillow.fromarray(labels.astype(np.uint16))
    picture = Pillow.fromarray(labels.astype(np.uint8))
    palette = label_colors()
    for number, color in (colors or {}).items():
        if number < len(palette):
            palette[number] = color
    picture.putpalette([value for color in palette for value in color])
    return picture


def _decode_other(path: Path, indexed: bool) -> NDArray[Any]:
    """``(y, x)`` or ``(y, x, channel)`` of what is no TIFF."""
    with _opened(path) as picture:
        _require_one_frame(path, picture)
        turn = _orientation(picture)
        picture.load()
        if picture.format == "PNG" and has_deep_colors(path):
            n_values = picture.width * picture.height * 4
            require_room(n_values, 2 * n_values, path.name)
            return _upright(_deep_colors(path), turn)
        if picture.mode == "P" and not indexed and "transparency" in picture.info:
            picture = picture.convert("RGBA")
        elif picture.mode in _COLORED - ({"P"} if indexed else set()):
            picture = picture.convert("RGB")
        elif picture.mode == "1":
            picture = picture.convert("L")
        return _upright(np.asarray(picture), turn)


def stored_bits(path: Path) -> int:
    """Bits a value in a PNG or TIFF file, from its header; 8 of other files.

    Raises:
        BadFileError: The header of a TIFF file is damaged.
    """
    if _is_tiff(path):
        with _tiff_page(path) as page:
            return int(page.bitspersample)
    head = _png_head(path)
    return head[24] if head else 8


def has_deep_colors(path: Path) -> bool:
    """Whether a PNG file has 16 bits a color (or gray with alpha), of which Pillow keeps 8."""
    head = _png_head(path)
    return bool(head) and head[24] == 16 and head[25] in (2, 4, 6)


def _png_head(path: Path) -> bytes:
    """The beginning of a PNG file; empty of any other."""
    with path.open("rb") as file:
        head = file.read(_PNG_HEAD)
    return head if head.startswith(b"\x89PNG") and len(head) == _PNG_HEAD else b""


def _deep_colors(path: Path) -> NDArray[Any]:
    """``(y, x, channel)`` of a PNG file that Pillow has found whole, with all of its bits.

    Raises:
        BadFileError: It is gray with alpha, which ITK does not read.
    """
    import SimpleITK as sitk

    from graphnn_unet.images.header import quiet_itk

    try:
        with quiet_itk():
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="PNGImageIO"))
    except RuntimeError as error:
        what = f"{path.name} has 16 bits and transparency, of which only 8 bits can be read"
        raise BadFileError("I14", what, "Save it without transparency, or with 8 bits") from error
    return array


def _require_one_frame(path: Path, picture: Pillow.Image) -> None:
    n_frames = getattr(picture, "n_frames", 1)
    # phones put a second, smaller picture behind the first (MPO): the first is what viewers show
    if n_frames > 1 and picture.format != "MPO":
        raise BadFileError(
            "I14", f"{path.name} has {n_frames} frames (it is animated)", "Give each as a file"
        )


def _decode_tiff(path: Path, indexed: bool) -> NDArray[Any]:
    """``(y, x)`` or ``(y, x, channel)`` of a TIFF with one page."""
    import tifffile

    kinds = tifffile.PHOTOMETRIC
    with _tiff_page(path) as page:
        kind = page.photometric
        if page.samplesperpixel > 2 and kind in (kinds.MINISBLACK, kinds.MINISWHITE):
            raise BadFileError(
                "I14", f"{path.name} has {page.samplesperpixel} gray planes", _SEVERAL_PAGES
            )
        if kind not in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB, kinds.PALETTE):
            return _converted(path)
        array = np.asarray(page.asarray()).squeeze()
        if array.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            array = np.moveaxis(array, 0, -1)
        if 1 in (page.imagelength, page.imagewidth):  # squeezed away
            array = array.reshape(page.imagelength, page.imagewidth, -1)
        if kind == kinds.MINISWHITE:
            array = _inverted(array, page.bitspersample)
        elif kind == kinds.PALETTE and not indexed and page.colormap is not None:
            array = (np.moveaxis(page.colormap, 0, -1)[array] >> 8).astype(np.uint8)
        if array.dtype == bool:
            array = array.astype(np.uint8) * 255
        return _upright(array, _tiff_orientation(page))


def _converted(path: Path) -> NDArray[Any]:
    """Colors of a TIFF that are stored as luminance, ink or in another space."""
    with _opened(path) as picture:  # Pillow has turned it when it is loaded
        picture.load()
        return np.asarray(picture.convert("RGB"))


def _inverted(array: NDArray[Any], n_bits: int) -> NDArray[Any]:
    if array.dtype == bool:
        return ~array
    if array.dtype.kind == "u":
        return np.subtract(2**n_bits - 1, array, dtype=array.dtype)
    return array.max() - array


def _upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Rows and columns as they are to be seen."""
    if orientation > 4:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _orientation(picture: Pillow.Image) -> int:
    value = picture.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _tiff_orientation(page: tifffile.TiffPage) -> int:
    tag = page.tags.get(_ORIENTATION)
    value = 1 if tag is None else int(tag.value)
    return value if value in range(1, 9) else 1


@contextmanager
def _tiff_page(path: Path) -> Iterator[tifffile.TiffPage]:
    """The one page of a TIFF; smaller copies and masks beside it are passed over."""
    import tifffile

    with _naming_damage(path), tifffile.TiffFile(path) as file:
        pages = [page for page in map(_whole_page, file.pages) if not _is_side_page(page)]
        shape = pages[0].shape if len(pages) == 1 else ()
        series = file.series[0].shape if len(pages) == 1 and file.series else shape
        n_planes = int(np.prod(series) / max(1, np.prod(shape)))  # ImageJ counts them in a text
        if len(pages) != 1 or n_planes > 1 or pages[0].imagedepth > 1:
            n_pages = max(len(pages), n_planes, pages[0].imagedepth if pages else 0)
            raise BadFileError("I14", f"{path.name} is a stack of {n_pages} pages", _SEVERAL_PAGES)
        n_values = int(np.prod(pages[0].shape, dtype=object))
        require_room(n_values, n_values * max(1, pages[0].bitspersample // 8), path.name)
        yield pages[0]


def _whole_page(page: Any) -> tifffile.TiffPage:
    return page.aspage()


def _is_side_page(page: tifffile.TiffPage) -> bool:
    return bool(page.is_reduced or page.is_mask)


def _is_tiff(path: Path) -> bool:
    return path.name.lower().endswith((".tif", ".tiff"))


@contextmanager
def _opened(path: Path) -> Iterator[Pillow.Image]:
    from PIL import Image as Pillow

    with _naming_damage(path), Pillow.open(path) as picture:
        n_values = picture.width * picture.height * 4  # Pillow's colors take four bytes a pixel
        require_room(n_values, n_values, path.name)
        yield picture


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Raise what the libraries raise over damaged files as one error that names the file."""
    if path.is_file() and path.stat().st_size == 0:
        raise BadFileError("I07", f"{path.name} is empty (0 bytes)", "Copy the file again")
    try:
        yield
    except BadFileError:
        raise
    except Exception as error:  # the parsers raise whatever they stumble on
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        what = f"{path.name} cannot be read: {why}"
        raise BadFileError("I05", what, "Copy the file again") from error
