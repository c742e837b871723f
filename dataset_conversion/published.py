"""Published splits and orders, kept as small JSON files beside the converters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphnn_unet.dataset_conversion.records import Case
from graphnn_unet.dataset_conversion.volumes import read_list
from graphnn_unet.errors import InputError


@dataclass(frozen=True)
class Split:
    """An order of cases and who is kept for testing.

    Attributes:
        train: Training cases in order; the first ones are the labeled ones of the literature.
        test: Test cases.
        tables: All known splits by name, as they go into ``gnnunet.json``.
        notes: Lines the user should read.
    """

    train: list[str]
    test: list[str]
    tables: dict[str, dict[str, Any]]
    notes: list[str]

    def applied(self, cases: Mapping[str, Case]) -> list[Case]:
        """Cases in this order with their roles; those that it does not name come last, sorted."""
        listed = [*self.train, *self.test]
        order = [*(name for name in listed if name in cases), *sorted(set(cases) - set(listed))]
        return [
            replace(cases[name], role="test") if name in self.test else cases[name]
            for name in order
        ]


def published(name: str) -> dict[str, Any]:
    """The table of ``NAME_published.json``."""
    path = Path(__file__).with_name(f"{name}_published.json")
    return json.loads(path.read_text(encoding="utf-8"))


def split_for(name: str, source: Path, case_ids: Iterable[str]) -> Split:
    """The split that holds for the cases in ``source``.

    ``train.list`` and ``test.list`` in the source or its parent win where they name other cases
    than the published lists; the published ones are kept in the record in any case.

    Args:
        name: Published table to use.
        source: Folder of the data.
        case_ids: Cases that are there.
    """
    table = published(name)
    title = table.pop("name")
    split = Split(table["train"], table["test"], {title: table}, [])
    local_train, local_test = _local(source, "train.list"), _local(source, "test.list")
    if both := sorted(set(local_train) & set(local_test)):
        raise InputError(
            f"{both[0]} is in train.list and in test.list beside {source}",
            "scores would be measured on patients the network has seen",
            "Take it out of one",
        )
    if (local_train, local_test) not in ((split.train, split.test), ([], [])):
        train = local_train or [case for case in split.train if case not in local_test]
        test = local_test or [case for case in split.test if case not in train]
        beside = {
            "source": "train.list and test.list of the source folder",
            "train": train,
            "test": test,
        }
        note = (
            f"order and test cases come from the lists beside the data, not from {title}'s "
            f"({len(train)} training, {len(test)} test cases)"
        )
        split = Split(train, test, {**split.tables, "lists beside the data": beside}, [note])
    return replace(split, notes=[*split.notes, *_differences(split, set(case_ids))])


def _differences(split: Split, case_ids: set[str]) -> list[str]:
    """Notes on cases that are listed and not there, or there and not listed."""
    listed = [*split.train, *split.test]
    notes = []
    if n_missing := sum(case not in case_ids for case in listed):
        notes.append(f"{n_missing} of {len(listed)} listed cases are not in the source")
    if unknown := sorted(case_ids - set(listed)):
        notes.append(f"{len(unknown)} cases are in no list and come last, such as {unknown[0]}")
    return notes


def _local(source: Path, name: str) -> list[str]:
    for folder in (source, source.parent):
        if (folder / name).is_file():
            return read_list(folder / name)
    return []
