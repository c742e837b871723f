import numpy as np
import pytest
import torch
from pictures import as_image, blob, iou

from graphnn_unet.clustering.border_features import (
    background_surface,
    border_features,
    image_margin,
    otsu_centered,
)
from graphnn_unet.clustering.features import BorderFeatures, HandFeatures, working_image
from graphnn_unet.clustering.hand_features import hand_features, structure
from graphnn_unet.clustering.nodes import Grid, standardized
from graphnn_unet.errors import InputError


def test_cells_cover_the_image_and_the_last_takes_the_strip():
    grid = Grid.of_cells((10, 13), 4)
    assert grid.size == (2, 3)
    assert grid.node_map[3, 3] == 0
    assert grid.node_map[9, 12] == 5
    values = np.arange(130, dtype=np.float32).reshape(1, 10, 13)
    pooled = grid.pooled(values)[:, 0]
    for node in range(6):
        assert pooled[node] == pytest.approx(values[0][grid.node_map == node].mean())
    assert grid.margin.tolist() == [True] * 6
    assert Grid.of_cells((12, 12), 4).margin.sum() == 8
    with pytest.raises(InputError, match="fewer than 2 x 2 cells"):
        Grid.of_cells((7, 30), 4)
    assert Grid.of_cells((3, 30, 30), 8).size == (2, 3, 3)


def test_hand_features_have_the_columns_of_the_specification():
    rgb, _ = blob()
    array = np.moveaxis(rgb, -1, 0).astype(np.float32) / 255
    grid = Grid.of_cells(array.shape[1:], 4)
    color = hand_features(array, grid, is_color=True).values
    grey = hand_features(array[:1], grid, is_color=False).values
    assert (color.shape[1], grey.shape[1]) == (60, 48)
    assert color.mean(dim=0).abs().max() < 1e-4
    torch.testing.assert_close(color[:, :-2].std(dim=0), torch.ones(58), atol=1e-2, rtol=0)
    torch.testing.assert_close(color[:, -2:].std(dim=0), torch.full((2,), 0.25), atol=1e-2, rtol=0)


def test_constant_columns_and_images_are_zero_not_nan():
    assert not standardized(np.full((9, 2), 3.3)).any()
    flat = np.full((3, 24, 24), 0.4, np.float32)
    for make in (hand_features, border_features):
        values = make(flat, Grid.of_cells((24, 24), 4), is_color=True).values
        assert torch.isfinite(values).all()
    volume = np.random.default_rng(0).random((1, 8, 16, 16)).astype(np.float32)
    values = hand_features(volume, Grid.of_cells((8, 16, 16), 4), is_color=False).values
    assert values.shape == (2 * 4 * 4, 6 + 12 + 3)


def test_structure_tensor_tells_edges_from_corners():
    picture = np.zeros((40, 40), np.float32)
    picture[:20] = 1
    large, small = structure(picture)[2:4]
    assert large[20, 20] > 50 * max(small[20, 20], 1e-6)
    picture[:, :20] = 0
    large, small = structure(picture)[2:4]
    assert small[20, 20] > 0.2 * large[20, 20]


def test_log_distances_are_positive_inside_and_negative_outside():
    rgb, mask = blob()
    nodes = BorderFeatures()(as_image(rgb))
    inside = nodes.grid.pooled(mask[None].astype(np.float32))[:, 0] > 0.5
    assert (nodes.values[inside, :-1] > 0).float().mean() > 0.95
    assert (nodes.values[~inside, :-1] < 0).float().mean() > 0.95


def test_log_distances_see_a_transparent_object_by_its_outline():
    rows, columns = np.mgrid[:64, :64]
    radius = np.hypot(rows - 32, columns - 32)
    picture = np.full((64, 64), 180.0)
    picture[(radius > 14) & (radius < 16.5)] = 120
    picture += np.random.default_rng(0).normal(0, 2, picture.shape)
    rgb = np.repeat(picture[..., None], 3, axis=2).astype(np.uint8)
    nodes = BorderFeatures()(as_image(rgb))
    inside = nodes.grid.pooled((radius < 12)[None].astype(np.float32))[:, 0] > 0.9
    ways = nodes.values[:, :4].mean(dim=1)
    assert (ways[inside] > 0).float().mean() > 0.95
    assert iou(nodes.grid.spread((ways > 0).numpy()), radius < 16.5) > 0.8


def test_surface_follows_the_light_and_not_the_object():
    rows, columns = np.mgrid[-1:1:50j, -1:1:60j]
    light = 60 - 10 * rows**2 - 5 * columns
    seen = light.copy()
    seen[15:35, 20:40] -= 30  # a tenth of the image
    found = background_surface(seen.astype(np.float32), image_margin(seen.shape))
    assert abs(found - light).max() < 1


def test_thresholds_lie_between_two_groups():
    columns = torch.tensor([[0.0, 5], [0.1, 5], [2.0, 5], [2.1, 5]])
    found = otsu_centered(columns)
    assert (found[:2, 0] < 0).all()
    assert (found[2:, 0] > 0).all()


def test_large_images_are_reduced_with_their_aspect():
    rgb, _ = blob(200, 300, 60)
    work = working_image(as_image(rgb), 96)
    assert work.shape == (3, 64, 96)
    assert HandFeatures(96)(as_image(rgb)).grid.size == (16, 24)
