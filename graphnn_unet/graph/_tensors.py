"""What every graph function does to its arguments: shapes, precision, one graph or a batch."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from graphnn_unet.errors import InputError, ShapeError

_NARROW = (torch.float16, torch.bfloat16)


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on the device of ``like``.

    Sums over nodes and squared norms leave the range of float16 already for ordinary feature maps
    (320 channels of size 20 give a squared norm of 128 000), so graph algebra never runs in it.
    """
    if like.device.type == "meta":  # has no autocast; torch 2.6 cannot compile the question
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def widen(value: Tensor) -> Tensor:
    """``value`` in float32 if it is narrower, otherwise unchanged (float64 stays float64)."""
    if value.dtype in _NARROW or not value.is_floating_point():
        return value.to(torch.float32)
    return value


def as_batch(value: Tensor, name: str) -> tuple[Tensor, bool]:
    """Widen ``(n, c)`` or ``(b, n, c)`` and give it a batch axis; also, whether it had none."""
    if value.dim() not in (2, 3):
        raise ShapeError(
            f"{name} has shape {tuple(value.shape)}",
            "a graph needs (node, channel), a batch of graphs (graph, node, channel)",
            "Flatten the positions of a feature map and put channels last",
        )
    if value.shape[-2] < 1 or value.shape[-1] < 1:
        raise ShapeError(f"{name} has shape {tuple(value.shape)}", "it has no node or no column")
    single = value.dim() == 2
    wide = widen(value)
    return (wide.unsqueeze(0) if single else wide), single


def as_pair(first: Tensor, second: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor, bool]:
    """Two tensors of the same graphs as ``(b, n, .)`` in one dtype; if they had no batch axis."""
    left, left_single = as_batch(first, names[0])
    right, right_single = as_batch(second, names[1])
    if left_single != right_single or left.shape[:2] != right.shape[:2]:
        raise ShapeError(
            f"{names[0]} {tuple(first.shape)} and {names[1]} {tuple(second.shape)} do not fit",
            "both must describe the same graphs and nodes",
        )
    dtype = torch.promote_types(left.dtype, right.dtype)
    return left.to(dtype), right.to(dtype), left_single


def check_labels(label: Tensor, rows: Tensor, name: str) -> None:
    """Raise ``ShapeError`` unless there is an integer for each of ``rows``, ``(..., c)``."""
    if label.shape != rows.shape[:-1] or label.is_floating_point():
        raise ShapeError(
            f"{name} {tuple(rows.shape)} and label {tuple(label.shape)} do not fit",
            "the label is an integer for each node",
        )


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``InputError`` for a word that is not among ``allowed``."""
    if value not in allowed:
        raise InputError(f"{name}={value!r} is not known", f"choose one of {', '.join(allowed)}")


def check_positive(name: str, value: float) -> None:
    """Raise ``InputError`` for a number that is not positive and finite."""
    if not 0 < value < float("inf"):
        raise InputError(f"{name}={value} cannot be used", "it must be positive and finite")
