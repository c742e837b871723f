"""Definitions that the tests of several modules compare with."""

import torch

from graphnn_unet.graph import unit_rows


def shifted_cosine(feature: torch.Tensor) -> torch.Tensor:
    """Features whose inner products are the shifted cosine: ``[1, u_i] / sqrt(2)``."""
    unit = unit_rows(feature)
    return torch.cat([torch.ones_like(unit[..., :1]), unit], dim=-1) * 0.5**0.5
