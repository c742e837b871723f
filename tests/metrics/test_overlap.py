import math

import numpy as np
import pytest
from medpy.metric import binary

from graphnn_unet.errors import ShapeError
from graphnn_unet.metrics import count_overlap, dice, jaccard


@pytest.mark.parametrize("seed", range(5))
def test_overlaps_are_those_of_medpy(seed: int):
    generator = np.random.default_rng(seed)
    prediction, reference = generator.random((2, 5, 6, 7)) < 0.4
    assert dice(prediction, reference) == pytest.approx(binary.dc(prediction, reference), abs=1e-12)
    assert jaccard(prediction, reference) == pytest.approx(
        binary.jc(prediction, reference), abs=1e-12
    )


def test_counts_add_up_to_the_image():
    prediction = np.array([[1, 1, 0, 0]], dtype=bool)
    reference = np.array([[0, 1, 1, 1]], dtype=bool)
    counts = count_overlap(prediction, reference)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (1, 1, 2, 0)
    assert (counts.n_pred, counts.n_ref) == (2, 3)
    # a crop of a larger image: only the voxels outside both change
    assert count_overlap(prediction, reference, n_voxels=10).tn == 6


def test_two_empty_volumes_have_no_overlap_value():
    empty = np.zeros((2, 3), dtype=bool)
    assert math.isnan(dice(empty, empty))
    assert math.isnan(jaccard(empty, empty))


def test_one_empty_volume_scores_zero():
    empty, full = np.zeros((2, 3), dtype=bool), np.ones((2, 3), dtype=bool)
    assert dice(empty, full) == dice(full, empty) == 0.0
    assert jaccard(empty, full) == 0.0


def test_shapes_that_could_broadcast_are_refused():
    with pytest.raises(ShapeError, match=r"\(1, 3\) and reference \(2, 3\)"):
        dice(np.ones((1, 3), dtype=bool), np.ones((2, 3), dtype=bool))
