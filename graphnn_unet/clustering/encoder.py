"""Features from the encoder of a trained segmentation model, of this program or of nnU-Net.

The model must not have been trained with masks of the images that are to be clustered; nothing
here can tell, so the record names the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnn_unet.clustering.images import Image, read_array
from graphnn_unet.clustering.nodes import Grid, NodeFeatures, standardized
from graphnn_unet.device import resolve_device
from graphnn_unet.errors import InputError
from graphnn_unet.models.load import load_predictor
from graphnn_unet.prediction.predictor import Predictor

CELL = 8
"""Pixels of the network's grid in a node, along each axis that the network halves."""

N_STAGES = 2
"""The last stages of the encoder are read."""


@dataclass(frozen=True)
class EncoderFeatures:
    """The last two stages of a trained encoder, resized to one grid and standardized.

    Attributes:
        model: Model folder, ``TRAINER__PLANS__CONFIGURATION``.
        device: As ``-device``.
    """

    model: Path
    device: str = "cpu"

    @cached_property
    def _predictor(self) -> Predictor:
        return load_predictor(self.model, device=resolve_device(self.device), mirroring=False)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes load the model themselves."""
        return {key: value for key, value in self.__dict__.items() if key != "_predictor"}

    @property
    def name(self) -> str:
        """What users are told."""
        return f"encoder of {self.model.name}"

    @property
    def facts(self) -> dict[str, str]:
        """What decides about the features."""
        return {"model": str(self.model.resolve()), "folds": str(self._predictor.settings["folds"])}

    def __call__(self, image: Image) -> NodeFeatures:
        """Nodes of the part of the image that the model's preprocessing keeps.

        Raises:
            InputError: The image does not fit the model.
        """
        predictor = self._predictor
        array, spacing = read_array(image.source)
        if len(array) != predictor.n_channels:
            raise InputError(
                f"{image.source.paths[0].name} has {len(array)} channels",
                f"the model {self.model.name} takes {predictor.n_channels}",
            )
        is_flat = array.ndim == 3
        if is_flat:  # as nnU-Net reads pictures
            array, spacing = array[:, None], (999.0, *spacing)
        data, properties = predictor.preprocess(array, spacing)
        stages = encode(_encoder_of(predictor), data, predictor.device)
        values, size = joined(stages, data.shape[1:])
        values, size, box = _turned_back(
            values, size, properties, predictor.plans.transpose_backward
        )
        if is_flat:
            size, box = size[1:], box[1:]
        return NodeFeatures(standardized(values.numpy()), Grid(size, size), self.name, box)


def _encoder_of(predictor: Predictor) -> nn.Module:
    encoder = getattr(predictor._engine.network, "encoder", None)
    if encoder is None:
        raise InputError(f"the network of {predictor.folder} has no encoder", "it is no U-Net")
    return encoder


def encode(encoder: nn.Module, data: Tensor, device: torch.device) -> list[Tensor]:
    """Outputs of the last stages for a preprocessed image ``(c, z, y, x)``.

    A network of flat convolutions gets each slice; the image is padded to what the strides need.

    Returns:
        One ``(channel, z, y, x)`` a stage.
    """
    n_dims = next(m.weight.dim() for m in encoder.modules() if isinstance(m, _CONVOLUTIONS)) - 2
    encoder = encoder.to(device).eval()
    batch = data.unsqueeze(0) if n_dims == 3 else data.permute(1, 0, 2, 3)
    strides = _total_stride(encoder, n_dims)
    pads: list[int] = []
    for axis in range(n_dims):
        n = batch.shape[2 + axis]
        pads = [0, -n % strides[axis], *pads]
    found: list[list[Tensor]] = []
    with torch.no_grad():
        for part in batch.split(1 if n_dims == 3 else 8):
            padded = functional.pad(part.to(device), pads, mode="replicate")
            found.append([stage.float().cpu() for stage in encoder(padded)[-N_STAGES:]])
    stages = []
    for parts in zip(*found, strict=True):
        stage = torch.cat(parts)
        stages.append(stage[0] if n_dims == 3 else stage.permute(1, 0, 2, 3))
    return stages


_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def _total_stride(encoder: nn.Module, n_dims: int) -> list[int]:
    """Product of the strides of all stages, an axis each."""
    total = [1] * n_dims
    for stride in getattr(encoder, "strides", [2] * 6):
        steps = [stride] * n_dims if isinstance(stride, int) else list(stride)
        total = [a * int(b) for a, b in zip(total, steps, strict=True)]
    return total


def joined(stages: Sequence[Tensor], shape: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """All stages on one grid, ``(node, channel)``, and the size of the grid.

    Args:
        stages: ``(channel, z, y, x)`` each; a slice axis that is not halved keeps its length.
        shape: ``(z, y, x)`` of the preprocessed image.
    """
    flat = stages[-1].shape[1] == shape[0] and shape[0] > 1
    size = tuple(
        n if (axis == 0 and (flat or n == 1)) else max(round(n / CELL), 2)
        for axis, n in enumerate(shape)
    )
    resized = [
        functional.interpolate(stage[None], size=size, mode="trilinear", align_corners=False)[0]
        for stage in stages
    ]
    return torch.cat(resized).flatten(1).T.contiguous(), size


def _turned_back(
    values: Tensor, size: tuple[int, ...], properties: dict[str, Any], backward: Sequence[int]
) -> tuple[Tensor, tuple[int, ...], tuple[slice, ...]]:
    """Nodes in the axes of the image, and the part of it that preprocessing kept."""
    n_channels = values.shape[1]
    turned = values.view(*size, n_channels).permute(*backward, 3).reshape(-1, n_channels)
    box = properties["bbox_used_for_cropping"]
    return (
        turned,
        tuple(size[axis] for axis in backward),
        tuple(slice(int(box[axis][0]), int(box[axis][1])) for axis in backward),
    )
