"""Probability rows whose sums over all nodes are given, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from graphnn_unet.errors import ShapeError
from graphnn_unet.graph._tensors import as_batch, full_precision
from graphnn_unet.graph._untyped import solved

_STEPS = 30
_TINY = 1e-12
_TOLERANCE = 1e-6
"""Of a mass."""
_LARGEST_MOVE = 4.0
"""Of a logarithm in a step, which keeps steps from nearly hard rows from running off."""


@torch.no_grad()
def keep_class_masses(score: Tensor, mass: Tensor) -> Tensor:
    """Scale the columns of scores so that rows are shares and every class has its mean share.

        p_ic = w_c s_ic / sum_c' w_c' s_ic',    mean_i p_ic = m_c

    The weights minimize a convex function, the mean of ``log sum_c w_c s_ic`` minus
    ``sum_c m_c log w_c``, by scaling and Newton's method in turn.

    Args:
        score: ``(b, n, C)`` or ``(n, C)``, not negative.
        mass: ``(b, C)`` or ``(C,)``, rows on the simplex.

    Returns:
        The shape of ``score``; rows on the simplex; no gradient.

    Raises:
        ShapeError: The mass does not fit the score.

    Source: the dual of the nearest rows with given sums in the sense of Kullback and Leibler. Class
    mass normalization (Zhu et al. 2003) scales columns once, after which rows do not sum to 1.
    Cost: ``n C^2`` a step.

    Example:
        >>> score = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> keep_class_masses(score, torch.tensor([0.5, 0.5])).mean(dim=0)
        tensor([0.5000, 0.5000])
    """
    with full_precision(score):
        rows, single = as_batch(score, "score")
        target = mass.unsqueeze(0) if single else mass
        if target.shape != (rows.shape[0], rows.shape[2]):
            raise ShapeError(f"score {tuple(score.shape)} and mass {tuple(mass.shape)} do not fit")
        # classes first: a softmax over few neighboring entries is several times slower
        logs = rows.clamp(min=torch.finfo(rows.dtype).tiny).log().transpose(1, 2).contiguous()
        weight = torch.zeros_like(target, dtype=torch.float64)
        eye = torch.eye(target.shape[1], dtype=torch.float64, device=target.device)
        share = logs.softmax(dim=1)
        for step in range(_STEPS):
            mean = share.mean(dim=2).double()
            if bool(((target - mean).abs() <= _TOLERANCE).all()):
                break
            if step % 2 == 0:  # exact where all rows are alike, and never leads away
                move = (target.double().clamp(min=_TINY) / mean.clamp(min=_TINY)).log()
            else:  # fast where rows are nearly hard
                products = (share @ share.transpose(1, 2)).double()
                curvature = torch.diag_embed(mean) - products / rows.shape[1]
                # the weights are free up to a factor: a small ridge settles it
                ridge = 1e-6 * mean.amax(dim=-1)[:, None, None] * eye
                difference = (target.double() - mean).unsqueeze(-1)
                move = solved(curvature + ridge, difference).squeeze(-1)
                move = move.clamp(-_LARGEST_MOVE, _LARGEST_MOVE)
            weight = weight + move
            share = (logs + weight.to(logs.dtype).unsqueeze(2)).softmax(dim=1)
        value = share.transpose(1, 2)
    return value[0] if single else value
