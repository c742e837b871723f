"""One training from names to a validated model, or all folds of a cross-validation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from graphnn_unet.data.hidden_labels import hidden_files
from graphnn_unet.data.paths import folders, resolve_dataset, use_folders
from graphnn_unet.data.plan_files import read_plan
from graphnn_unet.data.preprocess import require_whole
from graphnn_unet.data.raw_changes import changed_files
from graphnn_unet.data.run_cases import RunCases, select_cases
from graphnn_unet.data.splits import held_out
from graphnn_unet.device import resolve_device
from graphnn_unet.errors import GraphnnError, InputError, MissingFileError, RefusedError
from graphnn_unet.images.find import some
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.plans.planner import run_recipe
from graphnn_unet.plans.recipe import (
    PLANNING_SECTIONS,
    Layer,
    Recipe,
    load_recipe,
    parse_overrides,
    resolved_configuration,
)
from graphnn_unet.progress import is_quiet, say
from graphnn_unet.ranges import MAX_COUNT, MAX_SEED, MAX_WORKERS, require_count
from graphnn_unet.storage.atomic import atomic_path, remove_leftovers, rename
from graphnn_unet.storage.checkpoints import FINAL, LATEST, RESUME_ORDER
from graphnn_unet.storage.locks import folder_lock, reading
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.storage.schemas import read_metadata, read_summary
from graphnn_unet.trainers.checkpointed import require_same_data
from graphnn_unet.trainers.distributed import (
    decided_by_first,
    is_first,
    launched,
    train_in_processes,
)
from graphnn_unet.trainers.loggers import LoggerName, require_loggers
from graphnn_unet.trainers.registry import trainer_class
from graphnn_unet.trainers.run_spec import DEFAULT_PLANS, Execution, RunSpec
from graphnn_unet.trainers.semi import SemiTrainer


@dataclass(frozen=True)
class TrainingResult:
    """What a training left.

    Attributes:
        model: Model folder, to be given to ``predict``.
        folds: Trained folds.
        summaries: ``validation/summary.json`` of each, and of the cross-validation.
    """

    model: Path
    folds: list[int | str]
    summaries: list[Path]


@dataclass(frozen=True)
class _Job:
    """Everything one fold needs; picklable, for one process a GPU.

    The run travels as plain values: settings of a user's trainer are classes of a file that the
    other process must load first.
    """

    spec: dict[str, Any]
    execution: Execution
    plans: dict
    dataset_json: dict
    model: Path
    mode: str
    quiet: bool
    validates_all: bool = False

    @property
    def fold_folder(self) -> Path:
        """Folder of the fold."""
        return self.model / f"fold_{self.spec['fold']}"


def train(
    dataset: str | int,
    configuration: str,
    trainer: str,
    fold: int | str = "all",
    *,
    n_labeled: int | None = None,
    draw: int = 0,
    seed: int = 0,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    development: int = 0,
    plans: str = DEFAULT_PLANS,
    mode: str = "new",
    device: str = "auto",
    num_gpus: int = 1,
    n_loader_workers: int | None = None,
    deterministic: bool = False,
    output: Path | str | None = None,
    hidden_labels: Path | str | None = None,
    loggers: Sequence[LoggerName] = (),
) -> TrainingResult:
    """Train one fold, or with fold ``cv`` all of them, and validate it.

    Args:
        dataset: Name, id or both.
        configuration: ``2d``, ``3d_fullres`` or ``3d_lowres``.
        trainer: Name of a trainer, or ``path/to/file.py:ClassName``.
        fold: Fold number, ``all`` (no case held out) or ``cv``.
        n_labeled: Count only this many labeled cases as labeled; the others are unlabeled.
        draw: Which ones; 0 is the published order, others are random.
        seed: Seed of weights, batches and boxes.
        recipe: Name or TOML file, in place of the one the data were planned with.
        overrides: ``section.key=value`` texts.
        development: Keep this many labeled cases apart for choosing between methods; they train in
            no role, and are the same for every draw, seed and method.
        plans: Name of the plan.
        mode: ``new`` (refused over a finished or begun fold), ``continue``, ``restart`` (the old
            fold is set aside) or ``validate`` (only predict and score: of fold ``all`` all training
            cases, of which a training predicts a few for a look).
        device: As ``-device``.
        num_gpus: Processes of one machine that share the batch.
        n_loader_workers: Processes that make batches.
        deterministic: Bitwise repeatable on CUDA as well.
        output: Model folder instead of the usual one below ``nnUNet_results``.
        hidden_labels: Folder of label maps of unlabeled cases, ``CASE`` with the data set's ending
            and the user's ids. They score the pseudo-labels in every epoch, and change nothing
            about the training.
        loggers: Of ``tensorboard``, ``mlflow`` and ``wandb`` (each needs the extra of its name):
            they get the numbers of ``metrics.csv``, the recipe, and ``progress.png`` at the end.

    Raises:
        InputError: Something does not fit; the message says what.
        RefusedError: The fold is finished or begun and ``mode`` is ``new``.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    require_count("n_labeled", n_labeled, 1)
    require_count("draw", draw, 0, MAX_SEED)
    require_count("seed", seed, 0, MAX_SEED)
    require_count("development", development, 0, MAX_COUNT)
    require_count("num_gpus", num_gpus, 1, MAX_WORKERS)
    require_count("n_loader_workers", n_loader_workers, 0, MAX_WORKERS)
    require_loggers(loggers)
    name = resolve_dataset(dataset)
    raw_plans, _ = read_plan(use_folders().preprocessed / name, plans, configuration)
    _own_trainer(trainer, name, configuration, plans)  # declares its settings
    planned = run_recipe(raw_plans, configuration)
    resolved = _resolve_recipe(raw_plans, configuration, recipe, overrides)
    variant = "" if resolved.as_dict() == planned.as_dict() else resolved.fingerprint()
    spec = RunSpec(
        name, configuration, trainer, fold, plans, n_labeled, draw, seed, resolved, variant,
        development,
    )  # fmt: skip
    model = Path(output) if output else None
    hidden = Path(hidden_labels) if hidden_labels else None
    execution = Execution(
        device, num_gpus, n_loader_workers, deterministic, model, hidden,
        tuple(dict.fromkeys(loggers)),
    )  # fmt: skip
    return train_run(spec, execution, mode=mode)


def train_run(
    spec: RunSpec, execution: Execution | None = None, *, mode: str = "new"
) -> TrainingResult:
    """Train and validate what a specification says; see :func:`train`.

    Args:
        spec: The run; fold ``cv`` stands for all folds.
        execution: How it is carried out.
        mode: As in :func:`train`.
    """
    execution = execution or Execution()
    preprocessed = use_folders().preprocessed / spec.dataset
    raw_plans, dataset_json = read_plan(preprocessed, spec.plans, spec.configuration)
    cls = _own_trainer(spec.trainer, spec.dataset, spec.configuration, spec.plans)
    recipe = spec.recipe or run_recipe(raw_plans, spec.configuration)
    if execution.hidden_labels and not cls.makes_pseudo_labels:
        raise InputError(
            f"hidden labels cannot score {spec.class_name}", "it makes no pseudo-labels",
            "Leave --hidden-labels out",
        )  # fmt: skip
    model = execution.model_folder or spec.model_folder(folders().results)
    execution = replace(execution, device=str(resolve_device(execution.device)), model_folder=model)
    spec = replace(spec, recipe=recipe)
    job = _Job(
        spec.as_dict(), execution, raw_plans, dataset_json, model, mode, is_quiet(),
        validates_all=mode == "validate",
    )  # fmt: skip
    _new_trainer(job)  # what it refuses is told before data are read and processes started
    with reading(preprocessed, f"gnnunet_train {spec.trainer}"), launched(execution):
        cases = _require_data(preprocessed, spec, raw_plans, dataset_json)
        _say_labeled(cases)
        identifier = resolved_configuration(raw_plans, spec.configuration)["data_identifier"]
        _say_changed(preprocessed, identifier, cases)
        if execution.hidden_labels:
            hidden_files(execution.hidden_labels, cases.unlabeled, dataset_json)
        if spec.fold == "cv":
            return _cross_validate(job, cases)
        return TrainingResult(model, [spec.fold], [_train_fold(job)])


def _require_data(
    preprocessed: Path, spec: RunSpec, raw_plans: dict[str, Any], dataset_json: dict[str, Any]
) -> RunCases:
    """The cases of the run are whole and of its plan; label maps it may not see stay closed."""
    cases = _cases_of(spec, "all" if spec.fold == "cv" else spec.fold, raw_plans)
    seen = {case.case_id for case in (*cases.labeled, *cases.held_out)}
    require_whole(preprocessed, raw_plans, spec.configuration, dataset_json, seen)
    return cases


def _cases_of(spec: RunSpec, fold: int | str, raw_plans: dict[str, Any]) -> RunCases:
    """The cases of a fold of the run, as the data are now."""
    return select_cases(
        folders().preprocessed / spec.dataset,
        resolved_configuration(raw_plans, spec.configuration)["data_identifier"],
        n_labeled=spec.n_labeled,
        draw=spec.draw,
        fold=fold,
        development=spec.development,
    )


def _say_labeled(cases: RunCases) -> None:
    """How many labeled cases there are, where corrected masks have added some."""
    n_labeled, n_corrected = len(cases.labeled) + len(cases.held_out), len(cases.corrected)
    if n_corrected and is_first():
        say(
            f"{n_labeled} labeled cases, {n_corrected} of them corrected (gnnunet_convert "
            "--add-corrected); corrected ones are never held out"
        )


def _say_changed(preprocessed: Path, identifier: str, cases: RunCases) -> None:
    """Which files were edited since: the training reads what was preprocessed before."""
    raw = folders().raw / preprocessed.name
    if is_first() and (changed := changed_files(raw, preprocessed, identifier, cases.content)):
        say(
            f"warning: {some(changed)} changed after preprocessing; the training does not see it. "
            f"Run gnnunet_plan_and_preprocess -d {raw.name} first"
        )


def _own_trainer(trainer: str, dataset: str, configuration: str, plans: str) -> type[SemiTrainer]:
    cls = trainer_class(trainer)
    if not issubclass(cls, SemiTrainer):
        raise InputError(
            f"{trainer} is no trainer of this program",
            "it does not know unlabeled cases",
            f"Train it with nnUNetv2_train {dataset} {configuration} FOLD -tr {trainer} -p {plans}",
        )
    return cls


def _resolve_recipe(
    raw_plans: dict, configuration: str, recipe: str | Path | None, overrides: Sequence[str]
) -> Recipe:
    """Layers of the run over those of the plan; what planning decided cannot change any more."""
    layers: list[Layer] = []
    if recipe is not None:
        layers.append(load_recipe(recipe))
    if overrides:
        layers.append(parse_overrides(overrides))
    planned = run_recipe(raw_plans, configuration)
    resolved = run_recipe(raw_plans, configuration, *layers)
    for section in PLANNING_SECTIONS:
        before, after = getattr(planned, section), getattr(resolved, section)
        for key in type(before).model_fields:
            if getattr(before, key) != getattr(after, key):
                raise InputError(
                    f"{section}.{key} = {getattr(after, key)} cannot be changed in training",
                    f"the data were planned with {getattr(before, key)}",
                    "Plan again with gnnunet_plan_and_preprocess and the same --recipe or --set",
                )
    return resolved


def _cross_validate(job: _Job, cases: RunCases) -> TrainingResult:
    """All folds one after the other, then their held-out cases together.

    Args:
        job: With fold ``cv``.
        cases: Those of all folds.
    """
    spec = job.spec
    preprocessed = folders().preprocessed / spec["dataset"]
    patients = read_metadata(preprocessed).get("patients", {})
    labeled = [case.case_id for case in cases.labeled if case.case_id not in cases.corrected]
    patient_of = {case: patients.get(case, case) for case in labeled}
    n_folds = 0
    while _fold_exists(labeled, patient_of, n_folds):
        n_folds += 1
    if n_folds == 0:
        raise InputError(
            "cross-validation is not possible", "all labeled cases are of one patient",
            "Train fold all and score on test cases",
        )  # fmt: skip
    summaries = []
    for fold in range(n_folds):
        of_fold = replace(job, spec={**spec, "fold": fold})
        mode = decided_by_first(partial(_mode_of_fold, of_fold))
        if mode is None:
            say(f"fold {fold} is finished")
            summaries.append(of_fold.fold_folder / "validation" / "summary.json")
        else:
            summaries.append(_train_fold(replace(of_fold, mode=mode)))
    ending = job.dataset_json["file_ending"]
    pool = partial(_pool_folds, job.model, n_folds, preprocessed, labeled, ending)
    summaries.append(decided_by_first(pool))
    return TrainingResult(job.model, list(range(n_folds)), summaries)


def _mode_of_fold(job: _Job) -> str | None:
    """How a cross-validation goes on with a fold; ``None`` where it is finished.

    Raises:
        InputError: It was finished with other data: cases that other folds hold out now would be
            scored together with its own.
    """
    folder = job.fold_folder
    is_final = (folder / FINAL).is_file()
    if is_final and (folder / "validation" / "summary.json").is_file() and job.mode != "restart":
        require_data_of_fold(folder, RunSpec.from_dict(job.spec), job.plans)
        return "validate" if job.mode == "validate" else None
    if job.mode not in ("new", "continue"):
        return job.mode
    is_begun = is_final or any((folder / name).is_file() for name in RESUME_ORDER)
    return "continue" if is_begun else "new"


def require_data_of_fold(folder: Path, spec: RunSpec, plans: dict[str, Any]) -> None:
    """Refuse the scores of a finished fold where its cases have changed.

    Args:
        folder: Of the fold, with a final checkpoint.
        spec: What was trained there.
        plans: Its plan.

    Raises:
        InputError: Labeled or held-out cases are others, or have other roles, than when it was
            trained.
    """
    cases = _cases_of(spec, spec.fold, plans)
    state = load_checkpoint(folder / FINAL)
    require_same_data(folder / FINAL, state, cases, for_scores=True)


def _fold_exists(labeled: Sequence[str], patient_of: dict[str, str], fold: int) -> bool:
    try:
        held_out(labeled, patient_of, fold)
    except InputError:
        return False
    return True


def _pool_folds(
    model: Path, n_folds: int, preprocessed: Path, labeled: Sequence[str], ending: str
) -> Path:
    """Score the held-out predictions of all folds together, in ``crossval_results_folds_...``."""
    target = model / f"crossval_results_folds_{'_'.join(map(str, range(n_folds)))}"
    for case in labeled:
        name = f"{case}{ending}"
        paths = [model / f"fold_{fold}" / "validation" / name for fold in range(n_folds)]
        held_out_path = next((path for path in paths if path.is_file()), None)
        if held_out_path is None:
            raise MissingFileError(
                f"no fold of {model} has predicted {case}",
                f"{name} is in none of their folders validation",
                "Train anew with --restart, or predict the held-out cases of each fold with --val",
            )
        with atomic_path(target / name) as temporary:
            shutil.copyfile(held_out_path, temporary)
    result = evaluate(
        target, preprocessed / "gt_segmentations", target, cases=labeled, is_estimate=True,
        dataset_json=preprocessed / "dataset.json", n_workers=0, overwrite=True,
    )  # fmt: skip
    return result.summary_json


def _train_fold(job: _Job) -> Path:
    """Train one fold under its lock; return the summary of its validation."""
    folder = job.fold_folder
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    with ExitStack() as held:

        def begin() -> None:
            held.enter_context(folder_lock(folder, f"gnnunet_train {job.spec['trainer']}"))
            remove_leftovers(folder)

        decided_by_first(begin)
        try:
            mode = decided_by_first(partial(_possible_mode, folder, job.mode))
            job = replace(job, mode=mode)
            if job.execution.num_gpus > 1:
                train_in_processes(_work, job, job.execution, quiet=job.quiet)
            else:
                _work(job)
        except GraphnnError:
            if folder in new and is_first():
                _remove_unused(new)
            raise
    return folder / "validation" / "summary.json"


def _remove_unused(folders: Sequence[Path]) -> None:
    """Remove the folder of a fold, and those above it, that a refused training made.

    Args:
        folders: Those that were not there before, the fold first.
    """
    names = [path.name for path in folders[0].iterdir()]
    if all(name.startswith((".gnnunet.lock", "training_log_")) for name in names):
        shutil.rmtree(folders[0], ignore_errors=True)
        for folder in folders[1:]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _possible_mode(folder: Path, mode: str) -> str:
    """Refuse to train over results; set an old fold aside for ``restart``.

    Returns:
        The mode; ``validate`` where the training is finished and only its validation is not.

    Raises:
        RefusedError: The fold is finished or begun.
        MissingFileError: Nothing to validate.
    """
    finished = (folder / FINAL).is_file()
    validated = finished and (folder / "validation" / "summary.json").is_file()
    begun = [name for name in RESUME_ORDER if (folder / name).is_file()]
    if finished and mode == "continue" and not validated:
        say(f"the training in {folder} is finished; what is left is its validation")
        return "validate"
    if mode == "continue" and not (finished or begun):
        elsewhere = _begun_elsewhere(folder)
        raise MissingFileError(
            f"nothing to continue in {folder}",
            f"trainings with another recipe, draw or seed were begun: {', '.join(elsewhere)}"
            if elsewhere
            else f"there is no {LATEST}",
            "Give the same options as before"
            if elsewhere
            else "Leave --c out to start the training",
        )
    if mode == "validate" and not finished:
        raise MissingFileError(f"{folder} has no {FINAL}", "only a finished fold can be validated")
    if mode == "continue" and finished:
        raise RefusedError(
            f"{folder} is finished", "there is nothing to continue",
            "Use --val to predict and score again, or --restart to train anew",
        )  # fmt: skip
    if mode == "new" and (finished or begun):
        raise RefusedError(
            f"{folder} is {'finished' if finished else 'begun'}",
            "its results would be lost",
            "Use --restart to set them aside and train anew"
            + (", or --c to go on" if not validated else " or --val to score again"),
        )
    if mode == "restart" and (finished or begun):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        aside.mkdir()
        # a stop in between leaves a fold that is finished or begun, so the same command goes on
        last = (*RESUME_ORDER, FINAL)
        for path in sorted(folder.iterdir(), key=lambda path: path.name in last):
            if not path.name.startswith(".gnnunet.lock"):
                rename(path, aside / path.name)
        say(f"the old results are in {aside}")
    return mode


def _begun_elsewhere(folder: Path) -> list[str]:
    """Models of the same trainer and configuration in which this fold was begun."""
    stem = "__".join(folder.parent.name.split("__")[:3])
    begun = folder.parent.parent.glob(f"{stem}*/{folder.name}/{LATEST}")
    return sorted(path.parent.parent.name for path in begun)


def _new_trainer(job: _Job) -> SemiTrainer:
    """The trainer of a job, without network and data."""
    cls = cast(type[SemiTrainer], trainer_class(job.spec["trainer"]))  # `train` refuses others
    return cls(
        dict(job.plans),
        job.spec["configuration"],
        job.spec["fold"],
        job.dataset_json,
        torch.device(job.execution.device),
        RunSpec.from_dict(job.spec),
        job.execution,
    )


def _work(job: _Job) -> None:
    """Train and validate in this process."""
    trainer = _new_trainer(job)
    if job.mode == "validate":
        trainer.initialize()
        trainer.prepare_data()
        trainer.load_finished()
    else:
        if job.mode == "continue":
            trainer.initialize()
            trainer.prepare_data()
            path = trainer.resume()
            if trainer.local_rank == 0:
                say(f"continuing {path} at step {trainer.step} of {trainer.n_steps}")
        try:
            trainer.run_training()
        except KeyboardInterrupt as interrupt:
            if job.mode != "restart" or not str(interrupt):
                raise
            raise KeyboardInterrupt(f"{interrupt} (instead of --restart)") from interrupt
    trainer.validates_all = job.validates_all
    try:
        trainer.perform_actual_validation()
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            "stopped in the validation; the training itself is finished. Go on with "
            + ("the same command" if job.mode == "validate" else "--c (instead of --restart)")
        ) from interrupt


def validation_means(summary: Path) -> dict[str, Any]:
    """``foreground_mean`` of a summary, for messages."""
    return read_summary(summary)["foreground_mean"]
