"""Exponential moving average of a network's weights, for the teacher and the classifier alike."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def update_average(average: nn.Module, source: nn.Module, share: float, count: int) -> None:
    """Move ``average`` towards ``source``: ``average <- share average + (1 - share) source``.

    Parameters and float buffers (statistics of normalizations) are averaged, integer buffers
    copied. ``count`` are the updates so far.

    Source: mean teacher, Tarvainen and Valpola, https://arxiv.org/abs/1703.01780.
    """
    ours, theirs = [], []
    buffers = dict(source.named_buffers())
    for name, buffer in average.named_buffers():
        if buffer.is_floating_point():
            ours.append(buffer)
            theirs.append(buffers[name])
        else:
            buffer.copy_(buffers[name])
    ours += average.parameters()
    theirs += source.parameters()
    get_ema_multi_avg_fn(share)(ours, [value.detach() for value in theirs], count)
