"""What a training is made of: phases, batches, losses of a step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphnn_unet.plans.recipe import Schedule
from graphnn_unet.pseudo_labels.corrector import Place


@dataclass(frozen=True)
class Phase:
    """A part of the training with its own learning rate schedule.

    Attributes:
        name: Name in logs.
        start: First step.
        stop: Step after the last one.
        unlabeled: Whether its batches hold unlabeled images.
    """

    name: str
    start: int
    stop: int
    unlabeled: bool


def pretraining_and_self_training(schedule: Schedule) -> list[Phase]:
    """Training on labeled cases, then with pseudo-labels; a phase without steps is left out."""
    middle = schedule.pretrain_steps
    end = middle + schedule.selftrain_steps
    phases = [Phase("pretrain", 0, middle, False), Phase("selftrain", middle, end, True)]
    return [phase for phase in phases if phase.stop > phase.start] or phases[:1]


@dataclass
class Batch:
    """A batch on the device.

    Attributes:
        labeled: ``(l, c, *s)`` labeled images.
        target: ``(l, 1, *s)`` labels, or ``(l, k, *s)`` bool where outputs overlap.
        unlabeled: ``(u, c, *s)`` unlabeled images, ``None`` in phases without.
        keys: Case ids, labeled ones first.
        generator: CPU generator of this step, for boxes.
        places: Where each image lies in its case, labeled ones first.
    """

    labeled: Tensor
    target: Tensor
    unlabeled: Tensor | None
    keys: list[str]
    generator: torch.Generator
    places: list[Place] = field(default_factory=list)


@dataclass
class StepLoss:
    """Loss of a step and numbers to log (tensors without gradient, or floats)."""

    total: Tensor
    terms: dict[str, Tensor | float] = field(default_factory=dict)


def halves(batch: Tensor) -> tuple[Tensor, Tensor]:
    """First and second half of a batch, for the inward and the outward mixed images."""
    first = len(batch) // 2
    return batch[:first], batch[first:]
