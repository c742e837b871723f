"""The teacher: a moving average of the student that is never trained itself.

Source: mean teacher (Tarvainen & Valpola, https://arxiv.org/abs/1703.01780); GraphCL eq. 11 with
the student taken after the optimizer step, as in BCP's program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from graphnn_unet.networks.features import Tap, collect_features
from graphnn_unet.networks.moving_average import update_average
from graphnn_unet.plans.recipe import Fraction
from graphnn_unet.settings import Section


class TeacherSettings(Section):
    """The moving average of the student."""

    ema: Fraction = Field(0.99, description="share of the old teacher kept at each step")
    warmup: bool = Field(
        True,
        description="without pre-training the share grows as 1 - 1/(t+1) (UA-MT's rule)",
    )
    deploy: Literal["student", "teacher"] = Field(
        "student", description="network whose weights predict after training"
    )


class Teacher:
    """Holds the averaged network in evaluation mode.

    Args:
        network: A network of the student's architecture; its weights are overwritten by ``reset``.
        ema: Share of the old teacher that is kept at each step.
        warmup: Let the share grow as min(1 - 1/(t+1), ema), t from 0, when training starts from
            random weights (UA-MT's rule).
        heads: Copies of the student's heads that are averaged too.
    """

    def __init__(
        self,
        network: nn.Module,
        ema: float,
        warmup: bool,
        heads: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
    ):
        self.network = network.requires_grad_(False).eval()
        self.heads = nn.ModuleDict(dict(heads or {})).requires_grad_(False).eval()
        self.ema, self.warmup = ema, warmup
        self.updates = 0

    @torch.no_grad()
    def reset(
        self, network: nn.Module, heads: Mapping[str, nn.Module] | nn.ModuleDict | None = None
    ) -> None:
        """Start from the student's weights."""
        self.network.load_state_dict(network.state_dict())
        for name, head in self.heads.items():
            head.load_state_dict((heads or {})[name].state_dict())
        self.updates = 0

    @torch.no_grad()
    def update(
        self, network: nn.Module, heads: Mapping[str, nn.Module] | nn.ModuleDict | None = None
    ) -> None:
        """Average in the student after its optimizer step.

        Float buffers are averaged as well, integer buffers copied.
        """
        share = min(1 - 1 / (self.updates + 1), self.ema) if self.warmup else self.ema
        update_average(self.network, network, share, self.updates)
        for name, head in self.heads.items():
            update_average(head, (heads or {})[name], share, self.updates)
        self.updates += 1

    @torch.no_grad()
    def predict(self, image: Tensor, taps: Sequence[Tap] = ()) -> tuple[Tensor, dict[Tap, Tensor]]:
        """Logits ``(b, k, *s)`` at full resolution, and features ``(b, c, *s')`` of each tap."""
        with collect_features(self.network, taps) as features:
            output = self.network(image)
        return (output if isinstance(output, Tensor) else output[0]), features

    def state_dict(self) -> dict[str, Any]:
        """Weights and counter."""
        heads = {name: head.state_dict() for name, head in self.heads.items()}
        return {"weights": self.network.state_dict(), "heads": heads, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``; states from before heads were averaged have none."""
        self.network.load_state_dict(state["weights"])
        for name, head in self.heads.items():
            head.load_state_dict(state["heads"][name])
        self.updates = int(state["updates"])
