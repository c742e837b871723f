"""Cases that a report shows: their image, label, prediction and uncertainty, on one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import GraphnnError, InputError
from graphnn_unet.images.find import (
    PICTURES,
    VOLUMES,
    existing,
    image_files,
    split_channel,
    split_ending,
)
from graphnn_unet.images.flat_picture import is_picture
from graphnn_unet.images.grid import grid_mismatch
from graphnn_unet.images.label_ids import described_ids, with_ids
from graphnn_unet.images.pictures import read_picture
from graphnn_unet.images.read import read_label_map, read_volume
from graphnn_unet.images.volume import Volume
from graphnn_unet.metrics.protocols import LabelIds
from graphnn_unet.report.overlay import FLAT_PLACE, OverlayRow, save_contact_sheet

UNCERTAINTY = "_uncertainty"


@dataclass(frozen=True)
class CasePaths:
    """Files of a case; those that there are.

    Attributes:
        case: Case id.
        image: Its first channel.
        label: What people drew.
        prediction: What a model says.
        uncertainty: Entropy of the prediction, 0 to 1.
        word: Why it is shown: ``worst``, ``median`` ...
    """

    case: str
    image: Path | None = None
    label: Path | None = None
    prediction: Path | None = None
    uncertainty: Path | None = None
    word: str = ""


@dataclass(frozen=True)
class ShownCase:
    """A case in memory; label maps carry the user's ids.

    Attributes:
        case: Case id.
        image: ``(z, y, x)``, or ``(y, x)`` of a picture in gray.
        color: ``(3, y, x)`` of a picture in color.
        label: On the image's grid.
        prediction: On the image's grid.
        uncertainty: On the image's grid, 0 to 1.
        word: As of :class:`CasePaths`.
    """

    case: str
    image: Volume
    color: NDArray[np.uint8] | None = None
    label: Volume | None = None
    prediction: Volume | None = None
    uncertainty: Volume | None = None
    word: str = ""

    @property
    def title(self) -> str:
        """Its id, after the word."""
        return f"{self.word}: {self.case}" if self.word else self.case


@dataclass
class ShownCases:
    """The cases that could be read, and a sentence about each that could not."""

    cases: list[ShownCase] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_shown(paths: Sequence[CasePaths]) -> ShownCases:
    """Read the files of a few cases; a case that cannot be read is told, not raised."""
    read = ShownCases()
    for files in paths:
        try:
            read.cases.append(_read_case(files))
        except GraphnnError as error:
            read.faults.append(f"{files.case} is not shown: {error.lines[0]}")
    return read


def _read_case(files: CasePaths) -> ShownCase:
    if files.image is None:
        raise InputError("its image was not there", "", "Give the folder of images with --images")
    color = None
    if is_picture(files.image):
        channels = read_picture(files.image)
        if channels.shape[0] == 3 and channels.dtype == np.uint8:
            color = channels
        image = Volume(channels.astype(np.float32).mean(axis=0), *FLAT_PLACE)
    else:
        image = read_volume(files.image, n_dims=None, form="both")
    maps: dict[str, Volume | None] = {}
    for kind, path in (("label", files.label), ("prediction", files.prediction)):
        maps[kind] = None if path is None else _on_grid(user_labels(path), path, image, files.image)
    uncertainty = None
    if files.uncertainty is not None:
        uncertainty = _on_grid(
            _read_uncertainty(files.uncertainty), files.uncertainty, image, files.image
        )
    return ShownCase(files.case, image, color, **maps, uncertainty=uncertainty, word=files.word)


def _read_uncertainty(path: Path) -> Volume:
    if not is_picture(path):
        return read_volume(path, n_dims=None, form="both")
    array = read_picture(path)[0]
    largest = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    return Volume(array.astype(np.float32) / largest, *FLAT_PLACE)


def user_labels(path: Path) -> Volume:
    """A label map with the user's ids, whatever folder of this program it lies in."""
    volume = read_label_map(path)
    return replace(volume, array=with_ids(volume.array, described_ids(path.parent)))


def _on_grid(volume: Volume, path: Path, image: Volume, image_path: Path) -> Volume:
    if why := grid_mismatch(path.name, volume.grid, image_path.name, image.grid):
        raise InputError(why, "", "Give the images that these label maps belong to")
    return volume


def files_by_case(folder: Path, *, channels: bool = False) -> dict[str, Path]:
    """Case to its file in a folder; the first channel of images.

    Args:
        folder: May be missing: then there are none.
        channels: Names end in the number of a channel (``CASE_0000``), where they do. A file is
            found under its whole name, too: its case may end in four digits.
    """
    if not folder.is_dir():
        return {}
    named: dict[str, Path] = {}
    whole: dict[str, Path] = {}
    for path in image_files(folder, (*VOLUMES, *PICTURES)).paths:
        stem = split_ending(path)[0]
        if channels:
            whole.setdefault(stem, path)
            stem, number = split_channel(stem)
            if number not in (None, 0):
                continue
        elif stem.endswith(UNCERTAINTY):
            continue
        named.setdefault(stem, path)
    return whole | named


def uncertainty_of(prediction: Path) -> Path | None:
    """The map of uncertainty beside a prediction."""
    stem, ending = split_ending(prediction)
    path = existing(prediction.with_name(f"{stem}{UNCERTAINTY}{ending}"))
    return path if path.is_file() else None


def overlay_png(cases: Sequence[ShownCase], classes: Mapping[str, LabelIds]) -> bytes:
    """The sheet of a few cases: areas are the prediction (else the label), lines the label."""
    rows = []
    for case in cases:
        filled = case.prediction or case.label
        if filled is None:
            filled = replace(case.image, array=np.zeros(case.image.array.shape, np.uint8))
        line = case.label if case.prediction is not None else None
        rows.append(OverlayRow(case.image, filled, line, case.title))
    named = "prediction" if any(case.prediction for case in cases) else "label"
    with TemporaryDirectory() as folder:
        target = Path(folder) / "overlay.png"
        save_contact_sheet(rows, target, classes, filled=named)
        return target.read_bytes()
