"""Rounds of self-training: an ensemble labels whole scans, a fresh student learns from them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.errors import InputError, RecipeError
from graphnn_unet.plans.recipe import Positive
from graphnn_unet.pseudo_labels.corrector import Teaching
from graphnn_unet.pseudo_labels.pipeline import PseudoLabelSettings
from graphnn_unet.seeds import Stream, torch_seed
from graphnn_unet.settings import Section
from graphnn_unet.storage.checkpoints import LATEST, save_checkpoint
from graphnn_unet.storage.safe_load import load_plain
from graphnn_unet.trainers.batch import Batch, Phase, StepLoss, equal_parts, halves
from graphnn_unet.trainers.copy_paste import CopyPasteSettings, box_edges, draw_mask, mix
from graphnn_unet.trainers.frozen_labels import FrozenLabels
from graphnn_unet.trainers.losses import logits_of, probabilities, region_losses, target_shares
from graphnn_unet.trainers.scan_labels import answers, refuse_features
from graphnn_unet.trainers.semi import SemiTrainer
from graphnn_unet.trainers.supervised import supervised_loss

FOLDER = "frozen_labels"
"""In the folder of a fold: weights of the ensemble, and the labels of a round."""
MEMBER, ROUND, FINETUNE = "member", "round", "finetune"


class LabelRoundsSettings(Section):
    """Rounds of PseudoLabelTrainer."""

    members: Positive = Field(
        3,
        description="networks that label the first round, each from its own random weights; they "
        "share schedule.pretrain_steps (FLARE22's winner: five folds)",
    )
    rounds: Positive = Field(
        2,
        description="times that the scans are labeled and a fresh student learns from them; they "
        "share schedule.selftrain_steps",
    )
    finetune_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2, description="share of the steps of a round on labeled cases alone, at its end"
    )
    finetune_lr: Annotated[float, Field(gt=0)] = Field(
        0.1, description="learning rate of these steps as a share of optimizer.lr"
    )
    soft: bool = Field(True, description="labels are probabilities; false: the most probable class")


class PseudoLabelTrainer(SemiTrainer):
    """Rounds: an ensemble labels whole scans, a fresh student learns from them, again.

    Phases: ``member_1`` ... train the ensemble on labeled cases, as SupervisedTrainer does. Their
    mean probability over mirrored sliding windows labels the unlabeled scans whole and stays as it
    is, on disk, over ``round_1``: a student from random weights learns

        X_in  = A M + P (1 - M)      X_out = Q M + B (1 - M)
        L = l(labeled content; Y) + alpha l(unlabeled content; S)

    with labeled halves A, B, unlabeled P, Q and their labels S, M the box of copy-paste; l is a
    mean inside its content, cross-entropy with soft labels (and Dice, for S only with
    ``loss.pseudo_dice``). ``finetune_1`` goes on with labeled cases alone, and this network labels
    the scans of ``round_2``. All phases together have the steps of the other methods.

    Source: the winner of FLARE22 (https://doi.org/10.1016/S2589-7500(24)00154-7 is the challenge)
    and noisy student (https://arxiv.org/abs/1911.04252). Deviations: docs/methods/pseudo_label.md.
    """

    sections: ClassVar = {
        "copy_paste": CopyPasteSettings,
        "pseudo_label": PseudoLabelSettings,
        "label_rounds": LabelRoundsSettings,
    }
    makes_pseudo_labels: ClassVar[bool] = True
    mixes_unlabeled: ClassVar[bool] = True

    @property
    def settings(self) -> LabelRoundsSettings:
        """Members and rounds."""
        return self.recipe.of(LabelRoundsSettings)

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        if self.recipe.augmentation.unlabeled_spatial:
            raise RecipeError(
                f"augmentation.unlabeled_spatial = true cannot be used with {type(self).__name__}",
                "labels are read at the place of a patch in its scan",
                "Leave it out",
            )
        for phase in self.phases():
            if phase.stop <= phase.start:
                raise RecipeError(
                    f"the schedule leaves no step for {phase.name} of {type(self).__name__}",
                    "members share schedule.pretrain_steps, rounds share schedule.selftrain_steps",
                    "Raise them, or lower label_rounds.members, rounds or finetune_share",
                )

    def phases(self) -> list[Phase]:
        """The members, then each round with its fine-tuning."""
        schedule, settings = self.recipe.schedule, self.settings
        middle, end = schedule.pretrain_steps, schedule.pretrain_steps + schedule.selftrain_steps
        phases = [Phase(f"{MEMBER}_{number}", start, stop, False) for number, (start, stop)
                  in enumerate(equal_parts(0, middle, settings.members), 1)]  # fmt: skip
        rounds = equal_parts(middle, end, settings.rounds)
        for number, (start, stop) in enumerate(rounds, 1):
            finetune = stop - round(settings.finetune_share * (stop - start))
            phases.append(Phase(f"{ROUND}_{number}", start, finetune, True))
            if finetune < stop:
                phases.append(Phase(f"{FINETUNE}_{number}", finetune, stop, False))
        return phases

    def learning_rate(self, step: int, phase: Phase) -> float:
        """Learning rate of a step; fine-tuning has a share of it."""
        rate = super().learning_rate(step, phase)
        return rate * self.settings.finetune_lr if phase.name.startswith(FINETUNE) else rate

    def initialize(self) -> None:
        """Build network, optimizer and loss; corrections must do with labels alone."""
        super().initialize()
        refuse_features(self.pseudo_labels)

    def prepare_data(self) -> None:
        """Choose the cases of the run and build the patches."""
        super().prepare_data()
        self._scans = {case.case_id: case for case in self.cases.unlabeled}

    # --------------------------------------------------------------------------- a phase

    def start_phase(self, phase: Phase) -> None:
        """Keep the member before, label the scans of a round, begin with a fresh network."""
        super().start_phase(phase)
        phases = self.phases()
        index = [p.name for p in phases].index(phase.name)
        if index == 0:  # what is there is of a run that was begun anew
            self.on_first_process(lambda: shutil.rmtree(self._folder(), ignore_errors=True))
            return
        before = phases[index - 1]
        if before.name.startswith(MEMBER):
            state = {"weights": self.student.network.state_dict()}
            path = self._folder() / f"{before.name}.pth"
            self.on_first_process(lambda: save_checkpoint(path, state))
        if phase.unlabeled:
            self._label_scans(phase)
        if not phase.name.startswith(FINETUNE):
            self._begin_anew(index)

    def _begin_anew(self, index: int) -> None:
        torch.manual_seed(torch_seed(self.run.seed, Stream.LATER_NETWORK, index))
        self.student.network.load_state_dict(self.new_network().state_dict())
        self.optimizer = self._new_optimizer()

    def _label_scans(self, phase: Phase) -> None:
        """Label all unlabeled scans, each process some; what is there already is used.

        A stopped run comes here again with the same weights, and a scan's labels are whole or not
        there.
        """
        labels = self.labels_of(phase)
        if labels.is_whole:
            return
        self.save(LATEST)
        self._remove_all_but_last_two(phase)
        states = list(self._states_that_label(phase))
        for scan, logits in answers(self, phase, states, labels.has):
            labels.write(scan, self._cleaned(logits)[0].numpy())
        self.on_first_process(labels.finish)

    def _remove_all_but_last_two(self, phase: Phase) -> None:
        """Make room; the checkpoint before the latest may be of the round before."""
        number = int(phase.name.rpartition("_")[2])
        kept = {f"{ROUND}_{number}", f"{ROUND}_{number - 1}"}
        if number > 1:
            old = [path for path in self._folder().glob("*") if path.name not in kept]
            self.on_first_process(lambda: _remove(old))

    def _states_that_label(self, phase: Phase) -> Iterator[Mapping[str, Tensor]]:
        """Weights of the ensemble in the first round, then of the student of the round before."""
        if phase.name != f"{ROUND}_1":
            yield self.student.network.state_dict()
            return
        for number in range(1, self.settings.members + 1):
            path = self._folder() / f"{MEMBER}_{number}.pth"
            if not path.is_file():
                raise InputError(f"{path} is missing", "it labels the scans",
                                 "Use --restart to train anew")  # fmt: skip
            yield load_plain(path, "weights", "Use --restart to train anew")["weights"]

    def _cleaned(self, logits: Tensor) -> Tensor:
        """Shares after the clean-up of a scan's label map; of one class a voxel if they are hard.

        Args:
            logits: ``(k, z, y, x)``.

        Returns:
            ``(1, k, z, y, x)``.
        """
        share = self._probability(logits[None])
        cleaned = self.pseudo_labels.clean_scan(logits)[None]
        if self.label_manager.has_regions:
            hard = cleaned.float()
            changed = cleaned != (share > 0.5)
        else:
            hard = torch.zeros_like(share).scatter_(1, cleaned.long(), 1)
            changed = cleaned != share.argmax(1, keepdim=True)
        return torch.where(changed, hard, share) if self.settings.soft else hard

    def on_train_end(self) -> None:
        """Write the final checkpoint; the labels of the last round stay."""
        super().on_train_end()
        last = f"{ROUND}_{self.settings.rounds}"
        old = [path for path in self._folder().glob("*") if path.name != last]
        self.on_first_process(lambda: _remove(old))

    # --------------------------------------------------------------------------- a step

    def batch_loss(self, batch: Batch, phase: Phase) -> StepLoss:
        """The loss of the phase."""
        return self.round_loss(batch) if phase.unlabeled else supervised_loss(self, batch)

    def round_loss(self, batch: Batch) -> StepLoss:
        """Labeled and unlabeled content of images mixed both ways, each a mean inside it."""
        share = self._probability(self.pseudo_labels.correct(self.teach(batch)))
        true, valid = target_shares(batch.target, share.shape[1], self.loss_settings)
        size = batch.labeled.shape[2:]
        edges = box_edges(size, self.recipe.of(CopyPasteSettings).box_fraction)
        mask = draw_mask(size, edges, batch.generator).to(share.device, non_blocking=True)
        (a, b), (p, q) = halves(batch.labeled), halves(cast(Tensor, batch.unlabeled))
        (true_a, true_b), (share_p, share_q) = halves(true), halves(share)
        output, _ = self.student.predict(torch.cat([mix(a, p, mask), mix(q, b, mask)]))
        target = torch.cat([mix(true_a, share_p, mask), mix(share_q, true_b, mask)])
        labeled = torch.cat([mask.expand(len(a), -1, *size), ~mask.expand(len(b), -1, *size)])
        regions = torch.cat([labeled if valid is None else labeled & valid, ~labeled], 1)
        settings = replace(self.loss_settings, ignore_label=None)
        dice = (True, self.recipe.loss.pseudo_dice)
        losses = region_losses(output, target, regions, settings, dice)
        total = losses[0] + self.recipe.loss.unlabeled_weight * losses[1]
        return StepLoss(total, {"labeled_loss": losses[0].detach(),
                                "pseudo_loss": losses[1].detach()})  # fmt: skip

    def teach(self, batch: Batch) -> Teaching:
        """The frozen labels of the unlabeled images, as logits."""
        images = cast(Tensor, batch.unlabeled)
        first = len(batch.labeled)
        cases, places = batch.keys[first:], batch.places[first:]
        labels = self.labels_of(self.phase)
        shape = (self.label_manager.num_segmentation_heads, *images.shape[2:])
        patches = [labels.patch(self._scans[case], place, shape)
                   for case, place in zip(cases, places, strict=True)]  # fmt: skip
        share = torch.from_numpy(np.stack(patches)).to(images.device, non_blocking=True)
        logits = logits_of(share, overlapping=self.label_manager.has_regions)
        return Teaching(logits, {}, cases, places)

    def labels_of(self, phase: Phase) -> FrozenLabels:
        """The labels of the round that a phase belongs to."""
        number = phase.name.rpartition("_")[2]
        folder = self._folder() / f"{ROUND}_{number}"
        return FrozenLabels(folder, overlapping=self.label_manager.has_regions)

    def _probability(self, logits: Tensor) -> Tensor:
        return probabilities(logits, overlapping=self.label_manager.has_regions)

    def _folder(self) -> Path:
        return Path(self.output_folder) / FOLDER


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
