"""Dice over patches of held-out cases, the same patches after every epoch."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from graphnn_unet.data.patch_dataset import PatchDataset


@torch.no_grad()
def score_patches(
    network: nn.Module,
    patches: PatchDataset,
    n_patches: int,
    label_manager: Any,
    device: torch.device,
) -> list[float]:
    """Dice of each foreground class, voxels of all patches together.

    Args:
        network: In evaluation mode afterwards.
        patches: Held-out cases; slots of a step form a batch.
        n_patches: How many patches.
        label_manager: nnU-Net's.
        device: Where the network is.

    Returns:
        One value a class or region; NaN where it is in neither prediction nor reference.
    """
    network.eval()
    size = patches.n_labeled
    counts = torch.zeros(3, 1, dtype=torch.float64)
    for step in range(math.ceil(n_patches / size)):
        slots = range(min(size, n_patches - step * size))
        samples = [patches[(step, slot)] for slot in slots]
        image = torch.stack([sample["image"] for sample in samples]).to(device)
        target = torch.stack([sample["target"] for sample in samples]).to(device)
        with torch.autocast("cuda") if device.type == "cuda" else nullcontext():
            output = network(image)
        logits = output if isinstance(output, Tensor) else output[0]
        counts = counts + hard_counts(logits, target, label_manager).cpu()
    both, predicted, true = counts
    return (2 * both / (predicted + true)).tolist()


def hard_counts(logits: Tensor, target: Tensor, label_manager: Any) -> Tensor:
    """Voxels in both, predicted and true, of each foreground class: ``(3, k)``.

    Args:
        logits: ``(b, k, *s)``.
        target: As in :func:`label_counts`.
        label_manager: nnU-Net's.
    """
    # ten times as fast on a CPU as argmax
    labels = logits > 0 if label_manager.has_regions else logits.max(1, keepdim=True).indices
    return label_counts(labels, target, label_manager)


def label_counts(labels: Tensor, target: Tensor, label_manager: Any) -> Tensor:
    """Voxels in both, predicted and true, of each foreground class: ``(3, k)``.

    Args:
        labels: ``(b, 1, *s)`` classes, or ``(b, k, *s)`` bool where outputs overlap.
        target: ``(b, 1, *s)`` labels, or ``(b, k, *s)`` bool where outputs overlap (one more
            channel marks ignored voxels).
        label_manager: nnU-Net's.
    """
    if label_manager.has_regions:
        valid = ~target[:, -1].bool() if label_manager.has_ignore_label else None
        pairs = [(labels[:, c].bool(), target[:, c].bool()) for c in range(labels.shape[1])]
    else:
        ignored = label_manager.ignore_label
        valid = target != ignored if label_manager.has_ignore_label else None
        pairs = [(labels == c, target == c) for c in label_manager.foreground_labels]
    if valid is not None:
        pairs = [(predicted & valid, true & valid) for predicted, true in pairs]
    counts = [
        torch.stack([torch.count_nonzero(m) for m in (predicted & true, predicted, true)])
        for predicted, true in pairs
    ]
    return torch.stack(counts, dim=1)
