"""Nodes as cells of a grid."""

import numpy as np
import pytest
import torch

from graphnn_unet.clustering.nodes import Grid
from graphnn_unet.errors import InputError


def test_cells_cover_the_image_and_are_equally_wide():
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


@pytest.mark.parametrize("n_pixels", [8, 13, 62, 63, 64, 167, 191])
@pytest.mark.parametrize("cell", [1, 2, 4])
def test_cells_are_where_the_interpolation_takes_them_to_be(n_pixels, cell):
    """Of two nodes the interpolation gives each pixel to the one whose cell it lies in."""
    grid = Grid.of_cells((n_pixels, 2 * cell), cell)
    place = grid.node_map[:, 0] // 2
    assert place[0] == 0
    assert place[-1] == grid.size[0] - 1
    assert set(np.diff(place)) <= {0, 1}
    widths = np.bincount(place)
    assert widths.max() - widths.min() <= 1
    node = torch.eye(grid.size[0])[None]  # a channel a node
    shares = torch.nn.functional.interpolate(node, n_pixels, mode="linear")[0].numpy()
    tie = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] < 1e-5
    assert (shares.argmax(axis=0) == place)[~tie].all()
