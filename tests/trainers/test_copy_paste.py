from types import SimpleNamespace

import pytest
import torch

from graphnn_unet.errors import RecipeError
from graphnn_unet.trainers.batch import halves
from graphnn_unet.trainers.bcp import BCPTrainer
from graphnn_unet.trainers.copy_paste import box_edges, draw_mask, mix
from graphnn_unet.trainers.losses import LossSettings, downsample, region_losses


@pytest.mark.parametrize(
    ("patch", "box"),
    [
        ((80, 112, 112), (53, 74, 74)),
        ((96, 96, 96), (64, 64, 64)),
        ((256, 256), (170, 170)),
        ((128, 160, 192), (85, 106, 128)),
        ((224, 320), (149, 213)),
        ((1, 512), (1, 341)),
    ],
)
def test_box_is_two_thirds_of_the_patch_rounded_down(patch, box):
    assert box_edges(patch, 2 / 3) == box


def test_box_in_voxels_must_fit():
    assert box_edges((80, 112, 112), [53, 74, 74]) == (53, 74, 74)
    with pytest.raises(RecipeError, match="does not fit"):
        box_edges((32, 32), [33, 10])
    with pytest.raises(RecipeError, match="does not fit"):
        box_edges((32, 32, 32), [20, 20])


def test_mask_is_false_in_one_box_that_reaches_both_ends():
    generator = torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(300):
        mask = draw_mask((6, 9), (4, 6), generator)
        assert int((~mask).sum()) == 24
        rows, columns = torch.where(~mask[0, 0])
        starts.add((int(rows.min()), int(columns.min())))
        assert int(rows.max() - rows.min()) == 3
        assert int(columns.max() - columns.min()) == 5
    assert starts == {(i, j) for i in range(3) for j in range(4)}


def test_inward_and_outward_images_equal_the_hand_worked_ones():
    mask = torch.tensor([1, 1, 0, 0, 0, 0, 0, 0, 1], dtype=torch.bool)
    a, p = torch.arange(1, 10), torch.arange(10, 100, 10)
    assert mix(a, p, mask).tolist() == [1, 2, 30, 40, 50, 60, 70, 80, 9]
    assert mix(p, a, mask).tolist() == [10, 20, 3, 4, 5, 6, 7, 8, 90]
    assert torch.equal(mix(a, p, mask) + mix(p, a, mask), a + p)


# ------------------------------------------------------------------------------ ignored voxels

IGNORED = 2
SETTINGS = LossSettings(ignore_label=IGNORED, scale_weights=(0.7, 0.3))


def sparse_target(generator: torch.Generator) -> torch.Tensor:
    """Labels of four patches of which two planes in three are not drawn, each at its own place."""
    target = torch.randint(0, 2, (4, 1, 6, 6, 6), generator=generator)
    for number, patch in enumerate(target):
        patch[:, [z for z in range(6) if z % 3 != number % 3]] = IGNORED
    return target


def gradients(loss_of, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of a loss at the fine and the coarse scale of four patches with two classes."""
    outputs = [
        torch.randn((4, 2, *size), generator=generator, requires_grad=True)
        for size in ((6, 6, 6), (3, 3, 3))
    ]
    loss_of(outputs).backward()
    return outputs[0].grad, outputs[1].grad


def test_pasted_voxels_that_are_ignored_carry_no_loss_in_supervised_training():
    generator = torch.Generator().manual_seed(0)
    target = sparse_target(generator)
    mask = draw_mask((6, 6, 6), (4, 4, 4), generator)
    (a, b) = halves(target)
    mixed = torch.cat([mix(a, b, mask), mix(b, a, mask)])
    fine, coarse = gradients(
        lambda outputs: region_losses(outputs, mixed, None, SETTINGS)[0], generator
    )
    assert torch.equal((fine != 0).any(1, keepdim=True), mixed != IGNORED)
    assert torch.equal((coarse != 0).any(1, keepdim=True), downsample(mixed, (3, 3, 3)) != IGNORED)


def test_in_bcp_the_unlabeled_content_teaches_where_the_labeled_one_is_ignored():
    """Labeled content outside the box is ignored in part, pseudo-labels inside it never are."""
    generator = torch.Generator().manual_seed(0)
    target = sparse_target(generator)
    pseudo = torch.randint(0, 2, target.shape, generator=generator)
    mask = draw_mask((6, 6, 6), (4, 4, 4), generator)
    settings = SimpleNamespace(unlabeled_weight=0.5, pseudo_dice=False)
    trainer = SimpleNamespace(loss_settings=SETTINGS, recipe=SimpleNamespace(loss=settings))
    fine, _ = gradients(
        lambda outputs: BCPTrainer._mixed_loss(trainer, outputs, target, pseudo, mask),
        generator,
    )
    has_gradient = (fine != 0).any(1, keepdim=True)
    (a, b), (inward, outward) = halves(target), halves(has_gradient)
    assert torch.equal(inward, (a != IGNORED) | ~mask)
    assert torch.equal(outward, (b != IGNORED) | mask)
