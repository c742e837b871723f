"""What a training is made of: phases, batches, losses of a step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphnn_unet.errors import InputError
from graphnn_unet.graph.shared_batch import process_count, shared_images
from graphnn_unet.plans.recipe import Batch as BatchSettings
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
        labels_scans: Whether it begins by labeling all unlabeled scans, which are then cases like
            the labeled ones.
    """

    name: str
    start: int
    stop: int
    unlabeled: bool
    labels_scans: bool = False

    @property
    def needs_unlabeled(self) -> bool:
        """Whether it learns from scans without labels."""
        return self.unlabeled or self.labels_scans


def pretraining_and_self_training(schedule: Schedule) -> list[Phase]:
    """Training on labeled cases, then with pseudo-labels; a phase without steps is left out."""
    middle = schedule.pretrain_steps
    end = middle + schedule.selftrain_steps
    phases = [Phase("pretrain", 0, middle, False), Phase("selftrain", middle, end, True)]
    return [phase for phase in phases if phase.stop > phase.start] or phases[:1]


def equal_parts(start: int, stop: int, count: int) -> list[tuple[int, int]]:
    """First step and step after the last of each of ``count`` parts of a range."""
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


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


def of_images(output: Tensor | list[Tensor], images: slice) -> Tensor | list[Tensor]:
    """The outputs of some images of a batch, at every scale."""
    return output[images] if isinstance(output, Tensor) else [scale[images] for scale in output]


def half_of_each(batch: BatchSettings) -> list[int]:
    """Slots of this process among the first half of the labeled and of the unlabeled images.

    For methods whose student sees images of both kinds: as many patches as in the other methods.

    Raises:
        InputError: Processes cannot share them: each needs pairs of images.
    """
    unlabeled = _half(batch.unlabeled)
    return [*_half(batch.labeled), *(batch.labeled + image for image in unlabeled)]


def _half(n_images: int) -> list[int]:
    half = n_images // 2
    if process_count() == 1:
        return list(range(half))
    if half % (2 * process_count()):
        raise InputError(
            f"half of {n_images} images cannot be shared by {process_count()} processes",
            "each needs pairs of images",
            f"Make batch.labeled and batch.unlabeled multiples of {4 * process_count()}",
        )
    return shared_images(half)


def require_shareable(batch: BatchSettings, n_processes: int, *, with_unlabeled: bool) -> None:
    """Raise ``InputError`` where processes cannot share a batch: each needs pairs of images."""
    for key in ("labeled", "unlabeled") if with_unlabeled else ("labeled",):
        size = getattr(batch, key)
        if size % (2 * n_processes):
            raise InputError(
                f"batch.{key} = {size} cannot be shared by {n_processes} processes",
                "each needs pairs of images",
                f"Use a multiple of {2 * n_processes} (--set batch.{key}=...)",
            )


def require_pairs(batch: BatchSettings) -> None:
    """Raise ``InputError`` where labeled and unlabeled images cannot be mixed one with one."""
    if batch.labeled != batch.unlabeled:
        raise InputError(
            f"batch.labeled = {batch.labeled} and batch.unlabeled = {batch.unlabeled} cannot be "
            "mixed",
            "each labeled image is mixed with an unlabeled one",
            f"Make them equal (--set batch.unlabeled={batch.labeled})",
        )
