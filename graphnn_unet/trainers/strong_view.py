"""A harder view of an image at the same place: intensities change, geometry does not.

Source: MLLC (color jitter, blur); forms and ranges are those of nnU-Net's own augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from graphnn_unet.graph.shared_batch import process_count, shared_images
from graphnn_unet.pseudo_labels.blur import smooth_axis

NOISE_VARIANCE = (0.0, 0.1)
BLUR_SIGMA = (0.5, 1.0)
"""Standard deviation in voxels."""
BRIGHTNESS = CONTRAST = (0.75, 1.25)
GAMMA = (0.7, 1.5)
_RANGES = (NOISE_VARIANCE, BLUR_SIGMA, BRIGHTNESS, CONTRAST, GAMMA)
NOISE_LIMIT = 2.0
"""Noise of a teacher's input is clipped at so many standard deviations (UA-MT's program)."""

Draw = TypeVar("Draw")


@dataclass(frozen=True)
class IntensityChange:
    """What is done to an image; ``None`` for what is left out.

    Attributes:
        noise_variance: Of Gaussian noise.
        blur_sigma: Of a Gaussian, in voxels.
        brightness: Factor of all values.
        contrast: Factor of the distance to the mean, within the former range.
        gamma: Power of the values scaled to [0, 1]; mean and deviation are put back.
        seed: Of the noise.
    """

    noise_variance: float | None = None
    blur_sigma: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    gamma: float | None = None
    seed: int = 0


def draw_change(probability: float, generator: torch.Generator) -> IntensityChange:
    """Draw a change, each part of it with a probability; always as many numbers are used."""
    chosen = torch.rand(len(_RANGES), generator=generator)
    place = torch.rand(len(_RANGES), generator=generator).tolist()
    seed = int(torch.randint(2**62, (1,), generator=generator))
    values = [
        low + share * (high - low) if take < probability else None
        for (low, high), share, take in zip(_RANGES, place, chosen.tolist(), strict=True)
    ]
    return IntensityChange(*values, seed=seed)


def change_intensities(image: Tensor, change: IntensityChange) -> Tensor:
    """Apply a change to an image ``(c, *s)``, each channel by itself."""
    if change.noise_variance is not None:
        image = image + change.noise_variance**0.5 * _noise(image, change.seed)
    if change.blur_sigma is not None:
        for axis in range(1, image.dim()):
            image = smooth_axis(image[None], axis + 1, change.blur_sigma)[0]
    if change.brightness is not None:
        image = image * change.brightness
    axes = tuple(range(1, image.dim()))
    if change.contrast is not None:
        mean = image.mean(axes, keepdim=True)
        low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
        image = torch.clamp((image - mean) * change.contrast + mean, low, high)
    if change.gamma is not None:
        low, mean = image.amin(axes, keepdim=True), image.mean(axes, keepdim=True)
        span = (image.amax(axes, keepdim=True) - low).clamp_min(1e-7)
        bent = ((image - low) / span) ** change.gamma
        spread = bent.std(axes, keepdim=True).clamp_min(1e-7)
        scale = image.std(axes, keepdim=True) / spread
        image = (bent - bent.mean(axes, keepdim=True)) * scale + mean
    return image


def changed_images(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Each image ``(b, c, *s)`` of this process after a change of its own."""
    changes = _drawn_for(images, lambda: draw_change(probability, generator))
    pairs = zip(images, changes, strict=True)
    return torch.stack([change_intensities(image, change) for image, change in pairs])


def noisy_images(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Images with Gaussian noise that is clipped at twice its standard deviation.

    Source: UA-MT's program (0.1, clipped at 0.2).
    """
    seeds = _drawn_for(images, lambda: int(torch.randint(2**62, (1,), generator=generator)))
    noise = torch.stack([_noise(image, seed) for image, seed in zip(images, seeds, strict=True)])
    return images + deviation * noise.clamp(-NOISE_LIMIT, NOISE_LIMIT)


def _noise(image: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(image.device).manual_seed(seed)
    return torch.randn(image.shape, generator=generator, device=image.device)


def _drawn_for(images: Tensor, draw: Callable[[], Draw]) -> Sequence[Draw]:
    """One draw for each image; those of the whole batch are drawn in every process."""
    whole = len(images) * process_count()
    draws = [draw() for _ in range(whole)]
    return [draws[i] for i in shared_images(whole)] if process_count() > 1 else draws
