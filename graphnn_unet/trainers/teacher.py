"""The teacher: a moving average of the student that is never trained itself.

Source: mean teacher; GraphCL eq. 11 with the student taken after the optimiser step, as in BCP's
program.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Teacher:
    """Holds the averaged network in evaluation mode.

    Args:
        network: A network of the student's architecture; its weights are overwritten by ``reset``.
        ema: Share of the old teacher that is kept at each step.
        warmup: Let the share grow as min(1 - 1/(t+1), ema), t from 0, when training starts from
            random weights (UA-MT's rule).
    """

    def __init__(self, network: nn.Module, ema: float, warmup: bool):
        self.network = network.requires_grad_(False).eval()
        self.ema, self.warmup = ema, warmup
        self.updates = 0

    @torch.no_grad()
    def reset(self, student: nn.Module) -> None:
        """Start from the student's weights."""
        self.network.load_state_dict(student.state_dict())
        self.updates = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Average in the student after its optimiser step.

        Float buffers are averaged as well, integer buffers copied.
        """
        share = min(1 - 1 / (self.updates + 1), self.ema) if self.warmup else self.ema
        ours, theirs = [], []
        buffers = dict(student.named_buffers())
        for name, buffer in self.network.named_buffers():
            if buffer.is_floating_point():
                ours.append(buffer)
                theirs.append(buffers[name])
            else:
                buffer.copy_(buffers[name])
        ours += self.network.parameters()
        theirs += student.parameters()
        get_ema_multi_avg_fn(share)(ours, [value.detach() for value in theirs], self.updates)
        self.updates += 1

    @torch.no_grad()
    def predict(self, image: Tensor) -> Tensor:
        """Logits ``(b, k, *s)`` at full resolution."""
        output = self.network(image)
        return output if isinstance(output, Tensor) else output[0]

    def state_dict(self) -> dict[str, object]:
        """Weights and counter."""
        return {"weights": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Inverse of ``state_dict``."""
        self.network.load_state_dict(state["weights"])
        self.updates = int(state["updates"])
