"""Nodes as cells of a grid."""

import numpy as np
import pytest

from graphnn_unet.clustering.nodes import Grid
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
