"""What a comparison knows about its runs: one small file a run, and the tables made of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphnn_unet.benchmarking.grid import GridRun
from graphnn_unet.benchmarking.one_run import (
    DEVELOPMENT,
    DONE,
    HELD_OUT,
    MEMBER,
    STOPPED,
    TEST,
    Job,
    RunResult,
)
from graphnn_unet.benchmarking.one_run import METRICS as METRICS_CSV
from graphnn_unet.errors import RefusedError
from graphnn_unet.images.find import some
from graphnn_unet.metrics.registry import METRICS
from graphnn_unet.metrics.result import csv_columns, read_metrics_csv, scored_references
from graphnn_unet.progress import counted
from graphnn_unet.storage.atomic import write_csv, write_json, write_text
from graphnn_unet.storage.safe_load import read_json

FACTS = ("row", "trainer", "labeled", "draw", "seed")
SCORES, RUNS, COMMANDS, STATE = "benchmark.csv", "runs.csv", "commands.sh", "benchmark.json"
_RUN_COLUMNS = (*FACTS, "name", "part", "status", "attempts", "minutes", "device",
                "peak_memory_gb", "peak_gpu_memory_gb", "error")  # fmt: skip
_OF_PLAN = " recipe of the plan "
_PARTS = (DEVELOPMENT, TEST, HELD_OUT, MEMBER)
MAX_ATTEMPTS = 2
"""A run that failed is tried once more in a call of the command."""


@dataclass
class Book:
    """The folder of a comparison.

    Attributes:
        folder: It.
        state: Data set, rows in the order of the table, and how the test labels were used.
    """

    folder: Path
    state: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, facts: dict[str, Any], patients: dict[str, str]) -> Book:
        """Begin a comparison, or go on with one of the same data.

        Args:
            folder: Folder of the comparison.
            facts: Data set and a hash of its cases, plan and development cases, which cannot
                change.
            patients: Case to patient, where they differ.

        Raises:
            RefusedError: The folder has runs on other data.
        """
        path = folder / STATE
        new = {**facts, "rows": [], "opened_test": []}
        # a comparison of an earlier version does not tell its data
        state = {**new, **(read_json(path) if path.is_file() else {}), "patients": patients}
        for key, value in facts.items():
            if key == "data" and state[key] != value:
                raise RefusedError(
                    f"{folder} holds a comparison of other data",
                    "scans, label maps or the plan have changed since it was begun",
                    "Give another folder with -o, or bring the former files back and run "
                    "gnnunet_plan_and_preprocess",
                )
            if state[key] != value:
                raise RefusedError(
                    f"{folder} holds a comparison with {key} {state.get(key)}",
                    f"this one has {value}",
                    "Give another folder with -o",
                )
        return cls(folder, state)

    def add_rows(self, names: Iterable[str]) -> None:
        """Remember rows in the order in which they came."""
        self.state["rows"] = list(dict.fromkeys([*self.state["rows"], *names]))
        self._save()

    def keep_settings(self, rows: Iterable[tuple[str, str]]) -> None:
        """Remember what each row is made of: a mean over two recipes is of neither.

        Args:
            rows: Name and settings of each.

        Raises:
            RefusedError: A row of this name was made with other settings.
        """
        known = {**self.state.get("settings", {})}
        for name, settings in rows:
            if _OF_PLAN in known.get(name, ""):  # an earlier version did not tell it
                known[name] = settings
            if known.setdefault(name, settings) != settings:
                raise RefusedError(
                    f"row {name!r} of {self.folder} was made with other settings",
                    f"{known[name]}; now {settings}",
                    "Give it another name with --row NAME TRAINER, or another folder with -o",
                )
        self.state["settings"] = known
        self._save()

    def require_same_references(self, job: Job) -> None:
        """Compare the label maps that a run was just scored on with those of other runs.

        Its scores are taken back where they differ, so that the next call makes them again.

        Raises:
            RefusedError: Some have changed since: means and differences would be of neither.
        """
        known: dict[str, int] = self.state.setdefault("references", {}).setdefault(job.part, {})
        scored = scored_references(job.predictions)
        changed = [name for name, value in scored.items() if known.setdefault(name, value) != value]
        if changed:
            (job.predictions / METRICS_CSV).unlink()
            raise RefusedError(
                f"{counted(len(changed), 'label map')} of {job.part} cases changed since other "
                f"runs were scored ({some(changed)})",
                "rows would be compared on different ones",
                "Bring the former files back, or give another folder with -o",
            )
        self._save()

    def note_test(self, when: str, command: str) -> None:
        """Remember that test labels are opened now."""
        self.state["opened_test"].append({"when": when, "command": command})
        self._save()

    def _save(self) -> None:
        write_json(self.folder / STATE, self.state)

    def _path(self, name: str, part: str) -> Path:
        return self.folder / "runs" / name / f"{part}.json"

    def begin(self, run: GridRun, job: Job) -> None:
        """Note a run before it is carried out, so that none can be forgotten."""
        path = self._path(run.name, job.part)
        if not path.is_file():
            scores = (job.predictions / METRICS_CSV).absolute()
            if scores.is_relative_to(self.folder.absolute()):  # the folder may be moved
                scores = scores.relative_to(self.folder.absolute())
            write_json(path, {
                **run.facts, "name": run.name, "part": job.part, "command": run.command,
                "scores": scores.as_posix(), "attempts": [],
            })  # fmt: skip

    def record(self, run: GridRun, part: str, result: RunResult) -> None:
        """Note how an attempt ended."""
        path = self._path(run.name, part)
        entry = read_json(path)
        entry["attempts"].append(vars(result))
        write_json(path, entry)

    def entries(self) -> list[dict[str, Any]]:
        """All runs that were begun, in the order of the table."""
        order = {name: place for place, name in enumerate(self.state["rows"])}
        entries = [read_json(path) for part in _PARTS
                   for path in sorted((self.folder / "runs").glob(f"*/{part}.json"))]  # fmt: skip

        def key(entry: dict[str, Any]) -> tuple[Any, ...]:
            labeled = entry["labeled"]
            number = float("inf") if isinstance(labeled, str) else labeled
            place = order.get(entry["row"], len(order))
            return _PARTS.index(entry["part"]), number, place, entry["draw"], entry["seed"]

        return sorted(entries, key=key)

    def failed(self) -> list[dict[str, Any]]:
        """Runs whose last attempt failed, with ``error``."""
        summaries = [{**entry, **self._summary(entry)} for entry in self.entries()]
        return [summary for summary in summaries if summary["status"] == "failed"]

    def write_tables(self) -> None:
        """``benchmark.csv``, ``runs.csv`` and ``commands.sh`` from what is there."""
        entries = self.entries()
        scores: list[dict[str, Any]] = []
        runs: list[dict[str, Any]] = []
        for entry in entries:
            facts = {name: entry[name] for name in FACTS}
            runs.append({**facts, **self._summary(entry)})
            if (path := self.folder / entry["scores"]).is_file():
                for row in read_metrics_csv(path):
                    values = {n: f"{float(row[n]):.5f}" for n in METRICS if row.get(n)}
                    scores.append({**row, **values, **facts, "part": entry["part"]})
        write_csv(self.folder / SCORES, scores, (*FACTS, "part", *csv_columns()))
        write_csv(self.folder / RUNS, runs, _RUN_COLUMNS)
        lines = dict.fromkeys(shlex.join(entry["command"]) for entry in entries)
        write_text(self.folder / COMMANDS, "\n".join(["#!/bin/sh", *lines, ""]))

    def _summary(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Columns of ``runs.csv``."""
        attempts: Sequence[dict[str, Any]] = entry["attempts"]
        last = attempts[-1] if attempts else {}
        is_scored = (self.folder / entry["scores"]).is_file()
        status = "done" if is_scored else "not done"
        if not is_scored and attempts and last["status"] not in (DONE, STOPPED):
            status = "failed"
        return {
            "name": entry["name"],
            "part": entry["part"],
            "status": status,
            "attempts": len(attempts),
            "minutes": f"{sum(a['minutes'] for a in attempts):.1f}",
            "device": last.get("device", ""),
            "peak_memory_gb": max((a["peak_memory_gb"] for a in attempts), default=""),
            "peak_gpu_memory_gb": max((a["peak_gpu_memory_gb"] for a in attempts), default=""),
            "error": "" if is_scored else last.get("error", ""),
        }
