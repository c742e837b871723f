"""Features are those that the network itself uses, at the place that was named."""

import pytest
import torch
from networks.small_networks import images, opened, planned_network

from graphnn_unet.errors import InputError
from graphnn_unet.networks.features import Tap, collect_features
from graphnn_unet.networks.hook import AlignedUNet, encode


def test_encoder_features_of_the_aligned_stage_come_behind_the_block():
    aligned = opened(AlignedUNet(planned_network("plain", 3), 1)).eval()
    image = images(2, 3)
    taps = [Tap("encoder", scale) for scale in range(3)]
    with collect_features(aligned, taps) as features:
        output = aligned(image)
    assert torch.equal(output, aligned(image))
    before = encode(aligned.encoder, image, {})
    assert torch.equal(features[taps[0]], before[0])
    assert torch.equal(features[taps[1]], aligned.align(before[1]))
    assert not torch.allclose(features[taps[1]], before[1])
    assert torch.equal(features[taps[2]], aligned.encoder.stages[2](features[taps[1]]))


@pytest.mark.parametrize(("kind", "dim"), [("plain", 2), ("residual", 3)])
def test_decoder_features_are_counted_from_full_resolution(kind, dim):
    network = planned_network(kind, dim)
    image = images(1, dim)
    with collect_features(network, [Tap("decoder", 0), Tap("decoder", 1)]) as features:
        output = network(image)
    finest, coarser = features[Tap("decoder", 0)], features[Tap("decoder", 1)]
    assert finest.shape[2:] == image.shape[2:]
    assert coarser.shape[-1] == image.shape[-1] // 2
    assert torch.equal(network.decoder.seg_layers[-1](finest), output)


def test_features_carry_gradients_and_nothing_listens_afterwards():
    network = planned_network("plain", 2)
    with collect_features(network, [Tap("decoder", 0)]) as features:
        network(images(1, 2))
        features[Tap("decoder", 0)].sum().backward()
    assert network.encoder.stages[0][0].convs[0].conv.weight.grad is not None
    before = dict(features)
    network(images(1, 2, seed=5))
    assert features[Tap("decoder", 0)] is before[Tap("decoder", 0)]
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("tap", [Tap("encoder", 3), Tap("decoder", 2), Tap("decoder", -1)])
def test_scale_outside_the_network_is_refused(tap):
    listening = collect_features(planned_network("plain", 2), [tap])
    with pytest.raises(InputError, match=f"the {tap.part} has no scale {tap.scale}"):
        listening.__enter__()
