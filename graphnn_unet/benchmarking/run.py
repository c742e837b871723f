"""Carry out a grid of trainings on one data set, and keep what comes of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from graphnn_unet.benchmarking.book import MAX_ATTEMPTS, Book
from graphnn_unet.benchmarking.grid import GridRun, GridSettings, Row, runs_of
from graphnn_unet.benchmarking.one_run import (
    DEVELOPMENT,
    DONE,
    REFUSED,
    STOPPED,
    TEST,
    Job,
    RunResult,
    carry_out,
    stop_all,
)
from graphnn_unet.data.paths import folders, resolve_dataset, use_folders
from graphnn_unet.data.plan_files import plan_content, read_plan
from graphnn_unet.data.preprocess import require_preprocessed
from graphnn_unet.data.run_cases import RunCases, select_cases
from graphnn_unet.device import resolve_device
from graphnn_unet.errors import CasesFailedError, Fault, InputError, MissingFileError
from graphnn_unet.images.find import split_ending
from graphnn_unet.plans.planner import resolved_configuration
from graphnn_unet.progress import Progress, say
from graphnn_unet.ranges import MAX_COUNT, MAX_SEED, MAX_WORKERS, require_count, require_number
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.processes import run_elsewhere, run_jobs
from graphnn_unet.storage.schemas import read_metadata
from graphnn_unet.trainers.run_spec import DEFAULT_PLANS


@dataclass(frozen=True)
class BenchmarkResult:
    """Where a comparison stands.

    Attributes:
        folder: Its folder.
        n_done: Runs that are scored.
        n_runs: Runs of the grid.
    """

    folder: Path
    n_done: int
    n_runs: int


def benchmark(
    dataset: str,
    output: Path | str,
    *,
    rows: Sequence[Row],
    labeled: Sequence[int | None] = (None,),
    draws: int = 5,
    seeds: int = 1,
    configuration: str | None = None,
    development: int = 0,
    final: bool = False,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    plans: str = DEFAULT_PLANS,
    budget_minutes: float | None = None,
    n_jobs: int = 1,
    mirroring: bool = True,
    device: str = "auto",
) -> BenchmarkResult:
    """Train every method on the same draws and seeds, and score all of them alike.

    All rows have the plan, network, augmentation and number of student patches of one recipe; the
    last checkpoint of each is scored. A run that is done is not done again, whatever stopped the
    command. Label maps of test cases are opened with ``final`` alone, each after its run.

    Args:
        dataset: Name, id or both.
        output: Folder of the comparison; another call of the same data adds to it.
        rows: Methods; see ``rows_of``.
        labeled: Counts of labeled cases, ``None`` for all.
        draws: Draws of labeled cases, numbered from 1; 0 takes the published order alone.
        seeds: Seeds, from 0, crossed with the draws.
        configuration: ``2d``, ``3d_fullres`` or ``3d_lowres``; default the one of the plan.
        development: Labeled cases that are kept apart and scored, for choosing.
        final: Score the test cases (``imagesTs``, ``labelsTs``) as well.
        recipe: Name or TOML file, in place of the plan's.
        overrides: ``section.key=value`` of all rows.
        plans: Name of the plan.
        budget_minutes: Begin no run that would probably end later than this.
        n_jobs: Runs at the same time.
        mirroring: Average predictions over mirrored copies.
        device: As ``-device``.

    Raises:
        InputError: Something does not fit; the message says what.
        CasesFailedError: Some runs failed twice; the others are done and in the tables.
        KeyboardInterrupt: Interrupted; what is done is kept, trainings have saved their state.
    """
    for name, value, low, high in (
        ("draws", draws, 0, MAX_SEED), ("seeds", seeds, 1, MAX_SEED),
        ("development", development, 0, MAX_COUNT), ("n_jobs", n_jobs, 1, MAX_WORKERS),
    ):  # fmt: skip
        require_count(name, value, low, high)
    if budget_minutes is not None:
        require_number("budget_minutes", budget_minutes)
    if not development and not final:
        raise InputError(
            "there is nothing to score", "no development cases, and test cases stay closed",
            "Give --development N to choose among methods, or --final to open the test cases",
        )  # fmt: skip
    where, name = use_folders(), resolve_dataset(dataset)
    configuration = configuration or ready_configurations(name, plans)[0]
    settings = GridSettings(
        name, configuration, rows, labeled, draws, seeds, development,
        recipe, overrides, plans,
    )  # fmt: skip
    _require_volumes_of_votes(settings)
    known = all_labels(settings)
    parts = _parts(where.raw / name, known.development, final)
    chosen_device = str(resolve_device(device))
    folder = Path(output).absolute()
    facts = {"dataset": name, "configuration": configuration, "plans": plans,
             "development": development, "data": _data_of(settings)}  # fmt: skip
    environment = environment_of_runs()
    votes = str(folder / "votes")  # the same of every method
    with folder_lock(folder, "gnnunet_benchmark"):
        book = Book.open(folder, facts, _patients(where.preprocessed / name))
        grid = list(runs_of(settings, has_unlabeled=bool(known.unlabeled)))
        book.keep_settings((run.row.name, run.settings(mirroring=mirroring)) for run in grid)
        book.add_rows(row.name for row in settings.rows)
        todo = [
            (run, Job(run.name, run.spec.as_dict(), str(folder), environment, part, cases,
                      chosen_device, _prediction(run.row, votes, mirroring=mirroring),
                      str(folder / "models" / run.model)))
            for run in grid for part, cases in parts
        ]  # fmt: skip
        Driver(book, budget_minutes, n_jobs).carry_out(todo)
        book.write_tables()
        done = sum(job.is_scored for _, job in todo)
    raise_failed(book, "benchmark", f"the others are done ({folder}/runs.csv)")
    return BenchmarkResult(folder, done, len(todo))


def _require_volumes_of_votes(settings: GridSettings) -> None:
    """Refuse votes of scans on slices before anything is trained."""
    content = plan_content(folders().preprocessed / settings.dataset, settings.plans)
    patch = resolved_configuration(content, settings.configuration)["patch_size"]
    voting = [row.name for row in settings.rows if row.prediction.get("scan_graph")]
    if voting and len(patch) == 2:
        raise InputError(
            f"row {voting[0]!r} cannot predict with prediction.scan_graph",
            f"scans are registered as volumes, and {settings.configuration} predicts slices",
            "Leave it out, or give a 3d configuration with -c",
        )


def _prediction(row: Row, votes: str, *, mirroring: bool) -> dict[str, Any]:
    """Arguments of ``predict``; rows whose scans vote share their votes."""
    options = {"mirroring": mirroring, **row.prediction}
    return options | ({"scan_graph_cache": votes} if options.get("scan_graph") else {})


def environment_of_runs() -> dict[str, str]:
    """Variables with nnU-Net's folders, for the processes of runs."""
    where = folders()
    names = ("raw", "preprocessed", "results")
    return {f"nnUNet_{name}": str(getattr(where, name)) for name in names}


def raise_failed(book: Book, stage: str, consequence: str) -> None:
    """Raise ``CasesFailedError`` where runs of a comparison have failed."""
    if failed := book.failed():
        remedy = "Type the same command to try again"
        raise CasesFailedError(
            [Fault(entry["name"], stage, entry["error"], remedy) for entry in failed],
            f"{len(failed)} of {len(book.entries())} runs failed; {consequence}",
        )


Todo = list[tuple[GridRun, Job]]


class Driver:
    """Carries runs out, one or several at a time, and notes each.

    Args:
        book: Where they are noted.
        budget_minutes: No run begins that would probably end later; ``None`` for no end.
        n_jobs: Runs at the same time; inside ``open_cluster`` its workers decide.
    """

    def __init__(self, book: Book, budget_minutes: float | None, n_jobs: int):
        self.book, self.budget_minutes, self.n_jobs = book, budget_minutes, n_jobs
        self._began = time.monotonic()
        self._minutes: list[float] = []
        self._again: list[tuple[GridRun, Job]] = []
        self._n_begun = 0

    def carry_out(self, todo: Todo) -> None:
        """All runs that are not done, in their order; those that failed once more at the end."""
        missing = [(run, job) for run, job in todo if not job.is_scored]
        n_done = len(todo) - len(missing)
        if n_done:
            say(f"{n_done} of {len(todo)} runs are done already")
        if any(job.part == TEST for _, job in missing):
            words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            self.book.note_test(datetime.now().astimezone().isoformat(timespec="seconds"), words)
        run_of = {(job.name, job.part): run for run, job in missing}
        with Progress(len(todo), "benchmark", "run", initial=n_done) as progress:
            try:
                for attempt in range(MAX_ATTEMPTS):
                    now, self._again = (missing if attempt == 0 else self._again), []
                    for job, result in self._results(now):
                        run = run_of[job.name, job.part]
                        self._note(run, job, result, is_last=attempt + 1 == MAX_ATTEMPTS)
                        if result.status == DONE or attempt + 1 == MAX_ATTEMPTS:
                            progress.update(run.row.name)
            except KeyboardInterrupt:
                self.book.write_tables()
                left = sum(not job.is_scored for _, job in todo)
                raise KeyboardInterrupt(
                    f"{left} runs are left; trainings have saved their state. Type the same "
                    "command to go on"
                ) from None
        n_left = len(missing) - self._n_begun
        if n_left > 0:
            say(f"{n_left} runs are left for another call: the budget of "
                f"{self.budget_minutes:g} minutes is used")  # fmt: skip

    def _results(self, todo: Todo) -> Iterator[tuple[Job, RunResult]]:
        """Jobs as they end, on the workers of a cluster or in threads that wait for processes."""
        if run_elsewhere():
            for outcome in run_jobs(carry_out, self._begun(todo), n_workers=0):
                failed = RunResult(REFUSED, outcome.error)
                yield outcome.job, outcome.value if outcome.ok else failed
            return
        left = list(todo)
        running: dict[Future[RunResult], Job] = {}
        with ThreadPoolExecutor(self.n_jobs) as threads:
            try:
                while True:
                    while len(running) < self.n_jobs:
                        chosen = _next_of(left, {job.model for job in running.values()})
                        job = next(self._begun(chosen), None)
                        if job is None:
                            break
                        left.remove(chosen[0])
                        running[threads.submit(carry_out, job)] = job
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            finally:
                if running:  # interrupted
                    stop_all()

    def _begun(self, todo: Todo) -> Iterator[Job]:
        """Jobs, each noted when it begins, until the budget is used."""
        for run, job in todo:
            if not self._has_time():
                return
            self.book.begin(run, job)
            self._n_begun += 1
            yield job

    def _note(self, run: GridRun, job: Job, result: RunResult, *, is_last: bool) -> None:
        """Note how an attempt ended."""
        if result.status == DONE and job.part in (DEVELOPMENT, TEST):
            self.book.require_same_references(job)
        self.book.record(run, job.part, result)
        self.book.write_tables()
        if result.status == STOPPED:
            raise KeyboardInterrupt
        if result.status == DONE:
            self._minutes.append(result.minutes)
            return
        if not is_last:
            self._again.append((run, job))
            self._n_begun -= 1
        say(f"{run.name} failed{', it is tried once more' * (not is_last)}: {result.error}")

    def _has_time(self) -> bool:
        """Whether another run would probably end within the budget."""
        if self.budget_minutes is None:
            return True
        used = (time.monotonic() - self._began) / 60
        return used + (max(self._minutes) if self._minutes else 0.0) <= self.budget_minutes


def _next_of(left: Todo, at_work: Collection[Path]) -> Todo:
    """The first run whose model is in no one's hands, so that no run waits for another."""
    free = (entry for entry in left if entry[1].model not in at_work)
    return list(itertools.islice(free, 1))


def ready_configurations(dataset: str, plans: str) -> list[str]:
    """The configurations that are preprocessed, ``3d_fullres`` first.

    Raises:
        MissingFileError: There is none, or no such plan.
    """
    folder = folders().preprocessed / dataset
    content = plan_content(folder, plans)
    names = dict.fromkeys(("3d_fullres", "2d", *content["configurations"]))
    ready = [
        name for name in names
        if name in content["configurations"]
        and (folder / f"{_identifier(content, name)}.manifest.json").is_file()
    ]  # fmt: skip
    if not ready:
        raise MissingFileError(
            f"no configuration of {dataset} is preprocessed", "",
            f"Run gnnunet_plan_and_preprocess -d {dataset}",
        )  # fmt: skip
    return ready


def _identifier(plans: dict[str, Any], configuration: str) -> str:
    return resolved_configuration(plans, configuration)["data_identifier"]


def all_labels(settings: GridSettings) -> RunCases:
    """The cases of a run with all labels."""
    folder = folders().preprocessed / settings.dataset
    plans, _ = read_plan(folder, settings.plans, settings.configuration)
    identifier = _identifier(plans, settings.configuration)
    return select_cases(
        folder, identifier, n_labeled=None, draw=0, fold="all", development=settings.development
    )


def _data_of(settings: GridSettings) -> str:
    """Hash of all cases as they were preprocessed: files, roles and plan."""
    folder = folders().preprocessed / settings.dataset
    plans, _ = read_plan(folder, settings.plans, settings.configuration)
    manifest = require_preprocessed(folder, _identifier(plans, settings.configuration))
    keys = {case: entry["key"] for case, entry in manifest["cases"].items()}
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def _patients(preprocessed: Path) -> dict[str, str]:
    """Patients of cases that do not have one of their own."""
    patients = read_metadata(preprocessed).get("patients", {})
    return {case: patient for case, patient in patients.items() if case != patient}


def _parts(raw: Path, development: Sequence[str], final: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Which cases are scored: those kept for choosing, and in the end those of the test."""
    parts: list[tuple[str, tuple[str, ...]]] = []
    if development:
        parts.append((DEVELOPMENT, tuple(development)))
    if final:
        labels = raw / "labelsTs"
        cases = sorted(split_ending(p)[0] for p in labels.glob("*")) if labels.is_dir() else []
        cases = [case for case in cases if case and not case.startswith(".")]
        if not cases:
            raise MissingFileError(
                f"{labels} has no label maps of test cases", "",
                "Convert the data set with --test, or compare on --development cases",
            )  # fmt: skip
        parts.append((TEST, tuple(cases)))
    return parts
