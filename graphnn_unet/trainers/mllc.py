"""MLLC: two graphs over the positions of an image correct the teacher's labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from graphnn_unet.errors import InputError
from graphnn_unet.graph import (
    ClassPrototypes,
    CorrectedNodes,
    LearnedStep,
    correct_labels,
    is_confident,
    pair_loss,
    prototype_loss,
    self_weighted_entropy,
    unit_rows,
)
from graphnn_unet.networks.features import Tap
from graphnn_unet.networks.hook import planned_unet
from graphnn_unet.plans.recipe import Fraction, Positive
from graphnn_unet.pseudo_labels.corrector import Teaching
from graphnn_unet.pseudo_labels.largest_component import PendingLabels
from graphnn_unet.pseudo_labels.mllc_graphs import MLLCSettings, NodeGrid, corrected_logits
from graphnn_unet.pseudo_labels.pipeline import PseudoLabelSettings
from graphnn_unet.settings import Section
from graphnn_unet.trainers.batch import (
    Batch,
    Phase,
    StepLoss,
    half_of_each,
    of_images,
    pretraining_and_self_training,
)
from graphnn_unet.trainers.copy_paste import CopyPasteSettings, box_edges, draw_mask, mix
from graphnn_unet.trainers.losses import downsample, region_losses
from graphnn_unet.trainers.semi import SemiTrainer
from graphnn_unet.trainers.strong_view import changed_images
from graphnn_unet.trainers.supervised import supervised_loss
from graphnn_unet.trainers.teacher import TeacherSettings

CUTMIX_BOX = 0.5
"""Edge of the box as a share of the patch edge."""

Weight = Annotated[float, Field(ge=0)]


class MLLCTrainingSettings(Section):
    """Losses and views of MLLCTrainer."""

    weight: Weight = Field(
        1.0, description="weight of both graph losses beside the supervised one (not published)"
    )
    slg_weight: Weight = Field(0.1, description="weight of the semantic-level loss (MLLC: 0.1)")
    clg_weight: Weight = Field(1.0, description="weight of the class-level loss (MLLC: 1)")
    pair_share: Fraction = Field(
        0.5, description="share of pairs against prototypes in the semantic-level loss (MLLC: 0.5)"
    )
    tau: Annotated[float, Field(gt=0)] = Field(
        0.1, description="temperature of the prototypes (MLLC: 0.1)"
    )
    beta: Fraction = Field(
        0.99, description="share of the old prototypes that is kept at each step (MLLC: 0.99)"
    )
    embedding_size: Positive = Field(256, description="entries of an embedding (MLLC: 256)")
    head_term: bool = Field(
        True,
        description="class-level loss on the full-resolution output too, the one that predicts",
    )
    detach_graph: bool = Field(
        True, description="no gradient through the weights of the student's graphs"
    )
    change_probability: Fraction = Field(
        0.5, description="probability of each change of intensity of the student's view"
    )
    cutmix_probability: Fraction = Field(
        0.5, description="probability that unlabeled images swap a box in a step"
    )


class MLLCHead(nn.Module):
    """Embedding of decoder features, and the functions of each update.

    Args:
        channels: Of the decoder features.
        n_classes: Classes.
        size: Entries of an embedding.
        n_iterations: Updates.
    """

    def __init__(self, channels: int, n_classes: int, size: int, n_iterations: int):
        super().__init__()
        self.embed = nn.Linear(channels, size)
        self.steps = nn.ModuleList(LearnedStep(n_classes, size) for _ in range(n_iterations))

    def correct(
        self, nodes: Nodes, confident: Tensor, settings: MLLCSettings, detach_graph: bool = True
    ) -> list[CorrectedNodes]:
        """The nodes after each update."""
        steps = cast("list[LearnedStep]", list(self.steps))
        graphs = settings.graphs(detach_graph)
        return correct_labels(nodes.probability, nodes.embedding, confident, steps, graphs)


@dataclass(frozen=True)
class Nodes:
    """Nodes of the images of a batch.

    Attributes:
        probability: ``(b, n, C)``.
        embedding: ``(b, n, e)`` unit rows.
    """

    probability: Tensor
    embedding: Tensor

    def of(self, images: slice) -> Nodes:
        """Those of some images."""
        return Nodes(self.probability[images], self.embedding[images])


@dataclass(frozen=True)
class TaughtNodes:
    """What the teacher says after its graphs.

    Attributes:
        teaching: Its answer about the unlabeled images at full resolution.
        states: Nodes of all images after each update.
        label: ``(u, n)`` labels of the unlabeled nodes.
        confident: ``(u, n)`` bool.
        terms: Numbers to log.
    """

    teaching: Teaching
    states: list[CorrectedNodes]
    label: Tensor
    confident: Tensor
    terms: dict[str, Tensor | float]


@dataclass(frozen=True)
class Lesson:
    """What the teacher says about the unlabeled images.

    Attributes:
        pending: Labels at full resolution, on their way.
        label: ``(u, 1, *g)`` labels of the nodes.
        confident: ``(u, 1, *g)`` bool.
        terms: Numbers to log.
    """

    pending: PendingLabels
    label: Tensor
    confident: Tensor
    terms: dict[str, Tensor | float]


class MLLCTrainer(SemiTrainer):
    """Multi-level label correction: two graphs of the same positions correct each other.

    Pre-training is SupervisedTrainer's. In self-training the teacher sees an unlabeled image, the
    student a harder view of it. Positions of one decoder scale are nodes; the semantic-level graph
    (nearest neighbors of embeddings) corrects class probabilities X^C, the class-level graph (same
    class) smooths embeddings X^S, K times in turn, for teacher and student alike. With the
    teacher's corrected labels Y,

        L = L_supervised + weight (0.1 sum_k L_SLG^k + 1 sum_k L_CLG^k)

    L_SLG sets pairs of embeddings to 1 within a class and to 0 across, and draws each to the
    prototype of its class; L_CLG is cross-entropy weighed by the student's own probability. Half of
    the labeled and half of the unlabeled images of the recipe make a step, so that the student sees
    as many patches as in the other methods. ``mllc.iterations = 0`` leaves a mean teacher.

    Source: MLLC (https://arxiv.org/abs/2404.02065), no code published. What the paper leaves open
    or contradicts, and what was chosen: docs/methods/mllc.md.
    """

    sections: ClassVar = {
        "copy_paste": CopyPasteSettings,
        "teacher": TeacherSettings,
        "pseudo_label": PseudoLabelSettings,
        "mllc": MLLCSettings,
        "mllc_training": MLLCTrainingSettings,
    }
    averaged_heads: ClassVar = ("mllc_head",)
    uses_teacher: ClassVar[bool] = True

    @property
    def settings(self) -> MLLCSettings:
        """How the graphs are made."""
        return self.recipe.of(MLLCSettings)

    @property
    def training_settings(self) -> MLLCTrainingSettings:
        """Losses and views."""
        return self.recipe.of(MLLCTrainingSettings)

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        if self.label_manager.has_regions:
            raise InputError(
                f"{type(self).__name__} does not train overlapping regions",
                "a node of its graphs has one class",
                "Give exclusive labels in dataset.json, or train BCPTrainer",
            )
        for phase in self.phases():
            self.slots(phase)  # a batch that cannot be shared is refused before the first step

    def _do_i_compile(self) -> bool:
        """Off: features are taken from inside the network in every step."""
        return False

    def phases(self) -> list[Phase]:
        """Pre-training on labeled cases, then self-training."""
        return pretraining_and_self_training(self.recipe.schedule)

    def slots(self, phase: Phase) -> list[int]:
        """All labeled images in pre-training; in self-training half of both kinds."""
        if not phase.unlabeled:
            return super().slots(phase)
        return half_of_each(self.recipe.batch)

    def heads(self, network: nn.Module) -> Mapping[str, nn.Module]:
        """Embedding and update functions, which the teacher averages, and the prototypes."""
        settings, training = self.settings, self.training_settings
        scales = self.trained_scales(network)
        self.grid = NodeGrid.choose(scales, settings.min_nodes, settings.max_nodes)
        self.taps = (Tap("decoder", self.grid.scale), Tap("head", self.grid.scale))
        channels = int(planned_unet(network).encoder.output_channels[self.grid.scale])
        n_classes = self.label_manager.num_segmentation_heads
        shape = n_classes, training.embedding_size, settings.iterations
        return {
            "mllc_head": MLLCHead(channels, *shape),
            "mllc_prototypes": ClassPrototypes(shape[2], *shape[:2], training.beta),
        }

    # --------------------------------------------------------------------------- a step

    def batch_loss(self, batch: Batch, phase: Phase) -> StepLoss:
        """The loss of the phase."""
        if not phase.unlabeled:
            return supervised_loss(self, batch)
        return self.self_training_loss(batch)

    def self_training_loss(self, batch: Batch) -> StepLoss:
        """Supervised loss of labeled images, graph losses of the harder view of unlabeled ones."""
        lesson = self.correct_teacher(batch)
        strong, mask = self.strong_view(batch)
        images = torch.cat([batch.labeled, strong])
        output, features = self.student.predict(images, self.taps)
        n_labeled = len(batch.labeled)
        supervised = region_losses(
            of_images(output, slice(n_labeled)), batch.target, None, self.loss_settings
        )[0]
        features = {tap: feature[n_labeled:] for tap, feature in features.items()}
        student = self._nodes(features, self._head(self.student.heads))
        here = None if mask is None else downsample(mask, self.grid.size)
        label = _swapped(lesson.label, here).flatten(1)
        confident = _swapped(lesson.confident, here).flatten(1)
        pseudo = _swapped(self.pseudo_labels.finish(lesson.pending), mask)
        finest = output if isinstance(output, Tensor) else output[0]
        slg, clg = self._graph_losses(student, label, confident)
        if self.training_settings.head_term:
            clg = clg + _head_term(finest[n_labeled:], pseudo)
        training = self.training_settings
        graph = training.slg_weight * slg + training.clg_weight * clg
        terms = {
            "supervised_loss": supervised.detach(), "slg_loss": slg.detach(),
            "clg_loss": clg.detach(), "pseudo_foreground": pseudo.bool().float().mean(),
        }  # fmt: skip
        return StepLoss(supervised + training.weight * graph, terms | lesson.terms)

    def teach(self, batch: Batch) -> Teaching:
        """What the teacher says about the unlabeled images after its graphs."""
        return self._teach_nodes(batch).teaching

    @torch.no_grad()
    def correct_teacher(self, batch: Batch) -> Lesson:
        """Teacher's labels of the unlabeled images after its graphs; prototypes take them in."""
        taught = self._teach_nodes(batch)
        self._remember(taught.states, batch.target, taught.label)
        return Lesson(
            self.pseudo_labels.start(taught.teaching),
            taught.label.unflatten(1, self.grid.size).unsqueeze(1),
            taught.confident.unflatten(1, self.grid.size).unsqueeze(1),
            taught.terms,
        )

    @torch.no_grad()
    def _teach_nodes(self, batch: Batch) -> TaughtNodes:
        if self.teacher is None or batch.unlabeled is None:
            raise RuntimeError(f"phase {self.phase.name} has no teacher or no unlabeled images")
        scales = [Tap("decoder", scale) for scale in self.pseudo_labels.feature_scales]
        images = torch.cat([batch.labeled, batch.unlabeled])
        logits, features = self.teacher.predict(images, list(dict.fromkeys([*self.taps, *scales])))
        head = self._head(self.teacher.heads)
        nodes = self._nodes(features, head)
        n_labeled = len(batch.labeled)
        unlabeled = slice(n_labeled, None)
        start = nodes.of(unlabeled).probability
        threshold = self.settings.thresholds(start)
        confident = is_confident(nodes.probability, threshold)
        states = head.correct(nodes, confident, self.settings)
        label = _labels([start] if not states else [s.probability[unlabeled] for s in states])
        changes = [CorrectedNodes(s.probability[unlabeled], s.embedding[unlabeled]) for s in states]
        teaching = Teaching(
            corrected_logits(logits[unlabeled], start, changes, self.grid),
            {tap.scale: features[tap][unlabeled] for tap in scales},
            batch.keys[n_labeled:],
            batch.places[n_labeled:],
            logits[unlabeled],
        )
        terms = {f"threshold_{c}": value for c, value in enumerate(threshold)}
        terms["confident_nodes"] = confident[unlabeled].float().mean()
        terms["corrected_nodes"] = (label != start.argmax(-1)).float().mean()
        return TaughtNodes(
            teaching, states, label, confident[unlabeled], {k: terms[k] for k in sorted(terms)}
        )

    def strong_view(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The student's view of the unlabeled images.

        Returns:
            ``(u, c, *s)``, and the box that was swapped: a mask ``(1, 1, *s)`` that is False
            inside, or ``None``.
        """
        images = cast(Tensor, batch.unlabeled)
        settings, generator = self.training_settings, batch.generator
        strong = changed_images(images, settings.change_probability, generator)
        is_mixed = float(torch.rand(1, generator=generator)) < settings.cutmix_probability
        size = images.shape[2:]
        mask = draw_mask(size, box_edges(size, CUTMIX_BOX), generator).to(images.device)
        if len(images) < 2 or not is_mixed:
            return strong, None
        return _swapped(strong, mask), mask

    def _nodes(self, features: Mapping[Tap, Tensor], head: MLLCHead) -> Nodes:
        """Nodes of all images: class probabilities of the scale's head, and embeddings."""
        decoder, logits = (features[tap] for tap in self.taps)
        with torch.autocast(decoder.device.type, enabled=False):
            probability = self.grid.nodes(logits.float().softmax(1))
            return Nodes(probability, unit_rows(head.embed(self.grid.nodes(decoder))))

    def _graph_losses(
        self, nodes: Nodes, label: Tensor, confident: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Semantic- and class-level loss of the student's nodes, summed over the updates."""
        settings = self.training_settings
        head = self._head(self.student.heads)
        states = head.correct(nodes, confident, self.settings, settings.detach_graph)
        prototypes = self._prototypes()
        slg = clg = nodes.probability.new_zeros(())
        for state, mean in zip(states, prototypes.mean, strict=True):
            pairs = pair_loss(state.embedding, label).mean()
            contrast = prototype_loss(
                state.embedding, label, mean, prototypes.seen, tau=settings.tau
            ).mean()
            slg = slg + settings.pair_share * pairs + (1 - settings.pair_share) * contrast
            clg = clg + self_weighted_entropy(state.probability, label).mean()
        return slg, clg

    def _remember(self, states: list[CorrectedNodes], target: Tensor, label: Tensor) -> None:
        """Prototypes from true labels of labeled images and corrected ones of unlabeled images."""
        known = downsample(target, self.grid.size).flatten(1).long()
        ignored = self.label_manager.ignore_label
        if ignored is not None:
            known = torch.where(known == ignored, -1, known)
        self._prototypes().update([s.embedding for s in states], torch.cat([known, label]))

    def _prototypes(self) -> ClassPrototypes:
        return cast(ClassPrototypes, self.student.heads["mllc_prototypes"])

    @staticmethod
    def _head(heads: nn.ModuleDict) -> MLLCHead:
        return cast(MLLCHead, heads["mllc_head"])


def _labels(probabilities: list[Tensor]) -> Tensor:
    """Class of the largest sum of probabilities, ``(b, n)``."""
    return torch.stack(probabilities).sum(dim=0).argmax(-1)


def _swapped(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Maps ``(u, k, *s)`` with the box of another image of the batch: of the half across."""
    if mask is None:
        return maps
    return mix(maps, maps.roll(len(maps) // 2, 0), mask)


def _head_term(logits: Tensor, label: Tensor) -> Tensor:
    """Class-level loss of the output that predicts, ``(u, C, *s)`` against ``(u, 1, *s)``."""
    with torch.autocast(logits.device.type, enabled=False):
        rows = logits.float().softmax(1).flatten(2).transpose(1, 2)
        return self_weighted_entropy(rows, label.flatten(1)).mean()
