"""Mean teacher, plain and uncertainty-aware: the student agrees with its average on two views."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.graph.shared_batch import sum_over_processes
from graphnn_unet.plans.recipe import Fraction, Positive
from graphnn_unet.pseudo_labels.pipeline import PseudoLabelSettings
from graphnn_unet.settings import Section
from graphnn_unet.trainers.batch import (
    Batch,
    Phase,
    StepLoss,
    half_of_each,
    pretraining_and_self_training,
)
from graphnn_unet.trainers.copy_paste import CopyPasteSettings
from graphnn_unet.trainers.losses import entropy_of, probabilities
from graphnn_unet.trainers.semi import SemiTrainer
from graphnn_unet.trainers.strong_view import changed_images, noisy_images
from graphnn_unet.trainers.supervised import supervised_loss
from graphnn_unet.trainers.teacher import TeacherSettings

NonNegative = Annotated[float, Field(ge=0)]
_TINY = 1e-16


class MeanTeacherSettings(Section):
    """Consistency with the teacher, of MeanTeacherTrainer and UncertaintyMeanTeacherTrainer."""

    weight: NonNegative = Field(
        0.1, description="largest weight of the consistency (UA-MT's program: 0.1)"
    )
    rampup_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="share of self-training over which the weight rises (UA-MT's program: all "
        "6 000 steps)",
    )
    noise: NonNegative = Field(
        0.1,
        description="standard deviation of the noise on what the teacher sees, clipped at twice "
        "(UA-MT's program: 0.1)",
    )
    change_probability: Fraction = Field(
        0.5,
        description="probability of each change of intensity, drawn for student and teacher apart "
        "(UA-MT's program: 0)",
    )


class UncertaintySettings(Section):
    """Which voxels count in the consistency of UncertaintyMeanTeacherTrainer."""

    passes: Positive = Field(8, description="noisy passes of the teacher (UA-MT: 8)")
    first_threshold: Fraction = Field(
        0.75,
        description="threshold of the entropy at the beginning, as a share of its maximum; it "
        "rises to 1 (UA-MT: 3/4)",
    )


class MeanTeacherTrainer(SemiTrainer):
    """Mean teacher: the student's probabilities follow those of its moving average.

    Pre-training is SupervisedTrainer's. In self-training both see the same place of an unlabeled
    scan, each under changes of intensity of its own and the teacher with noise. With p and q their
    probabilities, over voxels v and C classes, t of T steps done,

        L = L_supervised + weight exp(-5 (1 - t/T)^2) mean_v sum_c (p_vc - q_vc)^2 / C

    Half of the labeled and half of the unlabeled images of the recipe make a step, so that the
    student sees as many patches as in the other methods. Overlapping regions have a probability
    each.

    Source: Tarvainen and Valpola (NIPS 2017, https://arxiv.org/abs/1703.01780), for segmentation
    as in the program of UA-MT. Deviations: docs/methods/mean_teacher.md.
    """

    sections: ClassVar = {
        "copy_paste": CopyPasteSettings,
        "teacher": TeacherSettings,
        "pseudo_label": PseudoLabelSettings,
        "mean_teacher": MeanTeacherSettings,
    }
    uses_teacher: ClassVar[bool] = True

    @property
    def settings(self) -> MeanTeacherSettings:
        """Weight and views."""
        return self.recipe.of(MeanTeacherSettings)

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        for phase in self.phases():
            self.slots(phase)  # a batch that cannot be shared is refused before the first step

    def phases(self) -> list[Phase]:
        """Pre-training on labeled cases, then self-training."""
        return pretraining_and_self_training(self.recipe.schedule)

    def slots(self, phase: Phase) -> list[int]:
        """All labeled images in pre-training; in self-training half of both kinds."""
        return half_of_each(self.recipe.batch) if phase.unlabeled else super().slots(phase)

    def batch_loss(self, batch: Batch, phase: Phase) -> StepLoss:
        """The loss of the phase."""
        supervised = supervised_loss(self, batch)
        if not phase.unlabeled:
            return supervised
        distance, terms = self.consistency(batch, phase)
        weight = self.settings.weight * self.rampup(phase, self.settings.rampup_share)
        terms = {
            "supervised_loss": supervised.total.detach(), "consistency": distance.detach(),
            "consistency_weight": weight, **terms,
        }  # fmt: skip
        return StepLoss(supervised.total + weight * distance, terms)

    def rampup(self, phase: Phase, share: float = 1.0) -> float:
        """How far the Gaussian ramp over a share of the phase has risen."""
        return gaussian_rampup(self.step - phase.start, share * (phase.stop - phase.start))

    def consistency(self, batch: Batch, phase: Phase) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Distance between student and teacher on the unlabeled images, and numbers to log."""
        del phase
        seen, theirs = self.views(batch)
        return self.distances(seen, self.target(batch, theirs)).mean(), {}

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The unlabeled images as the student sees them, and as the teacher does without noise."""
        images, probability = cast(Tensor, batch.unlabeled), self.settings.change_probability
        seen = changed_images(images, probability, batch.generator)
        return seen, changed_images(images, probability, batch.generator)

    @torch.no_grad()
    def target(self, batch: Batch, theirs: Tensor) -> Tensor:
        """The teacher's probabilities ``(u, k, *s)``, corrected as the recipe says."""
        noisy = noisy_images(theirs, self.settings.noise, batch.generator)
        teaching = self.teach(replace(batch, unlabeled=noisy))
        return self.probability(self.pseudo_labels.correct(teaching))

    def distances(self, seen: Tensor, target: Tensor) -> Tensor:
        """Squared differences of the student's probabilities from a target, ``(u, k, *s)``."""
        output, _ = self.student.predict(seen)
        finest = output if isinstance(output, Tensor) else output[0]
        return (self.probability(finest) - target).square()

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes, or of each region, ``(b, k, *s)`` float32."""
        return probabilities(logits, overlapping=self.label_manager.has_regions)


class UncertaintyMeanTeacherTrainer(MeanTeacherTrainer):
    """UA-MT: a mean teacher that is followed only where it is certain.

    H is the entropy of the teacher's mean probability over ``uncertainty.passes`` passes, each
    with other noise. Voxels count where

        H < (3/4 + 1/4 exp(-5 (1 - t/T)^2)) ln C

    and the distance of MeanTeacherTrainer is its mean over those. Overlapping regions are judged
    each by itself, with the entropy of being there or not (C = 2).

    Source: UA-MT (Yu et al., MICCAI 2019, https://arxiv.org/abs/1907.07034) and its program.
    Deviations: docs/methods/mean_teacher.md.
    """

    sections: ClassVar = {"uncertainty": UncertaintySettings}

    def consistency(self, batch: Batch, phase: Phase) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean distance over the voxels of which the teacher is certain."""
        seen, theirs = self.views(batch)
        target = self.target(batch, theirs)
        threshold = self.threshold(phase)
        certain = (self.uncertainty(theirs, batch.generator) < threshold).float()
        terms = {"threshold": threshold, "certain": certain.mean()}
        return masked_mean(self.distances(seen, target), certain), terms

    def threshold(self, phase: Phase) -> float:
        """Entropy below which a voxel counts, in nats."""
        first = self.recipe.of(UncertaintySettings).first_threshold
        n_classes = (
            2 if self.label_manager.has_regions else self.label_manager.num_segmentation_heads
        )
        return (first + (1 - first) * self.rampup(phase)) * math.log(n_classes)

    @torch.no_grad()
    def uncertainty(self, theirs: Tensor, generator: torch.Generator) -> Tensor:
        """Entropy ``(u, 1, *s)`` of the mean over noisy passes; ``(u, k, *s)`` of regions."""
        teacher = self.teacher
        assert teacher is not None  # noqa: S101  # uses_teacher
        passes = self.recipe.of(UncertaintySettings).passes
        probability = torch.zeros(())
        for number in range(passes):
            noisy = noisy_images(theirs, self.settings.noise, generator)
            said = self.probability(teacher.predict(noisy)[0]) / passes
            probability = probability + said if number else said
        return entropy_of(probability, overlapping=self.label_manager.has_regions)


def gaussian_rampup(done: float, length: float) -> float:
    """``exp(-5 (1 - done/length)^2)``, 1 from ``length`` on."""
    left = 1 - min(max(done / length, 0.0), 1.0) if length > 0 else 0.0
    return math.exp(-5 * left**2)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``(b, k, *s)`` where ``mask``, broadcast over it, is 1; 0 where it is nowhere.

    Over the images of all processes.
    """
    mask = mask.expand_as(values)
    return sum_over_processes((mask * values).sum()) / (sum_over_processes(mask.sum()) + _TINY)
