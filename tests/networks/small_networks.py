"""Small networks of nnU-Net with and without the alignment block."""

import itertools

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from graphnn_unet.networks.hook import AlignedUNet

WIDTHS = (4, 6, 8)
KINDS = list(itertools.product(("plain", "residual"), (2, 3)))


def planned_network(kind: str, dim: int, deep: bool = False, *, widths=WIDTHS) -> nn.Module:
    """A small network of nnU-Net with an odd mix of strides."""
    conv = nn.Conv2d if dim == 2 else nn.Conv3d
    norm = nn.InstanceNorm2d if dim == 2 else nn.InstanceNorm3d
    torch.manual_seed(3)
    n_stages = len(widths)
    blocks = {"plain": "n_conv_per_stage", "residual": "n_blocks_per_stage"}[kind]
    build = {"plain": PlainConvUNet, "residual": ResidualEncoderUNet}[kind]
    network = build(
        input_channels=2,
        n_stages=n_stages,
        features_per_stage=widths,
        conv_op=conv,
        kernel_sizes=3,
        strides=[1, *[[1, *[2] * (dim - 1)]], *[2] * (n_stages - 2)],
        num_classes=3,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"affine": True, "eps": 1e-5},
        nonlin=nn.LeakyReLU,
        deep_supervision=deep,
        **{blocks: 2},
    )
    for module in network.modules():  # fresh norms hide a wrong scale or shift
        if isinstance(module, norm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return network


def opened(network: AlignedUNet, gate: float = 0.7) -> AlignedUNet:
    """The block with an open gate and a random matrix."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        network.align.gate.fill_(gate)
        network.align.weight.copy_(torch.randn(network.align.weight.shape, generator=generator) / 2)
    return network


def images(n_images: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_images, 2, *[8] * dim, generator=torch.Generator().manual_seed(seed))
