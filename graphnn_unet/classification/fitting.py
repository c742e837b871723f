"""Training steps: labeled images, and beside them images with diffused labels.

Everything random in an epoch comes from (seed, epoch), so a run that continues does what it would
have done. What is drawn for unlabeled images is drawn apart: with weight 0 they change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.classification.augment import apply_views, draw_views
from graphnn_unet.classification.encoders import EmbeddingNetwork
from graphnn_unet.classification.images import ImageSet, Normalization
from graphnn_unet.classification.settings import Augmentation, ClassifySettings
from graphnn_unet.errors import DivergedError
from graphnn_unet.networks.moving_average import update_average
from graphnn_unet.seeds import Stream, torch_seed

_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Targets:
    """What images are trained towards.

    Attributes:
        index: ``(m,)`` rows of the image set.
        class_index: ``(m, f)`` class of each finding, negative where there is none.
        weight: ``(m, f)`` weight of each.
    """

    index: Tensor
    class_index: Tensor
    weight: Tensor

    def rows(self, rows: Tensor) -> Targets:
        """Some of the images."""
        return Targets(self.index[rows], self.class_index[rows], self.weight[rows])


@dataclass(frozen=True)
class Dataset:
    """What training reads.

    Attributes:
        sizes: Number of classes a finding; logits stand side by side in this order.
        description: ``(n, r)`` unit rows of hand-made descriptors, or none.
    """

    images: ImageSet
    normalization: Normalization
    sizes: tuple[int, ...]
    device: torch.device
    description: Tensor | None = None

    def batch(self, index: Tensor) -> Tensor:
        """Normalized images."""
        return self.normalization(self.images.pixels[index].to(self.device))


def torch_generator(seed: int, stream: Stream, *index: int) -> torch.Generator:
    """A generator of torch for one place of a stream of random numbers."""
    return torch.Generator().manual_seed(torch_seed(seed, stream, *index))


def weighted_cross_entropy(logits: Tensor, targets: Targets, sizes: Sequence[int]) -> Tensor:
    """Mean over images, then findings, of ``weight * CE``; findings without a target left out."""
    losses = []
    for finding, part in enumerate(logits.split(list(sizes), dim=1)):
        class_index = targets.class_index[:, finding].to(logits.device)
        weight = targets.weight[:, finding].to(logits.device)
        used = class_index >= 0
        if bool(used.any()):
            loss = functional.cross_entropy(part[used], class_index[used], reduction="none")
            losses.append((weight[used] * loss).mean())
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0


@dataclass(frozen=True)
class Epoch:
    """What one epoch trains on.

    Attributes:
        number: From which all that is random follows.
        labeled: Labels with their class weights.
        unlabeled: Diffused labels with their certainty; ``None`` for none.
        unlabeled_weight: ``a`` of the loss.
    """

    number: int
    labeled: Targets
    unlabeled: Targets | None = None
    unlabeled_weight: float = 0.0


def train_epoch(
    network: EmbeddingNetwork,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    settings: ClassifySettings,
    epoch: Epoch,
    mean: EmbeddingNetwork | None = None,
) -> float:
    """One epoch; returns the mean loss, ``mean_l zeta CE + a mean_u xi CE``.

    A step takes ``batch_size`` labeled images and, where ``a > 0``, half of its images are
    unlabeled ones. ``mean``, the moving average of the network, moves after every step.

    Raises:
        DivergedError: A loss is not finite.
    """
    network.train()
    steps = _batches(len(epoch.labeled.index), settings, epoch.number, part=0)
    others: list[Tensor] = []
    unlabeled, number = epoch.unlabeled, epoch.number
    if unlabeled is not None and epoch.unlabeled_weight > 0 and len(unlabeled.index):
        others = _batches(len(unlabeled.index), settings, number, part=1)
        n_steps = max(len(steps), len(others))
        steps = [steps[i % len(steps)] for i in range(n_steps)]
        others = [others[i % len(others)] for i in range(n_steps)]
    views = [torch_generator(settings.seed, Stream.CLASSIFIER_VIEWS, number, i) for i in (0, 1)]
    total = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(settings.seed, Stream.CLASSIFIER_DROPOUT, number))
        for step, rows in enumerate(steps):
            parts = [(epoch.labeled.rows(rows), 1.0, views[0])]
            if unlabeled is not None and others:
                part = unlabeled.rows(others[step])
                parts.append((part, epoch.unlabeled_weight, views[1]))
            loss = _step(network, optimizer, dataset, settings, parts)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss is {loss} in epoch {number}",
                    "training has diverged",
                    "Lower the learning rate, or look at the images of this run",
                )
            if mean is not None:
                update_average(mean, network, settings.averaging, step)
            total += loss
    return total / len(steps)


def _batches(n: int, settings: ClassifySettings, epoch: int, *, part: int) -> list[Tensor]:
    """Rows of each step of an epoch: every image at least once, whole batches."""
    generator = torch_generator(settings.seed, Stream.CLASSIFIER_BATCH, epoch, part)
    size = settings.batch_size
    n_steps = max(-(-n // size), settings.min_steps)
    order: list[Tensor] = []
    while sum(map(len, order)) < n_steps * size:
        order.append(torch.randperm(n, generator=generator))
    return list(torch.cat(order)[: n_steps * size].split(size))


def _step(
    network: EmbeddingNetwork,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    settings: ClassifySettings,
    parts: Sequence[tuple[Targets, float, torch.Generator]],
) -> float:
    images = [
        _view(dataset.batch(targets.index), settings.augmentation, generator)
        for targets, _, generator in parts
    ]
    logits = network(torch.cat(images)).split([len(batch) for batch in images])
    loss = torch.zeros((), device=dataset.device)
    for part, (targets, share, _) in zip(logits, parts, strict=True):
        loss = loss + share * weighted_cross_entropy(part, targets, dataset.sizes)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _view(batch: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    return apply_views(batch, draw_views(len(batch), batch.dim() - 2, kind, generator))


@torch.no_grad()
def embed(
    network: EmbeddingNetwork, dataset: Dataset, settings: ClassifySettings
) -> tuple[Tensor, Tensor]:
    """Features ``(n, q)`` float32 with unit rows, and logits ``(n, k)``, of all images.

    Evaluation mode; with ``tta > 1`` the mean over that many views, the first unchanged. A zero
    row stays zero.
    """
    network.eval()
    features, logits = [], []
    kind = "standard" if settings.augmentation == "none" else settings.augmentation
    for index in torch.arange(len(dataset.images.cases)).split(_EVALUATION_BATCH):
        batch = dataset.batch(index)
        feature = network.features(batch)
        for view in range(1, settings.tta):
            place = Stream.CLASSIFIER_TEST_VIEWS, int(index[0]), view
            generator = torch_generator(settings.seed, *place)
            feature = feature + network.features(_view(batch, kind, generator))
        feature = feature / settings.tta
        features.append(functional.normalize(feature.float(), dim=1).cpu())
        logits.append(network.classifier(feature).float().cpu())
    return torch.cat(features), torch.cat(logits)


@torch.no_grad()
def loss_on(network: EmbeddingNetwork, dataset: Dataset, targets: Targets) -> float:
    """Loss on held-out images, without augmentation."""
    network.eval()
    logits = [
        network(dataset.batch(index)).cpu() for index in targets.index.split(_EVALUATION_BATCH)
    ]
    return float(weighted_cross_entropy(torch.cat(logits), targets, dataset.sizes))
