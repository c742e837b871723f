"""Edges of grids and links between them, against loops over voxels."""

import itertools

import numpy as np
import pytest
import torch

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph.lattice import lattice_affinity, link_affinity


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (1, 1, 3)])
def test_lattice_is_that_of_a_loop(shape):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    spacing = [2.0, 1.0, 0.5][: len(shape)]
    expected = np.zeros((image[0].numel(),) * 2)
    voxels = list(itertools.product(*map(range, shape)))
    for (a, x), (b, y) in itertools.product(enumerate(voxels), repeat=2):
        step = np.abs(np.subtract(x, y))
        if step.sum() == 1:
            distance = spacing[int(step.argmax())] / min(spacing)
            difference = float((image[(slice(None), *x)] - image[(slice(None), *y)]).square().sum())
            expected[a, b] = np.exp(-difference / 0.3**2) / distance**2
    affinity = lattice_affinity(image, 0.3, spacing).to_dense()
    np.testing.assert_allclose(affinity, expected, atol=1e-12)


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_links_interpolate_a_linear_map_exactly(n_axes):
    """Multilinear shares reproduce linear functions of the coordinates, and only these."""
    shape = (4, 5, 6)[:n_axes]
    generator = torch.Generator().manual_seed(1)
    length = torch.tensor(shape, dtype=torch.float64)
    point = torch.rand((50, n_axes), generator=generator, dtype=torch.float64) * (length - 1)
    weight = torch.rand(50, generator=generator, dtype=torch.float64)
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij"), -1
    ).reshape(-1, n_axes)
    slope = torch.arange(1.0, n_axes + 1, dtype=torch.float64)
    links = link_affinity(point, weight, shape)
    torch.testing.assert_close(
        links @ (grid @ slope).unsqueeze(1), (weight * (point @ slope))[:, None]
    )
    torch.testing.assert_close(links.to_dense().sum(1), weight)


def test_points_outside_have_no_link_and_the_border_has_one():
    point = torch.tensor([[-0.01, 0.0], [2.0, 3.0], [2.01, 0.0], [0.0, 3.0]])
    dense = link_affinity(point, torch.ones(4), (3, 4)).to_dense()
    assert dense.sum(1).tolist() == [0, 1, 0, 1]
    assert dense[1, 11] == 1
    assert dense[3, 3] == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="bandwidth"):
        lattice_affinity(torch.zeros(1, 3), 0.0)
    with pytest.raises(ShapeError, match="spacing"):
        lattice_affinity(torch.zeros(1, 3, 3), 1.0, [1.0])
    with pytest.raises(ShapeError, match="do not fit"):
        link_affinity(torch.zeros(3, 2), torch.zeros(3), (4,))
