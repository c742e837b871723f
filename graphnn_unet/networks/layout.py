"""The order of values in memory with which a CPU trains 3D networks faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelsLastInstanceNorm3d(nn.InstanceNorm3d):
    """Instance normalization that leaves channels last.

    PyTorch's own copies its input into the usual order and back; batch normalization does not, and
    that of a single image is its instance normalization.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(b, c, z, y, x)`` in any order of memory, which is kept."""
        return torch.cat(
            [
                functional.batch_norm(
                    image, None, None, self.weight, self.bias, training=True, eps=self.eps
                )
                for image in input.split(1)
            ]
        )


def train_channels_last(network: nn.Module, device: torch.device) -> nn.Module:
    """The network itself, with channels last in memory where that is faster: in 3D on a CPU.

    oneDNN's gradient of 3D weights takes half the time in this order. Outputs differ from those
    of the usual order in rounding alone; names and shapes of weights stay the same.

    Args:
        network: Is changed.
        device: Where it trains.

    Example:
        >>> norm = nn.InstanceNorm3d(4)
        >>> block = nn.Sequential(nn.Conv3d(2, 4, 3), norm, nn.LeakyReLU())
        >>> images = torch.randn(2, 2, 6, 6, 6)
        >>> expected = block(images)
        >>> _ = train_channels_last(block, torch.device("cpu"))
        >>> torch.allclose(block(images), expected, atol=1e-5)
        True
    """
    is_3d = any(isinstance(module, nn.Conv3d) for module in network.modules())
    if device.type != "cpu" or not is_3d:
        return network
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__ = ChannelsLastInstanceNorm3d
    return network.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]  # missing in torch's stubs
