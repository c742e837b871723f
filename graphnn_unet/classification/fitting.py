"""What a network is trained towards, and what it says about images: loss, features, logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.classification.augment import apply_views, draw_views
from graphnn_unet.classification.encoders import EmbeddingNetwork
from graphnn_unet.classification.images import ImageSet, Normalization
from graphnn_unet.classification.settings import Augmentation, ClassifySettings
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


def random_views(batch: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """A view of each normalized image."""
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
            feature = feature + network.features(random_views(batch, kind, generator))
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
