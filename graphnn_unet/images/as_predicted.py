"""Which label maps are still as ``gnnunet_predict`` wrote them, by the checksums that it left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from graphnn_unet.storage.safe_load import read_table

EDITING = "for_editing"
"""Folder beside predictions with files that viewers edit."""

AS_PREDICTED = "as_predicted.json"
"""File of that folder to its CRC-32 as it was written; goes with the folder where it is copied."""

SET_ASIDE = "set_aside"
"""Folder beside predictions for label maps of earlier runs: edited ones, and of failed cases."""

RECORD = "prediction.json"
PART_RECORDS = "prediction_part*.json"
NOTES = ".noted-*.json"
"""Notes about single label maps, until a record takes them up."""

WRITTEN = "written_crc32"
"""Key of records and notes: file to each CRC-32 with which it was written."""


def written_checksums(content: Mapping[str, Any]) -> dict[str, list[int]]:
    """File to checksums, of a record or note; empty for one of a former version."""
    return cast("dict[str, list[int]]", content.get(WRITTEN, {}))


def checksums_as_predicted(folder: Path) -> dict[str, list[int]]:
    """File of a folder to its checksums as it was predicted, as far as they are known.

    Args:
        folder: Of label maps, the one for editing inside it, or the one of those set aside.

    Raises:
        InputError: A record is damaged.
    """
    known: dict[str, list[int]] = {}
    for table in (folder / AS_PREDICTED, folder / EDITING / AS_PREDICTED):
        if table.is_file():  # former versions listed label maps there too
            content = read_table(table)
            known |= {name: [crc] for name, crc in content.items() if isinstance(crc, int)}
    told: dict[str, list[int]] = {}
    for record in _records(folder):
        for name, checksums in written_checksums(read_table(record)).items():
            told.setdefault(name, []).extend(checksums)
    return known | told


def _records(folder: Path) -> Iterator[Path]:
    """Records and notes that tell of the label maps of a folder."""
    if folder.parent.name == SET_ASIDE:  # a numbered folder in it
        folder = folder.parent
    place = folder.parent if folder.name == SET_ASIDE else folder
    for pattern in (RECORD, PART_RECORDS, NOTES):
        yield from sorted(place.glob(pattern))
