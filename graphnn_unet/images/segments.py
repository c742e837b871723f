"""The segments that 3D Slicer names in the header of a ``.seg.nrrd`` file.

Slicer numbers the segments of each file in the order in which they were drawn, so one value can
mean another structure in the next file: the name says what it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from graphnn_unet.errors import BadFileError
from graphnn_unet.images.find import file_ending

_HEADER_BYTES = 2**20
_FIELD = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer):=(.*)")


@dataclass(frozen=True)
class Segment:
    """One segment: its name, the value of its voxels, and the layer that holds them."""

    name: str
    value: int
    layer: int = 0


def segments_of(path: Path) -> tuple[Segment, ...]:
    """The named segments of a file, by value; none of a file without such names.

    Raises:
        BadFileError: Two segments of one layer have one value, or two have one name (but for
            capitals).
    """
    if file_ending(path) != ".nrrd":
        return ()
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if not head.startswith(b"NRRD"):
        return ()
    fields: dict[str, dict[str, str]] = {}
    for line in (
        re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("utf-8", "replace").splitlines()
    ):
        if match := _FIELD.fullmatch(line.strip()):
            fields.setdefault(match[1], {})[match[2]] = match[3].strip()
    segments = [
        Segment(f["Name"], int(f["LabelValue"]), int(f.get("Layer") or 0))
        for f in fields.values()
        if f.get("Name") and f.get("LabelValue", "").isdigit()
    ]
    _require_distinct(segments, path.name)
    return tuple(sorted(segments, key=lambda segment: (segment.layer, segment.value)))


def _require_distinct(segments: list[Segment], name: str) -> None:
    remedy = "Rename them in Slicer and save again"
    folded = [segment.name.casefold() for segment in segments]
    if doubled := [
        segment.name for segment in segments if folded.count(segment.name.casefold()) > 1
    ]:
        listed = " and ".join(repr(word) for word in doubled[:2])
        cause = f"{name} has segments that cannot be told apart by name: {listed}"
        raise BadFileError("I41", cause, remedy)
    places = [(segment.layer, segment.value) for segment in segments]
    if len(set(places)) < len(places):
        raise BadFileError("I41", f"{name} has two segments of one value", remedy)
