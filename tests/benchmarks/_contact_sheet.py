"""Many pictures with the outlines of label maps on one PNG: good and bad cases at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.images.pictures import read_picture
from graphnn_unet.images.read import read_label_map
from graphnn_unet.storage.atomic import atomic_path

PREDICTION, REFERENCE = (255, 149, 0), (30, 136, 255)
"""Orange outlines are predictions, blue ones true label maps."""

MAX_PICTURES = 200
_PAPER, _INK = (16, 18, 20), (242, 242, 242)
_GAP, _LINE = 6, 14
_COLORS = 128  # of the palette: a third of the bytes, and no one sees it at this size


@dataclass(frozen=True)
class PictureCase:
    """One picture of a sheet.

    Attributes:
        image: The picture.
        prediction: Label map of the same size.
        reference: True label map of the same size, or ``None``.
        title: Text below it.
    """

    image: Path | str
    prediction: Path | str
    reference: Path | str | None = None
    title: str = ""


def save_picture_sheet(
    cases: Sequence[PictureCase], target_png: Path | str, *, columns: int = 8, cell: int = 132
) -> None:
    """Draw pictures side by side, predictions outlined in orange, true label maps in blue.

    Args:
        cases: 1 to ``MAX_PICTURES`` pictures, row by row.
        target_png: Where to write the sheet.
        columns: Pictures in a row.
        cell: Longest side of a picture on the sheet in pixels.

    Raises:
        InputError: No picture or too many, or a file cannot be read.
        ShapeError: A label map has another size than its picture.
    """
    if not 1 <= len(cases) <= MAX_PICTURES or columns < 1 or cell < 16:
        raise InputError(
            f"{len(cases)} pictures in {columns} columns of {cell} pixels make no sheet", "",
            f"Give 1 to {MAX_PICTURES} pictures",
        )  # fmt: skip
    n_rows = -(-len(cases) // columns)
    step = (cell + _GAP, cell + _GAP + _LINE)
    sheet = Pillow.new("RGB", (min(columns, len(cases)) * step[0] + _GAP, n_rows * step[1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, case in enumerate(cases):
        left = _GAP + number % columns * step[0]
        top = number // columns * step[1]
        tile = _tile(case, cell)
        place = (left + (cell - tile.width) // 2, top + (cell - tile.height) // 2)
        sheet.paste(tile, place)
        draw.text((left + 2, top + cell), case.title, fill=_INK)
    with atomic_path(target_png) as temporary:
        sheet.quantize(_COLORS).save(temporary, format="PNG", optimize=True)


def _tile(case: PictureCase, cell: int) -> Pillow.Image:
    """One picture with its outlines, as large as the cell allows."""
    picture = read_picture(Path(case.image))
    if picture.dtype != np.uint8:
        low, high = float(picture.min()), float(picture.max())
        picture = (255 * (picture - low) / max(high - low, 1e-12)).astype(np.uint8)
    rgb = np.moveaxis(picture if len(picture) == 3 else np.repeat(picture, 3, axis=0), 0, -1)
    scale = cell / max(rgb.shape[:2])
    size = (max(round(rgb.shape[1] * scale), 1), max(round(rgb.shape[0] * scale), 1))
    drawn = np.asarray(Pillow.fromarray(rgb).resize(size, Pillow.Resampling.LANCZOS)).copy()
    for path, color in ((case.reference, REFERENCE), (case.prediction, PREDICTION)):
        if path is None:
            continue
        labels = read_label_map(Path(path)).array
        if labels.shape != rgb.shape[:2]:
            raise ShapeError(
                f"{path} is not of the size of {case.image}", f"{labels.shape} and {rgb.shape[:2]}"
            )
        mask = np.asarray(
            Pillow.fromarray((labels > 0).astype(np.uint8)).resize(size, Pillow.Resampling.NEAREST)
        ).astype(bool)
        drawn[mask & ~ndimage.binary_erosion(mask)] = color
    return Pillow.fromarray(drawn)
