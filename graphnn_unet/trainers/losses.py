"""Dice and cross-entropy inside regions of an image.

Copy-paste methods weigh the two contents of a mixed image apart, as means inside their regions.
The maps of probability and cross-entropy are made once for all regions; with one region that
covers everything the value is nnU-Net's own loss.

With several processes, sums over the batch are sums over the images of all of them; means over
images are left to the mean of gradients between processes.

Source: BCP (CVPR 2023), eqs. 5-8, and its released programs for the variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.graph.shared_batch import sum_over_processes

_LEAST_SHARE = 1e-7
Variant = Literal["nnunet", "paper3d", "paper2d"]


@dataclass(frozen=True)
class LossSettings:
    """How regions are scored.

    Attributes:
        variant: ``nnunet`` (foreground Dice, Dice + CE), ``paper3d`` and ``paper2d`` (all classes,
            half the sum; sums of probabilities or of their squares in the denominator).
        batch_dice: ``nnunet`` only: one Dice over the batch instead of one an image.
        overlapping: Sigmoid outputs, one a region of dataset.json, instead of softmax.
        ignore_label: Label that is left out of everything, or ``None``.
        scale_weights: Weight of each decoder output, finest first; one entry without deep
            supervision.
    """

    variant: Variant = "nnunet"
    batch_dice: bool = False
    overlapping: bool = False
    ignore_label: int | None = None
    scale_weights: tuple[float, ...] = (1.0,)


def deep_supervision_weights(n_outputs: int) -> tuple[float, ...]:
    """nnU-Net's weights: halved at each scale, none for the coarsest, sum 1.

    Args:
        n_outputs: Decoder outputs with a head.
    """
    weights = [0.5**i for i in range(n_outputs)]
    if n_outputs > 1:
        weights[-1] = 0.0
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def region_losses(
    outputs: Tensor | Sequence[Tensor],
    target: Tensor,
    regions: Tensor | None,
    settings: LossSettings,
    with_dice: Sequence[bool] | None = None,
) -> Tensor:
    """Loss of each region, summed over the scales of deep supervision.

    Args:
        outputs: Logits ``(b, k, *s)``, or a list of them from fine to coarse.
        target: Labels ``(b, 1, *s)``, or ``(b, k, *s)`` bool where outputs overlap (with one more
            channel for ignored voxels); or float shares ``(b, k, *s)`` of the classes, see
            :func:`target_shares`, with settings that have no label to ignore.
        regions: ``(b or 1, r, *s)`` bool; ``None`` is one region that covers everything.
        settings: How regions are scored.
        with_dice: For each region whether Dice counts beside cross-entropy; ``None`` for all.

    Returns:
        ``(r,)`` float32. A region that is empty at some scale adds a constant there.
    """
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    total: Tensor | None = None
    for logits, weight in zip(outputs, settings.scale_weights, strict=True):
        if weight == 0:
            continue
        size = logits.shape[2:]
        here = None if regions is None else downsample(regions, size)
        part = weight * _losses_at_scale(
            logits, downsample(target, size), here, settings, with_dice
        )
        total = part if total is None else total + part
    assert total is not None  # noqa: S101  # the finest scale always has a weight
    return total


def downsample(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels or masks at a coarser scale, each voxel taken from one voxel of the source.

    ``nearest-exact`` is what nnU-Net's transform uses. Labels and masks take the same source voxel,
    so mixing before and after gives the same map.
    """
    if tuple(labels.shape[2:]) == tuple(size):
        return labels
    return functional.interpolate(labels.float(), tuple(size), mode="nearest-exact").to(
        labels.dtype
    )


def _losses_at_scale(
    logits: Tensor,
    target: Tensor,
    regions: Tensor | None,
    settings: LossSettings,
    with_dice: Sequence[bool] | None,
) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        target, regions = _without_ignored(target, regions, settings)
        if settings.overlapping:
            probability = torch.sigmoid(logits)
            onehot = target.float()
            entropy = functional.binary_cross_entropy_with_logits(logits, onehot, reduction="none")
            entropy = entropy.mean(1)
        else:
            log_probability = functional.log_softmax(logits, dim=1)
            probability = log_probability.exp()
            if target.is_floating_point() and target.shape[1] == logits.shape[1]:
                onehot = target.float()
                entropy = -(onehot * log_probability).sum(1)
            else:
                index = target.long()
                onehot = torch.zeros_like(probability).scatter_(1, index, 1)
                entropy = -log_probability.gather(1, index)[:, 0]
        dice_loss = -_dice(probability, onehot, regions, settings)
        if settings.variant != "nnunet":
            dice_loss = 1 + dice_loss
        if with_dice is not None:
            dice_loss = dice_loss * torch.tensor(with_dice, device=dice_loss.device)
        total = _region_means(entropy, regions) + dice_loss
        return total if settings.variant == "nnunet" else total / 2


def probabilities(logits: Tensor, *, overlapping: bool) -> Tensor:
    """Softmax over classes, or the sigmoid of each output where they overlap, in float32."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        return logits.sigmoid() if overlapping else logits.softmax(1)


def logits_of(share: Tensor, *, overlapping: bool) -> Tensor:
    """Logits with given probabilities, which are kept 1e-7 away from 0.

    Args:
        share: ``(b, k, *s)``.
        overlapping: Each output is a probability by itself.
    """
    if overlapping:
        return torch.logit(share, eps=_LEAST_SHARE)
    return share.clamp_min(_LEAST_SHARE).log()


def entropy_of(probability: Tensor, *, overlapping: bool) -> Tensor:
    """Entropy in nats.

    Args:
        probability: ``(b, k, *s)``.
        overlapping: Each output is a probability by itself.

    Returns:
        ``(b, 1, *s)``, or ``(b, k, *s)`` where outputs overlap.
    """
    if overlapping:
        return torch.special.entr(probability) + torch.special.entr(1 - probability)
    return torch.special.entr(probability).sum(1, keepdim=True)


def target_shares(
    target: Tensor, n_outputs: int, settings: LossSettings
) -> tuple[Tensor, Tensor | None]:
    """Labels as shares of the outputs, to be mixed with soft labels.

    Args:
        target: As for :func:`region_losses`.
        n_outputs: Channels k of the network's output.
        settings: How regions are scored.

    Returns:
        ``(b, k, *s)`` float32 of zeros and ones, and ``(b, 1, *s)`` bool, False where the label is
        to be ignored; ``None`` where none is.
    """
    target, valid = _without_ignored(target, None, settings)
    if settings.overlapping:
        return target.float(), valid
    shape = (len(target), n_outputs, *target.shape[2:])
    shares = torch.zeros(shape, device=target.device).scatter_(1, target.long(), 1)
    return shares, valid


def _without_ignored(
    target: Tensor, regions: Tensor | None, settings: LossSettings
) -> tuple[Tensor, Tensor | None]:
    """Take ignored voxels out of all regions and give them a harmless label."""
    if settings.ignore_label is None:
        return target, regions
    if settings.overlapping:
        valid, target = ~target[:, -1:].bool(), target[:, :-1]
    else:
        valid = target != settings.ignore_label
        target = torch.where(valid, target, torch.zeros_like(target))
    return target, valid if regions is None else regions & valid


def _region_means(values: Tensor, regions: Tensor | None) -> Tensor:
    """Mean of ``(b, *s)`` inside each region, pooled over the batch: ``(r,)``."""
    if regions is None:
        return values.mean()[None]
    weights = regions.flatten(2).expand(len(values), -1, -1).to(values.dtype)
    sums = torch.einsum("brv,bv->r", weights, values.flatten(1))
    return sum_over_processes(sums) / (sum_over_processes(weights.sum((0, 2))) + 1e-16)


def _dice(
    probability: Tensor, onehot: Tensor, regions: Tensor | None, settings: LossSettings
) -> Tensor:
    """Mean soft Dice of each region: ``(r,)``."""
    if settings.variant == "nnunet" and not settings.overlapping:
        probability, onehot = probability[:, 1:], onehot[:, 1:]
    squared = settings.variant == "paper2d"
    intersection = _region_sums(probability * onehot, regions)
    denominator = _region_sums((probability.square() if squared else probability) + onehot, regions)
    pooled = settings.batch_dice if settings.variant == "nnunet" else squared
    if pooled:
        intersection = sum_over_processes(intersection.sum(0, True))
        denominator = sum_over_processes(denominator.sum(0, True))
    smooth = 1e-10 if squared else 1e-5
    dice = (2 * intersection + smooth) / (denominator + smooth).clamp_min(1e-8)
    return dice.mean((0, 2))


def _region_sums(values: Tensor, regions: Tensor | None) -> Tensor:
    """Sum of ``(b, k, *s)`` inside each region: ``(b, r, k)``."""
    flat = values.flatten(2)
    if regions is None:
        return flat.sum(-1)[:, None]
    weights = regions.flatten(2).expand(len(flat), -1, -1).to(flat.dtype)
    return torch.bmm(weights, flat.transpose(1, 2))
