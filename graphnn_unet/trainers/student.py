"""The student: the network that will be deployed, and the heads that a method trains beside it.

Whatever concerns trained modules is done here once: sharing gradients between processes, groups of
the optimizer, state for checkpoints. A method says which heads it has and uses them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from graphnn_unet.errors import InputError
from graphnn_unet.networks.features import Tap, collect_features

Result = TypeVar("Result")


class Student(nn.Module):
    """A network with named heads.

    Args:
        network: The planned network; its weights are what is deployed.
        heads: Modules that are trained with it and left out of the deployed model.

    Attributes:
        network: The network.
        heads: The heads by name.

    Example:
        >>> student = Student(nn.Conv2d(1, 2, 1), {"projector": nn.Linear(2, 4)})
        >>> sorted(student.state()["heads"])
        ['projector']
    """

    def __init__(self, network: nn.Module, heads: Mapping[str, nn.Module]):
        super().__init__()
        self.network = network
        self.heads = nn.ModuleDict(dict(heads))
        # neither is a submodule: state and parameters are those of network and heads alone
        self._outside: dict[str, Any] = {}

    def compile_network(self) -> None:
        """Let ``torch.compile`` run the network; weights stay where they are."""
        self._outside["compiled"] = torch.compile(self.network)

    def distribute(self, device: torch.device) -> None:
        """Share the gradients of network and heads with the other processes from now on.

        Heads may rest in some phases or steps: parameters without a gradient in any process keep
        none, as in a single process.
        """
        # a hint on speed, for weights of one channel, whose order of memory has two names
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
        ids = [device.index] if device.type == "cuda" else None
        self._outside["distributed"] = DistributedDataParallel(
            self, device_ids=ids, find_unused_parameters=True
        )

    def run(self, compute: Callable[[], Result]) -> Result:
        """Call ``compute``, in which network and heads are used in any order, in a training step.

        Args:
            compute: Returns a tensor, or tuples and dictionaries of tensors, that hold the loss.
        """
        return self._outside.get("distributed", self)(compute)

    def forward(self, compute: Callable[[], Result]) -> Result:
        """For :meth:`run`: what happens in here is seen by ``DistributedDataParallel``."""
        return compute()

    def predict(
        self, images: Tensor, taps: Sequence[Tap] = ()
    ) -> tuple[Tensor | list[Tensor], dict[Tap, Tensor]]:
        """Outputs of the network and features from inside it.

        Args:
            images: ``(b, c, *s)``.
            taps: Where features are wanted.

        Returns:
            Logits ``(b, k, *s)``, with deep supervision a list of them from fine to coarse; and the
            features ``(b, c', *s')`` of each tap.
        """
        if not taps:
            return self._outside.get("compiled", self.network)(images), {}
        with collect_features(self.network, taps) as features:  # hooks do not fire when compiled
            output = self.network(images)
        return output, features

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: decayed parameters, then those that must not be.

        A module names the latter in a method ``no_weight_decay() -> set[str]``; a gate that decay
        pulls to 0, say, would switch its block off.
        """
        spared = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in self.named_modules()
            if callable(names := getattr(module, "no_weight_decay", None))
            for name in cast(set[str], names())
        }
        decayed, free = [], []
        for name, parameter in self.named_parameters():
            (free if name in spared else decayed).append(parameter)
        groups = [{"params": decayed, "weight_decay": weight_decay}]
        return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups

    def state(self) -> dict[str, Any]:
        """Weights of the network, and of each head by its name."""
        return {
            "network": self.network.state_dict(),
            "heads": {name: head.state_dict() for name, head in self.heads.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state`.

        Raises:
            InputError: A head is missing or has another shape.
        """
        self.network.load_state_dict(state["network"])
        for name, head in self.heads.items():
            if name not in state["heads"]:
                raise InputError(
                    f"the checkpoint has no head {name!r}", "it is from another form of the method"
                )
            head.load_state_dict(state["heads"][name])
