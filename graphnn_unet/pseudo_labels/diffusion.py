"""Let the teacher's classes travel over the complete graph of an image's voxels, in closed form."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.graph import keep_class_masses, similar_labels, unit_rows
from graphnn_unet.pseudo_labels.corrector import Corrector, Teaching
from graphnn_unet.settings import Section


class DiffusionSettings(Section):
    """Label diffusion over decoder features."""

    reach: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5,
        description="alpha of the diffusion: what sets the voxels' features apart most counts "
        "alpha / (1 - alpha) times; 0 changes nothing",
    )


class Diffusion(Corrector):
    """Voxels of similar features lend each other their classes; class masses stay.

    Voxels of one image form a complete graph whose weights are the cosines of their features at
    full resolution, shifted to be non-negative. With the teacher's probabilities P and the
    diffused labels M of similar voxels, in which the mean of the image stays as it is,

        P'_ic = w_c P_ic max(0, M_ic) / sum_k w_k P_ik max(0, M_ik)

    and weights w_c with which every class keeps its sum over the image. Where features tell
    nothing apart, M is the frequency of each class everywhere and nothing changes.

    Source: p = 2 label diffusion, Zhou et al. 2004, in closed form (LF-10); see
    :func:`graphnn_unet.graph.similar_labels` for what is ours.
    """

    sections: ClassVar = {"diffusion": DiffusionSettings}
    feature_scales = (0,)

    def __call__(self, teaching: Teaching) -> Tensor:
        """Logits ``(b, k, *s)`` of the corrected probabilities."""
        logits = teaching.logits.float()
        alpha = self.surroundings.recipe.of(DiffusionSettings).reach
        if alpha == 0:
            return logits
        feature = teaching.features[0].float().flatten(2)
        low = feature.amin(dim=2, keepdim=True)
        # a voxel that is lowest in all channels would have no direction
        feature = feature - low + 1e-3 * (feature - low).mean(dim=(1, 2), keepdim=True) + 1e-12
        rows = unit_rows(feature.transpose(1, 2))
        values = logits.flatten(2).transpose(1, 2)
        if not self.surroundings.overlapping:
            corrected = diffused(values.softmax(-1), rows, alpha).log()
        else:
            region = values.sigmoid()
            both = [torch.stack([1 - p, p], dim=-1) for p in region.unbind(-1)]
            inside = [diffused(pair, rows, alpha)[..., 1] for pair in both]
            corrected = torch.logit(torch.stack(inside, dim=-1), eps=1e-7)
        return corrected.transpose(1, 2).view_as(logits)


def diffused(probability: Tensor, rows: Tensor, alpha: float) -> Tensor:
    """Probabilities ``(b, n, k)`` of the nodes after diffusion over non-negative unit rows."""
    message = similar_labels(probability, node_feature=rows, alpha=alpha)
    # a message is of the size of the mean; a class that similar voxels rule out keeps a trace
    floor = 1e-3 * probability.mean(dim=1, keepdim=True) * message.sum(dim=-1, keepdim=True)
    message = torch.maximum(message, floor)
    return keep_class_masses(probability * message, probability.mean(dim=1))
