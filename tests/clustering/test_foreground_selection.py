import numpy as np

from graphnn_unet.clustering.foreground_selection import (
    as_label_map,
    select_by_corners,
    select_foreground,
)


def margin_of(shape: tuple[int, ...]) -> np.ndarray:
    margin = np.ones(shape, dtype=bool)
    margin[tuple(slice(1, -1) for _ in shape)] = False
    return margin


def selection(labels: np.ndarray):
    return select_foreground(labels.ravel(), margin_of(labels.shape).ravel())


def test_cluster_of_the_border_is_background():
    labels = np.zeros((6, 6), dtype=int)
    labels[1:5, 1:5] = 1
    assert margin_of((6, 6)).sum() == 20
    for flipped in (labels, 1 - labels):
        selected = selection(flipped)
        assert selected.foreground == (int(flipped[2, 2]),)
        assert not selected.is_on_border


def test_a_large_object_inside_stays_foreground():
    labels = np.zeros((20, 20), dtype=int)
    labels[1:-1, 1:-1] = 1
    assert selection(labels).foreground == (1,)


def test_ties_go_to_the_larger_cluster_then_to_the_first_node():
    labels = np.zeros((4, 6), dtype=int)
    labels[:, 3:] = 1
    assert selection(labels).foreground == (1,)
    assert selection(1 - labels).foreground == (0,)
    labels[1:3, 2] = 1  # the right half is larger now, the margin is shared as before
    assert selection(labels).foreground == (0,)


def test_three_clusters_are_foreground_by_their_share_of_the_border():
    labels = np.zeros((10, 10), dtype=int)
    labels[3:5, 3:5] = 1
    labels[0:6, 6:9] = 2  # 3 of 36 margin nodes
    assert selection(labels).foreground == (2, 1)
    labels[0:6, 2:9] = 2  # 7 of 36
    labels[7, 7] = 1
    assert selection(labels).foreground == (1,)
    labels[labels == 1] = 0
    labels[0:3, 0] = 1
    assert selection(labels).foreground == (1,)


def test_object_along_the_border_is_flagged():
    labels = np.zeros((10, 10), dtype=int)
    labels[:, :3] = 1
    selected = selection(labels)
    assert selected.foreground == (1,)
    assert selected.is_on_border


def test_transposing_changes_nothing():
    labels = np.random.default_rng(0).integers(0, 3, (7, 9))
    assert selection(labels).foreground == selection(labels.T).foreground


def test_one_cluster_has_no_foreground():
    assert selection(np.ones((5, 5), dtype=int)).foreground == ()


def test_label_maps_number_the_foreground_by_size():
    labels = np.array([5, 5, 5, 2, 2, 7, 7, 7, 7])
    selected = select_foreground(labels, np.array([1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool))
    assert as_label_map(labels, selected, merge=False).tolist() == [0, 0, 0, 2, 2, 1, 1, 1, 1]
    assert as_label_map(labels, selected, merge=True).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_released_rule_looks_at_corners_alone():
    labels = np.zeros((5, 5), dtype=int)
    labels[0, 0] = labels[0, -1] = 1
    assert select_by_corners(labels.ravel(), (5, 5)).foreground == (1,)
    labels[-1, 0] = 1
    assert select_by_corners(labels.ravel(), (5, 5)).foreground == (0,)
    assert select_by_corners(np.zeros(25, dtype=int), (5, 5)).foreground == ()
