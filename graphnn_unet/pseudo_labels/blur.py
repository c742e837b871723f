"""Smooth the teacher's probabilities: the control that any other correction must beat."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from graphnn_unet.pseudo_labels.corrector import Corrector, Teaching
from graphnn_unet.settings import Section

_DEFAULT_VOXELS = 0.7
_REACH = 3.0
"""The Gaussian is cut off after so many standard deviations (0.3 % of its mass)."""


class BlurSettings(Section):
    """Gaussian smoothing of pseudo-labels."""

    sigma_mm: float | None = Field(
        None,
        ge=0,
        description="standard deviation of the Gaussian in mm. Empty: 0.7 of the smallest spacing",
    )


class Blur(Corrector):
    """Gaussian of ``blur.sigma_mm`` over the probabilities of each class.

    What a network of few labels draws has rough borders; a little smoothing makes better labels of
    it (docs/explanation/unlabeled_scans.md).

    Outside of the patch nothing is known: weights there are left out and the others grow, so that
    a constant map stays constant up to the border.

    Source: control of ``docs/explanation/choices.md``. A correction by a graph smooths as well;
    what it adds shows against this one.
    """

    sections: ClassVar = {"blur": BlurSettings}

    def __call__(self, teaching: Teaching) -> Tensor:
        """Logits ``(b, k, *s)`` of the smoothed probabilities."""
        spacing_mm = self.surroundings.spacing_mm
        sigma_mm = self.surroundings.recipe.of(BlurSettings).sigma_mm
        if sigma_mm is None:
            sigma_mm = _DEFAULT_VOXELS * min(spacing_mm)
        logits = teaching.logits.float()
        if sigma_mm == 0:
            return logits
        overlapping = self.surroundings.overlapping
        probability = logits.sigmoid() if overlapping else logits.softmax(1)
        for axis, size_mm in enumerate(spacing_mm):
            probability = smooth_axis(probability, axis + 2, sigma_mm / size_mm)
        tiny = torch.finfo(probability.dtype).tiny
        if overlapping:
            return torch.logit(probability, eps=1e-7)
        return probability.clamp_min(tiny).log()


def smooth_axis(values: Tensor, axis: int, sigma: float) -> Tensor:
    """Gaussian along one axis, normalized by the weights that lie inside.

    Args:
        values: ``(b, k, *s)``.
        axis: Axis to smooth.
        sigma: Standard deviation in voxels.

    Returns:
        The same shape; a constant stays constant.
    """
    reach = min(math.ceil(_REACH * sigma), values.shape[axis] - 1)
    if reach < 1:
        return values
    offset = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2).view(1, 1, -1)
    rows = values.movedim(axis, -1)
    flat = rows.reshape(-1, 1, rows.shape[-1])
    smoothed = functional.conv1d(flat, kernel, padding=reach)
    smoothed = smoothed / functional.conv1d(torch.ones_like(flat[:1]), kernel, padding=reach)
    return smoothed.view(rows.shape).movedim(-1, axis)
