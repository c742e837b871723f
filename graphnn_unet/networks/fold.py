"""Fold the alignment block into the convolutions behind it, leaving a plain nnU-Net network.

In evaluation the block is a 1 x 1 convolution without bias, ``Y = (I + g W^T) F``, so every
convolution that reads ``Y`` can read ``F`` with changed weights: ``K' = K (I + g W^T)`` on its
input channels. Zero padding stays exact because the block has no bias.
"""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd as Convolution

from graphnn_unet.errors import InputError
from graphnn_unet.networks.hook import ALIGNMENT_PREFIX, AlignedUNet


@torch.no_grad()
def fold_alignment(network: AlignedUNet) -> dict[str, Tensor]:
    """State dict of the plain network that equals ``network`` in evaluation.

    ``network`` is left unchanged.

    Raises:
        InputError: The features behind the block are also read by something that is no
            convolution (the identity path of a residual block), where it cannot be folded.
    """
    if isinstance(network.align, nn.Identity):
        raise InputError("the alignment block was folded already")
    matrix = network.align.channel_matrix().double()
    convolutions = _readers(network)
    originals = [convolution.weight.detach().clone() for convolution, _ in convolutions]
    for (convolution, channels), weight in zip(convolutions, originals, strict=True):
        convolution.weight.copy_(_fold(convolution, weight, matrix, channels))
    try:
        weights = {
            key: value.detach().clone()
            for key, value in network.state_dict().items()
            if not key.startswith(ALIGNMENT_PREFIX)
        }
    finally:
        for (convolution, _), weight in zip(convolutions, originals, strict=True):
            convolution.weight.copy_(weight)
    return weights


def can_fold(network: nn.Module) -> TypeGuard[AlignedUNet]:
    """Whether a network has an alignment block that :func:`fold_alignment` can fold."""
    if not isinstance(network, AlignedUNet):
        return False
    try:
        _readers(network)
    except InputError:
        return False
    return True


def drop_alignment(network: AlignedUNet) -> None:
    """Take the block out, in place; the network then loads what :func:`fold_alignment` returns.

    It computes what the plain network computes, bit for bit.
    """
    network.align = nn.Identity()


def _readers(network: AlignedUNet) -> list[tuple[Convolution, slice]]:
    """Convolutions that read the block's output, with the input channels that hold it."""
    encoder, decoder, stage = network.encoder, network.decoder, network.stage
    n_stages = len(encoder.output_channels)
    width = int(encoder.output_channels[stage])
    if stage == n_stages - 1:
        return [(decoder.transpconvs[0], slice(0, width))]
    behind = _first_convolutions(encoder.stages[stage + 1])
    if not behind:
        raise InputError(
            "the alignment block cannot be folded out of this network",
            "the next residual stage passes its input on without a convolution",
            "Train with graph.stage = -1 (bottleneck) to export a plain nnU-Net model",
        )
    # the decoder stage of this resolution reads [upsampled, skip]; it halves the channels, so a
    # residual one has a projection
    beside = _first_convolutions(decoder.stages[n_stages - 2 - stage])
    return [(conv, slice(0, width)) for conv in behind] + [
        (conv, slice(width, 2 * width)) for conv in beside
    ]


def _first_convolutions(stage: Any) -> list[Convolution]:
    """Convolutions that read the input of a stage; none where something else reads it as well."""
    block = cast(Any, stage[0] if isinstance(stage, nn.Sequential) else stage)
    if hasattr(block, "convs"):  # stacked plain convolutions
        return [block.convs[0].conv]
    residual = block.blocks[0]
    projections: list[Any] = [
        part.conv
        for part in (residual.skip if isinstance(residual.skip, nn.Sequential) else [])
        if hasattr(part, "conv")
    ]
    return [residual.conv1.conv, *projections] if projections else []


def _fold(convolution: Convolution, weight: Tensor, matrix: Tensor, channels: slice) -> Tensor:
    """Weights that read F where ``weight`` reads ``matrix @ F``."""
    axis = 0 if isinstance(convolution, (nn.ConvTranspose2d, nn.ConvTranspose3d)) else 1
    folded = weight.double().movedim(axis, 0).clone()
    # out[i] = sum_o matrix[o, i] * kernel[o]
    folded[channels] = torch.einsum("oi,o...->i...", matrix, folded[channels])
    return folded.movedim(0, axis).to(weight.dtype)
