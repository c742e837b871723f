"""Convolutions by oneDNN: the same sums, and nothing else is touched."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from graphnn_unet.networks.onednn import OneDnnConvolutions

onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without oneDNN")


def operators(call):
    with profile(activities=[ProfilerActivity.CPU]) as profiled, torch.inference_mode():
        call()
    return {event.key for event in profiled.key_averages()}


LAYERS = [
    (nn.Conv3d(2, 6, 3, padding=1), (2, 9, 8, 7)),
    (nn.Conv3d(2, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False), (2, 5, 8, 9)),
    (nn.Conv3d(4, 6, 3, dilation=2, groups=2), (4, 9, 9, 9)),
    (nn.Conv2d(3, 5, 3, padding=1), (3, 12, 11)),
    (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (3, 12, 11)),
]


@onednn
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_one_image_is_convolved_by_onednn_with_the_same_result(layer, shape):
    image = torch.randn(1, *shape)

    def convolve():
        with OneDnnConvolutions():
            return layer(image)

    assert "aten::mkldnn_convolution" in operators(convolve)
    torch.testing.assert_close(convolve(), layer(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "image"),
    [
        (nn.Conv3d(2, 3, 3, padding="same"), torch.randn(1, 2, 6, 6, 6)),
        (nn.Conv3d(2, 3, 3), torch.randn(2, 6, 6, 6)),  # no batch
        (nn.Conv3d(2, 3, 3, dtype=torch.float64), torch.randn(1, 2, 6, 6, 6).double()),
        (nn.ConvTranspose3d(2, 3, 2, 2), torch.randn(1, 2, 6, 6, 6)),
        (nn.Conv1d(2, 3, 3), torch.randn(1, 2, 9)),
    ],
)
def test_what_onednn_cannot_do_here_is_done_as_before(layer, image):
    with torch.inference_mode():
        expected = layer(image)
        with OneDnnConvolutions():
            assert torch.equal(layer(image), expected)


@onednn
def test_it_ends_and_can_be_turned_off():
    layer, image = LAYERS[0][0], torch.randn(1, *LAYERS[0][1])
    assert "aten::mkldnn_convolution" not in operators(lambda: layer(image))
    was = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(False)
    try:
        with OneDnnConvolutions():
            assert "aten::mkldnn_convolution" not in operators(lambda: layer(image))
    finally:
        torch._C._set_mkldnn_enabled(was)
