"""Rows become shares, and every class keeps its mass."""

from __future__ import annotations

import pytest
import torch

from graphnn_unet.errors import ShapeError
from graphnn_unet.graph import keep_class_masses


def shares(sharpness: float, n: int = 500, c: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(2, n, c, generator=generator, dtype=torch.float64)).softmax(-1)


@pytest.mark.parametrize("sharpness", [0.3, 3.0, 15.0])
@pytest.mark.parametrize("bias", [1e-3, 1.0, 50.0])
def test_scaled_columns_are_scaled_back(sharpness, bias):
    """Column weights are exactly what the function finds, so they vanish."""
    share = shares(sharpness)
    weight = torch.tensor([1.0, bias, 2.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        keep_class_masses(share * weight, share.mean(1)), share, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("sharpness", [0.3, 3.0, 15.0])
def test_masses_are_those_given_and_rows_are_shares(sharpness):
    score, mass = shares(sharpness), torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25] * 4]).double()
    result = keep_class_masses(score, mass)
    torch.testing.assert_close(result.mean(1), mass, atol=2e-6, rtol=0)
    torch.testing.assert_close(result.sum(-1), torch.ones(2, 500).double())
    assert result.min() >= 0
    # the odds of two classes change by the same factor at every node
    factor = (result[..., 1] / result[..., 0]) / (score[..., 1] / score[..., 0])
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    torch.testing.assert_close(keep_class_masses(score[0], mass[0]), result[0])


def test_absent_classes_and_zero_scores_stay_finite():
    score = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    result = keep_class_masses(score, torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(result.mean(0), torch.tensor([0.5, 0.5, 0.0]), atol=1e-5, rtol=0)
    assert torch.isfinite(result).all()


def test_mass_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError):
        keep_class_masses(shares(1.0), torch.ones(4))
