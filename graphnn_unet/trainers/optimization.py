"""The optimizer step: update rule, learning rate, clipping, and the watch for divergence."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from graphnn_unet.errors import DivergedError
from graphnn_unet.plans.recipe import Optimizer

NON_FINITE_LIMIT = 3
LOSS_DELAY = 2


def make_optimizer(groups: list[dict[str, Any]], settings: Optimizer) -> torch.optim.Optimizer:
    """A fresh optimizer.

    Args:
        groups: Parameters with their weight decay, see ``Student.parameter_groups``.
        settings: Update rule and rates.
    """
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups, settings.lr, momentum=settings.momentum, nesterov=settings.nesterov
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, settings.lr)


def learning_rate(settings: Optimizer, done: int, length: int) -> float:
    """Learning rate after ``done`` of ``length`` steps of a phase."""
    if settings.schedule == "poly":
        return settings.lr * (1 - done / max(1, length)) ** 0.9
    if settings.schedule == "step":
        return settings.lr * settings.gamma ** (done // settings.step_size)
    return settings.lr


def update_weights(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Backward pass, one clip over all parameters together, optimizer step.

    A step whose gradients are not finite is left out, so weights never become NaN.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if scaler is not None:
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        scaler.step(optimizer)  # left out by the scaler if not finite
        scaler.update()
        return
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    if torch.isfinite(norm):
        optimizer.step()


class LossWatch:
    """Stops a training whose losses are not finite several steps in a row.

    It looks at the loss of two steps ago, which a GPU has finished, so that nothing waits.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[int, Tensor, list[str]]] = deque()
        self._in_a_row = 0

    def add(self, step: int, loss: Tensor, cases: list[str]) -> None:
        """Note the loss of a step and the cases of its batch.

        Raises:
            DivergedError: Too many in a row; names the cases.
        """
        self._recent.append((step, loss, cases))
        while len(self._recent) > LOSS_DELAY:
            when, value, names = self._recent.popleft()
            self._in_a_row = 0 if math.isfinite(float(value)) else self._in_a_row + 1
            if self._in_a_row >= NON_FINITE_LIMIT:
                raise DivergedError(
                    f"the loss was not finite in {NON_FINITE_LIMIT} steps in a row "
                    f"(step {when}, cases {', '.join(sorted(set(names)))})",
                    "the last checkpoint is from before",
                    "Look at these cases and go on with --c, or train anew with a lower rate "
                    "(--set optimizer.lr=...)",
                )
