"""Features out of any U-Net of nnU-Net while it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from graphnn_unet.errors import InputError
from graphnn_unet.networks.hook import AlignedUNet, planned_unet


@dataclass(frozen=True)
class Tap:
    """A place in a U-Net whose features are wanted.

    Attributes:
        part: ``encoder``, ``decoder``, or ``head`` for the logits of a decoder scale.
        scale: Resolution, 0 is that of the image; in the encoder the stages' own numbers.
    """

    part: Literal["encoder", "decoder", "head"]
    scale: int


@contextmanager
def collect_features(network: nn.Module, taps: Sequence[Tap]) -> Iterator[dict[Tap, Tensor]]:
    """Collect features of the forward passes inside the block; the last pass stays.

    Features of an encoder stage with an alignment block are those behind it.

    Yields:
        Tap to features ``(b, c, *s')``, filled by the forward pass, with gradients.

    Raises:
        InputError: The network has no such stage.
    """
    features: dict[Tap, Tensor] = {}
    with ExitStack() as stack:
        for tap in taps:

            def keep(_module: nn.Module, _inputs: Any, output: Tensor, tap: Tap = tap) -> None:
                features[tap] = output

            handle = _module_of(network, tap).register_forward_hook(keep)
            stack.callback(handle.remove)
        yield features


def _module_of(network: nn.Module, tap: Tap) -> nn.Module:
    """The module whose output is wanted."""
    if tap.part == "encoder":
        stages = list(planned_unet(network).encoder.stages)
        if isinstance(network, AlignedUNet) and tap.scale == network.stage:
            return network.align
    else:
        decoder = planned_unet(network).decoder
        stages = list(decoder.stages if tap.part == "decoder" else decoder.seg_layers)
        stages = stages[::-1]  # it begins at the coarsest
    if not 0 <= tap.scale < len(stages):
        raise InputError(
            f"the {tap.part} has no scale {tap.scale}",
            f"it has the scales 0 to {len(stages) - 1}",
        )
    return stages[tap.scale]
