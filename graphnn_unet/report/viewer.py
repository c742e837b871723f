"""A viewer of volumes inside a page: NiiVue, and the layers of a few cases, packed by gzip.

NiiVue's bundle lies in ``niivue/`` with its licenses and the script that remakes it. Volumes are
thinned to every second (third ...) voxel where the page would grow beyond its limit.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from graphnn_unet.images.volume import Volume
from graphnn_unet.metrics.protocols import LabelIds
from graphnn_unet.report.overlay import COLORS
from graphnn_unet.report.page import asset, escaped, json_block
from graphnn_unet.report.shown_cases import ShownCase

KINDS = ("image", "label", "prediction", "difference", "uncertainty")
"""Layers, from the lowest; keys 1 to 5 switch them."""

MAX_THINNING = 8
"""Every eighth voxel shows no more than that a scan is there."""

_LEVELS = 4096
_RGB = np.dtype([("R", np.uint8), ("G", np.uint8), ("B", np.uint8)])
_LEVEL = 6  # of gzip: 9 takes four times as long for 1 %
_DIFFERENCES = (("missed", "#FFB000"), ("invented", "#DC267F"), ("another class", "#785EF0"))

Layer = tuple[bytes, dict[str, Any]]
"""A packed volume and what the page says about it."""
Color = list[Any]
"""Red, green, blue, name."""


@dataclass(frozen=True)
class Viewer:
    """The part of a page that shows volumes.

    Attributes:
        html: HTML of the part; a sentence where nothing could be shown.
        script: Its script.
        n_shown: Cases in it.
    """

    html: str
    script: str = ""
    n_shown: int = 0


def viewer(cases: Sequence[ShownCase], classes: Mapping[str, LabelIds], n_bytes: int) -> Viewer:
    """The viewer with as many of the cases as fit.

    Args:
        cases: The most important first.
        classes: Class or region to its id or ids.
        n_bytes: Room in the page for bundle and volumes together.
    """
    if not cases:
        return Viewer("")
    names = id_names(classes)
    fixed = bundle()
    left = n_bytes - len(fixed) - len(asset("viewer.js")) - 8000
    blocks: list[str] = []
    entries: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        share = left // (len(cases) - number)
        packed = _fitting(case, names, max(share, 0))
        if packed is None:
            continue
        layers, thinning = packed
        items: dict[str, dict[str, Any]] = {}
        for kind, (content, facts) in layers.items():
            name = f"volume-{number}-{kind}"
            blocks.append(f"<script type='application/gzip' id='{name}'>{_text(content)}</script>")
            left -= len(blocks[-1])
            items[kind] = {"id": name, **facts}
        entries.append(_entry(case, items, thinning))
    if not entries:
        return Viewer(
            "<p class='note'>The volumes do not fit into the page: give more --megabytes.</p>"
        )
    data = {"cases": entries, **_layers(entries, names)}
    left_out = len(cases) - len(entries)
    html = _frame(left_out) + json_block("viewer-data", data) + "".join(blocks) + fixed
    return Viewer(html, asset("viewer.js"), len(entries))


@cache
def bundle() -> str:
    """NiiVue as a block of the page."""
    code = asset("niivue/niivue.min.js").encode()
    packed = _text(gzip.compress(code, 9, mtime=0))
    return f"<script type='application/gzip' id='niivue-bundle'>{packed}</script>"


def id_names(classes: Mapping[str, LabelIds]) -> dict[int, str]:
    """Id to the names of its class and regions.

    Example:
        >>> id_names({"whole": [1, 2], "core": 2})
        {1: 'whole', 2: 'whole + core'}
    """
    names: dict[int, list[str]] = {}
    for name, ids in classes.items():
        for number in [ids] if isinstance(ids, int) else ids:
            names.setdefault(number, []).append(name)
    return {number: " + ".join(names[number]) for number in sorted(names)}


def _entry(case: ShownCase, items: dict[str, dict[str, Any]], thinning: int) -> dict[str, Any]:
    flat = case.image.array.ndim == 2
    size = " × ".join(str(n) for n in case.image.array.shape[::-1])
    spacing = " × ".join(f"{step:.3g}" for step in case.image.spacing[::-1])
    note = f"{size} pixels" if flat else f"{size} voxels of {spacing} mm"
    if thinning > 1:
        note += f"; shown thinned, 1 of {thinning} along the axes that are fine enough"
    if "uncertainty" not in items and case.prediction is not None:
        note += "; no uncertainty was saved (gnnunet_predict --uncertainty)"
    center = items["image"].pop("center")
    return {"name": case.title, "note": note, "flat": flat, "center": center, "items": items}


def _layers(entries: Sequence[dict[str, Any]], names: Mapping[int, str]) -> dict[str, Any]:
    """What the script knows about layers, and the legend."""
    there = {kind for entry in entries for kind in entry["items"]}
    classes = class_colors(names)
    differences = [[0, 0, 0, "none"], *(_color(color, name) for name, color in _DIFFERENCES)]
    is_on = {"image", "prediction" if "prediction" in there else "label"}
    layers: list[dict[str, Any]] = []
    for kind in KINDS:
        layer: dict[str, Any] = {"kind": kind, "title": kind, "shown": kind in is_on}
        layer["opacity"] = {"image": 1.0, "difference": 0.8}.get(kind, 0.5)
        if kind in ("label", "prediction"):
            layer["colors"] = classes
        if kind == "difference":
            layer["colors"] = differences
        layers.append(layer)
    legend = [["", classes[:-1]]] if there & {"label", "prediction"} else []
    if "difference" in there:
        legend.append(["difference", differences])
    return {"layers": layers, "legend": legend}


def class_colors(names: Mapping[int, str]) -> list[Color]:
    """Colors of the classes as the viewer counts them, background first."""
    shown = [_color(COLORS[n % len(COLORS)], name) for n, name in enumerate(names.values())]
    return [[0, 0, 0, "background"], *shown, [255, 255, 255, "not in dataset.json"]]


def _color(color: str, name: str) -> Color:
    return [*(round(255 * part) for part in to_rgb(color)), name]


def _frame(left_out: int) -> str:
    more = f" {left_out} more did not fit: give more --megabytes." if left_out else ""
    return (
        "<p class='screen'>Click into the picture, then scroll through slices with the wheel or "
        "<kbd>↑</kbd> <kbd>↓</kbd>; drag with the right button (or with <kbd>Shift</kbd>) to set "
        f"the window; double click or <kbd>R</kbd> sets it back.{escaped(more)}</p>"
        "<div id='viewer'><div class='tools'>"
        "<label>Case <select aria-label='case'></select></label>"
        "<span class='note'><kbd>N</kbd> next, <kbd>P</kbd> previous</span></div>"
        "<div class='tools layers'></div><div class='tools planes'></div>"
        "<div class='stage'><canvas tabindex='0' aria-label='slices of the case'></canvas></div>"
        "<p class='place' aria-live='polite'></p><div class='legend'></div>"
        "<p class='note case-note'></p></div>"
    )


def _fitting(
    case: ShownCase, names: Mapping[int, str], n_bytes: int
) -> tuple[dict[str, Layer], int] | None:
    """The layers of a case in at most so many bytes of the page, and how thinned they are."""
    for thinning in range(1, MAX_THINNING + 1):
        if _least_bytes(case, thinning) > n_bytes:
            continue
        layers = _packed(case, names, thinning)
        if (
            sum(len(content) for content, _ in layers.values()) * 4 / 3 + 200 * len(layers)
            < n_bytes
        ):
            return layers, thinning
    return None


def _least_bytes(case: ShownCase, thinning: int) -> float:
    """An image of noise at 12 bits does not shrink; one of large even parts to a tenth."""
    steps = _steps(case.image, thinning)
    return 0.1 * case.image.array.size / np.prod(steps)


def _steps(image: Volume, thinning: int) -> tuple[int, ...]:
    """Step along each axis: thick slices stay, the fine axes are thinned."""
    finest = min(image.spacing)
    return tuple(
        min(max(1, round(thinning * finest / step)), max(1, n // 8))
        for step, n in zip(image.spacing, image.array.shape, strict=True)
    )


def _packed(case: ShownCase, names: Mapping[int, str], thinning: int) -> dict[str, Layer]:
    image = case.image
    cut = tuple(slice(None, None, step) for step in _steps(image, thinning))
    facts: dict[str, Any] = {"center": _center(case, cut)}
    if case.color is not None:
        rgb = np.ascontiguousarray(np.moveaxis(case.color[(slice(None), *cut)], 0, -1))
        content = _nifti(rgb.view(_RGB)[..., 0], image, cut)
    else:
        gray = _gray(image.array[cut])
        facts["window"] = gray.window
        content = _nifti(gray.values, image, cut, slope=gray.step, intercept=gray.low)
    layers: dict[str, Layer] = {"image": (content, facts)}
    maps: dict[str, NDArray[Any]] = {}
    for kind, volume in (("label", case.label), ("prediction", case.prediction)):
        if volume is not None:
            maps[kind] = _numbered(volume.array[cut], names)
            layers[kind] = (_nifti(maps[kind], image, cut), {})
    if len(maps) == 2:
        layers["difference"] = (_nifti(_difference(**maps), image, cut), {})
    if case.uncertainty is not None:
        share = np.clip(np.nan_to_num(case.uncertainty.array[cut]), 0, 1)
        rounded = np.rint(share * 255).astype(np.uint8)
        layers["uncertainty"] = (_nifti(rounded, image, cut, slope=1 / 255), {})
    return layers


def _center(case: ShownCase, cut: tuple[slice, ...]) -> list[int]:
    """Where it opens (x, y, z): the slice with most foreground, in its middle."""
    shape = case.image.array[cut].shape
    middle = [n // 2 for n in shape]
    volume = case.label or case.prediction
    if volume is not None and (mask := volume.array[cut] > 0).any():
        if mask.ndim == 3:
            middle[0] = int(mask.sum(axis=(1, 2)).argmax())
            mask = mask[middle[0]]
        middle[-2:] = [int(np.median(where)) for where in np.nonzero(mask)]
    return [*middle[::-1], 0][:3]


@dataclass(frozen=True)
class _Gray:
    """Intensities as 16 bits: ``values * step + low``; ``window`` is what is seen at first."""

    values: NDArray[np.int16]
    window: tuple[float, float]
    step: float = 1.0
    low: float = 0.0


def _gray(array: NDArray[Any]) -> _Gray:
    """Whole numbers as they are, others in 4096 steps, which pack to half."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array.ravel()
    if not finite.size:
        return _Gray(np.zeros(array.shape, np.int16), (0.0, 1.0))
    low, high = float(finite.min()), float(finite.max())
    dark, bright = (float(end) for end in np.percentile(finite, (0.5, 99.5)))
    if not bright > dark:
        dark, bright = low, max(high, low + 1)
    is_whole = array.dtype.kind in "iub" or bool((finite == np.rint(finite)).all())
    if is_whole and low >= -(2**15) and high < 2**15:
        whole = np.nan_to_num(array, nan=low, posinf=high, neginf=low).astype(np.int16)
        return _Gray(whole, (dark, bright))
    step = max(high - low, 1e-30) / (_LEVELS - 1)
    clean = np.nan_to_num(array.astype(np.float64), nan=low, posinf=high, neginf=low)
    return _Gray(np.rint((clean - low) / step).astype(np.int16), (dark, bright), step, low)


def _numbered(array: NDArray[Any], names: Mapping[int, str]) -> NDArray[Any]:
    """Ids as the viewer counts them: 1 for the first class; all unknown ids share the last."""
    unknown = len(names) + 1
    known = np.array([0, *names], np.int64)
    place = np.clip(np.searchsorted(known, array), 0, len(known) - 1)
    numbers = np.where(known[place] == array, place, unknown)
    return numbers.astype(np.min_scalar_type(unknown))


def _difference(label: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.uint8]:
    """1 missed, 2 invented, 3 another class."""
    difference = np.zeros(label.shape, np.uint8)
    difference[(label > 0) & (prediction != label)] = 3
    difference[(label > 0) & (prediction == 0)] = 1
    difference[(label == 0) & (prediction > 0)] = 2
    return difference


def _nifti(
    array: NDArray[Any],
    image: Volume,
    cut: Sequence[slice],
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> bytes:
    """A NIfTI file, packed, of every so many voxels of an image's grid."""
    flat = array.ndim == 2
    axes, spacing = np.eye(3), np.ones(3)
    origin = np.zeros(3)
    n = array.ndim
    axes[:n, :n] = image.grid.axes
    spacing[:n] = [step * part.step for step, part in zip(image.spacing, cut, strict=True)][::-1]
    origin[:n] = image.origin
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * spacing, origin
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape((*array.shape[::-1], 1) if flat else array.shape[::-1])
    header.set_sform(np.diag([-1, -1, 1, 1]) @ affine, code=1)  # ITK's x and y run the other way
    header.set_qform(np.diag([-1, -1, 1, 1]) @ affine, code=1)
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, intercept, 352
    voxels = np.ascontiguousarray(array).tobytes()
    return gzip.compress(header.binaryblock + bytes(4) + voxels, _LEVEL, mtime=0)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
