"""The harder view changes intensities and nothing else, as drawn."""

from __future__ import annotations

import pytest
import torch

from graphnn_unet.trainers.strong_view import IntensityChange, change_intensities, draw_change


def image(dim: int = 3, channels: int = 2) -> torch.Tensor:
    return torch.randn(channels, *[12] * dim, generator=torch.Generator().manual_seed(0))


def test_draws_follow_the_generator_and_use_as_many_numbers_always():
    ends = []
    for probability in (0.0, 0.5, 1.0):
        generator = torch.Generator().manual_seed(3)
        draw_change(probability, generator)
        ends.append(torch.rand(1, generator=generator))
    assert ends[0] == ends[1] == ends[2]
    first, second = (draw_change(1.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second
    nothing = draw_change(0.0, torch.Generator().manual_seed(3))
    assert nothing == IntensityChange(seed=nothing.seed)
    assert torch.equal(change_intensities(image(), nothing), image())


def test_draws_lie_in_nnunets_ranges_and_happen_as_often_as_asked():
    generator = torch.Generator().manual_seed(0)
    changes = [draw_change(0.5, generator) for _ in range(2000)]
    for name, low, high in (
        ("noise_variance", 0.0, 0.1), ("blur_sigma", 0.5, 1.0), ("brightness", 0.75, 1.25),
        ("contrast", 0.75, 1.25), ("gamma", 0.7, 1.5),
    ):  # fmt: skip
        values = [getattr(c, name) for c in changes if getattr(c, name) is not None]
        assert 0.45 < len(values) / 2000 < 0.55
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert len({c.seed for c in changes}) == 2000


@pytest.mark.parametrize("dim", [2, 3])
def test_each_change_does_what_its_name_says(dim):
    plain = image(dim)
    axes = tuple(range(1, dim + 1))
    noisy = change_intensities(plain, IntensityChange(noise_variance=0.04, seed=5)) - plain
    assert noisy.std() == pytest.approx(0.2, rel=0.2)
    again = change_intensities(plain, IntensityChange(noise_variance=0.04, seed=5)) - plain
    assert torch.equal(noisy, again)
    blurred = change_intensities(plain, IntensityChange(blur_sigma=1.0))
    assert blurred.std() < 0.5 * plain.std()
    assert torch.equal(change_intensities(plain, IntensityChange(brightness=1.2)), plain * 1.2)
    flat = change_intensities(plain, IntensityChange(contrast=0.8))
    torch.testing.assert_close(flat.mean(axes), plain.mean(axes))
    torch.testing.assert_close(flat.std(axes), 0.8 * plain.std(axes))
    steep = change_intensities(plain, IntensityChange(contrast=1.25))
    assert (steep.amax(axes) <= plain.amax(axes)).all()
    bent = change_intensities(plain, IntensityChange(gamma=1.5))
    torch.testing.assert_close(bent.mean(axes), plain.mean(axes))
    torch.testing.assert_close(bent.std(axes), plain.std(axes))
    assert torch.equal(bent.flatten(1).argsort(1), plain.flatten(1).argsort(1))


def test_constant_images_stay_finite():
    everything = IntensityChange(0.0, 0.7, 1.1, 1.2, 1.3)
    assert torch.isfinite(change_intensities(torch.ones(1, 6, 6), everything)).all()


def test_a_bright_voxel_stays_at_its_place():
    plain = torch.zeros(1, 9, 9, 9)
    plain[0, 2, 7, 4] = 10
    for seed in range(20):
        change = draw_change(1.0, torch.Generator().manual_seed(seed))
        changed = change_intensities(plain, change)
        assert int(changed.argmax()) == int(plain.argmax())
