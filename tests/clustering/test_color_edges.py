"""Edges by color: against a dense solution, and on pictures whose mask is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import blob, iou
from scipy import ndimage

from graphnn_unet.clustering.color_edges import (
    MIN_PIXELS,
    SMOOTHNESS,
    _relaxed,
    color_edges,
    likelihood_ratio,
    mixture_likelihood,
    pixel_affinity,
)
from graphnn_unet.clustering.hand_features import to_lab


def lab_of(rgb: np.ndarray) -> np.ndarray:
    channels = np.moveaxis(rgb, -1, 0).astype(np.float32) / 255
    return 100 * to_lab(channels, is_color=True)


def dense_energy(near, mask, color, ratio, values):
    """The sum in the docstring, pair by pair, for values of the pixels near the edge."""
    full = mask.astype(float)
    full[near] = values
    cells = list(np.ndindex(mask.shape))
    pairs = [
        (a, b)
        for i, a in enumerate(cells)
        for b in cells[i + 1 :]
        if max(abs(np.subtract(a, b))) == 1 and (near[a] or near[b])
    ]
    at = {cell: color[(slice(None), *cell)] for cell in cells}
    square = np.array([((at[a] - at[b]) ** 2).sum() for a, b in pairs])
    weight = SMOOTHNESS / (4 + 4 / np.sqrt(2)) * np.exp(-square / (2 * square.mean()))
    weight /= [np.hypot(*np.subtract(a, b)) for a, b in pairs]
    jumps = np.array([full[a] - full[b] for a, b in pairs])
    unary = np.abs(ratio) * (values - (ratio > 0)) ** 2
    return unary.sum() + (weight * jumps**2).sum()


def test_values_minimize_the_energy_of_the_docstring():
    rng = np.random.default_rng(0)
    color = rng.normal(0, 10, (3, 5, 6)).astype(np.float32)
    near = rng.random((5, 6)) < 0.4
    mask = rng.random((5, 6)) < 0.5
    ratio = rng.normal(0, 3, near.sum())
    affinity, reached = pixel_affinity(near, color)
    solved = _relaxed(affinity, near[reached], mask[reached], torch.from_numpy(ratio)).numpy()
    least = dense_energy(near, mask, color, ratio, solved)
    for place in range(near.sum()):
        for step in (-0.01, 0.01):
            moved = solved.copy()
            moved[place] += step
            assert dense_energy(near, mask, color, ratio, moved) > least


@pytest.mark.parametrize("grow", [-3, -1, 2, 3])
def test_a_rough_edge_moves_to_that_of_the_picture(grow: int):
    rgb, mask = blob()
    distance = ndimage.distance_transform_edt
    rough = (distance(mask) - distance(~mask)) > -grow
    assert iou(rough, mask) < 0.95
    assert iou(color_edges(rough, lab_of(rgb), 5), mask) > 0.97


def test_what_is_far_from_the_edge_stays():
    rgb, mask = blob()
    other = mask.copy()
    other[2:9, 2:9] = True  # not in the picture, but known to whoever made the mask
    moved = color_edges(other, lab_of(rgb), 2)
    assert moved[5, 5]
    assert not color_edges(other, lab_of(rgb), 5)[5, 5]


def test_gray_volumes_too():
    volume = np.random.default_rng(0).normal(0, 0.05, (1, 24, 32, 32)).astype(np.float32)
    mask = np.zeros(volume.shape[1:], dtype=bool)
    mask[6:18, 8:24, 8:24] = True
    volume[0, mask] += 1
    rough = ndimage.binary_erosion(mask)
    assert iou(color_edges(rough, 100 * volume, 2), mask) > 0.97


def test_thin_objects_do_not_vanish():
    rng = np.random.default_rng(0)
    color = rng.normal(0, 30, (3, 40, 40)).astype(np.float32)
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:35, 19:22] = True  # nothing in the picture speaks for it
    assert color_edges(mask, color, 10)[5:35, 20].all()


def test_masks_without_an_inside_or_outside_are_left_alone():
    rgb, mask = blob()
    few = np.zeros_like(mask)
    few.flat[: MIN_PIXELS - 1] = True
    for given in (few, ~few, np.zeros_like(mask), np.ones_like(mask)):
        assert color_edges(given, lab_of(rgb), 5) is given


def test_a_mask_of_noise_is_left_alone():
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (1, 40, 44)), (0, 0.7, 0.7))
    mask = noise[0] > np.quantile(noise, 0.9)
    assert color_edges(mask, (10 * noise).astype(np.float32), 6) is mask


def test_one_flat_color_keeps_the_mask_nearly_as_it_is():
    _, mask = blob()
    moved = color_edges(mask, np.zeros((3, *mask.shape), np.float32), 3)
    assert iou(moved, mask) > 0.9


def test_a_pixel_that_nothing_is_known_about_spoils_no_other():
    near = np.zeros((5, 5), dtype=bool)
    near[1:4, 1:4] = True
    color = np.zeros((1, 5, 5), np.float32)
    color[0, 2, 2] = 1e6  # its edges have no weight
    ratio = torch.ones(9, dtype=torch.float64)
    ratio[4] = 0
    affinity, reached = pixel_affinity(near, color)
    assert reached.all()
    affinity = affinity.tolil()
    affinity[12] = 0
    affinity[:, 12] = 0
    solved = _relaxed(affinity.tocsr(), near.ravel(), np.ones(25, dtype=bool), ratio)
    assert solved.isfinite().all()
    assert float(solved[:4].min()) > 0.99


def test_mixtures_are_densities():
    sample = np.random.default_rng(0).normal(0, 5, (4000, 1))
    sample[:2000] += 40
    places = np.linspace(-60, 100, 3201)[:, None]
    density = np.exp(mixture_likelihood(places, sample))
    assert density.sum() * 0.05 == pytest.approx(1, abs=0.01)
    assert density[2000] > 100 * density[1600]  # 40 and 20


def test_no_color_decides_alone_however_unlikely_it_is():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 3, (500, 3)), rng.normal(90, 3, (500, 3))
    rows = np.array([[0.0, 0, 0], [45, 45, 45], [90, 90, 90]])
    ratio = likelihood_ratio(rows, inside, outside)
    assert ratio[[0, 2]].tolist() == [6, -6]
    assert abs(ratio[1]) <= 6
