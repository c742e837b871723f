"""Pairs of methods whose probabilities are averaged, scored on patients that neither has seen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from graphnn_unet.benchmarking.one_run import MEMBER, METRICS, labeled_scans
from graphnn_unet.benchmarking.run import Todo
from graphnn_unet.images.label_ids import as_user_has_them
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.models.ensemble import MergeJob, merge_case
from graphnn_unet.prediction.write_case import Outputs, label_colors
from graphnn_unet.storage.atomic import checksum, write_json
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.safe_load import read_json

FOLDER, MADE_OF = "ensembles", "made_of.json"


class Pair:
    """Two methods and the cases that their folds hold out.

    Args:
        first: Runs of the simpler method, one a fold.
        second: Those of the other, in the same order.
    """

    def __init__(self, first: Todo, second: Todo):
        self.first, self.second = first, second
        self.name = f"{first[0][0].row.name} + {second[0][0].row.name}"

    @property
    def models(self) -> tuple[Path, Path]:
        """Model folders."""
        return self.first[0][1].model, self.second[0][1].model

    @property
    def folder(self) -> Path:
        """Folder of label maps and scores."""
        names = [run.spec.model_name for run, _ in (self.first[0], self.second[0])]
        return Path(self.first[0][1].folder) / FOLDER / "___".join(map(str, names))

    @property
    def is_scored(self) -> bool:
        """Whether its label maps are there and scored, of these models and cases."""
        made_of = self.folder / MADE_OF
        return (
            (self.folder / METRICS).is_file()
            and made_of.is_file()
            and read_json(made_of) == self._made_of
        )

    @cached_property
    def _made_of(self) -> list[dict[str, Any]]:
        return [
            {"cases": list(job.cases), "checkpoint": checksum(job.fold / FINAL)}
            for _, job in (*self.first, *self.second)
        ]

    def merge(self, raw: Path, held_out: Mapping[int, Sequence[str]]) -> None:
        """Average what the folds said, and score it.

        Args:
            raw: Raw folder of the data set.
            held_out: Fold to its cases.
        """
        (self.folder / METRICS).unlink(missing_ok=True)  # of models that are no more
        model = self.models[0]
        plans: dict[str, Any] = read_json(model / "plans.json")
        description: dict[str, Any] = read_json(model / "dataset.json")
        outputs = Outputs(description["file_ending"], colors=label_colors(description))
        for (_, first), (_, second) in zip(self.first, self.second, strict=True):
            folders = (first.predictions, second.predictions)
            for case in held_out[first.spec["fold"]]:
                merge_case(MergeJob(case, folders, self.folder, plans, description, outputs))
        write_json(self.folder / "dataset.json", as_user_has_them(description))
        cases = [case for fold in held_out.values() for case in fold]
        evaluate(self.folder, labeled_scans(raw, MEMBER)[1], cases=cases, is_estimate=True,
                 overwrite=True)  # fmt: skip
        write_json(self.folder / MADE_OF, self._made_of)


def pairs_of(todo: Todo, held_out: Mapping[int, Sequence[str]]) -> list[Pair]:
    """All pairs of the methods, from simple to complex.

    Args:
        todo: Trainings of the cross-validation.
        held_out: Fold to its cases.
    """
    methods: dict[str, Todo] = {}
    for run, job in todo:
        fold = job.spec["fold"]
        options = {**job.predict, "folds": [fold], "save_probabilities": True}
        member = replace(job, part=MEMBER, cases=tuple(held_out[fold]), predict=options)
        methods.setdefault(run.row.name, []).append((run, member))
    return [Pair(first, second) for first, second in combinations(methods.values(), 2)]


def members_of(pairs: Sequence[Pair]) -> Todo:
    """The predictions that pairs without a score need, each once."""
    needed = {job.name: (run, job) for pair in pairs if not pair.is_scored
              for run, job in (*pair.first, *pair.second)}  # fmt: skip
    return list(needed.values())


def forget_members(pairs: Sequence[Pair]) -> None:
    """Remove probabilities, which are large, when all pairs are scored."""
    for pair in pairs:
        for _, job in (*pair.first, *pair.second):
            shutil.rmtree(job.predictions, ignore_errors=True)
