"""Views of training images: parameters are drawn once, then applied."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.classification.settings import Augmentation

_TURN, _SCALE, _SHIFT = math.radians(15), 0.15, 0.12
_CONTRAST, _BRIGHTNESS, _NOISE = 0.25, 0.25, 0.1


@dataclass(frozen=True)
class Views:
    """One view an image: ``affine`` ``(n, d, d + 1)`` gives its places there, the rest ``(n,)``."""

    affine: Tensor
    contrast: Tensor
    brightness: Tensor
    noise_seed: int


def draw_views(n: int, n_dims: int, kind: Augmentation, generator: torch.Generator) -> Views | None:
    """Draw the parameters of ``n`` views; ``None`` where nothing is to be changed."""
    if kind == "none":
        return None

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    largest = math.pi if kind == "any-orientation" else _TURN
    linear = _rotation(uniform(-largest, largest), n_dims)
    if n_dims == 3:  # small turns about the other axes too
        for axes in ((0, 2), (1, 2)):
            linear = linear @ _rotation(uniform(-_TURN, _TURN), 3, axes)
    mirrored = torch.rand(n, n_dims, generator=generator) < 0.5
    if kind == "standard":
        mirrored[:, 1:] = False  # grid_sample's first axis is x: left and right
    sign = torch.where(mirrored, -1.0, 1.0)
    scale = torch.exp(uniform(-_SCALE, _SCALE))
    shift = (torch.rand(n, n_dims, generator=generator) * 2 - 1) * _SHIFT
    affine = torch.cat([linear * sign[:, None] * scale[:, None, None], shift[..., None]], dim=2)
    contrast = torch.exp(uniform(-_CONTRAST, _CONTRAST))
    brightness = uniform(-_BRIGHTNESS, _BRIGHTNESS)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return Views(affine, contrast, brightness, seed)


def apply_views(images: Tensor, views: Views | None) -> Tensor:
    """The views of normalized images ``(n, c, ...)``; the border is continued where they end."""
    if views is None:
        return images
    device = images.device
    grid = functional.affine_grid(views.affine.to(device), list(images.shape), align_corners=False)
    moved = functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    shape = (-1, *[1] * (images.dim() - 1))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(views.noise_seed)).to(
        device
    )
    contrast = views.contrast.to(device).view(shape)
    return moved * contrast + views.brightness.to(device).view(shape) + _NOISE * noise


def _rotation(angle: Tensor, n_dims: int, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """``(n, d, d)`` turns in the plane of two axes."""
    turn = torch.eye(n_dims).repeat(len(angle), 1, 1)
    first, second = axes
    turn[:, first, first] = turn[:, second, second] = angle.cos()
    turn[:, first, second], turn[:, second, first] = -angle.sin(), angle.sin()
    return turn
