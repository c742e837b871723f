"""Hand-made features of color, gradient and texture."""

import numpy as np
import torch
from pictures import blob

from graphnn_unet.clustering.border_features import (
    border_features,
)
from graphnn_unet.clustering.hand_features import hand_features, structure
from graphnn_unet.clustering.nodes import Grid, standardized


def test_hand_features_have_the_columns_of_the_specification():
    rgb, _ = blob()
    array = np.moveaxis(rgb, -1, 0).astype(np.float32) / 255
    grid = Grid.of_cells(array.shape[1:], 4)
    color = hand_features(array, grid, is_color=True).values
    gray = hand_features(array[:1], grid, is_color=False).values
    assert (color.shape[1], gray.shape[1]) == (60, 48)
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
