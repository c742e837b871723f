"""The losses of clustering, one entry each: on the complete graph and on a given one.

PyTorch is imported when a loss is made, so that names and help need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        function: Its name in :mod:`graphnn_unet.graph`, where it works on the complete graph of
            feature products without building it; that name and ``_from`` works on a given affinity.
        graph: From features ``(node, channel)`` and settings the graph that papers use with this
            loss, ``(node, node)``: the affinity that carries messages, and that of the loss.
        options: Arguments of both functions, called like the settings that give them.
        linear_options: Further arguments of the first, with their settings.
    """

    function: str
    graph: Callable[[Tensor, ClusterSettings], tuple[Tensor, Tensor]]
    options: tuple[str, ...] = ()
    linear_options: Mapping[str, str] = field(default_factory=dict)

    def linear(self, feature: Tensor, settings: ClusterSettings) -> Value:
        """From features the value of an assignment ``(node, cluster)`` on the complete graph."""
        values = {name: getattr(settings, word) for name, word in self.linear_options.items()}
        return partial(self._with_options(self.function, feature, settings), **values)

    def explicit(self, affinity: Tensor, settings: ClusterSettings) -> Value:
        """From the affinity of the loss the value of an assignment."""
        return self._with_options(f"{self.function}_from", affinity, settings)

    def _with_options(self, function: str, given: Tensor, settings: ClusterSettings) -> Value:
        from graphnn_unet import graph

        values = {name: getattr(settings, name) for name in self.options}
        return partial(getattr(graph, function), given, **values)


def _positive_products(feature: Tensor, settings: ClusterSettings) -> tuple[Tensor, Tensor]:
    """DeepCut: the positive part of the products; messages are scaled by the largest."""
    products, largest = _products(feature)
    positive = products.clamp(min=0)
    return positive / largest, positive


def _signed_products(feature: Tensor, settings: ClusterSettings) -> tuple[Tensor, Tensor]:
    """DeepCut: the products less a share of the largest.

    Scaled by the largest product, which changes neither the minimum nor the sign of an edge.
    """
    products, largest = _products(feature)
    signed = (products - largest / settings.alpha) / largest
    return signed, signed


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


LOSSES = {
    "ncut": ClusteringLoss("normalized_cut_loss", _positive_products, ("balance_weight",)),
    "cc": ClusteringLoss(
        "correlation_clustering_loss", _signed_products, linear_options={"tau": "alpha"}
    ),
    "dmon": ClusteringLoss(
        "modularity_loss", _thresholded_cosine, ("balance_weight", "collapse", "variant")
    ),
}
"""All losses by the name that ``--loss`` takes."""
