import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from graphnn_unet.trainers.losses import (
    LossSettings,
    deep_supervision_weights,
    downsample,
    region_losses,
    target_shares,
)

# The hand-worked case of the method's specification: one image, two classes, six voxels.
LOGITS = torch.tensor([[[2.0, 0, 1, -1, 0, 3], [0.0, 2, -1, 1, 0, -3]]], dtype=torch.float64)
MASK = torch.tensor([1, 0, 0, 0, 0, 1], dtype=torch.bool).view(1, 1, 6)
TRUE = torch.tensor([0, 1, 0, 1, 1, 0]).view(1, 1, 6)
PSEUDO = torch.tensor([1, 1, 0, 0, 1, 1]).view(1, 1, 6)


def _regions(mask):
    return torch.cat([mask, ~mask], dim=1)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("paper3d", 0.5844198442), ("paper2d", 0.5530947958), ("nnunet", 0.1336675337)],
)
def test_inward_loss_equals_the_hand_worked_value(variant, expected):
    target = torch.where(MASK, TRUE, PSEUDO)
    losses = region_losses(LOGITS, target, _regions(MASK), LossSettings(variant=variant))
    assert float(losses[0] + 0.5 * losses[1]) == pytest.approx(expected, abs=2e-7)


def test_alpha_on_the_wrong_region_gives_another_value():
    target = torch.where(MASK, TRUE, PSEUDO)
    losses = region_losses(LOGITS, target, _regions(MASK), LossSettings(variant="paper3d"))
    assert float(0.5 * losses[0] + losses[1]) != pytest.approx(0.5844198442, abs=1e-3)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_region_loss_equals_nnunet_with_the_rest_ignored(batch_dice):
    torch.manual_seed(0)
    logits, target = torch.randn(3, 4, 5, 6, 7), torch.randint(0, 4, (3, 1, 5, 6, 7))
    region = torch.rand(1, 1, 5, 6, 7) > 0.4
    ours = region_losses(logits, target, region, LossSettings(batch_dice=batch_dice))
    stock = DC_and_CE_loss(
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        ignore_label=9,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    painted = torch.where(region, target, torch.full_like(target, 9))
    assert float(ours[0]) == pytest.approx(float(stock(logits, painted)), abs=2e-6)


def test_ignore_label_leaves_loss_and_gradient_alone():
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    target = torch.randint(0, 3, (2, 1, 8, 8))
    target[:, :, :3] = 3
    settings = LossSettings(ignore_label=3)
    loss = region_losses(logits, target, None, settings)[0]
    loss.backward()
    assert logits.grad[:, :, :3].abs().max() == 0
    assert logits.grad[:, :, 3:].abs().max() > 0
    changed = logits.detach().clone()
    changed[:, :, :3] += 5
    assert float(region_losses(changed, target, None, settings)[0]) == pytest.approx(float(loss))


def test_overlapping_regions_equal_nnunet():
    torch.manual_seed(2)
    logits, target = torch.randn(2, 3, 6, 6, 6), torch.rand(2, 3, 6, 6, 6) > 0.5
    settings = LossSettings(overlapping=True)
    ours = region_losses(logits, target, None, settings)[0]
    stock = DC_and_BCE_loss(
        {},
        {"batch_dice": False, "do_bg": True, "smooth": 1e-5, "ddp": False},
        dice_class=MemoryEfficientSoftDiceLoss,
    )(logits, target.float())
    assert float(ours) == pytest.approx(float(stock), abs=2e-6)


def test_gradient_inside_a_region_ignores_the_other_region():
    torch.manual_seed(3)
    logits = torch.randn(2, 3, 6, 6, requires_grad=True)
    target = torch.randint(0, 3, (2, 1, 6, 6))
    mask = torch.rand(1, 1, 6, 6) > 0.5
    region_losses(logits, target, _regions(mask), LossSettings())[0].backward()
    inside = mask.expand_as(logits)
    assert logits.grad[~inside].abs().max() == 0
    assert logits.grad[inside].abs().max() > 0


def test_region_mean_does_not_depend_on_the_size_of_the_other_region():
    settings = LossSettings(variant="paper3d")
    small = region_losses(LOGITS, TRUE, MASK, settings)
    wide = torch.cat([LOGITS, LOGITS[..., 1:5].repeat(1, 1, 3)], dim=-1)
    target = torch.cat([TRUE, TRUE[..., 1:5].repeat(1, 1, 3)], dim=-1)
    mask = torch.cat([MASK, torch.zeros(1, 1, 12, dtype=torch.bool)], dim=-1)
    assert float(region_losses(wide, target, mask, settings)[0]) == pytest.approx(float(small[0]))


@pytest.mark.parametrize("shape", [(16, 12, 10), (15, 9, 7), (28, 28, 20)])
@pytest.mark.parametrize("scale", [1, 0.5, 0.25])
def test_downsampling_commutes_with_mixing(shape, scale):
    generator = torch.Generator().manual_seed(4)
    a = torch.randint(0, 4, (1, 1, *shape), generator=generator)
    b = torch.randint(0, 4, (1, 1, *shape), generator=generator)
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    mask[:, :, 2:9, 1:6, 3:6] = True
    size = [round(edge * scale) for edge in shape]
    after = downsample(torch.where(mask, a, b), size)
    before = torch.where(downsample(mask, size), downsample(a, size), downsample(b, size))
    assert torch.equal(after, before)


def test_downsampling_takes_the_voxels_of_nnunets_transform():
    assert downsample(torch.arange(8.0).view(1, 1, 8), [4]).flatten().tolist() == [1, 3, 5, 7]


def test_deep_supervision_weights_are_nnunets():
    weights = np.array([1, 0.5, 0.25, 0])
    assert deep_supervision_weights(4) == pytest.approx(tuple(weights / weights.sum()))


def test_empty_region_gives_a_finite_loss_without_gradient():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    nothing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    loss = region_losses(logits, torch.zeros(1, 1, 4, 4).long(), nothing, LossSettings())[0]
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize(("variant", "share"), [("nnunet", 1), ("paper3d", 0.5)])
def test_a_region_without_dice_keeps_its_cross_entropy_alone(variant, share):
    torch.manual_seed(7)
    logits, target = torch.randn(2, 3, 6, 6, 6), torch.randint(0, 3, (2, 1, 6, 6, 6))
    box = torch.rand(1, 1, 6, 6, 6) > 0.4
    settings = LossSettings(variant=variant)
    whole = region_losses(logits, target, _regions(box), settings)
    partly = region_losses(logits, target, _regions(box), settings, (True, False))
    assert torch.equal(partly[0], whole[0])
    entropy = torch.nn.functional.cross_entropy(logits, target[:, 0], reduction="none")
    outside = (~box[:, 0]).expand_as(entropy)
    torch.testing.assert_close(partly[1], share * entropy[outside].mean())


@pytest.mark.parametrize("overlapping", [False, True])
def test_shares_of_one_class_a_voxel_are_labels_and_ignored_voxels_are_told(overlapping):
    torch.manual_seed(3)
    logits = torch.randn(2, 3, 6, 7)
    settings = LossSettings(overlapping=overlapping, ignore_label=9, scale_weights=(2.0, 1.0))
    if overlapping:  # the last channel says what is ignored
        target = torch.rand(2, 4, 6, 7) > 0.6
    else:
        target = torch.randint(0, 3, (2, 1, 6, 7))
        target[:, :, :2] = 9
    outputs = [logits, logits[:, :, ::2, ::2]]
    expected = region_losses(outputs, target, None, settings)
    shares, valid = target_shares(target, 3, settings)
    without = LossSettings(overlapping=overlapping, scale_weights=settings.scale_weights)
    torch.testing.assert_close(region_losses(outputs, shares, valid, without), expected)


def test_soft_labels_give_soft_cross_entropy_and_dice():
    torch.manual_seed(4)
    logits, share = torch.randn(2, 3, 5, 6), torch.rand(2, 3, 5, 6).softmax(1)
    p = logits.softmax(1)
    entropy = -(share * p.log()).sum(1).mean()
    both, total = (p * share).sum((2, 3))[:, 1:], (p + share).sum((2, 3))[:, 1:]
    dice = ((2 * both + 1e-5) / (total + 1e-5)).mean()
    losses = [float(region_losses(logits, share, None, LossSettings(), (with_dice,)))
              for with_dice in (False, True)]  # fmt: skip
    assert losses == pytest.approx([float(entropy), float(entropy - dice)], abs=1e-6)
