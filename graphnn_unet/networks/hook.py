"""Any U-Net of nnU-Net with a structure-aware alignment block behind one encoder stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

from torch import Tensor, nn

from graphnn_unet.errors import InputError
from graphnn_unet.graph import StructureAlignment

ALIGNMENT_PREFIX = "align."


class PlannedUNet(Protocol):
    """What is used of nnU-Net's networks, which come without types."""

    encoder: Any
    decoder: Any


def planned_unet(network: nn.Module) -> PlannedUNet:
    """A network as one of nnU-Net's, of which types are known."""
    return cast(PlannedUNet, network)


@contextmanager
def one_output(network: nn.Module) -> Iterator[None]:
    """Switch deep supervision off."""
    decoder = planned_unet(network).decoder
    was_deep = decoder.deep_supervision
    decoder.deep_supervision = False
    try:
        yield
    finally:
        decoder.deep_supervision = was_deep


class AlignedUNet(nn.Module):
    """A planned network whose features are aligned between the images of a batch.

    ``encoder`` and ``decoder`` are those of the planned network under their own names, so plain
    weights load with only ``align.*`` missing and nnU-Net's switch of deep supervision works. With
    the gate of the block at 0 the output is that of the plain network bit for bit.

    Args:
        network: ``PlainConvUNet`` or ``ResidualEncoderUNet``, 2D or 3D.
        stage: Encoder stage behind which the block acts; negative counts from the bottleneck.

    Raises:
        InputError: The network has no such stage.

    Source: GraphCL (ICML 2025), section 3.3; table 6 finds the bottleneck best.
    """

    encoder: Any
    decoder: Any
    align: StructureAlignment | nn.Identity

    def __init__(self, network: nn.Module, stage: int = -1):
        super().__init__()
        planned = planned_unet(network)
        self.encoder, self.decoder = planned.encoder, planned.decoder
        channels = self.encoder.output_channels
        self.stage = resolve_stage(stage, len(channels))
        dim = len(self.encoder.strides[0])
        self.align = StructureAlignment(int(channels[self.stage]), dim)

    def forward(self, x: Tensor) -> Any:
        """Output of the decoder for images ``(b, c, *s)``."""
        return self.decoder(encode(self.encoder, x, {self.stage: self.align}))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> Any:
        """nnU-Net's estimate of activations; those of the block are negligible."""
        encoder = self.encoder.compute_conv_feature_map_size(input_size)
        return encoder + self.decoder.compute_conv_feature_map_size(input_size)


def encode(encoder: Any, x: Tensor, blocks: Mapping[int, nn.Module]) -> list[Tensor]:
    """Features of all encoder stages; ``blocks[s]`` replaces those of stage s for all that follows.

    A residual encoder has a stem before its first stage.
    """
    stem = getattr(encoder, "stem", None)
    if stem is not None:
        x = stem(x)
    skips = []
    for index, stage in enumerate(encoder.stages):
        x = stage(x)
        if index in blocks:
            x = blocks[index](x)
        skips.append(x)
    return skips


def resolve_stage(stage: int, n_stages: int) -> int:
    """A stage index from 0, given one that may count from the end; outside it is refused."""
    if -n_stages <= stage < n_stages:
        return stage % n_stages
    raise InputError(
        f"graph.stage = {stage} does not exist",
        f"the network has the stages 0 to {n_stages - 1}",
        f"Use -1 (bottleneck) or 0 to {n_stages - 1}",
    )


def stage_shapes(
    patch_size: Sequence[int], strides: Sequence[Sequence[int] | int]
) -> list[list[int]]:
    """Spatial size of every encoder stage's output for a patch."""
    shapes, size = [], list(patch_size)
    for stride in strides:
        steps = [stride] * len(size) if isinstance(stride, int) else stride
        # a strided convolution with half-kernel padding rounds up
        size = [-(-edge // step) for edge, step in zip(size, steps, strict=True)]
        shapes.append(list(size))
    return shapes
