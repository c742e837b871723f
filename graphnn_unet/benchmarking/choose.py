"""Which method for these data: cross-validation on the labeled patients decides, or says it cannot.

Candidates come from simple to complex. A later one takes the place of the choice so far only where
the interval of its paired difference, over patients that neither has seen, lies above 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphnn_unet.benchmarking.book import Book
from graphnn_unet.benchmarking.ensembles import (
    Pair,
    forget_members,
    members_of,
    pairs_of,
)
from graphnn_unet.benchmarking.grid import GridSettings, Row, is_supervised, run_of
from graphnn_unet.benchmarking.one_run import HELD_OUT, METRICS, Job
from graphnn_unet.benchmarking.run import (
    Driver,
    Todo,
    all_labels,
    environment_of_runs,
    raise_failed,
    ready_configurations,
)
from graphnn_unet.benchmarking.statistics import agreeing_on_nothing, crossed_interval
from graphnn_unet.data.paths import resolve_dataset, use_folders
from graphnn_unet.data.plan_files import read_plan
from graphnn_unet.data.splits import make_splits
from graphnn_unet.device import resolve_device
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images.components import keep_largest_components
from graphnn_unet.images.label_ids import ids_of_user, with_ids
from graphnn_unet.images.read import read_label_map
from graphnn_unet.metrics.aggregate import finite_mean
from graphnn_unet.metrics.intervals import MIN_PATIENTS, too_few
from graphnn_unet.metrics.overlap import count_overlap
from graphnn_unet.metrics.result import read_metrics_csv
from graphnn_unet.models.choice import Choice
from graphnn_unet.progress import say
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import read_metadata
from graphnn_unet.trainers.run import require_data_of_fold
from graphnn_unet.trainers.run_spec import DEFAULT_PLANS, RunSpec

DEFAULT_TRAINERS = ("SupervisedTrainer", "GraphCLTrainer")
"""What unlabeled scans bring, and what is there without them: no other method led the first one on
development cases (docs/explanation/unlabeled_scans.md), and each costs five trainings."""
FOLDER = "choose"


Dice = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Candidate:
    """A method that was cross-validated.

    Attributes:
        name: Trainer and configuration; of an ensemble, those of both.
        models: Their folders, with all folds.
        dice: Case to class to Dice, of the fold that held the case out; NaN where neither its
            label map nor the prediction has the class.
        label_maps: Folders with what was predicted of these cases.
        has_user_ids: Whether these have the ids of the user's label maps.
    """

    name: str
    models: tuple[Path, ...]
    dice: Dice
    label_maps: tuple[Path, ...] = ()
    has_user_ids: bool = False

    @property
    def mean(self) -> float:
        """Mean over cases of the means over classes."""
        means = (finite_mean(list(of_case.values())) for of_case in self.dice.values())
        return finite_mean(list(means))


@dataclass(frozen=True)
class Step:
    """A comparison on the way to the choice.

    Attributes:
        name: What was compared.
        against: With what.
        mean: Difference in Dice.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n_patients: Patients that were held out.
        taken: Whether it became the choice.
    """

    name: str
    against: str
    mean: float
    low: float
    high: float
    n_patients: int
    taken: bool

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        if not self.n_patients:
            return f"{self.name}: nothing can be compared with {self.against}"
        points = f"{100 * self.mean:+.1f} Dice"
        if self.n_patients < MIN_PATIENTS:
            few = too_few(self.n_patients, "patient")
            return f"{self.name}: {points} against {self.against}; {few}"
        interval = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        verdict = "taken" if self.taken else "worse" if self.high < 0 else "no difference shown"
        return (f"{self.name}: {points} {interval} against {self.against}, {self.n_patients} "
                f"patients: {verdict}")  # fmt: skip


@dataclass(frozen=True)
class ChoiceResult:
    """What ``choose`` says.

    Attributes:
        candidates: All methods, from simple to complex.
        steps: Comparisons in their order.
        choice: What predicts from now on; ``None`` where runs are left.
        path: ``choice.json``.
        n_left: Runs that the budget left.
    """

    candidates: list[Candidate]
    steps: list[Step] = field(default_factory=list)
    choice: Choice | None = None
    path: Path | None = None
    n_left: int = 0


def choose(
    dataset: str,
    *,
    trainers: Sequence[str] = DEFAULT_TRAINERS,
    configurations: Sequence[str] | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    plans: str = DEFAULT_PLANS,
    ensembles: bool = False,
    budget_hours: float | None = None,
    n_jobs: int = 1,
    device: str = "auto",
) -> ChoiceResult:
    """Cross-validate methods on the labeled patients, choose, and make ``predict`` take the choice.

    The trainings are those of ``gnnunet_train ... cv``: folds that are done are not done again,
    and the chosen model predicts with all of its folds.

    Args:
        dataset: Name, id or both.
        trainers: From simple to complex; those that need unlabeled scans are left out where there
            are none.
        configurations: From simple to complex; default all that are preprocessed.
        recipe: Name or TOML file, in place of the plan's.
        overrides: ``section.key=value`` of all trainings.
        plans: Name of the plan.
        ensembles: Also average each pair of methods, and take it where that helps.
        budget_hours: Begin no training that would probably end later.
        n_jobs: Trainings at the same time.
        device: As ``-device``.

    Raises:
        InputError: Fewer than two labeled patients, so nothing can be held out.
        CasesFailedError: A training failed twice; nothing was chosen.
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    where, name = use_folders(), resolve_dataset(dataset)
    results = where.results / name
    ready = ready_configurations(name, plans)
    chosen_device = str(resolve_device(device))
    environment = environment_of_runs()
    patient_of = read_metadata(where.preprocessed / name).get("patients", {})
    todo: Todo = []
    held_out: dict[int, list[str]] = {}
    for configuration in configurations or ready:
        rows = [Row(f"{trainer.rpartition(':')[2]} {configuration}", trainer)
                for trainer in trainers]  # fmt: skip
        settings = GridSettings(name, configuration, rows, [None], 0, 1, 0, recipe, overrides,
                                plans)  # fmt: skip
        raw_plans, _ = read_plan(where.preprocessed / name, plans, configuration)
        for row, fold, cases in _folds(settings, patient_of):
            held_out[fold] = cases
            run = run_of(settings, row, fold)
            model = str(run.spec.model_folder(where.results))
            job = Job(run.name, run.spec.as_dict(), str(results / FOLDER), environment, HELD_OUT,
                      (), chosen_device, {}, model)  # fmt: skip
            _require_its_data(job, run.spec, raw_plans)
            todo.append((run, job))
    pairs = pairs_of(todo, held_out) if ensembles else []
    with folder_lock(results / FOLDER, "gnnunet_choose"):
        book = Book.open(results / FOLDER, {"dataset": name}, {})
        book.add_rows(run.row.name for run, _ in todo)
        driver = Driver(book, None if budget_hours is None else 60 * budget_hours, n_jobs)
        driver.carry_out(todo)
        n_left = sum(not job.is_scored for _, job in todo)
        if pairs and not n_left and not book.failed():
            members = members_of(pairs)
            driver.carry_out(members)
            n_left = sum(not job.is_scored for _, job in members)
        book.write_tables()
        raise_failed(book, "choose", "nothing was chosen")
        candidates = _candidates(todo)
        if n_left:
            return ChoiceResult(candidates, n_left=n_left)
        candidates += _merged(pairs, where.raw / name, held_out)
    best, steps = _compared(candidates, patient_of)
    classes, cleaned = _single_components(best, where.preprocessed / name, patient_of)
    steps += cleaned
    choice = Choice(best.models, classes, tuple(step.sentence for step in steps))
    return ChoiceResult(candidates, steps, choice, choice.write(results))


def _require_its_data(job: Job, spec: RunSpec, plans: dict[str, Any]) -> None:
    """Scores of a fold that was trained on other data are not compared with new ones."""
    if not job.is_trained:
        return
    try:
        require_data_of_fold(job.fold, spec, plans)
    except InputError as error:
        remedy = f"Move {job.model} away and type the same command: it trains anew"
        raise InputError(error.what, error.why, remedy) from error


def _merged(
    pairs: Sequence[Pair], raw: Path, held_out: Mapping[int, Sequence[str]]
) -> list[Candidate]:
    """Pairs of methods as further candidates."""
    for pair in pairs:
        if not pair.is_scored:
            pair.merge(raw, held_out)
    forget_members(pairs)
    return [
        Candidate(pair.name, pair.models, _dice([pair.folder]), (pair.folder,), has_user_ids=True)
        for pair in pairs
    ]


def _folds(
    settings: GridSettings, patient_of: Mapping[str, str]
) -> Iterator[tuple[Row, int, list[str]]]:
    """Rows and folds that can be trained, with the cases that these hold out."""
    cases = all_labels(settings)
    labeled = [case.case_id for case in cases.labeled if case.case_id not in cases.corrected]
    splits = make_splits({case: patient_of.get(case, case) for case in labeled})
    if not splits:
        raise InputError(
            f"nothing can be compared on {settings.dataset}",
            f"{len(labeled)} labeled cases of one patient: none can be held out",
            "Label a scan of another patient, or take SupervisedTrainer",
        )
    for row in settings.rows:
        if not cases.unlabeled and not is_supervised(row):
            say(f"{row.name} is left out: the data set has no unlabeled scans")
            continue
        yield from ((row, fold, split["val"]) for fold, split in enumerate(splits))


def _candidates(todo: Todo) -> list[Candidate]:
    """Scores of the methods whose folds are all done."""
    jobs: dict[str, list[Job]] = {}
    for run, job in todo:
        jobs.setdefault(run.row.name, []).append(job)
    return [
        Candidate(name, (folds[0].model,), _dice(maps), maps)
        for name, folds in jobs.items()
        if all(job.is_scored for job in folds)
        for maps in [tuple(job.predictions for job in folds)]
    ]


def _dice(folders: Sequence[Path]) -> Dice:
    """Case to class to Dice."""
    values: dict[str, dict[str, float]] = {}
    for folder in folders:
        for row in read_metrics_csv(folder / METRICS):
            values.setdefault(row["case"], {})[row["class"]] = float(row["dice"] or "nan")
    return dict(sorted(values.items()))


def _compared(
    candidates: Sequence[Candidate], patient_of: Mapping[str, str]
) -> tuple[Candidate, list[Step]]:
    """The simplest method that no later one beats."""
    best, steps = candidates[0], []
    for candidate in candidates[1:]:
        step = _step(candidate.name, best.name, candidate.dice, best.dice, patient_of)
        steps.append(step)
        best = candidate if step.taken else best
    return best, steps


def _step(name: str, against: str, dice: Dice, other: Dice, patient_of: Mapping[str, str]) -> Step:
    """A paired difference over the patients that both were scored on."""
    differences = {
        case: value
        for case in sorted(dice.keys() & other.keys())
        if math.isfinite(value := _difference(dice[case], other[case]))
    }
    if not differences:  # nobody has anything that could be scored
        return Step(name, against, math.nan, math.nan, math.nan, 0, taken=False)
    cases, difference = list(differences), np.array(list(differences.values()))
    patients = np.unique([patient_of.get(case, case) for case in cases], return_inverse=True)[1]
    low, high = crossed_interval(difference[np.newaxis, np.newaxis], patients)
    n_patients = int(patients.max()) + 1
    taken = n_patients >= MIN_PATIENTS and low > 0
    return Step(name, against, float(difference.mean()), low, high, n_patients, taken)


def _difference(dice: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Mean over the classes of a case; NaN where none has a figure."""
    names = [name for name in dice if name in other]
    both = (np.array([of_case[name] for name in names]) for of_case in (dice, other))
    return finite_mean(list(np.subtract(*agreeing_on_nothing(*both))))


def _single_components(
    best: Candidate, preprocessed: Path, patient_of: Mapping[str, str]
) -> tuple[tuple[str, ...], list[Step]]:
    """Classes of which keeping the largest component alone helps, each looked at by itself."""
    description = read_json(preprocessed / "dataset.json")
    labels = {name: number for name, number in description["labels"].items()
              if isinstance(number, int) and number > 0 and name != "ignore"}  # fmt: skip
    if any(isinstance(number, list) for number in description["labels"].values()):
        return (), []
    user = ids_of_user(description) if best.has_user_ids else {}
    ids = {outside: inside for inside, outside in user.items()}
    ignore = description["labels"].get("ignore")
    plain: dict[str, dict[str, dict[str, float]]] = {name: {} for name in labels}
    cleaned: dict[str, dict[str, dict[str, float]]] = {name: {} for name in labels}
    ending = description["file_ending"]
    for case in best.dice:
        predicted = with_ids(read_label_map(_label_map(best, f"{case}{ending}")).array, ids)
        true = read_label_map(preprocessed / "gt_segmentations" / f"{case}{ending}").array
        kept = keep_largest_components(predicted, list(labels.values()))
        if ignore is not None:  # pieces in slices that nobody drew are neither right nor wrong
            drawn = true != ignore
            predicted, kept, true = predicted[drawn], kept[drawn], true[drawn]
        for name, number in labels.items():
            for array, scores in ((predicted, plain[name]), (kept, cleaned[name])):
                overlap = count_overlap(array == number, true == number)
                if overlap.n_pred or overlap.n_ref:  # in neither map there is nothing to score
                    scores[case] = {name: overlap.dice}
    steps = [
        _step(f"largest component of {name}", best.name, cleaned[name], plain[name], patient_of)
        for name in labels
        if plain[name]
    ]
    names = [name for name in labels if plain[name]]
    return tuple(name for name, step in zip(names, steps, strict=True) if step.taken), steps


def _label_map(candidate: Candidate, name: str) -> Path:
    """What was predicted of a case by the fold that held it out."""
    for folder in candidate.label_maps:
        if (folder / name).is_file():
            return folder / name
    raise MissingFileError(
        f"{candidate.name} has no label map {name}",
        f"it is in none of {', '.join(map(str, candidate.label_maps))}",
        "Type the same command once more; where that does not help, move the models away",
    )
