"""Colors of foreground and background of a first clustering, as evidence for a second one."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from graphnn_unet.clustering.fit import kmeans
from graphnn_unet.clustering.nodes import Grid

WEIGHT = 4.0
"""Weight of the column; the columns of distances have deviation 1."""

MIN_NODES = 20
"""With fewer nodes on one side its colors are not known."""

_N_PARTS, _NODES_A_PART = 5, 30
_SPREAD = 1.0  # of Lab or percent: added to every variance
_CLIP = 6.0
_BLUR = 0.7  # nodes


def color_column(color: Tensor, foreground: NDArray[np.bool_], grid: Grid) -> Tensor | None:
    """How much more likely the color of each node is in the foreground, ``(node, 1)``.

        clip(log p(color | foreground) - log p(color | background), -6, 6) / 6 * WEIGHT

    with a mixture of up to five normal distributions each, smoothed over neighbors.

    Args:
        color: ``(node, channel)``.
        foreground: Nodes that are foreground so far.
        grid: Where the nodes lie.

    Returns:
        The column, or ``None`` where one of the two has too few nodes.

    Source: the color models of GrabCut (Rother et al., 2004).
    """
    inside = torch.from_numpy(foreground)
    if min(int(inside.sum()), int((~inside).sum())) < MIN_NODES:
        return None
    rows = color.double()
    ratio = mixture_likelihood(rows, rows[inside]) - mixture_likelihood(rows, rows[~inside])
    clipped = (ratio.clamp(-_CLIP, _CLIP) / _CLIP).numpy().reshape(grid.size)
    smooth = ndimage.gaussian_filter(clipped, _BLUR).ravel()
    return WEIGHT * torch.from_numpy(smooth).float().unsqueeze(1)


def mixture_likelihood(rows: Tensor, sample: Tensor) -> Tensor:
    """Log density of rows under a mixture fitted to a sample by k-means, ``(row,)``.

    Args:
        rows: ``(row, channel)`` float64.
        sample: ``(n, channel)`` float64.
    """
    n_parts = min(_N_PARTS, max(1, len(sample) // _NODES_A_PART))
    part_of = kmeans(sample, n_parts, n_steps=15, n_starts=2)
    terms = []
    for part in range(n_parts):
        own = sample[part_of == part]
        if not len(own):
            continue
        mean = own.mean(dim=0)
        offset = own - mean
        spread = offset.T @ offset / len(own) + _SPREAD * torch.eye(len(mean), dtype=rows.dtype)
        root = torch.linalg.cholesky(spread)
        whitened = torch.linalg.solve_triangular(root, (rows - mean).T, upper=False)
        share = math.log(len(own) / len(sample))
        terms.append(share - whitened.square().sum(dim=0) / 2 - root.diagonal().log().sum())
    return torch.logsumexp(torch.stack(terms), dim=0)
