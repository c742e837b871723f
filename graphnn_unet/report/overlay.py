"""Predictions drawn over their images, with the reference's outline, in one PNG.

A mm is equally long in all panels of a case and in both directions, so an organ keeps its shape
whatever the voxels are like. Slices lie as a radiologist reads them: the patient's right is on
the left, front or head is up. Sides are taken from the header, which is all there is to go by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib import colors as mcolors
from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.images.find import IMAGES, split_ending
from graphnn_unet.images.flat_picture import is_picture
from graphnn_unet.images.grid import Grid, grid_mismatch
from graphnn_unet.images.pictures import read_picture
from graphnn_unet.images.read import read_label_map, read_volume
from graphnn_unet.images.volume import Volume, from_itk, to_itk
from graphnn_unet.metrics.distance import bounding_box
from graphnn_unet.metrics.overlap import BoolVolume, dice
from graphnn_unet.metrics.protocols import LabelIds, mask_of
from graphnn_unet.report.page import PLAIN_TEXT
from graphnn_unet.storage.atomic import atomic_path

ROW_INCHES = (8.0, 3.2)
"""Widest row and highest panel of a sheet."""

MAX_ROWS = 100
"""Cases on one sheet: more make a picture that most viewers refuse to open."""

THICK_SLICES = 3.0
"""From this ratio of voxel edges on, only slices across the longest edge are worth looking at."""

COLORS = ("#1E88FF", "#FF9500", "#10C98F", "#FF3D77", "#F2D600", "#A06BFF", "#FF5A1F", "#4FD5F0")
"""One a class, in order and then again; bright on gray."""

FLAT_PLACE = ((1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
"""Spacing, origin and direction of pictures, whose pixels have no size."""

_PAPER, _INK, _FAINT = "#101214", "#F2F2F2", "#9AA0A6"
_DPI = 150
_MARGIN, _MARGIN_MM = 1.3, 6.0  # around the foreground: a factor, and mm on each side
_WINDOW = (0.5, 99.5)  # percentiles of the shown part that become black and white
_VIEWS = (("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI"))  # left right top bottom
_GAP, _HEAD, _FOOT, _LEGEND_LINE, _MIN_WIDTH = 0.08, 0.80, 0.45, 0.22, 4.2  # inches
_INCH_A_LETTER = 0.0085  # width of a letter of 1 point, on the safe side
_SCALE_BARS_MM = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

Array = NDArray[Any]
Masks = tuple[BoolVolume, ...]
"""A class in the prediction and, where there is one, in the reference."""


@dataclass(frozen=True)
class OverlayRow:
    """One case of a contact sheet; a file or what was read of it.

    Attributes:
        image: Image, one channel.
        prediction: Label map made by a model, on the image's grid.
        reference: True label map on the same grid, or ``None``.
        title: Text above the row; the case id of the prediction's file when empty.
    """

    image: Path | str | Volume
    prediction: Path | str | Volume
    reference: Path | str | Volume | None = None
    title: str = ""


def worst_median_best(dice: Mapping[str, float]) -> list[tuple[str, str]]:
    """Worst, median and best case with these words; fewer where there are fewer cases."""
    ranked = sorted(dice, key=lambda case: (-1.0 if math.isnan(dice[case]) else dice[case], case))
    middle = ranked[1:-1]
    places = [("worst", ranked[0])]
    places += [("median", middle[len(middle) // 2])] if middle else []
    places += [("best", ranked[-1])] if len(ranked) > 1 else []
    return places


def save_contact_sheet(
    rows: Sequence[OverlayRow],
    target_png: Path | str,
    labels: Mapping[str, LabelIds] | None = None,
    *,
    filled: str = "prediction",
) -> None:
    """Draw several cases below each other in one PNG, a class in the same color everywhere.

    Args:
        rows: 1 to ``MAX_ROWS`` cases, drawn in this order.
        target_png: Where to write the picture.
        labels: Class name to id or ids; the ids found in any of the cases without it.
        filled: How the legend calls the areas.

    Raises:
        MissingFileError: A file is not there.
        InputError: There is no row or too many, a file cannot be read, or a label map is none.
        ShapeError: The files of a row are not on one grid.
    """
    if not 1 <= len(rows) <= MAX_ROWS:
        raise InputError(
            f"{len(rows)} cases do not fit on a contact sheet",
            "",
            f"Give 1 to {MAX_ROWS} and make several sheets of more",
        )
    names = _found_labels(rows) if labels is None else labels
    cases = [_load(row, names) for row in rows]
    _save_sheet(cases, tuple(names), Path(target_png), filled)


@dataclass(frozen=True)
class _Panel:
    """One slice, ready to be drawn; arrays are ``(row, column)``.

    Attributes:
        letters: Directions at left, right, top and bottom; empty without any.
        masks: A prediction and a reference (``None`` without one) for each class.
        steps: mm a row and a column.
        center: Middle of the view in mm, row and column.
        view: Height and width of the view in mm.
        upwards: Rows run from bottom to top.
    """

    head: str
    letters: str
    image: Array
    masks: list[Masks]
    steps: tuple[float, float]
    center: tuple[float, float]
    view: tuple[float, float]
    upwards: bool


@dataclass(frozen=True)
class _Case:
    """What is drawn of a case: a few slices, not the volumes."""

    title: str
    detail: str
    dices: tuple[float, ...]
    panels: tuple[_Panel, ...]
    unit: str


def _found_labels(rows: Sequence[OverlayRow]) -> dict[str, LabelIds]:
    ids: set[int] = set()
    for row in rows:
        for path in (row.prediction, row.reference):
            if path is not None:
                ids.update(np.unique(_label_map(path).array).tolist())
    return {f"label {number}": number for number in sorted(ids - {0})}


def _label_map(source: Path | str | Volume) -> Volume:
    return source if isinstance(source, Volume) else read_label_map(Path(source))


def _image(source: Path | str | Volume) -> Volume:
    if isinstance(source, Volume):
        return source
    return _picture(Path(source)) if is_picture(source) else read_volume(Path(source), n_dims=None)


def _name(source: Path | str | Volume, of_volume: str) -> str:
    return of_volume if isinstance(source, Volume) else str(source)


def _load(row: OverlayRow, labels: Mapping[str, LabelIds]) -> _Case:
    image = _image(row.image)
    in_pixels = (
        image.grid == Grid(image.array.shape, *FLAT_PLACE)
        if isinstance(row.image, Volume)
        else is_picture(row.image)
    )
    sources = [source for source in (row.prediction, row.reference) if source is not None]
    maps = [_label_map(source) for source in sources]
    for source, label_map in zip(sources, maps, strict=True):
        name, of = _name(source, "the label map"), _name(row.image, "the image")
        if why := grid_mismatch(name, label_map.grid, of, image.grid):
            raise ShapeError(why, "", "Give the image this label map belongs to")
    size = " × ".join(str(n) for n in image.array.shape[::-1])
    steps = " × ".join(f"{step:.3g}" for step in image.spacing[::-1])
    upright = [_upright(label_map) for label_map in maps]
    masks = [tuple(mask_of(volume.array, ids) for volume in upright) for ids in labels.values()]
    return _Case(
        title=row.title or split_ending(_name(row.prediction, ""), IMAGES)[0],
        detail=f"{size} pixels" if in_pixels else f"{size} voxels of {steps} mm",
        dices=tuple(dice(*pair) for pair in masks) if row.reference is not None else (),
        panels=tuple(_panels(_upright(image), masks, is_slice=image.array.ndim == 2)),
        unit="px" if in_pixels else "mm",
    )


def _picture(path: Path) -> Volume:
    """A picture in gray, on the grid of its label maps."""
    gray = read_picture(path).astype(np.float32).mean(axis=0)
    return Volume(gray, *FLAT_PLACE)


def _upright(volume: Volume) -> Volume:
    """Turned so that the axes run to superior, posterior and left; a slice gets a first axis."""
    if volume.array.ndim == 2:
        return Volume(volume.array[np.newaxis], (1.0, *volume.spacing))
    return from_itk(sitk.DICOMOrient(to_itk(volume), "LPS"))


def _panels(image: Volume, masks: list[Masks], *, is_slice: bool) -> Iterator[_Panel]:
    """Cut the slices that show most of the foreground: the reference's, where it has some.

    What is predicted far away from it must not lead to slices without it.
    """
    nothing = np.zeros(image.array.shape, bool)
    foreground = np.logical_or.reduce([nothing, *chain(*masks)])
    references = np.logical_or.reduce([nothing, *chain(*(pair[1:] for pair in masks))])
    center, side = _field_of_view(foreground, image.spacing)
    shown = tuple(
        slice(max(0, int((middle - side / 2) / step)), int((middle + side / 2) / step) + 1)
        for middle, step in zip(center, image.spacing, strict=True)
    )
    dark, bright = _window(image.array[shown])
    sizes = [n * step for n, step in zip(foreground.shape, image.spacing, strict=True)]
    cut = references if references.any() else foreground
    for axis, index in _cuts(cut, image.spacing, is_slice):
        rows, columns = (other for other in range(3) if other != axis)
        here = tuple(index if other == axis else slice(None) for other in range(3))
        gray = np.nan_to_num(image.array[here].astype(np.float32), posinf=bright, neginf=dark)
        name, letters = ("", "") if is_slice else _VIEWS[axis]
        yield _Panel(
            head=f"{name} {index + 1} / {image.array.shape[axis]}" if name else "",
            letters=letters,
            image=np.clip((gray - dark) / max(bright - dark, 1e-12), 0, 1),
            masks=[tuple(mask[here].copy() for mask in pair) for pair in masks],
            steps=(image.spacing[rows], image.spacing[columns]),
            center=(center[rows], center[columns]),
            view=(min(side, sizes[rows]), max(min(side, sizes[columns]), side / 3)),
            upwards=axis != 0,
        )


def _field_of_view(
    foreground: BoolVolume, spacing: Sequence[float]
) -> tuple[tuple[float, ...], float]:
    """Center and edge in mm of a cube around the foreground, inside the image where it can be."""
    sizes = [n * step for n, step in zip(foreground.shape, spacing, strict=True)]
    first = 1 if foreground.shape[0] == 1 else 0  # a single slice has no depth to show
    if not foreground.any():
        return tuple(size / 2 for size in sizes), max(sizes[first:])
    ends = [
        (cut.start * step, cut.stop * step)
        for cut, step in zip(bounding_box(foreground), spacing, strict=True)
    ]
    longest = max(high - low for low, high in ends[first:])
    side = min(_MARGIN * longest + 2 * _MARGIN_MM, max(sizes[first:]))
    center = tuple(
        min(max((low + high) / 2, side / 2), size - side / 2) if size > side else size / 2
        for (low, high), size in zip(ends, sizes, strict=True)
    )
    return center, side


def _window(part: Array) -> tuple[float, float]:
    finite = part[np.isfinite(part)]
    if not finite.size:
        return 0.0, 1.0
    dark, bright = np.percentile(finite, _WINDOW)
    return float(dark), float(bright)


def _cuts(
    foreground: BoolVolume, spacing: Sequence[float], is_slice: bool
) -> list[tuple[int, int]]:
    """Axis and index of each slice to show."""
    if is_slice or foreground.shape[0] == 1:
        return [(0, 0)]
    if max(spacing) < THICK_SLICES * min(spacing):
        return [(axis, _fullest(foreground, axis)) for axis in range(3)]
    axis = int(np.argmax(spacing))
    box = bounding_box(foreground)[axis] if foreground.any() else slice(0, foreground.shape[axis])
    places = np.linspace(box.start, box.stop, 4)
    middles = ((places[:-1] + places[1:]) / 2).astype(int).tolist()
    return [(axis, index) for index in dict.fromkeys(middles)]


def _fullest(foreground: BoolVolume, axis: int) -> int:
    """Slice with the largest foreground area; the middle one of several, or of the image."""
    others = tuple(other for other in range(3) if other != axis)
    areas = np.count_nonzero(foreground, axis=others)
    best = np.flatnonzero(areas == areas.max())
    return int(best[len(best) // 2])


@rc_context(PLAIN_TEXT)
def _save_sheet(
    cases: Sequence[_Case],
    names: tuple[str, ...],
    target: Path,
    filled: str,
) -> None:
    """Lay the rows out below each other."""
    layouts = [_lay_out(case.panels) for case in cases]
    widths = [
        scale * sum(panel.view[1] for panel in case.panels) + _GAP * (len(case.panels) + 1)
        for case, (scale, _) in zip(cases, layouts, strict=True)
    ]
    width = max(_MIN_WIDTH, *widths)
    handles = _legend_handles(cases, names, filled)
    n_columns = _legend_columns(handles, width)
    foot = _FOOT + _LEGEND_LINE * ((len(handles) - 1) // n_columns)
    height = sum(scale * height_mm + _HEAD for scale, height_mm in layouts) + foot
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    top = height
    for case, (scale, height_mm) in zip(cases, layouts, strict=True):
        _write_head(figure, case, names, x=_GAP / width, top=top / height, inch=1 / height)
        top -= _HEAD + scale * height_mm
        left = _GAP
        for panel in case.panels:
            panel_width = scale * panel.view[1]
            place = (left / width, top / height, panel_width / width, scale * height_mm / height)
            axes = figure.add_axes(place)
            _draw_panel(axes, panel, height_mm)
            if panel is case.panels[0]:
                _draw_scale_bar(axes, panel.view[1], case.unit)
            left += panel_width + _GAP
    figure.legend(
        handles=handles, loc="center", bbox_to_anchor=(0.5, foot / 2 / height), ncol=n_columns,
        frameon=False, labelcolor=_INK, fontsize=9, handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", facecolor=_PAPER, metadata={"Software": None})


def _lay_out(panels: Sequence[_Panel]) -> tuple[float, float]:
    """Inches a mm, and height in mm of a row; its panels share both."""
    height_mm = max(panel.view[0] for panel in panels)
    widest, highest = ROW_INCHES
    width_mm = sum(panel.view[1] for panel in panels)
    return min((widest - _GAP * (len(panels) + 1)) / width_mm, highest / height_mm), height_mm


def _write_head(
    figure: Figure, case: _Case, names: tuple[str, ...], x: float, top: float, inch: float
) -> None:
    width = figure.get_figwidth() - 2 * _GAP
    size = min(11.0, width / (_INCH_A_LETTER * 1.15 * len(case.title)))  # bold is wider
    figure.text(x, top - 0.14 * inch, case.title, color=_INK, size=size, weight="bold", va="top")
    scores = [
        f"{name} {value:.2f}" if np.isfinite(value) else f"{name} absent"
        for name, value in zip(names, case.dices, strict=False)
    ]
    detail = f"{case.detail}   Dice: {', '.join(scores)}" if scores else case.detail
    if scores and len(detail) * 8 * _INCH_A_LETTER > width:
        finite = [value for value in case.dices if np.isfinite(value)]
        mean = f"{np.mean(finite):.2f}" if finite else "none"
        detail = f"{case.detail}   Dice: {mean} (mean)"
    figure.text(x, top - 0.40 * inch, detail, color=_FAINT, size=8, va="top")


def _draw_panel(axes: Axes, panel: _Panel, height_mm: float) -> None:
    n_rows, n_columns = panel.image.shape
    row_mm, column_mm = panel.steps
    axes.imshow(
        panel.image,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, n_columns * column_mm, n_rows * row_mm, 0),
        interpolation="bilinear",
    )
    for number, (predicted, *true) in enumerate(panel.masks):
        color = COLORS[number % len(COLORS)]
        if predicted.any():
            grid = _contour_grid(predicted, panel.steps)
            axes.contourf(*grid, levels=[0.5, 1.5], colors=[color], alpha=0.5)
        if true and true[0].any():
            # half way to white, to stand out from the area of its own color
            lighter = tuple((np.array(mcolors.to_rgb(color)) + 1) / 2)
            lines = axes.contour(
                *_contour_grid(true[0], panel.steps), levels=[0.5], colors=[lighter],
                linewidths=1.5,
            )  # fmt: skip
            lines.set_path_effects([patheffects.withStroke(linewidth=2.8, foreground="#000000A0")])
    row, column = panel.center
    across, along = panel.view[1] / 2, height_mm / 2
    axes.set_xlim(column - across, column + across)
    axes.set_ylim(*((row - along, row + along) if panel.upwards else (row + along, row - along)))
    axes.set_facecolor("black")
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _annotate(axes, panel)


def _contour_grid(mask: BoolVolume, steps: tuple[float, float]) -> tuple[Array, Array, Array]:
    """Positions of voxel centers in mm and the mask, one empty voxel wider on every side."""
    padded = np.pad(mask, 1).astype(np.float32)
    y, x = ((np.arange(n) - 0.5) * step for n, step in zip(padded.shape, steps, strict=True))
    return x, y, padded


def _annotate(axes: Axes, panel: _Panel) -> None:
    """Head and directions."""
    style = _small_text(axes)
    axes.text(0, 1.01, panel.head, ha="left", va="bottom", **style)
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.98), (0.5, 0.02))
    sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (across, along) in zip(panel.letters, places, sides, strict=False):
        axes.text(x, y, letter, ha=across, va=along, **{**style, "color": _FAINT})


def _draw_scale_bar(axes: Axes, width_mm: float, unit: str) -> None:
    """A bar of known length; it holds for all panels of the row."""
    fitting = [length for length in _SCALE_BARS_MM if length <= width_mm / 3]
    length = fitting[-1] if fitting else _SCALE_BARS_MM[0]
    left, right = 0.03, 0.03 + length / width_mm
    style = _small_text(axes)
    bar = Line2D(
        [left, right], [0.035, 0.035], transform=axes.transAxes, color=_INK, linewidth=2.2,
        solid_capstyle="butt", path_effects=style["path_effects"],
    )  # fmt: skip
    axes.add_line(bar)
    axes.text((left + right) / 2, 0.05, f"{length} {unit}", ha="center", va="bottom", **style)


def _small_text(axes: Axes) -> dict[str, Any]:
    """Small light letters with a black rim, to be read on any tissue."""
    rim = [patheffects.withStroke(linewidth=2, foreground="black")]
    return {"transform": axes.transAxes, "color": _INK, "size": 8, "path_effects": rim}


def _legend_handles(cases: Sequence[_Case], names: tuple[str, ...], filled: str) -> list[Any]:
    """An entry for each class that is in one of the slices, and what areas and lines mean."""
    drawn = {
        number
        for case in cases
        for panel in case.panels
        for number, pair in enumerate(panel.masks)
        if any(mask.any() for mask in pair)
    }
    handles: list[Any] = [
        Patch(facecolor=COLORS[number % len(COLORS)], label=names[number])
        for number in sorted(drawn)
    ]
    handles.append(Patch(facecolor="#FFFFFF70", label=f"filled: {filled}"))
    if any(case.dices for case in cases):
        handles.append(Line2D([], [], color="white", linewidth=1.5, label="line: reference"))
    return handles


def _legend_columns(handles: Sequence[Any], width: float) -> int:
    """Entries that fit beside each other, by the longest one."""
    longest = max(len(handle.get_label()) for handle in handles)
    return min(len(handles), max(1, int(width / (0.55 + _INCH_A_LETTER * 9 * longest))))
