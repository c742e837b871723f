"""Definitions that the tests of several modules compare with."""

from collections.abc import Sequence

import torch

from graphnn_unet.graph import unit_rows
from graphnn_unet.graph.affinity import GramAffinity


def shifted_cosine(feature: torch.Tensor) -> torch.Tensor:
    """Features whose inner products are the shifted cosine: ``[1, u_i] / sqrt(2)``."""
    unit = unit_rows(feature)
    return torch.cat([torch.ones_like(unit[..., :1]), unit], dim=-1) * 0.5**0.5


def thresholded(feature: torch.Tensor, tau: float = 2.0) -> torch.Tensor:
    """Positive part of the shifted products of rows, the diagonal kept alive; GraphCL eq. 15."""
    product = feature @ feature.mT
    threshold = product.amax(dim=(-2, -1), keepdim=True) / tau
    affinity = (product - threshold).clamp(min=0)
    affinity.diagonal(dim1=-2, dim2=-1)[affinity.diagonal(dim1=-2, dim2=-1) == 0] = 1.0
    return affinity


def joined(
    inside: Sequence[torch.Tensor], links: Sequence[tuple[int, int, torch.Tensor]]
) -> torch.Tensor:
    """One symmetric graph from the graphs of several images and the links between them, dense."""
    whole = torch.block_diag(*(affinity.to_dense() for affinity in inside))
    place = torch.arange(len(whole)).split([len(affinity) for affinity in inside])
    for start, end, weight in links:
        whole[place[start][:, None], place[end]] += weight.to_dense()
        whole[place[end][:, None], place[start]] += weight.to_dense().T
    return whole


def written_out(graph: GramAffinity) -> torch.Tensor:
    """The weights of a graph that is never built, ``(b, n, n)``."""
    rows = graph.rows()
    return rows @ rows.mT
