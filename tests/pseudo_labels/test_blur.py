"""The blur is a Gaussian in mm that keeps probabilities probabilities."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from graphnn_unet.plans.recipe import resolve
from graphnn_unet.pseudo_labels.blur import Blur, smooth_axis
from graphnn_unet.pseudo_labels.corrector import Surroundings, Teaching


def blurred(logits, sigma_mm, spacing_mm, overlapping=False):
    recipe = resolve({"blur": {"sigma_mm": sigma_mm}})
    return Blur(Surroundings(recipe, spacing_mm, overlapping))(Teaching(logits))


def test_far_from_the_border_it_is_scipys_gaussian_with_sigma_in_mm():
    probability = torch.rand(1, 2, 41, 43, generator=torch.Generator().manual_seed(0))
    probability /= probability.sum(1, keepdim=True)
    result = blurred(probability.log(), 2.0, (1.0, 2.0)).softmax(1)
    expected = ndimage.gaussian_filter(
        probability[0].double().numpy(), (0, 2.0, 1.0), truncate=3.0, mode="constant"
    )
    inside = (slice(None), slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(result[0].numpy()[inside], expected[inside], atol=1e-6)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_constant_map_stays_up_to_the_border(overlapping):
    logits = torch.tensor([0.3, -1.2, 2.0]).view(1, 3, 1, 1, 1).expand(2, 3, 4, 5, 6)
    result = blurred(logits, 3.0, (1.0, 1.0, 2.5), overlapping)
    if overlapping:
        torch.testing.assert_close(result, logits, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(result.softmax(1), logits.softmax(1))


def test_probabilities_stay_probabilities_and_lonely_voxels_vanish():
    logits = torch.full((1, 2, 9, 9), -4.0)
    logits[:, 0] = 4.0
    logits[0, :, 4, 4] = torch.tensor([-4.0, 4.0])
    result = blurred(logits, 1.0, (1.0, 1.0))
    torch.testing.assert_close(result.softmax(1).sum(1), torch.ones(1, 9, 9))
    assert logits.argmax(1).sum() == 1
    assert result.argmax(1).sum() == 0


def test_default_is_a_share_of_the_finest_spacing():
    logits, spacing_mm = torch.randn(1, 3, 6, 7, 8), (3.0, 1.0, 0.5)
    found = blurred(logits, None, spacing_mm)
    torch.testing.assert_close(found, blurred(logits, 0.35, spacing_mm))
    assert not torch.equal(found, logits)


def test_sigma_zero_changes_nothing():
    logits = torch.randn(2, 3, 4, 4)
    assert torch.equal(blurred(logits, 0.0, (1.0, 1.0)), logits)


def test_axis_of_one_voxel_is_left_alone():
    values = torch.rand(1, 2, 1, 5)
    assert torch.equal(smooth_axis(values, 2, 2.0), values)
