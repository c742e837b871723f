"""``prediction.json``: of which image, and by which model and options, each label map is.

Parts of a prediction run at the same time in one folder: each keeps ``prediction_partN.json``, and
the next whole run takes these up. Where several know a case, the latest counts.

What writes a label map, in a thread or another process, leaves a note about it at once. The record
takes it up when it hears of the case, or, after an interrupt or a kill, the next time. Both have
the checksums of label maps as they were written: a file that has none of them was edited since.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.errors import GraphnnError, MissingFileError, RefusedError
from graphnn_unet.images.as_predicted import (
    NOTES,
    PART_RECORDS,
    RECORD,
    SET_ASIDE,
    WRITTEN,
    written_checksums,
)
from graphnn_unet.images.find import safe_id, some
from graphnn_unet.prediction.label_tables import VOLUMES_CSV, write_volumes
from graphnn_unet.storage.atomic import Fingerprint, checksum, fingerprint, rename, write_json
from graphnn_unet.storage.failures import FAILURES
from graphnn_unet.storage.safe_load import read_json, read_table
from graphnn_unet.storage.schemas import Table, Text, faults_of, raise_faults

_PART_TABLES = ("volumes_part*.csv", "failures_part*.csv")
_IN_REPLACEMENT = "being replaced"
"""Stands for model and options while a label map is written."""

_REMEDY = "Remove it; --continue_prediction then predicts all cases again"
_WRITING_SHARE = 0.05
"""Share of the time that the record may take to write: it grows with the cases."""

Volumes = Mapping[str, tuple[int, float | None]]
"""Class to voxels and ml."""
Entry = dict[str, Any]
"""What is known of a label map; with its checksums where it comes from who wrote it."""
_Number = Annotated[int, Field(strict=True, ge=0)]


_Checksums = Annotated[dict[str, list[_Number]], Field(alias=WRITTEN, default_factory=dict)]


class _CaseRecord(Table):
    made_by: Text
    input: dict[str, _Number]
    volumes: dict[str, Annotated[list[_Number | float | None], Field(min_length=2, max_length=2)]]
    when: Text


class _Note(_CaseRecord):
    name: Text
    written: _Checksums


class _Record(Table):
    made_by: dict[str, dict[str, Any]] = Field({})
    cases: dict[str, _CaseRecord] = Field({})
    written: _Checksums


def weights_id(states: Sequence[Mapping[str, Tensor]]) -> str:
    """Hash of the weights of all folds; file names and logs do not count."""
    digest = hashlib.sha256()
    for state in states:
        for name in sorted(state):
            digest.update(name.encode())
            # as bytes: NumPy lacks some types of torch, as bfloat16
            flat = state[name].detach().cpu().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy().tobytes())
    return digest.hexdigest()[:16]


def recorded_models(folder: Path) -> tuple[str, list[str]] | None:
    """Data set, and names of the model folders, of the last call that wrote into a folder.

    Returns:
        ``None`` where no record is there, or none that names them.

    Raises:
        InputError: The record is damaged.
    """
    path = folder / RECORD
    content = _read(path) if path.is_file() else {}
    dataset, models = content.get("dataset"), content.get("model")
    if not (isinstance(dataset, str) and isinstance(models, str)):
        return None
    return dataset, models.split(", ")


def is_predicted(source: Path) -> bool:
    """Whether a file is, or a folder holds, label maps that a record beside them tells of."""
    path = (source if source.is_dir() else source.parent) / RECORD
    if not path.is_file():
        return False
    try:
        content = read_json(path)
    except GraphnnError:  # somebody else's file
        return False
    cases = content.get("cases") if isinstance(content, dict) else None
    if not isinstance(cases, dict):
        return False
    return source.is_dir() or any(source.name.startswith(f"{name}.") for name in cases)


def note_replacement(folder: Path, name: str, image: Fingerprint, endings: Sequence[str]) -> None:
    """Leave a note that nothing is known of a label map from now on.

    Args:
        folder: Output folder.
        name: Stem of the label map.
        image: Of which it will be.
        endings: Of the files that will be written.
    """
    # a new file that is there after a kill may have been edited since: none of its checksums is
    # known, unlike those of one that is replaced
    files = [f"{name}{end}" for end in endings]
    new: Entry = {WRITTEN: {file: [] for file in files if not (folder / file).exists()}}
    _write_note(folder, name, _entry(_IN_REPLACEMENT, image, {}) | new)


def note_case(
    folder: Path,
    name: str,
    made_by: str,
    image: Fingerprint,
    volumes: Volumes,
    endings: Sequence[str],
) -> Entry:
    """Leave a note of a label map that is whole on the disk.

    Args:
        folder: Output folder.
        name: Stem of the label map.
        made_by: As the record of this call says it.
        image: Of which it is.
        volumes: Of its classes.
        endings: Of the files that were written.

    Returns:
        What the note says, for the record.
    """
    written = {f"{name}{end}": [checksum(folder / f"{name}{end}")] for end in endings}
    entry = _entry(made_by, image, volumes) | {WRITTEN: written}
    _write_note(folder, name, entry)
    return entry


def _note(folder: Path, name: str) -> Path:
    # no name of a case is too long for it
    key = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return folder / NOTES.replace("*", key)


def _write_note(folder: Path, name: str, entry: Entry) -> None:
    write_json(_note(folder, name), {"name": name, **entry})


def _entry(made_by: str, image: Fingerprint, volumes: Volumes) -> Entry:
    when = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return {"made_by": made_by, "input": image, "volumes": volumes, "when": when}


def _read_notes(folder: Path) -> dict[str, Entry]:
    """Notes by the stem of the label map."""
    notes: dict[str, Entry] = {}
    for path in sorted(folder.glob(NOTES)):
        with suppress(MissingFileError):  # another part has taken it up
            name, entry = _read_note(path)
            notes[name] = entry
    return notes


def _read_note(path: Path) -> tuple[str, Entry]:
    content = read_table(path)
    raise_faults(faults_of(_Note, content), path, "is damaged", _REMEDY)
    return content.pop("name"), content


class PredictionRecord:
    """The label maps of a folder, and what this call adds to them.

    Args:
        folder: Output folder.
        facts: The model of this call and its options, as they are told to people.
        decides: What of model and options decides about voxels.
        part: Number of this part; ``None`` for a whole run.

    Raises:
        InputError: A record that is there is damaged.
    """

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], decides: Mapping[str, Any], part: int | None
    ):
        text = json.dumps(decides, sort_keys=True, default=str)
        self.folder, self.facts, self.part = folder, dict(facts), part
        self.made_by = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._parts = sorted(folder.glob(PART_RECORDS))
        before = [_read(path) for path in (folder / RECORD, *self._parts) if path.is_file()]
        self._makers: dict[str, Any] = {
            name: maker for content in before for name, maker in content["made_by"].items()
        }
        self._makers[self.made_by] = self.facts
        entries = [entry for content in before for entry in content["cases"].items()]
        self._notes = _read_notes(folder)
        entries += self._notes.items()
        self._checksums: dict[str, list[int]] = {}
        for content in (*before, *self._notes.values()):
            self._learn(content)
        self.cases: dict[str, Entry] = dict(sorted(entries, key=lambda entry: entry[1]["when"]))
        self._new: dict[str, Any] = {}
        self._unwritten: list[str] = []
        self._written, self._writing_s = 0.0, 0.0

    def require_no_strangers(
        self, endings: Sequence[str], inputs: Collection[str], faulty: Collection[str]
    ) -> None:
        """Refuse to leave label maps of another model beside new ones.

        Args:
            endings: Of label maps, of whatever kind.
            inputs: Stems of the label maps of this call.
            faulty: Ids of inputs that cannot be predicted.

        Raises:
            RefusedError: There are some of cases that are not among the inputs.
        """
        strangers = [
            name
            for name, entry in sorted(self.cases.items())
            if entry["made_by"] != self.made_by
            and name not in inputs
            and safe_id(name) not in faulty
            and self._is_there(name, endings)
        ]
        if not strangers:
            return
        other = self._makers.get(self.cases[strangers[0]]["made_by"], {})
        here = self.facts
        keys = [key for key in {**other, **here} if other.get(key) != here.get(key)]
        raise RefusedError(
            f"{self.folder} holds {len(strangers)} label maps of another model or other options, "
            f"of cases that are not among the inputs ({some(strangers)})",
            ", ".join(f"{key} {other.get(key)} there, {here.get(key)} here" for key in keys),
            "Give another folder with -o, or move them away",
        )

    def why_again(self, name: str, files: Sequence[Path]) -> str:
        """Why a label map that is there is not that of its image by this model; else empty."""
        entry = self.cases.get(name)
        if entry is None or entry["made_by"] == _IN_REPLACEMENT:
            return "of which the record does not tell image and model"
        if entry["made_by"] != self.made_by:
            return "of another model or other options"
        try:
            same = entry["input"] == fingerprint(files)
        except OSError:
            same = False
        return "" if same else "whose image has changed"

    def _learn(self, content: Entry) -> None:
        """Take the checksums out of a record or note."""
        for file, checksums in written_checksums(content).items():
            known = self._checksums.setdefault(file, [])
            known += [value for value in checksums if value not in known]
        content.pop(WRITTEN, None)

    def edited(self, names: Collection[str], endings: Sequence[str]) -> list[str]:
        """Label maps that were edited since they were written.

        Args:
            names: Stems to look at.
            endings: Of their label maps.

        Returns:
            Stems; those of which no checksum is known are not among them.
        """
        paths = {name: [self.folder / f"{name}{ending}" for ending in endings] for name in names}
        return [name for name, files in paths.items() if any(map(self._is_edited, files))]

    def _is_edited(self, path: Path) -> bool:
        known = self._checksums.get(path.name)
        return known is not None and path.is_file() and checksum(path) not in known

    def add(self, name: str, entry: Entry) -> None:
        """Take up what the note says of a label map that is whole on the disk."""
        self._add(name, entry)
        if time.monotonic() - self._written > self._writing_s / _WRITING_SHARE:
            self.keep()

    def _add(self, name: str, entry: Entry) -> None:
        self._learn(entry)
        self.cases[name] = self._new[name] = entry
        self._unwritten.append(name)

    def begin(self) -> None:
        """Write what is known before the first case; a whole run takes up the parts' records.

        Tables of parts and of a whole run would contradict each other: those of the other go.
        """
        self._write(RECORD, self.cases)
        others = [self.folder / name for name in (VOLUMES_CSV, FAILURES)]
        if self.part is None:
            notes = [_note(self.folder, name) for name in self._notes]
            tables = (path for name in _PART_TABLES for path in self.folder.glob(name))
            others = [*self._parts, *notes, *tables]
        for path in others:
            path.unlink(missing_ok=True)

    def take_up_notes(self, names: Collection[str]) -> None:
        """Add the cases of this call of which nothing but a note is known, and write all."""
        for name in names:
            if name not in self._new and _note(self.folder, name).is_file():
                self._add(*_read_note(_note(self.folder, name)))
        self.keep()

    def keep(self) -> None:
        """Write what this call has added."""
        began = time.monotonic()
        if self.part is None:
            self._write(RECORD, self.cases)
        elif self._new:
            self._write(f"prediction_part{self.part}.json", self._of_this_part() | self._new)
        for name in self._unwritten:
            _note(self.folder, name).unlink(missing_ok=True)
        self._unwritten.clear()
        self._written = time.monotonic()
        self._writing_s = self._written - began

    def _is_there(self, name: str, endings: Sequence[str]) -> bool:
        return any((self.folder / f"{name}{ending}").is_file() for ending in endings)

    def write_volumes(self, endings: Sequence[str]) -> Path:
        """Write ``volumes.csv`` of the label maps that are there; a part, of its own."""
        whole = self.part is None
        cases = self.cases if whole else self._of_this_part() | self._new
        there = {
            name: entry["volumes"] for name, entry in cases.items() if self._is_there(name, endings)
        }
        path = self.folder / (VOLUMES_CSV if whole else f"volumes_part{self.part}.csv")
        write_volumes(path, there)
        return path

    def _of_this_part(self) -> dict[str, Any]:
        path = self.folder / f"prediction_part{self.part}.json"
        return _read(path)["cases"] if path.is_file() else {}

    def _write(self, name: str, cases: Mapping[str, Any]) -> None:
        used = {entry["made_by"] for entry in cases.values()} | {self.made_by}
        makers = {key: maker for key, maker in self._makers.items() if key in used}
        content = {"schema_version": 2, **self.facts, "made_by": makers}
        content["cases"] = dict(sorted(cases.items()))
        content[WRITTEN] = dict(sorted(self._checksums.items()))
        write_json(self.folder / name, content)

    def set_aside(self, names: Collection[str], endings: Sequence[str]) -> tuple[int, Path]:
        """Move the files of label maps of an earlier run out of the way.

        Args:
            names: Stems of the label maps.
            endings: What may follow a stem.

        Returns:
            Of how many there were files, and where these are now.
        """
        files = {name: [self.folder / f"{name}{ending}" for ending in endings] for name in names}
        there = {name: [p for p in paths if p.is_file()] for name, paths in files.items()}
        place = self._free_place([path.name for paths in there.values() for path in paths])
        for name, paths in there.items():
            for path in paths:
                place.mkdir(parents=True, exist_ok=True)
                rename(path, place / path.name)
            self.cases.pop(name, None)
            self._new.pop(name, None)
        return sum(map(bool, there.values())), place

    def _free_place(self, names: Collection[str]) -> Path:
        """``set_aside``, or the first numbered folder in it where no file has one of the names."""
        first = self.folder / SET_ASIDE
        numbered = (first / str(number) for number in itertools.count(2))
        places = itertools.chain([first], numbered)
        return next(p for p in places if not any((p / name).exists() for name in names))


def _read(path: Path) -> dict[str, Any]:
    content = read_table(path)
    if content.get("schema_version", 1) == 1:  # it told the model of the last call alone
        content = {key: value for key, value in content.items() if key not in ("made_by", "cases")}
    raise_faults(faults_of(_Record, content), path, "is damaged", _REMEDY)
    return {"made_by": {}, "cases": {}, **content}
