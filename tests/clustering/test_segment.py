"""From the clusters of nodes to the pixels of a label map."""

import numpy as np
import pytest
import torch
from pictures import as_image, blob, iou

from graphnn_unet.clustering.features import BorderFeatures
from graphnn_unet.clustering.fit import Fit
from graphnn_unet.clustering.foreground_selection import select_foreground
from graphnn_unet.clustering.nodes import Grid, NodeFeatures
from graphnn_unet.clustering.segment import _pixel_labels, cleaned, resized_labels, segment_image
from graphnn_unet.clustering.settings import PostProcessing, make_settings

MAIN = PostProcessing(main_components=True)


def two_objects() -> np.ndarray:
    """A small object in the middle and a larger one in the corner."""
    labels = np.zeros((80, 80), dtype=np.int64)
    labels[35:45, 35:45] = 1
    labels[2:14, 2:16] = 1
    return labels


def test_the_object_in_the_middle_outweighs_a_larger_one_in_the_corner():
    kept = cleaned(two_objects(), MAIN)
    assert kept[40, 40] == 1
    assert kept.sum() == 100
    assert cleaned(two_objects(), PostProcessing(largest_component=True)).sum() == 12 * 14
    assert cleaned(two_objects(), PostProcessing()).sum() == 100 + 12 * 14


def test_objects_of_half_the_weight_are_kept():
    labels = two_objects()
    labels[35:45, 48:55] = 1  # 0.7 of the area, nearly as central
    kept = cleaned(labels, MAIN)
    assert kept.sum() == 170
    labels[35:45, 52:55] = 0
    assert cleaned(labels, MAIN).sum() == 100


def test_a_picture_of_two_objects_shows_the_central_one_under_auto():
    rgb, mask = blob(96, 96, 12)
    rgb[4:24, 4:30] = rgb[38:58, 36:62]  # the same tissue, more of it than half, in the corner
    image = as_image(rgb)
    nodes = BorderFeatures(96)(image)
    settings = make_settings()
    both = segment_image(image, nodes, settings, PostProcessing()).labels > 0
    main = segment_image(image, nodes, settings, MAIN).labels > 0
    assert both[14, 16]
    assert not main[14, 16]
    assert iou(main, mask) > 0.85


def test_holes_take_the_id_of_the_nearest_foreground():
    labels = np.zeros((20, 20), dtype=np.int64)
    labels[4:16, 4:10], labels[4:16, 10:16] = 1, 2
    labels[8:11, 5:7] = 0
    filled = cleaned(labels, PostProcessing())
    assert (filled[8:11, 5:7] == 1).all()
    assert (cleaned(labels, PostProcessing(fill_holes=False)) == labels).all()


def test_nearest_neighbors_at_another_size():
    labels = np.array([[0, 1], [2, 3]])
    assert resized_labels(labels, (2, 4)).tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert resized_labels(labels, (2, 2)) is labels


@pytest.mark.parametrize("merge", [True, False])
def test_parts_of_the_foreground_have_ids_only_without_merge(merge: bool):
    rgb, mask = blob(60, 60, 20)
    rgb[(mask) & (np.arange(60) > 30)] = [60, 60, 160]
    image = as_image(rgb)
    settings = make_settings("deepcut", n_clusters=3, two_stage=True, steps=40)
    torch.manual_seed(0)
    result = segment_image(
        image, BorderFeatures(60, 4)(image), settings, PostProcessing(merge=merge)
    )
    assert set(np.unique(result.labels)) == ({0, 1} if merge else {0, 1, 2})
    assert result.facts["nodes"] == 225


BOXES = [(64, 4, 3), (63, 4, 3), (62, 8, 2), (63, 8, 2), (191, 2, 2), (167, 4, 2)]
"""Pixels an axis, edge of a cell, axes; only the first are whole cells."""


@pytest.mark.parametrize(("n_pixels", "cell", "n_dims"), BOXES)
@pytest.mark.parametrize("nearest", [True, False])
def test_pixels_of_a_node_get_its_label_wherever_the_cells_end(n_pixels, cell, n_dims, nearest):
    """A box of nodes near the far corner stays where its pixels are."""
    grid = Grid.of_cells((n_pixels,) * n_dims, cell)
    of_nodes = np.zeros(grid.size, dtype=np.int64)
    of_nodes[tuple(slice(n - 4, n - 1) for n in grid.size)] = 1
    true = of_nodes.ravel()[grid.node_map] > 0
    member = torch.nn.functional.one_hot(torch.from_numpy(of_nodes.ravel()), 2).float()
    nodes = NodeFeatures(torch.zeros(grid.n_nodes, 1), grid)
    selection = select_foreground(of_nodes.ravel(), grid.margin)
    finish = PostProcessing(nearest=nearest)
    mask = _pixel_labels(Fit(member, 0.0), nodes, selection, finish, grid.shape) > 0
    shift = np.argwhere(mask).mean(axis=0) - np.argwhere(true).mean(axis=0)
    assert np.abs(shift).max() < 0.3  # corners of the box are rounded alike
    assert iou(mask, true) > (0.999 if nearest else 0.75)
