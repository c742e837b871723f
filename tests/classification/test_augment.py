import math

import pytest
import torch

from graphnn_unet.classification.augment import Views, apply_views, draw_views


def views(n: int, kind: str, n_dims: int = 2, seed: int = 0) -> Views:
    drawn = draw_views(n, n_dims, kind, torch.Generator().manual_seed(seed))
    assert drawn is not None
    return drawn


def test_none_changes_nothing():
    images = torch.rand(2, 1, 8, 8)
    assert draw_views(2, 2, "none", torch.Generator()) is None
    assert apply_views(images, None) is images


@pytest.mark.parametrize("n_dims", [2, 3])
def test_standard_views_never_turn_pictures_upside_down(n_dims):
    linear = views(300, "standard", n_dims).affine[:, :, :n_dims]
    assert bool((linear[:, 1, 1] > 0).all())  # y of the view goes with y of the image
    left_right = (linear[:, 0, 0] < 0).double().mean()
    assert 0.4 < float(left_right) < 0.6
    angle = torch.atan2(linear[:, 1, 0].abs(), linear[:, 0, 0].abs())
    if n_dims == 2:
        assert float(angle.max()) <= math.radians(15) + 1e-6


def test_any_orientation_turns_and_mirrors_all_ways():
    linear = views(400, "any-orientation").affine[:, :, :2]
    quadrants = {(bool(x > 0), bool(y > 0)) for x, y in linear[:, 0].tolist()}
    assert len(quadrants) == 4
    mirrored = (torch.linalg.det(linear) < 0).double().mean()
    assert 0.4 < float(mirrored) < 0.6


def test_unchanged_geometry_changes_contrast_and_brightness_alone():
    images = torch.rand(3, 2, 9, 9)
    affine = torch.eye(2, 3).repeat(3, 1, 1)
    drawn = Views(affine, torch.tensor([1.0, 2, 1]), torch.tensor([0.0, 0, 0.5]), noise_seed=3)
    changed = apply_views(images, drawn)
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    expected = images * torch.tensor([1.0, 2, 1]).view(3, 1, 1, 1) + noise
    expected[2] += 0.5
    torch.testing.assert_close(changed, expected, atol=1e-5, rtol=0)


def test_shift_moves_the_image_and_continues_its_border():
    images = torch.zeros(1, 1, 10, 10)
    images[..., 5:] = 1.0
    affine = torch.tensor([[[1.0, 0, 1.0], [0, 1, 0]]])  # half an image to the right
    drawn = Views(affine, torch.ones(1), torch.zeros(1), noise_seed=0)
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    moved = apply_views(images, drawn) - noise
    torch.testing.assert_close(moved, torch.ones_like(moved), atol=1e-5, rtol=0)


def test_same_generator_gives_the_same_views():
    first, again, other = (views(4, "standard", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.affine, again.affine)
    assert first.noise_seed == again.noise_seed
    assert not torch.equal(first.affine, other.affine)
