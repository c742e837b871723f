"""Correct the teacher's classes on two graphs of each image's positions, without training them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from graphnn_unet.graph import VoteStep, correct_labels, is_confident, unit_rows
from graphnn_unet.pseudo_labels.corrector import Corrector, Surroundings, Teaching
from graphnn_unet.pseudo_labels.mllc_graphs import MLLCSettings, NodeGrid, corrected_logits


class MLLC(Corrector):
    """MLLC's label correction for any trainer.

    Nodes are the positions of a decoder scale of one image, by rule the coarsest that the loss
    trains with 512 positions or more. Positions of similar features correct each other's classes,
    unsure ones more than those that reach the threshold of their class; the change is carried to
    full resolution and added to the teacher's probabilities.

    Source: MLLC (https://arxiv.org/abs/2404.02065), algorithm 1. Without its trained parts:
    embeddings are the decoder's features, probabilities those of the full resolution averaged, and
    votes are counted as they are. ``MLLCTrainer`` trains all three.
    """

    sections: ClassVar = {"mllc": MLLCSettings}
    takes_regions: ClassVar = False

    def __init__(self, surroundings: Surroundings):
        super().__init__(surroundings)
        self.settings = surroundings.recipe.of(MLLCSettings)
        self.grid = NodeGrid.choose(
            surroundings.scale_sizes, self.settings.min_nodes, self.settings.max_nodes
        )
        self.feature_scales = (self.grid.scale,) if self.settings.iterations else ()

    def __call__(self, teaching: Teaching) -> Tensor:
        """Logits ``(b, k, *s)`` of the corrected probabilities."""
        logits = teaching.logits.float()
        if not self.settings.iterations:
            return logits
        start = self.grid.nodes(logits.softmax(1))
        states = correct_labels(
            start,
            unit_rows(self.grid.nodes(teaching.features[self.grid.scale])),
            is_confident(start, self.settings.thresholds(start)),
            [VoteStep()] * self.settings.iterations,
            self.settings.graphs(),
        )
        return corrected_logits(logits, start, states, self.grid)
