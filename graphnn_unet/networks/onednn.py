"""Convolutions of single images by oneDNN on a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class OneDnnConvolutions(TorchFunctionMode):
    """While it is entered, convolutions of this thread in float32 on a CPU are oneDNN's.

    PyTorch asks oneDNN for batches, and of single images for large ones: where channels x depth x
    height are 20 480 or less, as in the deep stages of a U-Net, it unfolds the image and multiplies
    matrices, which takes two to four times as long. Sums are made in another order, so results
    differ in the last digits of 32 bits, as they do between machines.

    For inference: there is no gradient. ``torch.backends.mkldnn.flags(enabled=False)`` turns it
    off.

    Example:
        >>> layer, image = torch.nn.Conv3d(2, 4, 3, padding=1), torch.randn(1, 2, 8, 8, 8)
        >>> with torch.inference_mode(), OneDnnConvolutions():
        ...     result = layer(image)
        >>> torch.allclose(result, layer(image), atol=1e-5)
        True
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """PyTorch's hook: every function that a network calls comes here."""
        if func in (functional.conv2d, functional.conv3d):
            return _convolution(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolution(
    native: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or not _takes(input, weight):
        return native(input, weight, bias, stride, padding, dilation, groups)
    padding_, stride_, dilation_ = (
        [value] * (weight.ndim - 2) if isinstance(value, int) else list(value)
        for value in (padding, stride, dilation)
    )
    return torch.mkldnn_convolution(input, weight, bias, padding_, stride_, dilation_, groups)


def _takes(input: Tensor, weight: Tensor) -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and input.ndim == weight.ndim  # not an image without its batch
    )
