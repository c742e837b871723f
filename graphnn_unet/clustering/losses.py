"""The losses of clustering, one entry each: on the complete graph and on a given one.

PyTorch is imported when a loss is made, so that names and help need none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from graphnn_unet.clustering.settings import ClusterSettings

    Value = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ClusteringLoss:
    """How a loss is computed; a new one is one more entry of :data:`LOSSES`.

    Attributes:
        title: Its name in full.
        linear: From features ``(node, channel)`` and settings the value of an assignment
            ``(node, cluster)`` on the complete graph of their shifted or plain products, without
            building it.
        graph: From features and settings the graph that papers use with this loss, ``(node,
            node)``: the affinity that carries messages, and the affinity of the loss.
        explicit: From the affinity of the loss and settings the value of an assignment.
    """

    title: str
    linear: Callable[[Tensor, ClusterSettings], Value]
    graph: Callable[[Tensor, ClusterSettings], tuple[Tensor, Tensor]]
    explicit: Callable[[Tensor, ClusterSettings], Value]


def _cut_linear(feature: Tensor, settings: ClusterSettings) -> Value:
    from graphnn_unet.graph import normalized_cut_loss

    weight = settings.balance_weight
    return partial(normalized_cut_loss, feature, balance_weight=weight)


def _cut_explicit(affinity: Tensor, settings: ClusterSettings) -> Value:
    from graphnn_unet.graph import normalized_cut_loss_from

    return partial(normalized_cut_loss_from, affinity, balance_weight=settings.balance_weight)


def _positive_products(feature: Tensor, settings: ClusterSettings) -> tuple[Tensor, Tensor]:
    """DeepCut: the positive part of the products; messages are scaled by the largest."""
    products, largest = _products(feature)
    positive = products.clamp(min=0)
    return positive / largest, positive


def _correlation_linear(feature: Tensor, settings: ClusterSettings) -> Value:
    from graphnn_unet.graph import correlation_clustering_loss

    return partial(correlation_clustering_loss, feature, tau=settings.alpha, rows="unit")


def _correlation_explicit(affinity: Tensor, settings: ClusterSettings) -> Value:
    from graphnn_unet.graph import correlation_clustering_loss_from

    return partial(correlation_clustering_loss_from, affinity)


def _signed_products(feature: Tensor, settings: ClusterSettings) -> tuple[Tensor, Tensor]:
    """DeepCut: the products less a share of the largest.

    Scaled by the largest product, which changes neither the minimum nor the sign of an edge.
    """
    products, largest = _products(feature)
    signed = (products - largest / settings.alpha) / largest
    return signed, signed


def _modularity_linear(feature: Tensor, settings: ClusterSettings) -> Value:
    from graphnn_unet.graph import modularity_loss

    return partial(modularity_loss, feature, **_modularity_options(settings))


def _modularity_explicit(affinity: Tensor, settings: ClusterSettings) -> Value:
    from graphnn_unet.graph import modularity_loss_from

    return partial(modularity_loss_from, affinity, **_modularity_options(settings))


def _modularity_options(settings: ClusterSettings) -> dict[str, object]:
    names = ("collapse", "variant", "balance_weight")
    return {name: getattr(settings, name) for name in names}


def _thresholded_cosine(feature: Tensor, settings: ClusterSettings) -> tuple[Tensor, Tensor]:
    """Pairs whose cosine reaches ``tau``: UnSegMedGAT weighs them by it, the others by 1."""
    import torch

    from graphnn_unet.graph import unit_rows

    unit = unit_rows(feature)
    cosine = unit @ unit.T
    linked = cosine >= settings.tau
    affinity = torch.where(linked, cosine, 0.0) if settings.edges == "cosine" else linked.float()
    affinity = affinity.clamp(min=0)
    # a zero row keeps its self-edge, so no degree is 0
    affinity.diagonal().masked_fill_(affinity.diagonal() <= 0, 1.0)
    return affinity, affinity


def _products(feature: Tensor) -> tuple[Tensor, Tensor]:
    """All products of two rows, and the largest of them, not 0."""
    from graphnn_unet.graph.affinity import largest_affinity

    return feature @ feature.T, largest_affinity(feature.unsqueeze(0))[0].clamp(min=1e-30)


LOSSES: dict[str, ClusteringLoss] = {
    "ncut": ClusteringLoss("normalized cut", _cut_linear, _positive_products, _cut_explicit),
    "cc": ClusteringLoss(
        "correlation clustering", _correlation_linear, _signed_products, _correlation_explicit
    ),
    "dmon": ClusteringLoss(
        "modularity", _modularity_linear, _thresholded_cosine, _modularity_explicit
    ),
}
"""All losses by the name that ``--loss`` takes."""
