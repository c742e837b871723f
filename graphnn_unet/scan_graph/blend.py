"""A network's answer and the vote of labeled scans, mixed where there is a vote."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_FLOOR = 1e-7
"""Smallest probability whose logarithm is taken: about the range that a network's logits span."""


def blend(probability: Tensor, share: Tensor, amount: float) -> Tensor:
    """``(1 - b) p + b share`` where a vote was cast, ``p`` elsewhere.

    Args:
        probability: ``(k, z, y, x)``.
        share: ``(k, z, y, x)`` shares of the votes, 0 in all classes where there is none.
        amount: ``b``, between 0 and 1.

    Example:
        >>> network, vote = torch.tensor([[0.8], [0.2]]), torch.tensor([[0.0], [1.0]])
        >>> blend(network, vote, 0.5).flatten().tolist()
        [0.4000000059604645, 0.6000000238418579]
    """
    weight = amount * (share.sum(0, keepdim=True) > 0)
    return (1 - weight) * probability + weight * share


def blended_logits(logits: Tensor, share: np.ndarray, amount: float) -> Tensor:
    """Logits whose softmax is the blend of the network's softmax and the vote.

    Args:
        logits: ``(k, z, y, x)`` of the network.
        share: ``(k, z, y, x)`` shares of the votes.
        amount: Share of the vote, between 0 and 1; 0 leaves the logits as they are.

    Returns:
        ``(k, z, y, x)`` float32, or ``logits``.
    """
    if amount == 0:
        return logits
    probability = blend(logits.float().softmax(0), torch.from_numpy(share), amount)
    return probability.clamp_min_(_FLOOR).log_()
