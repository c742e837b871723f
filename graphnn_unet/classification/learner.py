"""The two passes: supervised training, then rounds of diffusing and training; both can go on."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphnn_unet.classification.descriptors import joined
from graphnn_unet.classification.encoders import EmbeddingNetwork
from graphnn_unet.classification.fitting import (
    Dataset,
    Targets,
    embed,
    loss_on,
    random_views,
    torch_generator,
    weighted_cross_entropy,
)
from graphnn_unet.classification.label_propagation import (
    PropagatedLabels,
    build_graph,
    class_weights,
    propagate_labels,
    ramp,
)
from graphnn_unet.classification.settings import MIN_LABELS, ClassifySettings
from graphnn_unet.classification.table import UNLABELED
from graphnn_unet.errors import DivergedError
from graphnn_unet.networks.moving_average import update_average
from graphnn_unet.progress import Progress, needs_text
from graphnn_unet.seeds import Stream, torch_seed

SUPERVISED, DYNAMIC, DONE = "supervised", "dynamic", "done"
MIN_HELD_OUT = 10
"""A loss over fewer images is noise: stopping by it cost up to 17 points of accuracy (5 % labels of
ChestXray, 3 held out), so training then runs its full length on all labels."""

_EPOCHS_A_CHECKPOINT = 10


@dataclass
class TrainingState:
    """How far training is; plain values and tensors, as they stand in a checkpoint.

    Attributes:
        epoch: Next epoch of the phase, from 0.
        waited: Epochs since the best validation loss.
        best_loss: Smallest validation loss of the phase.
        best_weights: The network there; empty before.
        log: One record an epoch.
    """

    phase: str = SUPERVISED
    epoch: int = 0
    waited: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class GivenLabels:
    """Labels by what they are for.

    Attributes:
        training: ``(n, f)`` classes that train and enter the diffusion, else ``UNLABELED``.
        validation: ``(n, f)`` classes that only stop the training.
    """

    training: Tensor
    validation: Tensor

    @property
    def everything(self) -> Tensor:
        """Both together."""
        return torch.where(self.training >= 0, self.training, self.validation)

    @property
    def n_held_out(self) -> int:
        """Images whose labels only stop the training."""
        return int((self.validation >= 0).any(dim=1).sum())


class Learner:
    """Trains one network on one set of images; ``save`` is called where a checkpoint is due.

    ``mean`` is the moving average of ``network``, which embeds and decides; without averaging it is
    the network itself.
    """

    def __init__(
        self,
        network: EmbeddingNetwork,
        dataset: Dataset,
        labels: GivenLabels,
        settings: ClassifySettings,
        save: Callable[[Learner], None] = lambda _: None,
    ):
        self.network, self.dataset = network, dataset
        self.mean = copy.deepcopy(network) if settings.averaging else network
        self.labels, self.settings = labels, settings
        self.training_state = TrainingState()
        self.optimizer = self._new_optimizer()
        self._save = save
        self._held_out = targets_of(labels.validation)

    def fit(self) -> None:
        """All that is left to do; ``mean`` then has its best weights."""
        settings = self.settings
        if self.training_state.phase == SUPERVISED:
            self._supervised()
            dynamic = settings.mode == "dynamic" and settings.a_max > 0
            self._next_phase(DYNAMIC if dynamic else DONE)
        if self.training_state.phase == DYNAMIC:
            self._dynamic()
            self._next_phase(DONE)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and how far training is."""
        return {
            "network_weights": self.network.state_dict(),
            "mean_weights": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progression": dict(vars(self.training_state)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["network_weights"])
        self.mean.load_state_dict(state["mean_weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.training_state = TrainingState(**state["progression"])

    def diffused(self, *, use_validation: bool = False) -> tuple[Tensor, Tensor, PropagatedLabels]:
        """Rows of the graph and logits of all images, and the labels propagated over that graph."""
        targets = self.labels.everything if use_validation else self.labels.training
        return self._propagate(targets, thorough=True)

    def _propagate(
        self, targets: Tensor, *, thorough: bool
    ) -> tuple[Tensor, Tensor, PropagatedLabels]:
        feature, logits = embed(self.mean, self.dataset, self.settings)
        feature = joined(feature, self.dataset.description, self.settings.descriptor_share)
        affinity = build_graph(feature, self.settings, self.dataset.images.cases)
        sizes = self.dataset.sizes
        labels = propagate_labels(affinity, targets, sizes, self.settings, thorough=thorough)
        return feature, logits, labels

    def _supervised(self) -> None:
        settings, here = self.settings, self.training_state
        labeled = weighted(targets_of(self.labels.training), self.dataset.sizes)
        with Progress(
            settings.max_epochs, "training", "epoch", here.epoch, needs=needs_text
        ) as progress:
            while here.epoch < settings.max_epochs and here.waited < settings.patience:
                loss = self.train_epoch(here.epoch, labeled)
                self._judge({"phase": SUPERVISED, "epoch": here.epoch, "loss": loss})
                progress.update(f"loss {loss:.3f}")
                if here.epoch % _EPOCHS_A_CHECKPOINT == 0:
                    self._save(self)

    def _dynamic(self) -> None:
        settings, here = self.settings, self.training_state
        labeled = weighted(targets_of(self.labels.training), self.dataset.sizes)
        with Progress(
            settings.rounds, "dynamic pass", "round", here.epoch, needs=needs_text
        ) as progress:
            while here.epoch < settings.rounds and here.waited < settings.round_patience:
                _, logits, diffused = self._propagate(self.labels.training, thorough=False)
                seen = decisions(logits, self.dataset.sizes)
                unlabeled = pseudo_targets(self.labels, diffused, seen)
                a = ramp(here.epoch + 1, settings)
                number = settings.max_epochs + here.epoch
                loss = self.train_epoch(number, labeled, unlabeled, a)
                sure = float(diffused.certainty[self.labels.training < 0].mean())
                self._judge(
                    {
                        "phase": DYNAMIC,
                        "epoch": here.epoch,
                        "loss": loss,
                        "a": a,
                        "mean_certainty": sure,
                        "trusted": float((unlabeled.weight > 0).float().mean()),
                        **_flat(diffused.figures),
                    }
                )
                progress.update(f"loss {loss:.3f}, certainty {sure:.2f}")
                self._save(self)

    def train_epoch(
        self, number: int, labeled: Targets, unlabeled: Targets | None = None, a: float = 0.0
    ) -> float:
        """One epoch; returns the mean loss, ``mean_l zeta CE + a mean_u xi CE``.

        ``zeta`` comes from the given labels and weighs them alone, which is a deviation: diffused
        labels have their certainty ``xi``, see ``class_weights``.

        A step takes ``batch_size`` labeled images and, where ``a > 0``, as many of those with
        diffused labels. All that is random comes from the seed and ``number``, and what is drawn
        for unlabeled images is drawn apart: with weight 0 they change nothing.

        Raises:
            DivergedError: A loss is not finite.
        """
        self.network.train()
        settings = self.settings
        steps = _batches(len(labeled.index), settings, number, part=0)
        others: list[Tensor] = []
        if unlabeled is not None and a > 0 and len(unlabeled.index):
            others = _batches(len(unlabeled.index), settings, number, part=1)
            n_steps = max(len(steps), len(others))
            steps = [steps[i % len(steps)] for i in range(n_steps)]
            others = [others[i % len(others)] for i in range(n_steps)]
        views = [torch_generator(settings.seed, Stream.CLASSIFIER_VIEWS, number, i) for i in (0, 1)]
        total = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(settings.seed, Stream.CLASSIFIER_DROPOUT, number))
            for step, rows in enumerate(steps):
                parts = [(labeled.rows(rows), 1.0, views[0])]
                if unlabeled is not None and others:
                    parts.append((unlabeled.rows(others[step]), a, views[1]))
                loss = self._step(parts)
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"the loss is {loss} in epoch {number}",
                        "training has diverged",
                        "Lower the learning rate, or look at the images of this run",
                    )
                if settings.averaging:
                    update_average(self.mean, self.network, settings.averaging, step)
                total += loss
        return total / len(steps)

    def _step(self, parts: Sequence[tuple[Targets, float, torch.Generator]]) -> float:
        dataset = self.dataset
        images = [
            random_views(dataset.batch(targets.index), self.settings.augmentation, generator)
            for targets, _, generator in parts
        ]
        logits = self.network(torch.cat(images)).split([len(batch) for batch in images])
        loss = torch.zeros((), device=dataset.device)
        for part, (targets, share, _) in zip(logits, parts, strict=True):
            loss = loss + share * weighted_cross_entropy(part, targets, dataset.sizes)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _judge(self, record: dict[str, Any]) -> None:
        """Count the epoch, and keep the weights if held-out labels like them best."""
        here = self.training_state
        if len(self._held_out.index):
            loss = loss_on(self.mean, self.dataset, self._held_out)
            record["validation_loss"] = loss
            here.waited += 1
            if loss < here.best_loss:
                here.best_loss, here.best_epoch, here.waited = loss, here.epoch, 0
                here.best_weights = copy.deepcopy(self.mean.state_dict())
        here.log.append(record)
        here.epoch += 1

    def _next_phase(self, phase: str) -> None:
        here = self.training_state
        self.mean.load_state_dict(here.best_weights or self.mean.state_dict())
        self.network.load_state_dict(self.mean.state_dict())
        self.training_state = TrainingState(phase=phase, log=here.log)
        self.optimizer = self._new_optimizer()
        self._save(self)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate)


def _batches(n: int, settings: ClassifySettings, epoch: int, *, part: int) -> list[Tensor]:
    """Rows of each step of an epoch: every image at least once, whole batches."""
    generator = torch_generator(settings.seed, Stream.CLASSIFIER_BATCH, epoch, part)
    size = settings.batch_size
    n_steps = max(-(-n // size), settings.min_steps)
    order: list[Tensor] = []
    while sum(map(len, order)) < n_steps * size:
        order.append(torch.randperm(n, generator=generator))
    return list(torch.cat(order)[: n_steps * size].split(size))


def targets_of(targets: Tensor) -> Targets:
    """Targets of weight 1 of all images with a label."""
    index = (targets >= 0).any(dim=1).nonzero().flatten()
    return Targets(index, targets[index], torch.ones(len(index), targets.shape[1]))


def weighted(targets: Targets, sizes: tuple[int, ...]) -> Targets:
    """Targets with the weights of their classes among them."""
    weight = targets.weight.clone()
    for finding, (index, size) in enumerate(zip(targets.class_index.T, sizes, strict=True)):
        of_class = class_weights(index, size)[index.clamp(min=0)]
        weight[:, finding] *= torch.where(index >= 0, of_class, 0.0).float()
    return Targets(targets.index, targets.class_index, weight)


def decisions(logits: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Class of each finding, ``(n, f)``, by the network alone."""
    return torch.stack([part.argmax(dim=1) for part in logits.split(list(sizes), dim=1)], dim=1)


def pseudo_targets(labels: GivenLabels, propagated: PropagatedLabels, seen: Tensor) -> Targets:
    """Diffused labels that train: those of unlabeled images that the network would give too.

    Held-out images take no part, no diffused label replaces a given one, and each weighs its
    certainty. ``seen`` holds the decisions of the network.
    """
    held_out = (labels.validation >= 0).any(dim=1)
    diffused = torch.where(labels.training >= 0, UNLABELED, propagated.predicted)
    diffused[held_out] = UNLABELED
    index = (diffused >= 0).any(dim=1).nonzero().flatten()
    weight = propagated.certainty.float() * (seen == diffused)
    return Targets(index, diffused[index], weight[index])


def hold_out(
    targets: Tensor, share: float, generator: torch.Generator, groups: Tensor | None = None
) -> GivenLabels:
    """Set labeled images aside for early stopping, by class.

    Every class gives ``share`` of its images, at least one where it has five or more, and keeps
    two for training. Where fewer than ``MIN_HELD_OUT`` would come together none are held out.
    Labels of all findings of an image go together, and so do the images of a patient (``groups``).
    """
    left = _counts(targets)
    least = 1 if share > 0 else 0
    quota = Counter({k: max(round(share * n), least if n >= 5 else 0) for k, n in left.items()})
    labeled = (targets >= 0).any(dim=1)
    number = torch.arange(len(targets)) if groups is None else groups
    held_out = torch.zeros(len(targets), 1, dtype=torch.bool)
    patients = number[labeled].unique()
    for patient in patients[torch.randperm(len(patients), generator=generator)].tolist():
        rows = ((number == patient) & labeled).nonzero().flatten()
        gives = _counts(targets[rows])
        is_wanted = any(quota[key] > 0 for key in gives)
        if is_wanted and all(left[key] - n >= MIN_LABELS for key, n in gives.items()):
            held_out[rows] = True
            quota.subtract(gives)
            left.subtract(gives)
    if int(held_out.sum()) < MIN_HELD_OUT:
        held_out[:] = False
    training = torch.where(held_out, UNLABELED, targets)
    return GivenLabels(training, torch.where(held_out, targets, UNLABELED))


def _counts(targets: Tensor) -> Counter[tuple[int, int]]:
    """Number of labels of each finding and class."""
    finding = torch.arange(targets.shape[1]).expand_as(targets)
    given = targets >= 0
    return Counter(zip(finding[given].tolist(), targets[given].tolist(), strict=True))


def _flat(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures of a diffusion that fit into a cell of a table."""
    return {
        key: sum(value) if isinstance(value, list) else value
        for key, value in figures.items()
        if not (isinstance(value, (dict, str)) or key == "cuts")
    }
