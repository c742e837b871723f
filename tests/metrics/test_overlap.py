import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from medpy.metric import binary

from graphnn_unet.errors import ShapeError
from graphnn_unet.metrics import (
    count_overlap,
    dice,
    jaccard,
    precision,
    recall,
    volume_error,
)

THEIRS = {
    dice: binary.dc,
    jaccard: binary.jc,
    precision: binary.precision,
    recall: binary.recall,
    volume_error: binary.ravd,
}
volumes = arrays(bool, (2, 2, 3, 4)).filter(lambda pair: pair[0].any() and pair[1].any())


@given(volumes)
def test_measures_are_those_of_medpy(pair: np.ndarray):
    for ours, theirs in THEIRS.items():
        assert ours(*pair) == pytest.approx(theirs(*pair), abs=1e-12)


@given(volumes)
def test_recall_is_the_precision_of_the_swapped_pair(pair: np.ndarray):
    prediction, reference = pair
    assert recall(prediction, reference) == precision(reference, prediction)
    harmonic = 2 / (1 / recall(*pair) + 1 / precision(*pair)) if recall(*pair) else 0.0
    assert dice(*pair) == pytest.approx(harmonic)


def test_volume_error_has_the_sign_of_the_difference():
    small, large = np.zeros((2, 4), dtype=bool)
    small[:1], large[1:] = True, True
    assert volume_error(small, large) == pytest.approx(-2 / 3)
    assert volume_error(large, small) == 2.0
    assert volume_error(np.zeros_like(small), large) == -1.0


def test_what_needs_voxels_has_no_value_without_them():
    empty, full = np.zeros((2, 3), dtype=bool), np.ones((2, 3), dtype=bool)
    assert math.isnan(precision(empty, full))
    assert recall(empty, full) == precision(full, empty) == 0.0
    assert math.isnan(recall(full, empty))
    assert math.isnan(volume_error(full, empty))


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
