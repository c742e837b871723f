"""Diffusion follows features, says nothing where they say nothing, and keeps class masses."""

from __future__ import annotations

import pytest
import torch

from graphnn_unet.plans.recipe import resolve
from graphnn_unet.pseudo_labels.corrector import Surroundings, Teaching
from graphnn_unet.pseudo_labels.diffusion import Diffusion


def corrected(logits, feature, alpha=0.5, overlapping=False):
    surroundings = Surroundings(
        resolve({"diffusion": {"reach": alpha}}), (1.0,) * (logits.dim() - 2), overlapping
    )
    corrector = Diffusion(surroundings)
    assert corrector.feature_scales == (0,)
    return corrector(Teaching(logits, {0: feature}))


def noisy_half(seed: int = 0):
    """A half whose features tell it from the rest; the teacher is wrong in a tenth, but unsure."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.zeros(1, 1, 24, 24)
    truth[..., 12:] = 1
    feature = torch.cat([truth, 1 - truth, truth], 1) * 3
    feature = feature + 0.3 * torch.randn(1, 3, 24, 24, generator=generator)
    wrong = torch.rand(1, 1, 24, 24, generator=generator) < 0.1
    foreground = torch.where(wrong, 0.55 - 0.1 * truth, 0.1 + 0.8 * truth)
    return torch.cat([1 - foreground, foreground], 1).log(), feature, truth[:, 0]


def test_voxels_take_the_class_of_similar_ones():
    logits, feature, truth = noisy_half()
    before = (logits.argmax(1) != truth).sum()
    after = (corrected(logits, feature).argmax(1) != truth).sum()
    assert before > 40
    assert after <= before / 10
    shuffled = feature.flatten(2)[..., torch.randperm(576)].view_as(feature)
    assert (corrected(logits, shuffled).argmax(1) != truth).sum() >= before - 3


@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [(7, 9), (5, 6, 4)])
def test_classes_keep_their_masses(alpha, size):
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(2, 3, *size, generator=generator)
    feature = torch.randn(2, 5, *size, generator=generator)
    result = corrected(logits, feature, alpha).softmax(1)
    torch.testing.assert_close(
        result.flatten(2).mean(-1), logits.softmax(1).flatten(2).mean(-1), atol=1e-5, rtol=0
    )
    assert (result - logits.softmax(1)).abs().max() > 1e-3


@pytest.mark.parametrize("overlapping", [False, True])
def test_features_that_tell_nothing_and_alpha_zero_change_nothing(overlapping):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    same = corrected(logits, torch.ones(2, 4, 6, 6), overlapping=overlapping)
    squash = torch.sigmoid if overlapping else lambda values: values.softmax(1)
    torch.testing.assert_close(squash(same), squash(logits), atol=1e-4, rtol=0)
    feature = torch.randn(2, 4, 6, 6, generator=generator)
    assert torch.equal(corrected(logits, feature, 0.0, overlapping), logits)


def test_images_do_not_see_each_other():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 2, 6, 6, generator=generator)
    feature = torch.randn(3, 4, 6, 6, generator=generator)
    together = corrected(logits, feature)
    alone = [corrected(logits[i : i + 1], feature[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_overlapping_regions_travel_by_themselves():
    logits, feature, truth = noisy_half()
    # logit of the half, and of all
    regions = torch.cat([logits[:, 1:] - logits[:, :1], torch.full_like(logits[:, :1], 8.0)], 1)
    result = corrected(regions, feature, overlapping=True)
    errors = ((result[:, 0] > 0) != truth.bool()).sum()
    assert errors < ((regions[:, 0] > 0) != truth.bool()).sum() / 10
    assert (result[:, 1] > 0).all()
