"""How much a place differs from the border."""

import numpy as np
import torch
from pictures import as_image, blob, iou

from graphnn_unet.clustering.border_features import (
    background_surface,
    image_margin,
    otsu_centered,
)
from graphnn_unet.clustering.features import BorderFeatures


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
    assert iou((ways > 0).numpy()[nodes.grid.node_map], radius < 16.5) > 0.8


def test_surface_follows_the_light_and_not_the_object():
    rows, columns = np.mgrid[-1:1:50j, -1:1:60j]
    light = 60 - 10 * rows**2 - 5 * columns
    seen = light.copy()
    seen[15:35, 20:40] -= 30  # a tenth of the image
    surface = background_surface(seen.astype(np.float32), image_margin(seen.shape))
    assert abs(surface - light).max() < 1


def test_thresholds_lie_between_two_groups():
    columns = torch.tensor([[0.0, 5], [0.1, 5], [2.0, 5], [2.1, 5]])
    centered = otsu_centered(columns)
    assert (centered[:2, 0] < 0).all()
    assert (centered[2:, 0] > 0).all()
