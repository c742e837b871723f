"""What the masks of pictures mean: ids, gray levels or colors, clean or blurred by compression.

All masks of a data set are looked at together, because one alone does not tell: a mask without any
cell is as black as one of an empty palette. What is decided holds for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.dataset_conversion.blurred_masks import (
    CLEAN_SHARE,
    NOISE,
    GrayCounts,
    around,
    listed,
)
from graphnn_unet.dataset_conversion.volumes import whole_labels
from graphnn_unet.errors import BadFileError, InputError
from graphnn_unet.images.flat_picture import FLAT_SPACING, is_gray
from graphnn_unet.images.gray_values import are_gray_values
from graphnn_unet.images.pictures import Picture, decode_picture
from graphnn_unet.images.volume import Volume
from graphnn_unet.progress import track
from graphnn_unet.storage.processes import default_workers, run_jobs

MAX_COLORS = 64
"""More colors than this in clean masks come from smooth edges, not from classes."""

_FEW_VALUES = 8
"""Masks without loss and with no more values than these are never taken for blurred ones."""

_NEARLY_GRAY = 12
_LOSSY = (".jpg", ".jpeg")
_SMALL_BYTES = 20 * 2**20
BLACK, WHITE = "#000000", "#ffffff"


@dataclass(frozen=True)
class MaskContent:
    """What one mask holds.

    Attributes:
        values: Gray value, or color ``#rrggbb``, to number of pixels.
        is_color: Whether the keys are colors.
        palette: Color ``#rrggbb`` of each value, where the values are the numbers of a palette.
        is_lossy: Whether the file was compressed with loss.
        gray: Of masks of numbers.
        is_image: Whether it looks like an image: ``are_gray_values``, and mostly without areas.
    """

    values: Mapping[int | str, int]
    is_color: bool
    palette: Mapping[int, str] = field(default_factory=dict)
    is_lossy: bool = False
    gray: GrayCounts = field(default_factory=GrayCounts)
    is_image: bool = False

    def by_color(self) -> MaskContent:
        """The same with the colors of the palette in place of its numbers."""
        if not self.palette:
            return self
        counts = Counter[int | str]()
        for value, n in self.values.items():
            counts[self.palette[int(value)]] += n
        return MaskContent(counts, is_color=True)


@dataclass(frozen=True)
class MaskMeaning:
    """How pixels of masks become label values.

    Attributes:
        levels: Gray levels to which each pixel is brought; empty keeps the values.
        colors: Color to id, for colored masks; the background among them.
        names: Id to name, for colored masks.
        snap: Bring other colors to the nearest one of the table.
        notes: What was decided, for the user.
        doubt: What, why and remedy of an error to raise unless the masks are pictures, given in
            place of masks, which is told with the pictures.
    """

    levels: tuple[int, ...] = ()
    colors: Mapping[str, int] | None = None
    names: Mapping[int, str] | None = None
    snap: bool = False
    notes: tuple[str, ...] = ()
    doubt: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Mask:
    """A mask that is read when it is its turn.

    Attributes:
        path: The file.
        meaning: How its pixels become label values.
    """

    path: Path
    meaning: MaskMeaning

    def __call__(self) -> Volume:
        """Label values, as ``read_mask``."""
        return read_mask(self.path, self.meaning)


def read_mask(path: Path, meaning: MaskMeaning) -> Volume:
    """Label values of one mask, as a flat volume ``(1, y, x)``.

    Raises:
        BadFileError: It is damaged, or its pixels lie at no level or color of the table.
    """
    picture = _opaque(decode_picture(path, indexed=meaning.colors is None))
    if meaning.colors is not None:
        labels = _of_colors(picture.array, meaning, path.name)
    else:
        labels = _gray_of(picture.array)
        if meaning.levels:
            labels, _ = whole_labels(labels, f"mask {path.name}", "pixels")
            labels = _nearest_level(labels, meaning.levels, path.name)
    return Volume(labels[np.newaxis], FLAT_SPACING, sha256=picture.sha256)


def masks_meaning(paths: Sequence[Path], names: Mapping[int | str, str]) -> MaskMeaning:
    """Look at all masks and decide what their values mean.

    Args:
        paths: All masks.
        names: Names of gray values (``128``) or colors (``#ff0000``) from the user.

    Raises:
        InputError: They are blurred and there is no table to clean them by, they have smooth edges
            of many colors, or none of their colors is the background.
    """
    contents = _look_at(paths)
    if not contents:
        return MaskMeaning()
    named_colors = {name for name in names if isinstance(name, str)}
    if any(content.is_color for content in contents) or named_colors:
        return _colored(contents, names)
    named = [value for value in names if isinstance(value, int)]
    doubt = _doubt_of_palettes(contents)
    if doubt and not named:
        return _colored_in_doubt(contents, doubt)
    meaning = _gray(contents, named)
    if doubt:
        note = f"{doubt}: --label-names names numbers, so numbers count and not colors"
        meaning = replace(meaning, notes=(note, *meaning.notes))
    return meaning


def _colored_in_doubt(contents: Sequence[MaskContent], doubt: str) -> MaskMeaning:
    """Meaning of masks with palettes by their colors, and why.

    Raises:
        InputError: Colors are no clearer than the numbers: there are more of them, so that some
            class has two, or there are gray masks, or no color is the background.
    """
    numbers = {value for content in contents for value in content.palette}
    colors = {color for content in contents for color in content.palette.values()}
    gray = {v for content in contents if not content.palette for v in content.values} - {0}
    why, meaning = "", None
    if gray:
        why = f"other masks have no palette and the values {listed(gray)}"
    elif len(colors) > len(numbers):
        why = f"they show {len(numbers)} numbers in {len(colors)} colors ({listed(colors)})"
    else:
        try:
            meaning = _colored(contents, {})
        except InputError as error:
            why = f"{error.what}: {error.why}"
    if meaning is None:
        raise InputError(
            doubt,
            why,
            "Where numbers are meant, name them: --label-names 1=nucleus,2=cytoplasm. Where colors "
            "are, name these (several may have one name): "
            "--label-names '#ff0000=nucleus,#fe0000=nucleus,#rrggbb=background'",
        )
    note = f"{doubt}: masks with a palette were read by their colors"
    return replace(meaning, notes=(note, *meaning.notes))


def _doubt_of_palettes(contents: Sequence[MaskContent]) -> str:
    """Why the numbers of palettes may be no classes; empty where they are, or there is no palette.

    Programs that reduce the colors of a picture number them anew in each file; others show the
    same numbers in colors of their own.
    """
    colors: dict[int, set[str]] = {}
    for content in contents:
        for value, color in content.palette.items():
            colors.setdefault(value, set()).add(color)
    several = [value for value, shown in colors.items() if len(shown) > 1]
    if several:
        first, second = sorted(colors[min(several)])[:2]
        shown = f"{min(several)} is {first} in one, {second} in another"
        return f"the palettes of the masks differ ({shown})"
    if not colors.get(0, set()) <= {BLACK, WHITE}:
        return f"the palettes of the masks show 0, the background, in {next(iter(colors[0]))}"
    return ""


def _look_at(paths: Sequence[Path]) -> list[MaskContent]:
    """What is in the masks that can be read; the others are told with their cases."""
    outcomes = run_jobs(mask_content, paths, n_workers=workers_for_files(paths))
    looked_at = track(outcomes, len(paths), "look at masks")
    return [outcome.value for outcome in looked_at if outcome.ok]


def workers_for_files(paths: Sequence[Path]) -> int:
    """Worker processes to read files, 0 where they are small."""
    n_bytes = sum(path.stat().st_size for path in paths if path.is_file())
    return default_workers(len(paths)) if n_bytes > _SMALL_BYTES else 0


def mask_content(path: Path) -> MaskContent:
    """Values or colors of one mask.

    Raises:
        BadFileError: It cannot be read, or holds other than whole numbers.
    """
    is_lossy = path.name.lower().endswith(_LOSSY)
    indices = _opaque(decode_picture(path, indexed=True))
    shown = _opaque(decode_picture(path)).array
    array, _ = whole_labels(indices.array, f"mask {path.name}", "pixels")
    spread = int(np.ptp(array.astype(int), axis=0).max())
    if spread > (_NEARLY_GRAY if is_lossy else 0):
        values, counts = np.unique(_numbers_of(array), return_counts=True)
        kinds: dict[int | str, int] = {
            _hex(value): int(n) for value, n in zip(values, counts, strict=True)
        }
        return MaskContent(kinds, True, is_lossy=is_lossy)
    gray = _gray_of(array)
    counts = GrayCounts.of(gray)
    n_values, n_in_areas = len(counts.values), sum(counts.area.values())
    is_image = n_values > 2 and are_gray_values(gray, n_values) and 2 * n_in_areas < gray.size
    return MaskContent(
        {**counts.values}, False, _palette_of(array, shown), is_lossy, counts, is_image
    )


def _palette_of(indices: NDArray[Any], shown: NDArray[Any]) -> dict[int, str]:
    """Color of each number of a picture, where it is shown in others than its numbers."""
    if len(indices) != 1 or shown.dtype != np.uint8 or (indices == shown).all():
        return {}
    values, first = np.unique(indices[0], return_index=True)
    shown = np.broadcast_to(shown, (3, *shown.shape[1:]))
    colors = _numbers_of(shown).ravel()[first]
    return {int(value): _hex(color) for value, color in zip(values, colors, strict=True)}


def _gray(contents: Sequence[MaskContent], named: Sequence[int]) -> MaskMeaning:
    """Meaning of masks of numbers."""
    indexed = {v for content in contents if content.palette for v in content.values} - {0}
    plain = {v for content in contents if not content.palette for v in content.values} - {0}
    if indexed and plain and not (indexed <= plain or plain <= indexed):
        raise InputError(
            "some masks have a palette and others gray values, and their values differ",
            f"{listed(indexed)} against {listed(plain)}",
            "Save all masks in one way",
        )
    total = GrayCounts.total([content.gray for content in contents])
    is_lossy = _is_lossy(contents)
    if len(total.values) <= (2 if is_lossy else _FEW_VALUES):
        return MaskMeaning()
    levels = (0, *sorted(value for value in named if value)) if named else total.two_levels()
    if not is_lossy and (indexed or not total.is_blurred(levels)):
        return MaskMeaning()  # the numbers of a palette have no edges between them
    if doubt := total.doubt_of(levels) or ("" if named else total.doubt_of_two(levels)):
        cause = "they were compressed with loss (JPEG)" if is_lossy else "most are those of edges"
        error = (
            f"the masks have {len(total.values)} gray values",
            f"{cause}, and it is not clear which are labels: {doubt}",
            "Save them as PNG without smoothing, or name all true values: "
            "--label-names 128=cytoplasm,255=nucleus",
        )
        if not named and not is_lossy and any(content.is_image for content in contents):
            return MaskMeaning(doubt=error)
        raise InputError(*error)
    n_moved = sum(n for value, n in total.values.items() if value not in levels)
    share = n_moved / total.n_pixels
    note = (
        f"the masks have {len(total.values)} values, from compression or smooth edges: each pixel "
        f"({share:.2%} of them) was brought to the nearest of {listed(levels)}"
    )
    return MaskMeaning(levels=levels, notes=(note,))


def _colored(contents: Sequence[MaskContent], names: Mapping[int | str, str]) -> MaskMeaning:
    """Meaning of masks of colors."""
    if wrong := [value for value in names if isinstance(value, int)]:
        raise InputError(
            f"--label-names names the value {wrong[0]}",
            "the masks are colored",
            "Name colors: --label-names '#ff0000=nucleus,#00ff00=cytoplasm'",
        )
    counts = Counter[str]()
    for content in (content.by_color() for content in contents):
        for value, n in content.values.items():
            counts[value if isinstance(value, str) else _hex(value * 0x10101)] += n
    given = {str(color): name for color, name in names.items()}
    if not given and (_is_lossy(contents) or len(counts) > MAX_COLORS):
        why = "compressed with loss (JPEG)" if _is_lossy(contents) else "drawn with smooth edges"
        raise InputError(
            f"the masks have {len(counts)} colors", f"they were {why}",
            "Name the true colors: --label-names '#ff0000=nucleus,#00ff00=cytoplasm'",
        )  # fmt: skip
    snap = _is_lossy(contents) or len(counts) > MAX_COLORS
    present = {*given, *([] if snap else counts)}
    background = _background(given, {*present, *counts})
    foreground = [color for color in given if color not in background]
    foreground += sorted(present - {*foreground, *background})
    ids: dict[str, int] = {}
    colors = dict.fromkeys(background, 0)
    for color in foreground:
        name = given.get(color, f"color_{color[1:]}")
        colors[color] = ids.setdefault(name, len(ids) + 1)
    table = ", ".join(f"{color} is {number}" for color, number in colors.items())
    notes = [f"colors of the masks became label ids: {table}"]
    if snap:
        notes.append(f"other colors ({len(counts)} in all) were brought to the nearest of these")
    return MaskMeaning(
        colors=colors, names={number: name for name, number in ids.items()}, snap=snap,
        notes=tuple(notes),
    )  # fmt: skip


def _background(given: Mapping[str, str], present: set[str]) -> list[str]:
    """Colors of the background: those that are called so, black, or white."""
    if called := [color for color, name in given.items() if name == "background"]:
        return called
    for color in (BLACK, WHITE):
        if color in present and color not in given:
            return [color]
    raise InputError(
        "no color of the masks is the background",
        f"they have {listed(sorted(present))}",
        "Name it: --label-names '#rrggbb=background,...'",
    )


def _of_colors(array: NDArray[Any], meaning: MaskMeaning, name: str) -> NDArray[np.uint8]:
    array = np.repeat(array, 3, axis=0) if len(array) == 1 else array
    table = meaning.colors or {}
    numbers = _numbers_of(array)
    labels = np.zeros(numbers.shape, np.uint8)
    known = np.zeros(numbers.shape, bool)
    for color, number in table.items():
        here = numbers == int(color[1:], 16)
        labels[here] = number
        known |= here
    if known.all():
        return labels
    if not meaning.snap:
        example = _hex(int(numbers[~known][0]))
        raise BadFileError("I23", f"{name} has the color {example}, which no label has")
    palette = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in table])
    ids = np.array(list(table.values()), np.uint8)
    others = np.moveaxis(array, 0, -1)[~known].astype(int)
    distance = np.stack([np.abs(others - color).max(axis=1) for color in palette])
    labels[~known] = ids[distance.argmin(axis=0)]
    _require_mostly_clean(1 - (distance.min(axis=0) > 2 * NOISE).sum() / known.size, name)
    return labels


def _nearest_level(values: NDArray[Any], levels: Sequence[int], name: str) -> NDArray[Any]:
    """Each pixel at its nearest level; it must be near to one or on the edge of one."""
    distance = np.stack([np.abs(values.astype(int) - level) for level in levels])
    lowest, highest = around(values)
    is_clean = (distance.min(axis=0) <= NOISE) | ((lowest < values) & (values < highest))
    _require_mostly_clean(float(is_clean.mean()), name)
    kind = np.min_scalar_type(max(levels))
    return np.asarray(levels, kind)[distance.argmin(axis=0)]


def _require_mostly_clean(share: float, name: str) -> None:
    if share < CLEAN_SHARE:
        what = f"{1 - share:.0%} of the pixels of mask {name} lie at none of the label values"
        raise BadFileError("I23", what, "Name all values with --label-names, or fix the mask")


def _opaque(picture: Picture) -> Picture:
    """Transparent pixels are background: a viewer shows nothing there."""
    if picture.alpha is None or picture.alpha.all():
        return picture
    return replace(picture, array=np.where(picture.alpha == 0, 0, picture.array))


def _gray_of(array: NDArray[Any]) -> NDArray[Any]:
    return array[0] if is_gray(array) else np.median(array, axis=0).astype(array.dtype)


def _numbers_of(array: NDArray[Any]) -> NDArray[np.uint32]:
    """``0xrrggbb`` of each pixel of ``(3, y, x)``; colors of 16 bits that 8 can say are these."""
    if array.dtype == np.uint16 and not (array % 257).any():
        array = (array // 257).astype(np.uint8)
    if array.dtype != np.uint8:
        raise BadFileError("I14", "its colors have more than 8 bits", "Save masks with 8 bits")
    red, green, blue = array.astype(np.uint32)
    return (red << 16) | (green << 8) | blue


def _hex(number: int) -> str:
    return f"#{int(number):06x}"


def _is_lossy(contents: Sequence[MaskContent]) -> bool:
    return any(content.is_lossy for content in contents)
