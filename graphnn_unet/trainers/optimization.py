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
LEFT_OUT_LIMIT = 20
"""Of steps with a finite loss: a scaler of half precision leaves some out until its factor fits,
halving it each time, from 2^16."""
LOSS_DELAY = 2


def make_optimizer(groups: list[dict[str, Any]], settings: Optimizer) -> torch.optim.Optimizer:
    """A fresh optimizer.

    Args:
        groups: Parameters with their weight decay, see ``Student.parameter_groups``.
        settings: Update rule and rates.
    """
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups, settings.lr, momentum=settings.momentum, nesterov=settings.is_nesterov
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
) -> Tensor:
    """Backward pass, one clip over all parameters together, optimizer step.

    A step whose gradients are not finite is left out, so weights never become NaN.

    Returns:
        Whether the step was taken, a scalar bool on the device.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if scaler is not None:
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        scaler.step(optimizer)  # left out by the scaler if not finite
        scaler.update()
        return torch.isfinite(norm)
    loss.backward()
    taken = torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, clip_norm))
    if taken:
        optimizer.step()
    return taken


class LossWatch:
    """Stops a training whose losses or gradients are not finite several steps in a row.

    It looks at the loss of two steps ago, which a GPU has finished, so that nothing waits.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[int, Tensor, Tensor, list[str]]] = deque()
        self._n_not_finite = self._n_left_out = 0

    def add(self, step: int, loss: Tensor, taken: Tensor, cases: list[str]) -> None:
        """Note the loss of a step, whether it was taken, and the cases of its batch.

        Raises:
            DivergedError: Too many in a row; names the cases.
        """
        self._recent.append((step, loss, taken, cases))
        while len(self._recent) > LOSS_DELAY:
            when, value, was_taken, names = self._recent.popleft()
            self._n_not_finite = 0 if math.isfinite(float(value)) else self._n_not_finite + 1
            self._n_left_out = 0 if was_taken else self._n_left_out + 1
            if self._n_not_finite >= NON_FINITE_LIMIT:
                raise self._diverged("the loss was", NON_FINITE_LIMIT, when, names)
            if self._n_left_out >= LEFT_OUT_LIMIT:
                raise self._diverged("gradients were", LEFT_OUT_LIMIT, when, names)

    @staticmethod
    def _diverged(what: str, n_steps: int, step: int, cases: list[str]) -> DivergedError:
        return DivergedError(
            f"{what} not finite in {n_steps} steps in a row "
            f"(step {step}, cases {', '.join(sorted(set(cases)))})",
            "these steps were left out, and going on would meet the same ones",
            "Look at these cases, or train anew with a lower rate "
            "(--restart --set optimizer.lr=...)",
        )
