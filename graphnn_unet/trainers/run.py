"""One training from names to a validated model, or all folds of a cross-validation."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from graphnn_unet.data.paths import folders, resolve_dataset, use_folders
from graphnn_unet.data.run_cases import select_cases
from graphnn_unet.data.splits import held_out
from graphnn_unet.device import resolve_device
from graphnn_unet.errors import InputError, MissingFileError, RefusedError
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.plans.planner import run_recipe
from graphnn_unet.plans.recipe import PLANNING_SECTIONS, Layer, Recipe, load_recipe, parse_overrides
from graphnn_unet.progress import is_quiet, say, set_quiet
from graphnn_unet.storage.atomic import atomic_path, remove_leftovers
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.safe_load import check_plans, read_json
from graphnn_unet.trainers.checkpoint import FINAL, RESUME_ORDER
from graphnn_unet.trainers.registry import trainer_class
from graphnn_unet.trainers.semi import Run, SemiTrainer

DEFAULT_PLANS = "gnnunetPlans"


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
    """Everything one fold needs; picklable, for one process a GPU."""

    dataset: str
    plans: dict
    dataset_json: dict
    configuration: str
    trainer: str
    fold: int | str
    run: Run
    device: str
    mode: str
    num_gpus: int
    quiet: bool


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
    plans: str = DEFAULT_PLANS,
    mode: str = "new",
    device: str = "auto",
    num_gpus: int = 1,
    n_loader_workers: int | None = None,
    deterministic: bool = False,
    output: Path | str | None = None,
) -> TrainingResult:
    """Train one fold, or with fold ``cv`` all of them, and validate it.

    Args:
        dataset: Name, id or both.
        configuration: ``2d``, ``3d_fullres`` or ``3d_lowres``.
        trainer: Name of a trainer, or ``path/to/file.py:ClassName``.
        fold: Fold number, ``all`` (no case held out) or ``cv``.
        n_labeled: Count only this many labelled cases as labelled; the others are unlabelled.
        draw: Which ones; 0 is the published order, others are random.
        seed: Seed of weights, batches and boxes.
        recipe: Name or TOML file, in place of the one the data were planned with.
        overrides: ``section.key=value`` texts.
        plans: Name of the plan.
        mode: ``new`` (refused over a finished or begun fold), ``continue``, ``restart`` (the old
            fold is set aside) or ``validate`` (only predict and score).
        device: As ``-device``.
        num_gpus: Processes of one machine that share the batch.
        n_loader_workers: Processes that make batches.
        deterministic: Bitwise repeatable on CUDA as well.
        output: Model folder instead of the usual one below ``nnUNet_results``.

    Raises:
        InputError: Something does not fit; the message says what.
        RefusedError: The fold is finished or begun and ``mode`` is ``new``.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    name = resolve_dataset(dataset)
    preprocessed = use_folders().preprocessed / name
    raw_plans, dataset_json = _read_plan(preprocessed, plans, configuration)
    resolved = _resolve_recipe(raw_plans, configuration, recipe, overrides)
    cls = trainer_class(trainer)
    if not issubclass(cls, SemiTrainer):
        raise InputError(
            f"{trainer} is no trainer of this program", "it does not know unlabelled cases",
            f"Train it with nnUNetv2_train {name} {configuration} FOLD -tr {trainer} -p {plans}",
        )  # fmt: skip
    model = (
        Path(output)
        if output
        else folders().results
        / name
        / _model_name(cls.__name__, plans, configuration, n_labeled, draw, seed)
    )
    run = Run(resolved, seed, n_labeled, draw, model, n_loader_workers, deterministic)
    chosen = resolve_device(device)
    job = _Job(name, raw_plans, dataset_json, configuration, trainer, fold, run, str(chosen), mode,
               num_gpus, is_quiet())  # fmt: skip
    if fold == "cv":
        return _cross_validate(job, preprocessed)
    summary = _train_fold(job)
    return TrainingResult(model, [fold], [summary])


def _read_plan(preprocessed: Path, plans: str, configuration: str) -> tuple[dict, dict]:
    path = preprocessed / f"{plans}.json"
    if not path.is_file():
        known = sorted(p.stem for p in preprocessed.glob("*lans*.json")) or ["none"]
        raise MissingFileError(
            f"plan {path} is missing", f"plans of this data set: {', '.join(known)}",
            f"Run gnnunet_plan_and_preprocess -d {preprocessed.name}, or choose a plan with -p",
        )  # fmt: skip
    raw_plans = check_plans(read_json(path), path)
    if configuration not in raw_plans["configurations"]:
        raise InputError(
            f"configuration {configuration!r} is not in {path.name}",
            f"it has {', '.join(raw_plans['configurations'])}",
        )
    return raw_plans, read_json(preprocessed / "dataset.json")


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


def _model_name(
    trainer: str, plans: str, configuration: str, n_labeled: int | None, draw: int, seed: int
) -> str:
    name = f"{trainer}__{plans}__{configuration}"
    if n_labeled is not None:
        name += f"__labeled{n_labeled}"
        if draw:
            name += f"_draw{draw}"
    return name + (f"__seed{seed}" if seed else "")


def _cross_validate(job: _Job, preprocessed: Path) -> TrainingResult:
    """All folds one after the other, then their held-out cases together."""
    identifier = job.plans["configurations"][job.configuration]["data_identifier"]
    cases = select_cases(
        preprocessed, identifier, n_labeled=job.run.n_labeled, draw=job.run.draw, fold="all"
    )
    own = preprocessed / "gnnunet.json"
    patients = read_json(own).get("patients", {}) if own.is_file() else {}
    labeled = [case.case_id for case in cases.labeled]
    patient_of = {case: patients.get(case, case) for case in labeled}
    n_folds = 0
    while _fold_exists(labeled, patient_of, n_folds):
        n_folds += 1
    if n_folds == 0:
        raise InputError(
            "cross-validation is not possible", "all labelled cases are of one patient",
            "Train fold all and score on test cases",
        )  # fmt: skip
    summaries = []
    for fold in range(n_folds):
        folder = job.run.model_folder / f"fold_{fold}"
        if (
            (folder / FINAL).is_file()
            and (folder / "validation" / "summary.json").is_file()
            and (job.mode != "restart")
        ):
            say(f"fold {fold} is finished")
            summaries.append(folder / "validation" / "summary.json")
            continue
        begun = any((folder / name).is_file() for name in RESUME_ORDER)
        mode = "continue" if begun and job.mode == "new" else job.mode
        summaries.append(_train_fold(replace(job, fold=fold, mode=mode)))
    summaries.append(
        _pool_folds(
            job.run.model_folder, n_folds, preprocessed, labeled, job.dataset_json["file_ending"]
        )
    )
    return TrainingResult(job.run.model_folder, list(range(n_folds)), summaries)


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
        held_out_path = next(path for path in paths if path.is_file())
        with atomic_path(target / name) as temporary:
            shutil.copyfile(held_out_path, temporary)
    result = evaluate(
        target, preprocessed / "gt_segmentations", target, cases=labeled, is_estimate=True,
        dataset_json=preprocessed / "dataset.json", n_workers=0,
    )  # fmt: skip
    return result.summary_json


def _train_fold(job: _Job) -> Path:
    """Train one fold under its lock; return the summary of its validation."""
    folder = job.run.model_folder / f"fold_{job.fold}"
    with folder_lock(folder, f"gnnunet_train {job.trainer}"):
        remove_leftovers(folder)
        _respect_what_is_there(folder, job.mode)
        if job.num_gpus > 1:
            _train_distributed(job)
        else:
            _work(job)
    return folder / "validation" / "summary.json"


def _respect_what_is_there(folder: Path, mode: str) -> None:
    """Refuse to train over results; set an old fold aside for ``restart``.

    Raises:
        RefusedError: The fold is finished or begun.
        MissingFileError: Nothing to validate.
    """
    finished = (folder / FINAL).is_file()
    begun = [name for name in RESUME_ORDER if (folder / name).is_file()]
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
            + (" or --val to score again" if finished else ", or --c to go on"),
        )
    if mode == "restart" and (finished or begun):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        aside.mkdir()
        for path in folder.iterdir():
            if not path.name.startswith(".gnnunet.lock"):
                path.rename(aside / path.name)
        say(f"the old results are in {aside}")


def _work(job: _Job) -> None:
    """Train and validate in this process."""
    trainer = trainer_class(job.trainer)(
        dict(job.plans), job.configuration, job.fold, job.dataset_json,
        torch.device(job.device), job.run,
    )  # fmt: skip
    if job.mode == "validate":
        trainer.initialize()
        trainer.prepare_data()
        trainer.load_checkpoint(str(Path(trainer.output_folder) / FINAL))
    else:
        if job.mode == "continue":
            trainer.initialize()
            trainer.prepare_data()
            path = trainer.resume()
            if trainer.local_rank == 0:
                say(f"continuing {path} at step {trainer.step} of {trainer.n_steps}")
        trainer.run_training()
    trainer.perform_actual_validation()


def _train_distributed(job: _Job) -> None:
    """One process a GPU (or, on a CPU, processes that share the batch over gloo)."""
    if job.device.startswith("cuda") and torch.cuda.device_count() < job.num_gpus:
        raise InputError(
            f"-num_gpus {job.num_gpus} is not possible", f"{torch.cuda.device_count()} are here"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, args=(job, port), nprocs=job.num_gpus, join=True)


def _rank(rank: int, job: _Job, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    set_quiet(job.quiet or rank > 0)
    backend = "nccl" if job.device.startswith("cuda") else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(backend, rank=rank, world_size=job.num_gpus)
    try:
        _work(job)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def parse_fold(text: str) -> int | str:
    """``0`` to ``4``, ``all`` or ``cv``.

    Raises:
        InputError: Something else.
    """
    if text in ("all", "cv"):
        return text
    if re.fullmatch(r"\d+", text):
        return int(text)
    raise InputError(f"fold {text!r} is unknown", "", "Use a number, all or cv")


def validation_means(summary: Path) -> dict[str, Any]:
    """``foreground_mean`` of a summary, for messages."""
    return read_json(summary)["foreground_mean"]
