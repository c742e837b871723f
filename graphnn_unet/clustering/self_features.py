"""An encoder trained on the folder itself, without labels, by restoring what was masked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnn_unet.clustering.features import working_image
from graphnn_unet.clustering.hand_features import POSITION_WEIGHT, perceived, positions
from graphnn_unet.clustering.images import Image, Source, read_image
from graphnn_unet.clustering.nodes import Grid, NodeFeatures, standardized
from graphnn_unet.errors import GraphnnError, InputError
from graphnn_unet.progress import Progress, say
from graphnn_unet.storage.atomic import atomic_path

WEIGHTS = "self_encoder.pt"
STRIDE = 4
"""Pixels of the working image a node."""

_WIDTHS = (24, 48, 64)
_SIDE = 96  # of the crops it is trained on
_BLOCK, _MASKED = 8, 0.5  # edge of a masked block, share of masked blocks
_BATCH, _LR = 8, 2e-3


class PatchEncoder(nn.Module):
    """Convolutions that see 45 pixels around a node and tell what is there.

    Args:
        in_channels: Of the images.
    """

    def __init__(self, in_channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        widths = (in_channels, *_WIDTHS)
        for number, (before, width) in enumerate(pairwise(widths)):
            stride = 2 if number < 2 else 1
            layers += [
                nn.Conv2d(before, width, 3, stride=stride, padding=1),
                nn.GroupNorm(4, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=2, dilation=2),
                nn.GroupNorm(4, width),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.restore = nn.Conv2d(_WIDTHS[-1], in_channels * STRIDE**2, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """Features ``(b, 64, y / 4, x / 4)`` of ``(b, c, y, x)``."""
        return self.body(picture)

    def restored(self, picture: Tensor) -> Tensor:
        """The picture again, ``(b, c, y, x)``."""
        return functional.pixel_shuffle(self.restore(self(picture)), STRIDE)


@dataclass(frozen=True)
class SelfFeatures:
    """Features of an encoder that was trained on the folder (see :func:`train_encoder`).

    Attributes:
        side: Longest side of the working image in pixels.
        n_steps: Training steps.
        seed: Of the training.
        weights: File of the trained encoder; ``None`` before :meth:`prepared`.
    """

    side: int = 192
    n_steps: int = 600
    seed: int = 0
    weights: Path | None = None
    name: str = "encoder trained on this folder without labels"

    @property
    def facts(self) -> dict[str, str]:
        """What decides about the features."""
        return {"side": str(self.side), "steps": str(self.n_steps), "seed": str(self.seed)}

    def prepared(self, sources: Sequence[Source], folder: Path) -> SelfFeatures:
        """The same with weights, trained now or taken from ``folder``.

        Raises:
            InputError: No picture can be used, or they differ in their channels.
        """
        path = folder / WEIGHTS
        files = [[s.case, *(p.stat().st_size for p in s.paths)] for s in sources]
        key = hashlib.sha256(json.dumps([files, self.facts]).encode()).hexdigest()
        if _key_of(path) == key:
            say("encoder: taken from the earlier run")
        else:
            encoder = train_encoder(sources, self.side, self.n_steps, self.seed)
            content = {"key": key, "channels": encoder.body[0].in_channels}
            with atomic_path(path) as temporary:
                torch.save({**content, "weights": encoder.state_dict()}, temporary)
        return replace(self, weights=path)

    def __call__(self, image: Image) -> NodeFeatures:
        """Nodes of the image without its frame."""
        if self.weights is None:
            raise InputError("the encoder is not trained yet", "", "Call prepared() first")
        encoder = _read_encoder(self.weights)
        picture = normalized(image, self.side)
        pads = [0, -picture.shape[2] % STRIDE, 0, -picture.shape[1] % STRIDE]
        with torch.no_grad():
            found = encoder(functional.pad(picture[None], pads, mode="replicate"))[0]
        size = (found.shape[1], found.shape[2])
        grid = Grid(size, size)
        values = standardized(np.concatenate([found.flatten(1).T.numpy(), positions(grid)], axis=1))
        values[:, -2:] *= POSITION_WEIGHT
        return NodeFeatures(values, grid, self.name)


def normalized(image: Image, side: int) -> Tensor:
    """Working image with mean 0 and deviation 1 in each channel (Lab for color).

    Raises:
        InputError: The image is a volume.
    """
    if image.array.ndim != 3:
        raise InputError(
            "the encoder of a folder sees pictures of one plane", "", "Use --slices for volumes"
        )
    work = working_image(image, side)
    color = perceived(work, is_color=image.is_color)
    mean = color.mean(axis=(1, 2), keepdims=True)
    deviation = color.std(axis=(1, 2), keepdims=True)
    return torch.from_numpy(((color - mean) / np.maximum(deviation, 0.02)).astype(np.float32))


def train_encoder(sources: Sequence[Source], side: int, n_steps: int, seed: int) -> PatchEncoder:
    """Train an encoder to restore masked blocks of random crops; no label is read.

    Args:
        sources: Pictures; those that cannot be read are left out and reported later.
        side: Longest side of the working images.
        n_steps: Steps of eight crops.
        seed: Of weights, crops and masks.

    Raises:
        InputError: No picture can be used, or they differ in their channels.

    Cost: about a tenth of a second a step on one core.
    """
    pictures = []
    for source in sources:
        try:
            pictures.append(normalized(read_image(source), side))
        except GraphnnError:
            continue
    channels = {len(picture) for picture in pictures}
    if len(channels) != 1:
        raise InputError(
            "no encoder can be trained on this folder",
            "no picture can be used" if not channels else "it mixes grey and color pictures",
            "Use --features border",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PatchEncoder(channels.pop())
        _train(encoder, pictures, n_steps, torch.Generator().manual_seed(seed))
    return encoder.eval()


def _train(
    encoder: PatchEncoder, pictures: list[Tensor], n_steps: int, generator: torch.Generator
) -> None:
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    with Progress(n_steps, "train the encoder", "step") as progress:
        for _ in range(n_steps):
            batch = torch.stack([_crop(pictures, generator) for _ in range(_BATCH)])
            blocks = torch.rand(_BATCH, 1, _SIDE // _BLOCK, _SIDE // _BLOCK, generator=generator)
            mask = (blocks < _MASKED).float()
            mask = functional.interpolate(mask, scale_factor=_BLOCK)
            restored = encoder.restored(batch * (1 - mask))
            error = ((restored - batch).square() * mask).sum()
            loss = error / (mask.sum() * batch.shape[1]).clamp(min=1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()


def _crop(pictures: list[Tensor], generator: torch.Generator) -> Tensor:
    """A random crop, mirrored at random; small pictures are repeated at their edges."""

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    picture = pictures[draw(len(pictures))]
    missing = [max(_SIDE - n, 0) for n in picture.shape[1:]]
    if any(missing):
        picture = functional.pad(picture[None], [0, missing[1], 0, missing[0]], mode="replicate")[0]
    top, left = (draw(n - _SIDE + 1) for n in picture.shape[1:])
    crop = picture[:, top : top + _SIDE, left : left + _SIDE]
    axes = [axis for axis in (1, 2) if draw(2)]
    return crop.flip(axes) if axes else crop


def _key_of(path: Path) -> str:
    """Key of a stored encoder; empty where there is none that can be read."""
    content = _content(path)
    return str(content.get("key", ""))


def _content(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  # a damaged cache is made again, whatever is wrong with it
        return {}
    return content if isinstance(content, dict) else {}


def _read_encoder(path: Path) -> PatchEncoder:
    content = _content(path)
    if not content:
        raise InputError(f"{path} cannot be read", "", "Run the command again with --overwrite")
    encoder = PatchEncoder(content["channels"])
    encoder.load_state_dict(content["weights"])
    return encoder.eval()
