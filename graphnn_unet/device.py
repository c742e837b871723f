"""The device to compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphnn_unet.errors import InputError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str = "auto") -> torch.device:
    """``auto`` (cuda, mps, cpu in this order), ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.

    Raises:
        InputError: No such device here; says which there are.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    available = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    available += ["mps"] * has_mps + ["cpu"]
    if name == "auto":
        name = available[0].replace("cuda:0", "cuda")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    wanted = "cuda:0" if name == "cuda" else name
    if device is None or wanted not in available:
        raise InputError(
            f"device {name!r} is not available", f"there are {', '.join(available)}",
            "Choose one with -device, or leave it out",
        )  # fmt: skip
    return device
