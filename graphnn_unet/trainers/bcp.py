"""Bidirectional copy-paste: labeled content in unlabeled images and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphnn_unet.errors import RecipeError
from graphnn_unet.pseudo_labels.pipeline import PseudoLabelSettings
from graphnn_unet.trainers.batch import (
    Batch,
    Phase,
    StepLoss,
    equal_parts,
    halves,
    pretraining_and_self_training,
)
from graphnn_unet.trainers.copy_paste import CopyPasteSettings, box_edges, draw_mask, mix
from graphnn_unet.trainers.losses import region_losses
from graphnn_unet.trainers.scan_labels import ScanLabelsSettings, refuse_features
from graphnn_unet.trainers.semi import SemiTrainer
from graphnn_unet.trainers.supervised import mixed_pairs, supervised_copy_paste_loss
from graphnn_unet.trainers.teacher import TeacherSettings


class BCPTrainer(SemiTrainer):
    """Mean teacher on mixed images, pre-trained with copy-paste among labeled cases.

    Batch: labeled halves A, B with labels Y, unlabeled halves P, Q. The teacher labels P and Q.
    With the mask M (0 inside one box a step, shared by all images)

        X_in  = A M + P (1 - M),    L_in  = l(M; Y_A) + alpha l(1 - M; Y_P)
        X_out = Q M + B (1 - M),    L_out = alpha l(M; Y_Q) + l(1 - M; Y_B)

    The teacher's answers pass through the corrections of ``pseudo_label.correct``, then small
    components may be dropped, before they teach. l(R; Y) is Dice + cross-entropy inside R (for the
    teacher's labels cross-entropy alone, unless ``loss.pseudo_dice``) and alpha always weighs the
    unlabeled content. The teacher is the moving average of the student after each optimizer step.

    Source: BCP (CVPR 2023), eqs. 1-8 as restated in GraphCL (ICML 2025), eqs. 1-11. Deviations from
    the released program: no Dice against the teacher's labels and no rotation or scaling of
    unlabeled patches (docs/explanation/choices.md has the measurements), one student call for both
    halves, a teacher in evaluation mode, a box that reaches the last position, nnU-Net's network,
    loss and augmentation (recipes ``*_paper`` choose the program's loss, optimizer and schedule).
    """

    sections: ClassVar = {
        "copy_paste": CopyPasteSettings,
        "teacher": TeacherSettings,
        "pseudo_label": PseudoLabelSettings,
        "scan_labels": ScanLabelsSettings,
    }
    uses_teacher: ClassVar[bool] = True
    mixes_unlabeled: ClassVar[bool] = True
    default_label_rounds: ClassVar[int] = 0
    """``scan_labels.rounds`` where the recipe leaves it, and the corrections, to the method."""

    @property
    def label_rounds(self) -> int:
        """Times in self-training that whole scans are labeled."""
        rounds = self.recipe.of(ScanLabelsSettings).rounds
        if rounds is not None:
            return rounds
        is_open = self.recipe.of(PseudoLabelSettings).correct is None
        schedule = self.recipe.schedule
        can_label = schedule.pretrain_steps > 0 and schedule.selftrain_steps > 0
        return self.default_label_rounds if is_open and can_label else 0

    @property
    def default_corrections(self) -> Sequence[str]:
        """A network's label maps of whole scans are smoothed."""
        return ("blur",) if self.label_rounds else ()

    def initialize(self) -> None:
        """Build network, teacher, optimizer and loss."""
        super().initialize()
        if self.label_rounds:
            refuse_features(self.pseudo_labels)

    def phases(self) -> list[Phase]:
        """Pre-training on labeled cases, then self-training, or its rounds."""
        rounds = self.label_rounds
        phases = pretraining_and_self_training(self.recipe.schedule)
        if not rounds:
            return phases
        *before, last = phases
        if not before and last.unlabeled:
            raise RecipeError(
                f"scan_labels.rounds = {rounds} cannot be used with schedule.pretrain_steps = 0",
                "a network that has learned nothing would label the scans",
                "Raise schedule.pretrain_steps, or set scan_labels.rounds=0",
            )
        if not last.unlabeled or last.stop - last.start < rounds:
            raise RecipeError(
                f"the schedule leaves no step for a round of scan_labels.rounds = {rounds}",
                "rounds share schedule.selftrain_steps",
                "Raise them, or lower scan_labels.rounds",
            )
        parts = equal_parts(last.start, last.stop, rounds)
        return [*before, *(Phase(f"round_{i}", *part, False, labels_scans=True)
                           for i, part in enumerate(parts, 1))]  # fmt: skip

    def batch_loss(self, batch: Batch, phase: Phase) -> StepLoss:
        """The loss of the phase."""
        if phase.labels_scans:
            return self.round_loss(batch)
        if not phase.unlabeled:
            return supervised_copy_paste_loss(self, batch)
        return self.self_training_loss(batch)

    def round_loss(self, batch: Batch) -> StepLoss:
        """Loss of scans with labels, true or the network's, mixed with each other."""
        images, labels = mixed_pairs(self, batch)
        output, extra = self.predict_mixed(images)
        loss = region_losses(output, labels, None, self.loss_settings)[0]
        return StepLoss(loss + extra.total, extra.terms)

    def self_training_loss(self, batch: Batch) -> StepLoss:
        """L_in + L_out on images mixed both ways."""
        pending = self.pseudo_labels.start(self.teach(batch))
        size = batch.labeled.shape[2:]
        edges = box_edges(size, self.recipe.of(CopyPasteSettings).box_fraction)
        mask = draw_mask(size, edges, batch.generator)
        mask = mask.to(batch.labeled.device, non_blocking=True)
        (a, b), (p, q) = halves(batch.labeled), halves(batch.unlabeled)  # pyright: ignore[reportArgumentType]  # teach has looked
        output, extra = self.predict_mixed(torch.cat([mix(a, p, mask), mix(q, b, mask)]))
        pseudo = self.pseudo_labels.finish(pending)
        loss = self._mixed_loss(output, batch.target, self._with_ignore_channel(pseudo), mask)
        terms: dict[str, Any] = {"pseudo_foreground": pseudo.bool().float().mean().detach()}
        return StepLoss(loss + extra.total, terms | extra.terms)

    def predict_mixed(self, images: Tensor) -> tuple[Any, StepLoss]:
        """The student's output, and the loss that a method adds to it."""
        output, _ = self.student.predict(images)
        return output, StepLoss(images.new_zeros(()))

    def _mixed_loss(self, output: Any, target: Tensor, pseudo: Tensor, mask: Tensor) -> Tensor:
        """Region losses of both halves with their weights.

        Regions are ordered (labeled, unlabeled) content; alpha weighs the second.
        """
        (label_a, label_b), (label_p, label_q) = halves(target), halves(pseudo)
        settings, dice = self.loss_settings, (True, self.recipe.loss.pseudo_dice)
        inward, outward = _halve_outputs(output)
        loss_in = region_losses(
            inward, mix(label_a, label_p, mask), torch.cat([mask, ~mask], 1), settings, dice
        )
        loss_out = region_losses(
            outward, mix(label_q, label_b, mask), torch.cat([~mask, mask], 1), settings, dice
        )
        alpha = self.recipe.loss.unlabeled_weight
        return (loss_in[0] + loss_out[0]) + alpha * (loss_in[1] + loss_out[1])

    def _with_ignore_channel(self, pseudo: Tensor) -> Tensor:
        """Overlapping targets carry a last channel for ignored voxels; pseudo-labels have none."""
        if not (self.label_manager.has_regions and self.label_manager.has_ignore_label):
            return pseudo
        return torch.cat([pseudo, torch.zeros_like(pseudo[:, :1])], dim=1)


def _halve_outputs(output: Any) -> tuple[Any, Any]:
    """Split the outputs of one call on both halves, at every scale."""
    if isinstance(output, Tensor):
        return halves(output)
    pairs = [halves(scale) for scale in output]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
