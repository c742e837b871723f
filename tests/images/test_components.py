"""Connected components of label maps."""

import numpy as np
import pytest

from graphnn_unet.images.components import keep_largest_components


def _kept(rows, classes=(1,)):
    return keep_largest_components(np.array(rows, dtype=np.uint8), list(classes)).tolist()


def test_diagonal_neighbors_are_one_component_in_2d():
    assert _kept([[1, 0, 0, 0, 1], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0]]) == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
    ]


def test_corner_neighbors_are_one_component_in_3d():
    volume = np.zeros((4, 4, 4), np.uint8)
    volume[0, 0, 0] = volume[1, 1, 1] = volume[3, 3, 3] = 1
    kept = keep_largest_components(volume, [1])
    assert kept.sum() == 2
    assert kept[3, 3, 3] == 0


def test_equal_sizes_keep_the_first_in_raster_order():
    assert _kept([[1, 1, 0, 1, 1]]) == [[1, 1, 0, 0, 0]]
    volume = np.zeros((1, 3, 9), np.uint8)
    volume[0, 2, 0:2] = 1
    volume[0, 0, 7:9] = 1
    assert keep_largest_components(volume, [1])[0, 0, 7:9].tolist() == [1, 1]


def test_classes_are_cleaned_apart():
    rows = [[1, 1, 0, 2], [1, 0, 0, 0], [0, 0, 2, 2], [1, 0, 2, 0]]
    assert _kept(rows, (1, 2)) == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 0]]
    assert _kept(rows, (1,)) == [[1, 1, 0, 2], [1, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 0]]


def test_touching_classes_do_not_join():
    assert _kept([[1, 2, 1, 1, 0, 2, 2]], (1, 2)) == [[0, 0, 1, 1, 0, 2, 2]]


@pytest.mark.parametrize("fill", [0, 1])
def test_empty_and_full_maps_stay(fill):
    labels = np.full((3, 4, 5), fill, np.uint8)
    assert np.array_equal(keep_largest_components(labels, [1]), labels)


def test_cleaning_only_removes_and_repeats_itself():
    labels = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(np.uint8)
    once = keep_largest_components(labels, [1, 2])
    assert np.all((once == labels) | (once == 0))
    assert np.array_equal(keep_largest_components(once, [1, 2]), once)
