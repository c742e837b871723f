"""A trainer whose whole state is in its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from graphnn_unet.data.plan_files import planning_options
from graphnn_unet.data.run_cases import RunCases
from graphnn_unet.errors import DivergedError, InputError
from graphnn_unet.images.find import some
from graphnn_unet.plans.recipe import Recipe, resolve
from graphnn_unet.prediction.planned_networks import network_name
from graphnn_unet.storage.atomic import rename
from graphnn_unet.storage.checkpoints import (
    DAMAGED,
    FINAL,
    LATEST,
    PREVIOUS,
    load_resumable,
    require_finite,
    save_checkpoint,
)
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers.batch import Phase
from graphnn_unet.trainers.diagnostics import Diagnostics
from graphnn_unet.trainers.epoch_terms import EpochTerms
from graphnn_unet.trainers.run_log import RunLog
from graphnn_unet.trainers.run_spec import RunSpec
from graphnn_unet.trainers.student import Student
from graphnn_unet.trainers.teacher import Teacher, TeacherSettings

CHECKPOINT_SCHEMA_VERSION = 2


class Checkpointed(nnUNetTrainer):
    """Saves and restores everything that the next step depends on.

    Continuing from any checkpoint gives the same weights as never having stopped: all random draws
    are functions of seed and step, so these two are the whole random state.
    """

    # what the step depends on; set by the trainer
    student: Student
    teacher: Teacher | None
    optimizer: torch.optim.Optimizer
    output_folder: str
    recipe: Recipe
    run: RunSpec
    log: RunLog
    cases: RunCases
    step: int
    diagnostics: Diagnostics | None
    _ema_dice: float | None
    _epoch_terms: EpochTerms

    def phases(self) -> list[Phase]:
        """The phases of the training, one after the other."""
        schedule = self.recipe.schedule
        return [Phase("train", 0, schedule.pretrain_steps + schedule.selftrain_steps, False)]

    @property
    def phase(self) -> Phase:
        """The phase of the current step."""
        return next((p for p in self.phases() if self.step < p.stop), self.phases()[-1])

    def deployed_network(self) -> nn.Module:
        """The network that predicts: the student, or the teacher if the recipe says so.

        A teacher that has not followed the student yet is none.
        """
        if self.teacher is None or self.recipe.of(TeacherSettings).deploy != "teacher":
            return self.student.network
        # of the step that was done last: at the end of a phase the next one has not begun
        follows = any(p.needs_unlabeled and p.start < self.step <= p.stop for p in self.phases())
        return self.teacher.network if follows else self.student.network

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint holds; nnU-Net's keys, and ``gnnunet`` with ours."""
        student = self.student.state()
        return {
            "network_weights": self.deployed_network().state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler else None,
            "logging": {"rows": self.log.rows},
            "_best_ema": self._best_ema,
            "current_epoch": len(self.log.rows),
            "init_args": {
                "configuration": self.configuration_name,
                "fold": self.fold,
                "plans": self.plans_manager.plans,
                "dataset_json": self.dataset_json,
            },
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            "gnnunet": {
                "schema_version": CHECKPOINT_SCHEMA_VERSION,
                "network": network_name(self.build_network_architecture),
                "phase": self.phase.name,
                # step and seed are the whole random state: every draw is a function of them
                "step": self.step,
                "seed": self.run.seed,
                "student": student["network"],
                "heads": student["heads"],
                "teacher": self.teacher.state_dict() if self.teacher else None,
                "ema_dice": self._ema_dice,
                "epoch_sums": self._epoch_terms.as_lists(),
                "diagnostics": self.diagnostics.state() if self.diagnostics else None,
                "recipe": self.recipe.as_dict(),
                "cases": self.cases.as_dict(),
                "content": self.cases.content,
            },
        }

    def save(self, name: str) -> None:
        """Write a checkpoint of the fold.

        Raises:
            DivergedError: Its weights are not finite; such a model is never saved as final.
        """
        if self.local_rank or self.disable_checkpointing:
            return
        state = self.state()
        try:
            require_finite(state["network_weights"], name)
        except InputError as error:
            raise DivergedError(error.what, error.why, error.remedy) from error
        # the same tensors twice would be stored twice
        if state["gnnunet"]["student"].keys() == state["network_weights"].keys() and (
            self.deployed_network() is self.student.network
        ):
            state["gnnunet"]["student"] = None
        save_checkpoint(Path(self.output_folder) / name, state)

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's name for ``save``."""
        self.save(Path(filename).name)

    def resume(self) -> Path:
        """Continue from the latest undamaged checkpoint of the fold; return its path.

        Raises:
            InputError: It is of another run or of other data, so it could not go on the same.
        """
        path, state = load_resumable(Path(self.output_folder))
        self.load_state(state, str(path))
        require_same_data(path, state, self.cases)
        latest = path.with_name(LATEST)
        if path.name == PREVIOUS and latest.exists() and not self.local_rank:
            # the next save would put the damaged one in the place of this one
            rename(latest, path.with_name(DAMAGED))
        return path

    def load_finished(self) -> None:
        """Take the final weights of the fold, whose held-out cases are to be scored.

        Raises:
            InputError: They are of another run or of other data: cases that are held out now may
                have trained.
        """
        path = Path(self.output_folder) / FINAL
        state = load_checkpoint(path)
        self.load_state(state, str(path))
        require_same_data(path, state, self.cases, for_scores=True)

    def _how_to_go_on(self, former: Mapping[str, Any]) -> str:
        options = planning_options(former)
        if options is None or options == planning_options(self.plans_manager.plans):
            return "Give the same options as before, or --restart"
        return (
            f"The plan was made anew since: it was made with {options}. Plan again in that way, or "
            "train with --restart"
        )

    def load_state(self, state: Mapping[str, Any], source: str) -> None:
        """Put a checkpoint's state in place.

        Raises:
            InputError: It is from another method, seed or recipe, so it could not go on the same.
        """
        saved = state.get("gnnunet")
        name = type(self).__name__
        if saved is None or state["trainer_name"] != name:
            raise InputError(
                f"{source} cannot be continued by {name}", f"it is from {state['trainer_name']}"
            )
        for what, here, there in (
            ("seed", self.run.seed, saved["seed"]),
            # keys that were added since have their defaults
            ("recipe", self.recipe.as_dict(), resolve(saved["recipe"]).as_dict()),
        ):
            if here != there:
                raise InputError(
                    f"{source} was made with another {what}",
                    _difference(there, here),
                    self._how_to_go_on(state["init_args"]["plans"]),
                )
        self.initialize()
        network = saved["student"] if saved["student"] is not None else state["network_weights"]
        # schema 1 had each head under its name beside the other keys
        self.student.load({"network": network, "heads": saved.get("heads", saved)})
        if self.teacher is not None:
            self.teacher.load_state_dict(saved["teacher"])
        self.step = int(saved["step"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.grad_scaler is not None and state["grad_scaler_state"]:
            self.grad_scaler.load_state_dict(state["grad_scaler_state"])
        self.log.rows = list(state["logging"]["rows"])
        self._best_ema, self._ema_dice = state["_best_ema"], saved["ema_dice"]
        self._epoch_terms = EpochTerms(saved["epoch_sums"])
        if self.diagnostics is not None:
            self.diagnostics.load_state(saved.get("diagnostics") or {})
        self.inference_allowed_mirroring_axes = state["inference_allowed_mirroring_axes"]


_UNSCORED = {"unlabeled", None}


def require_same_data(
    path: Path, state: Mapping[str, Any], cases: RunCases, *, for_scores: bool = False
) -> None:
    """Refuse a checkpoint that was trained on other cases, or on the same in other roles.

    Checkpoints of earlier versions do not tell all of it.

    Args:
        path: The checkpoint, for the message.
        state: Its content.
        cases: The cases of the run as the data are now.
        for_scores: Training has ended: unlabeled cases may come and go, as no score is theirs.

    Raises:
        InputError: Names the cases.
    """
    saved = state.get("gnnunet", {})
    there, here = saved.get("content") or cases.content, cases.content
    roles = cases.as_dict()
    before, now = _role_of(saved.get("cases") or roles), _role_of(roles)
    kinds = {
        "changed": [case for case in here if there.get(case, here[case]) != here[case]],
        "new": [case for case in here if case not in there],
        "gone": [case for case in there if case not in here],
    }
    told = {case for some_cases in kinds.values() for case in some_cases}
    moved = [case for case in {**now, **before} if before.get(case) != now.get(case)]
    kinds["in another role"] = [case for case in moved if case not in told]
    if for_scores:
        kinds = {
            kind: [case for case in names if not {before.get(case), now.get(case)} <= _UNSCORED]
            for kind, names in kinds.items()
        }
    changes = ", ".join(f"{some(names)} {kind}" for kind, names in kinds.items() if names)
    if changes:
        raise InputError(
            f"{path} was trained on other data",
            changes,
            "Train anew with --restart, or bring the former files back and run "
            "gnnunet_plan_and_preprocess",
        )


def _role_of(roles: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {case: role for role, names in roles.items() for case in names}


def _difference(there: Any, here: Any) -> str:
    """The first key in which two recipes differ."""
    if not isinstance(there, Mapping):
        return f"{there} there, {here} here"
    for section in {*there, *here}:
        old, new = there.get(section, {}), here.get(section, {})
        for key in {*old, *new}:
            if old.get(key) != new.get(key):
                return f"{section}.{key} is {old.get(key)} there, {new.get(key)} here"
    return "they differ"
