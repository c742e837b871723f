"""nnFilterMatch: one network labels the plain view of a scan and learns from a harder one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch import distributed as dist

from graphnn_unet.data.patch_dataset import StepLoader
from graphnn_unet.errors import RecipeError
from graphnn_unet.networks.features import Tap
from graphnn_unet.networks.hook import one_output
from graphnn_unet.plans.recipe import Fraction
from graphnn_unet.progress import track
from graphnn_unet.pseudo_labels.pipeline import PseudoLabelSettings
from graphnn_unet.settings import Section
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.checkpoints import LATEST
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.trainers.batch import (
    Batch,
    Phase,
    StepLoss,
    half_of_each,
    of_images,
    pretraining_and_self_training,
)
from graphnn_unet.trainers.copy_paste import CopyPasteSettings
from graphnn_unet.trainers.losses import entropy_of, probabilities, region_losses
from graphnn_unet.trainers.semi import SemiTrainer
from graphnn_unet.trainers.strong_view import changed_images
from graphnn_unet.trainers.supervised import labeled_patches, supervised_loss

FOLDER = "filtered_scans"
"""In the folder of a fold: which scans are left after each filter."""
N_PARTS = 3
"""Parts of self-training; scans are filtered between them (program: 100 epochs of 300 each)."""


class FilterMatchSettings(Section):
    """Views and filters of FilterMatchTrainer."""

    filter: bool = Field(
        True,
        description="a voxel teaches only where the network is sure of its label; "
        "nnFilterMatch's program: false",
    )
    threshold: Fraction = Field(
        0.3,
        description="entropy below which the network is sure, as a share of the largest (no "
        "counterpart in nnFilterMatch; 0.29 is a probability of 0.95 of two classes)",
    )
    drop: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of the unlabeled scans, those with least entropy, that is left out "
        "after each third of self-training (nnFilterMatch's program: 0.15)",
    )
    weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="weight of unlabeled images beside labeled ones (nnFilterMatch: 1)"
    )
    view: Literal["intensity", "turn"] = Field(
        "intensity",
        description="harder view: other intensities, or turned by 90, 180 or 270 degrees in the "
        "last two axes (nnFilterMatch's program: turn)",
    )
    change_probability: Fraction = Field(
        0.5, description="probability of each change of intensity of the harder view"
    )


class FilterMatchTrainer(SemiTrainer):
    """nnFilterMatch: one network labels for itself and filters by entropy.

    Pre-training is SupervisedTrainer's (the program: 20 epochs). Then, in each step, the network
    labels unlabeled images without gradient and learns these labels from a harder view of the same
    images. With w the weight of unlabeled images

        L = (l(labeled; Y) + w l(unlabeled where H < threshold log C; Y')) / (1 + w)

    l is Dice and cross-entropy (for Y' Dice only with ``loss.pseudo_dice``), H the entropy of the
    network's probability; ``filter_match.filter = false`` takes all voxels. With
    ``filter_match.drop`` the scans of which the network is most certain are left out after each
    third of self-training, which is the filter of the paper and its program. Half of the labeled
    and half of the unlabeled images of the recipe make a step.

    Source: nnFilterMatch (2025, https://arxiv.org/abs/2509.19746) and its program. Deviations:
    docs/methods/filter_match.md.
    """

    sections: ClassVar = {
        "copy_paste": CopyPasteSettings,
        "pseudo_label": PseudoLabelSettings,
        "filter_match": FilterMatchSettings,
    }
    makes_pseudo_labels: ClassVar[bool] = True

    @property
    def settings(self) -> FilterMatchSettings:
        """Views and filters."""
        return self.recipe.of(FilterMatchSettings)

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        for phase in self.phases():
            self.slots(phase)  # a batch that cannot be shared is refused before the first step

    def initialize(self) -> None:
        """Build network, optimizer and loss; corrections have no rounds."""
        super().initialize()
        if rounds := self.pseudo_labels.n_rounds:
            raise RecipeError(
                f"scan_graph.rounds = {rounds} cannot be used with {type(self).__name__}",
                "a teacher answers in rounds, and this method has none",
                "Set scan_graph.rounds=0",
            )

    def phases(self) -> list[Phase]:
        """Pre-training, then self-training, in parts where scans are filtered between them."""
        phases = pretraining_and_self_training(self.recipe.schedule)
        whole = phases[-1]
        if not (self.settings.drop and whole.unlabeled):
            return phases
        length = whole.stop - whole.start
        edges = [whole.start + length * i // N_PARTS for i in range(N_PARTS + 1)]
        parts = [Phase(f"{whole.name}_{i}", edges[i - 1], edges[i], True)
                 for i in range(1, N_PARTS + 1)]  # fmt: skip
        return phases[:-1] + [part for part in parts if part.stop > part.start]

    def slots(self, phase: Phase) -> list[int]:
        """All labeled images in pre-training; in self-training half of both kinds."""
        return half_of_each(self.recipe.batch) if phase.unlabeled else super().slots(phase)

    def learning_rate(self, step: int, phase: Phase) -> float:
        """Learning rate of a step; self-training in parts has the schedule of the whole."""
        if phase.unlabeled:
            whole = pretraining_and_self_training(self.recipe.schedule)[-1]
            return super().learning_rate(step, whole)
        return super().learning_rate(step, phase)

    # --------------------------------------------------------------------------- a step

    def batch_loss(self, batch: Batch, phase: Phase) -> StepLoss:
        """The loss of the phase."""
        return self.self_training_loss(batch) if phase.unlabeled else supervised_loss(self, batch)

    def self_training_loss(self, batch: Batch) -> StepLoss:
        """Labeled images and the harder view of unlabeled ones, in one pass."""
        teaching = self.teach(batch)
        sure = self.sure_voxels(teaching.logits)
        labels = self.pseudo_labels.finish(self.pseudo_labels.start(teaching))
        strong, labels, sure = self._harder_view(batch, labels, sure)
        images, target = labeled_patches(self, batch)
        output, _ = self.student.predict(torch.cat([images, strong]))
        n_labeled = len(images)
        supervised = region_losses(
            of_images(output, slice(n_labeled)), target, None, self.loss_settings
        )[0]
        pseudo = region_losses(
            of_images(output, slice(n_labeled, None)), labels,
            sure if self.settings.filter else None,
            replace(self.loss_settings, ignore_label=None),  # pseudo-labels have none
            (self.recipe.loss.pseudo_dice,),
        )[0]  # fmt: skip
        weight = self.settings.weight
        terms: dict[str, Tensor | float] = {
            "supervised_loss": supervised.detach(), "pseudo_loss": pseudo.detach(),
            "sure": sure.float().mean(), "pseudo_foreground": labels.bool().float().mean(),
        }  # fmt: skip
        return StepLoss((supervised + weight * pseudo) / (1 + weight), terms)

    @torch.no_grad()
    def _answer(self, images: Tensor, taps: Sequence[Tap]) -> tuple[Tensor, dict[Tap, Tensor]]:
        """The network itself labels."""
        output, features = self.student.predict(images, taps)
        # PyTorch before 2.11 would take these half precision weights, without gradients, once more
        torch.clear_autocast_cache()
        return (output if isinstance(output, Tensor) else output[0]), features

    def sure_voxels(self, logits: Tensor) -> Tensor:
        """Where the entropy is below the threshold, ``(u, 1, *s)``; of regions: that of each."""
        overlapping = self.label_manager.has_regions
        entropy = entropy_of(
            probabilities(logits, overlapping=overlapping), overlapping=overlapping
        )
        largest = math.log(2 if overlapping else logits.shape[1])
        return entropy.amax(1, keepdim=True) < self.settings.threshold * largest

    def _harder_view(
        self, batch: Batch, labels: Tensor, sure: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The student's view of the unlabeled images, with their labels and sure voxels."""
        images = cast(Tensor, batch.unlabeled)
        if self.settings.view == "intensity":
            probability = self.settings.change_probability
            return changed_images(images, probability, batch.generator), labels, sure
        turns = int(torch.randint(1, 4, (1,), generator=batch.generator))
        if images.shape[-2] != images.shape[-1]:
            turns = 2  # a quarter would change the shape
        turned = [torch.rot90(tensor, turns, (-2, -1)) for tensor in (images, labels, sure)]
        return turned[0], turned[1], turned[2]

    # --------------------------------------------------------------------------- scans left out

    def start_phase(self, phase: Phase) -> None:
        """Filter the scans before the second and third part of self-training."""
        part = self._part(phase)
        if part < 2:
            super().start_phase(phase)
            if phase.start == 0 and self.local_rank == 0:  # of a run that was begun anew
                shutil.rmtree(self._file(1).parent, ignore_errors=True)
            return
        if self.local_rank == 0:
            self.log.line(f"phase {phase.name}: steps {phase.start} to {phase.stop}")
        if not self._file(part).is_file():
            self.save(LATEST)
            entropy = self._entropies(self._ids_left(part - 1))
            if self.local_rank == 0:
                kept = without_surest(entropy, self.settings.drop)
                write_json(self._file(part), {"kept": kept, "entropy": entropy})
        if self.is_ddp:
            dist.barrier()

    def loader(self, phase: Phase) -> StepLoader:
        """Batches of a phase, of the scans that are left in it."""
        if phase.unlabeled:
            left = set(self._ids_left(self._part(phase)))
            self.dataset.unlabeled = [c for c in self.cases.unlabeled if c.case_id in left]
        return super().loader(phase)

    def _ids_left(self, part: int) -> list[str]:
        if part < 2:
            return [case.case_id for case in self.cases.unlabeled]
        return list(read_json(self._file(part))["kept"])

    def _entropies(self, case_ids: Sequence[str]) -> dict[str, float]:
        """Entropy of the network's mirrored prediction of each scan, summed over its voxels."""
        mine = set(case_ids[self.local_rank :: self.world_size])
        scans = [case for case in self.cases.unlabeled if case.case_id in mine]
        network, overlapping = self.student.network, self.label_manager.has_regions
        entropy: dict[str, float] = {}
        with one_output(network), torch.no_grad():
            predictor = self.predictor_of(network, mirroring=True)
            for scan in track(scans, len(scans), "entropy of scans"):
                image = torch.from_numpy(np.asarray(scan.image()[:], dtype=np.float32))
                share = probabilities(predictor.logits(image)[None], overlapping=overlapping)
                entropy[scan.case_id] = float(entropy_of(share, overlapping=overlapping).sum())
        network.train()
        if not self.is_ddp:
            return entropy
        parts: list[dict[str, float]] = [{} for _ in range(self.world_size)]
        dist.all_gather_object(parts, entropy)
        return {case: value for part in parts for case, value in part.items()}

    def _part(self, phase: Phase) -> int:
        """Number of the part of self-training; 0 for other phases and where there are none."""
        number = phase.name.rpartition("_")[2]
        return int(number) if number.isdecimal() else 0

    def _file(self, part: int) -> Path:
        return Path(self.output_folder) / FOLDER / f"part_{part}.json"


def without_surest(entropy: dict[str, float], share: float) -> list[str]:
    """Names whose entropy reaches the quantile at ``share``, sorted.

    Example:
        >>> without_surest({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, 0.25)
        ['b', 'c', 'd']
    """
    limit = float(np.quantile(list(entropy.values()), share))
    return sorted(name for name, value in entropy.items() if value >= limit)
