"""Thresholds of confidence, one a class, that follow how well a teacher knows each class.

Papers:
    MLLC: https://arxiv.org/abs/2404.02065
    FlexMatch: https://arxiv.org/abs/2110.08263
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.errors import InputError
from graphnn_unet.graph._tensors import check_choice, widen
from graphnn_unet.graph.shared_batch import sum_over_processes

ThresholdMode = Literal["count", "rate"]


@torch.no_grad()
def class_thresholds(
    probability: Tensor, *, sigma: float = 0.95, mode: ThresholdMode = "count", warmup: bool = False
) -> Tensor:
    """Threshold of each class from how many nodes of a batch the teacher is sure of.

        delta_c = number of nodes i with max p_i > sigma and argmax p_i = c
        eta_c   = sigma delta_c / max_c' delta_c'

    Args:
        probability: ``(..., n, C)``, rows on the simplex; all nodes of all images count together,
            those of all processes that share the batch among them.
        sigma: Probability above which a node counts as sure, in (0, 1].
        mode: ``count`` as above; ``rate`` takes ``delta_c / N_c`` for ``delta_c``, with ``N_c``
            nodes of that class, so that a small organ does not get a threshold near 0.
        warmup: Divide by the number (``rate``: share) of nodes below ``sigma`` where that is
            larger than the maximum: thresholds then start near 0, as in FlexMatch.

    Returns:
        ``(C,)``; 0 for a class of which no node is sure, so that all of its nodes count as
        confident.

    Raises:
        InputError: A number is out of range, or a word is not known.

    Source: MLLC eq. 9.

    Example:
        >>> sure, unsure = torch.tensor([0.96, 0.04]), torch.tensor([0.4, 0.6])
        >>> rows = torch.stack([sure] * 4 + [sure.flip(0)] + [unsure] * 3)
        >>> class_thresholds(rows)
        tensor([0.9500, 0.2375])
        >>> class_thresholds(rows, mode="rate")
        tensor([0.9500, 0.2375])
    """
    check_choice("mode", mode, ("count", "rate"))
    if not 0 < sigma <= 1:
        raise InputError(f"sigma={sigma} cannot be used", "it is a probability above 0")
    n_classes = probability.shape[-1]
    rows = widen(probability).reshape(-1, n_classes)
    largest, label = rows.max(dim=1)
    member = functional.one_hot(label, n_classes)
    counts = torch.stack([member.sum(dim=0), (member * (largest > sigma).unsqueeze(1)).sum(dim=0)])
    total, sure = sum_over_processes(counts.double())
    unsure = (total - sure).sum()
    if mode == "rate":
        sure = sure / total.clamp(min=1)
        unsure = unsure / total.sum().clamp(min=1)
    largest_count = torch.maximum(sure.max(), unsure) if warmup else sure.max()
    share = sure / torch.where(largest_count > 0, largest_count, 1.0)
    return (sigma * share).to(rows.dtype)


def is_confident(probability: Tensor, threshold: Tensor) -> Tensor:
    """Whether the largest probability of each node reaches the threshold of its class.

    Args:
        probability: ``(..., n, C)``.
        threshold: ``(C,)``.

    Returns:
        ``(..., n)`` bool.

    Example:
        >>> is_confident(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0.95, 0.5]))
        tensor([False,  True])
    """
    largest, label = widen(probability).max(dim=-1)
    return largest >= threshold[label]
