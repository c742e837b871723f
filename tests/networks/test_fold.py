"""Folding the block out: the plain network predicts the same."""

import copy

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualUNet
from networks.small_networks import KINDS, images, opened, planned_network
from torch import nn

from graphnn_unet.errors import InputError
from graphnn_unet.networks.fold import can_fold, drop_alignment, fold_alignment
from graphnn_unet.networks.hook import AlignedUNet


@torch.no_grad()
def _relative_difference(aligned: AlignedUNet, plain: nn.Module, dim: int) -> float:
    image = images(2, dim)
    expected = aligned.eval()(image)
    return float((plain.eval()(image) - expected).abs().max() / expected.std())


@pytest.mark.parametrize("stage", [0, 1, 2, -1])
@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_folded_network_equals_the_aligned_one(kind, dim, stage):
    aligned = opened(AlignedUNet(planned_network(kind, dim), stage)).eval()
    plain = planned_network(kind, dim)
    plain.load_state_dict(aligned.state_dict(), strict=False)
    assert _relative_difference(aligned, plain, dim) > 0.05  # the block matters
    plain.load_state_dict(fold_alignment(aligned))
    assert _relative_difference(aligned, plain, dim) < 2e-5


def test_network_stays_as_it_is():
    aligned = opened(AlignedUNet(planned_network("residual", 3), 1))
    before = copy.deepcopy(aligned.state_dict())
    folded = fold_alignment(aligned)
    after = aligned.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(key.startswith("align.") for key in folded)
    folded["encoder.stages.0.blocks.0.conv1.conv.weight"].zero_()
    assert torch.equal(aligned.encoder.stages[0].blocks[0].conv1.conv.weight,
                       before["encoder.stages.0.blocks.0.conv1.conv.weight"])  # fmt: skip


def test_closed_gate_folds_to_the_same_weights():
    aligned = AlignedUNet(planned_network("plain", 3))
    folded = fold_alignment(aligned)
    assert all(torch.equal(folded[key], value) for key, value in planned_network(
        "plain", 3).state_dict().items())  # fmt: skip


def test_residual_stage_without_projection_cannot_be_folded():
    """Equal widths: the next stage passes its input on, averaged but not convolved."""
    aligned = opened(AlignedUNet(planned_network("residual", 3, widths=(4, 8, 8)), 1))
    before = copy.deepcopy(aligned.state_dict())
    with pytest.raises(InputError, match=r"cannot be folded .*graph\.stage = -1"):
        fold_alignment(aligned)
    assert all(torch.equal(before[key], value) for key, value in aligned.state_dict().items())
    for stage in (0, -1):  # these can
        plain = planned_network("residual", 3, widths=(4, 8, 8))
        aligned = opened(AlignedUNet(planned_network("residual", 3, widths=(4, 8, 8)), stage))
        plain.load_state_dict(fold_alignment(aligned))
        assert _relative_difference(aligned, plain, 3) < 2e-5


def test_network_without_its_block_is_the_plain_one_bit_for_bit():
    aligned = opened(AlignedUNet(planned_network("residual", 3), 1)).eval()
    plain = planned_network("residual", 3).eval()
    weights = fold_alignment(aligned)
    drop_alignment(aligned)
    aligned.load_state_dict(weights)  # strict: nothing of the block is left
    plain.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(aligned(images(2, 3)), plain(images(2, 3)))


def test_what_can_be_folded():
    network = planned_network("residual", 3, widths=(4, 8, 8))
    assert not can_fold(network)
    assert can_fold(AlignedUNet(network, 0))
    assert not can_fold(AlignedUNet(network, 1))


@pytest.mark.parametrize("stage", [0, 1, -1])
def test_residual_decoder_folds_as_well(stage):
    def network():
        torch.manual_seed(3)
        return ResidualUNet(
            2, 3, (4, 6, 8), nn.Conv2d, 3, (1, 2, 2), 1, 3, 1, True,
            nn.InstanceNorm2d, {"affine": True}, nonlin=nn.LeakyReLU,
        )  # fmt: skip

    aligned = opened(AlignedUNet(network(), stage))
    plain = network()
    plain.load_state_dict(fold_alignment(aligned))
    assert _relative_difference(aligned, plain, 2) < 2e-5


def test_strided_kernels_other_than_three_fold():
    def network():
        torch.manual_seed(3)
        return PlainConvUNet(
            2, 3, (4, 6, 8), nn.Conv3d, [[1, 3, 3], 3, 3], [1, [1, 2, 2], 2], 1, 3, 2, False,
            nn.InstanceNorm3d, {"affine": True}, nonlin=nn.LeakyReLU,
        )  # fmt: skip

    aligned = opened(AlignedUNet(network(), 1))
    plain = network()
    plain.load_state_dict(fold_alignment(aligned))
    assert _relative_difference(aligned, plain, 3) < 2e-5
