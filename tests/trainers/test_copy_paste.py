import pytest
import torch

from graphnn_unet.errors import RecipeError
from graphnn_unet.trainers.copy_paste import box_edges, draw_mask, mix


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
