"""Channels last: the same network, gradients and weights in another order of memory."""

import copy

import pytest
import torch
from torch import nn

from graphnn_unet.networks.layout import train_channels_last

CPU = torch.device("cpu")


def small_network(affine=True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=affine),
        nn.LeakyReLU(inplace=True),
        nn.Conv3d(4, 6, 3, 2, 1),
        nn.InstanceNorm3d(6, eps=0.1, affine=affine),
        nn.LeakyReLU(inplace=True),
        nn.ConvTranspose3d(6, 3, 2, 2),
    ).double()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("n_images", [1, 3])
def test_outputs_and_gradients_are_those_of_the_usual_order(affine, n_images):
    usual = small_network(affine)
    ours = train_channels_last(copy.deepcopy(usual), CPU)
    assert ours[0].weight.stride() != usual[0].weight.stride()
    images = torch.randn(n_images, 1, 6, 8, 10, dtype=torch.float64)
    outputs = [network(images) for network in (usual, ours)]
    torch.testing.assert_close(outputs[1], outputs[0])
    target = torch.randn_like(outputs[0])
    for output in outputs:
        (output * target).sum().backward()
    for expected, got in zip(usual.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad)


def test_weights_move_between_both_orders():
    usual, other = small_network(), small_network()
    ours = train_channels_last(copy.deepcopy(usual), CPU)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.5)
    other.load_state_dict(ours.state_dict())
    assert other[3].weight.is_contiguous()
    assert torch.equal(other[3].weight, ours[3].weight)
    ours.load_state_dict(usual.state_dict())
    assert torch.equal(ours[3].weight, usual[3].weight)
    assert ours[3].weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_normalization_leaves_channels_last():
    norm = train_channels_last(small_network(), CPU)[1]
    images = torch.randn(2, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d)
    output = norm.float()(images)
    assert output.is_contiguous(memory_format=torch.channels_last_3d)


def test_normalization_of_many_voxels_is_as_exact_as_that_of_the_usual_order():
    """Sums of float32 one after the other were wrong by 10^-3 here."""
    norm = nn.InstanceNorm3d(4)
    image = 3 + torch.randn(1, 4, 64, 64, 64)
    target = torch.randn_like(image)
    ours = train_channels_last(nn.Sequential(nn.Conv3d(1, 1, 1), copy.deepcopy(norm)), CPU)[1]
    results = []
    for layer, given in ((norm, image.double()), (norm, image), (ours, image)):
        given = given.to(memory_format=torch.channels_last_3d).requires_grad_()
        output = layer(given)
        output.backward(target.to(given.dtype))
        results.append((output.detach(), given.grad))
    exact, usual, got = results
    for part in (0, 1):
        error = float((got[part] - exact[part]).abs().max())
        assert error < 3 * float((usual[part] - exact[part]).abs().max())


@pytest.mark.parametrize(
    ("network", "device"),
    [(small_network(), "cuda"), (nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)), "cpu")],
)
def test_other_devices_and_slices_keep_the_usual_order(network, device):
    strides = [parameter.stride() for parameter in network.parameters()]
    train_channels_last(network, torch.device(device))
    assert [parameter.stride() for parameter in network.parameters()] == strides
    assert type(network[1]) in (nn.InstanceNorm2d, nn.InstanceNorm3d)
