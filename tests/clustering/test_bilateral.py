import numpy as np
import pytest
from pictures import blob, iou

from graphnn_unet.clustering.bilateral import PUBLISHED, refine_labels
from graphnn_unet.errors import InputError


def coarse(mask: np.ndarray, cell: int = 8) -> np.ndarray:
    blocks = mask[cell // 2 :: cell, cell // 2 :: cell]
    return np.kron(blocks, np.ones((cell, cell), bool))[: mask.shape[0], : mask.shape[1]]


def picture(**options):
    rgb, mask = blob(64, 80, **options)
    return np.moveaxis(rgb, -1, 0).astype(np.float32) / 255, mask


@pytest.mark.parametrize("settings", [None, PUBLISHED])
def test_edges_move_to_those_of_the_image(settings):
    array, mask = picture(radius=22)
    rough = coarse(mask)
    refined = refine_labels(rough.astype(int), array, True, settings) > 0
    assert iou(rough, mask) < 0.82
    assert iou(refined, mask) > 0.91


def test_object_larger_than_the_background_stays_the_object():
    array, mask = picture(radius=36)
    assert mask.mean() > 0.6
    refined = refine_labels(coarse(mask).astype(int), array, True, PUBLISHED) > 0
    assert iou(refined, mask) > 0.95


def test_every_id_is_refined():
    array, mask = picture(radius=22)
    labels = coarse(mask).astype(int)
    labels[:, 40:] *= 2
    refined = refine_labels(labels, array, True)
    assert set(np.unique(refined)) == {0, 1, 2}
    assert iou(refined > 0, mask) > 0.91


def test_gray_pictures_are_refined_and_volumes_refused():
    array, mask = picture(radius=22)
    refined = refine_labels(coarse(mask).astype(int), array[:1], False) > 0
    assert iou(refined, mask) > 0.95
    with pytest.raises(InputError, match="3 axes cannot be refined"):
        refine_labels(np.zeros((4, 5, 6), int), np.zeros((1, 4, 5, 6), np.float32), False)
