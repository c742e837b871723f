"""From feature maps of a batch to the nodes of two graphs, and back to full resolution.

The algebra on nodes is in :mod:`graphnn_unet.graph.label_correction`; here is what knows voxels:
which decoder scale is the graph's, and how its correction reaches every voxel. Shared by the
corrector ``mllc`` and by ``MLLCTrainer``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from graphnn_unet.graph import CorrectedNodes, CorrectionSettings, class_thresholds
from graphnn_unet.graph.average_pool import average_to
from graphnn_unet.plans.recipe import Fraction, Positive
from graphnn_unet.settings import Section

Natural = Annotated[int, Field(ge=0)]


class MLLCSettings(Section):
    """Correction of labels on two graphs of the positions of an image (MLLC)."""

    iterations: Natural = Field(
        2, description="alternating updates of classes and embeddings (MLLC: K = 2); 0: no graphs"
    )
    neighbors: Natural = Field(
        20, description="nearest positions that each is linked with (MLLC: k = 20)"
    )
    gamma: Annotated[float, Field(gt=0)] = Field(
        1.0, description="power of the cosine that weighs a link (MLLC: 1)"
    )
    neighbor_share: Fraction = Field(
        0.2,
        description="share that a confident position takes from its neighbors, others take "
        "the rest (MLLC: alpha = 0.2 in its best table, 0.8 in the text)",
    )
    sigma: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="probability above which a position counts for its class's threshold"
    )
    threshold: Literal["count", "rate"] = Field(
        "count",
        description="class thresholds from numbers of sure positions (MLLC) or from their share of "
        "the class, for small organs",
    )
    threshold_warmup: bool = Field(
        False,
        description="keep class thresholds low while most positions are unsure (FlexMatch); MLLC "
        "prints it without",
    )
    min_nodes: Positive = Field(
        512, description="positions that the decoder scale of the graphs has at least"
    )
    max_nodes: Positive = Field(
        4096, description="positions are averaged in pairs an axis until there are at most so many"
    )

    def graphs(self, detach_graph: bool = True) -> CorrectionSettings:
        """How the graphs are made."""
        return CorrectionSettings(self.neighbors, self.gamma, self.neighbor_share, detach_graph)

    def thresholds(self, probability: Tensor) -> Tensor:
        """Threshold of each class, ``(C,)``, from the nodes ``(b, n, C)`` of a batch."""
        return class_thresholds(
            probability, sigma=self.sigma, mode=self.threshold, warmup=self.threshold_warmup
        )


@dataclass(frozen=True)
class NodeGrid:
    """The positions that are nodes.

    Attributes:
        scale: Decoder scale whose features and head they belong to.
        size: Spatial size of the grid; smaller than that scale where it was averaged.
    """

    scale: int
    size: tuple[int, ...]

    @classmethod
    def choose(
        cls, scale_sizes: Sequence[tuple[int, ...]], min_nodes: int, max_nodes: int
    ) -> NodeGrid:
        """The coarsest scale with enough positions, averaged by two an axis if it has too many.

        Args:
            scale_sizes: Spatial size of each decoder scale that the loss trains, finest first.
            min_nodes: A scale with fewer positions is passed over; the finest is taken if all are.
            max_nodes: Largest number of nodes.

        Example:
            >>> NodeGrid.choose([(32, 32), (16, 16), (8, 8)], 200, 4096)
            NodeGrid(scale=1, size=(16, 16))
        """
        enough = [s for s, size in enumerate(scale_sizes) if math.prod(size) >= min_nodes]
        scale = max(enough, default=0)
        size = scale_sizes[scale]
        while math.prod(size) > max_nodes:
            size = tuple(-(-edge // 2) for edge in size)
        return cls(scale, size)

    def nodes(self, feature: Tensor) -> Tensor:
        """Positions of a map ``(b, c, *s)`` at the grid's scale or finer: ``(b, n, c)`` float32."""
        return average_to(feature.float(), self.size).flatten(2).transpose(1, 2)

    def spread(self, nodes: Tensor, size: Sequence[int]) -> Tensor:
        """Nodes ``(b, n, c)`` as a map ``(b, c, *size)``, linear between them."""
        grid = nodes.transpose(1, 2).unflatten(2, self.size)
        if tuple(size) == self.size:
            return grid
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(self.size)]
        return functional.interpolate(grid, tuple(size), mode=mode, align_corners=False)


def corrected_logits(
    logits: Tensor, start: Tensor, states: Sequence[CorrectedNodes], grid: NodeGrid
) -> Tensor:
    """Carry the correction of nodes to every voxel.

        P + up( mean over k of X^k - X^0 )

    The change sums to 0 over classes; where it is 0, the label is the plain one.

    Args:
        logits: ``(b, C, *s)`` at full resolution.
        start: ``(b, n, C)`` probabilities of the nodes before the correction.
        states: The nodes after each of its steps; without any, nothing changes.
        grid: Where the nodes are.

    Returns:
        Logits ``(b, C, *s)`` float32 whose largest entry is that of the corrected sum.
    """
    logits = logits.float()
    if not states:
        return logits
    change = torch.stack([state.probability for state in states]).mean(dim=0) - start
    probability = logits.softmax(1) + grid.spread(change, logits.shape[2:])
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()
