"""Scans that are unlike those of a model's training: spacing in another unit, a label map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphnn_unet.data.check_files import fault
from graphnn_unet.data.check_whole import MAX_RESAMPLED_VOXELS, UNUSUAL_SPACING_RATIO
from graphnn_unet.errors import Fault
from graphnn_unet.images.grid import numbers

MAX_LABEL_VALUES = 8
"""So few different values, all whole, has a label map; a scan has more."""
_LOOKED_AT_FIRST = 100_000


def unlike_training(
    case: str, data: np.ndarray, spacing: Sequence[float], plans: Mapping[str, Any]
) -> list[Fault]:
    """What keeps a scan from being one as the model was trained on, as far as a file shows it.

    Args:
        case: Case id.
        data: ``(c, z, y, x)`` as the file has it, in the orientation of the plan.
        spacing: mm, z y x.
        plans: The model's plan, with the median spacing of the training.
    """
    return [*_spacing_faults(case, data.shape[1:], spacing, plans), *_label_map_faults(case, data)]


def _spacing_faults(
    case: str, shape: Sequence[int], spacing: Sequence[float], plans: Mapping[str, Any]
) -> list[Fault]:
    transposed = plans.get("original_median_spacing_after_transp")
    axes = [axis for axis, size in enumerate(shape) if size > 1]  # one slice has no spacing
    if transposed is None or not axes:
        return []
    median = [float(transposed[axis]) for axis in plans["transpose_backward"]]
    ratio = np.asarray(spacing)[axes] / np.asarray(median)[axes]
    # the mean of all axes: thick slices beside thin ones are ordinary, a wrong unit is on each axis
    mean = math.exp(np.log(ratio).mean())
    if 1 / UNUSUAL_SPACING_RATIO <= mean <= UNUSUAL_SPACING_RATIO:
        return []
    cause = (
        f"its spacing is {numbers(spacing)} mm (z, y, x), the median of the model's training "
        f"{numbers(median)}"
    )
    n_voxels = math.prod(shape) * math.prod(ratio)
    if n_voxels > MAX_RESAMPLED_VOXELS:
        cause += f": it would have {n_voxels:.3g} voxels after resampling"
        return [fault(case, "I49", cause, "Correct the spacing in its header, which is in mm")]
    remedy = "Look whether the header is in mm: label map and volumes depend on it"
    return [fault(case, "I49" if mean > 1 else "I50", cause, remedy, "warning")]


def _label_map_faults(case: str, data: np.ndarray) -> list[Fault]:
    """A warning where no channel has more than a few whole values; one value is told elsewhere."""
    values: set[float] = set()
    for channel in data:
        of_channel = _few_whole_values(channel)
        if len(of_channel) < 2:
            return []
        values |= of_channel
    listed = ", ".join(f"{value:g}" for value in sorted(values))
    cause = f"its voxels have the values {listed} alone, as those of a label map"
    return [fault(case, "I55", cause, "Look whether it is the scan", "warning")]


def _few_whole_values(channel: np.ndarray) -> set[float]:
    """The values of a channel; none of one with many, or with some that are not whole."""
    flat, values = channel.reshape(-1), set[float]()
    # most scans are through after a look at some voxels
    for part in (flat[:: flat.size // _LOOKED_AT_FIRST + 1], *channel):
        values.update(np.unique(part).tolist())
        if len(values) > MAX_LABEL_VALUES or not all(value.is_integer() for value in values):
            return set()
    return values
