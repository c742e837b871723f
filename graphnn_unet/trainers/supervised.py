"""The baseline: labeled cases alone, with or without copy-paste among them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from graphnn_unet.trainers.batch import Batch, Phase, StepLoss, halves
from graphnn_unet.trainers.copy_paste import CopyPasteSettings, box_edges, draw_mask, mix
from graphnn_unet.trainers.losses import region_losses
from graphnn_unet.trainers.semi import SemiTrainer


class SupervisedTrainer(SemiTrainer):
    """nnU-Net's training on the labeled cases, as many steps and patches as the other methods.

    With ``copy_paste.supervised`` (the default) labeled images are mixed with each other as in
    the pre-training of BCP. That baseline, which papers leave out, decides whether unlabeled
    scans helped.
    """

    sections: ClassVar = {"copy_paste": CopyPasteSettings}

    def phases(self) -> list[Phase]:
        """One phase over all steps."""
        schedule = self.recipe.schedule
        return [Phase("supervised", 0, schedule.pretrain_steps + schedule.selftrain_steps, False)]

    def batch_loss(self, batch: Batch, phase: Phase) -> StepLoss:
        """Dice and cross-entropy over the whole (mixed) image."""
        del phase
        return supervised_loss(self, batch)


def supervised_loss(trainer: SemiTrainer, batch: Batch) -> StepLoss:
    """Loss of labeled images, mixed with each other if the recipe says so."""
    return _loss_of(trainer, *labeled_patches(trainer, batch))


def labeled_patches(trainer: SemiTrainer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Images and labels that the student sees; one without a partner stays as it is."""
    images, labels = batch.labeled, batch.target
    n_mixed = len(images) // 2 * 2
    if not n_mixed or not trainer.recipe.of(CopyPasteSettings).supervised:
        return images, labels
    pairs = replace(batch, labeled=images[:n_mixed], target=labels[:n_mixed])
    mixed, mixed_labels = mixed_pairs(trainer, pairs)
    return torch.cat([mixed, images[n_mixed:]]), torch.cat([mixed_labels, labels[n_mixed:]])


def supervised_copy_paste_loss(trainer: SemiTrainer, batch: Batch) -> StepLoss:
    """Loss of labeled images mixed with each other; all supervision is ground truth."""
    return _loss_of(trainer, *mixed_pairs(trainer, batch))


def _loss_of(trainer: SemiTrainer, images: Tensor, labels: Tensor) -> StepLoss:
    output, _ = trainer.student.predict(images)
    return StepLoss(region_losses(output, labels, None, trainer.loss_settings)[0])


def mixed_pairs(trainer: SemiTrainer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Labeled images mixed with each other, and their labels.

    With the halves A and B and the mask M (0 in the box) the student sees ``A M + B (1 - M)`` and,
    unless the recipe asks for one direction, ``B M + A (1 - M)`` as well.

    Source: BCP, pre-training; its program mixes one way.
    """
    copy_paste = trainer.recipe.of(CopyPasteSettings)
    size = batch.labeled.shape[2:]
    mask = draw_mask(size, box_edges(size, copy_paste.box_fraction), batch.generator)
    mask = mask.to(batch.labeled.device, non_blocking=True)
    (a, b), (label_a, label_b) = halves(batch.labeled), halves(batch.target)
    images, labels = [mix(a, b, mask)], [mix(label_a, label_b, mask)]
    if copy_paste.directions == "both":
        images.append(mix(b, a, mask))
        labels.append(mix(label_b, label_a, mask))
    return torch.cat(images), torch.cat(labels)
