"""The networks that a plan describes, by the names under which checkpoints note them.

A model predicts without its trainer: nnU-Net's takes longer to import than a small scan to predict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from graphnn_unet.networks.hook import AlignedUNet


def planned_network(
    plans_manager: Any,
    configuration_manager: Any,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """The network that stock nnU-Net builds from the plan."""
    return get_network_from_plans(
        configuration_manager.network_arch_class_name,
        configuration_manager.network_arch_init_kwargs,
        configuration_manager.network_arch_init_kwargs_req_import,
        num_input_channels,
        num_output_channels,
        allow_init=True,
        deep_supervision=enable_deep_supervision,
    )


def aligned_network(plans_manager: Any, *arguments: Any, **options: Any) -> nn.Module:
    """The planned network with the alignment block behind the stage that the recipe names."""
    network = planned_network(plans_manager, *arguments, **options)
    gnnunet_key = plans_manager.plans.get("gnnunet", {})
    return AlignedUNet(network, gnnunet_key.get("run", {}).get("graph", {}).get("stage", -1))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "planned": planned_network,
    "aligned": aligned_network,
}
"""Builders with the signature of ``build_network_architecture`` of nnU-Net's trainer."""


def network_name(build: Callable[..., nn.Module]) -> str:
    """Name of a builder in :data:`NETWORKS`; empty for others, of which only the trainer knows."""
    return next((name for name, known in NETWORKS.items() if known is build), "")
