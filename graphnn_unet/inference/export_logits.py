"""From logits on the network's grid to a label map on the image's grid, in bounded memory.

nnU-Net resamples all classes at once, which takes several arrays of classes x image volume. The
arg max over classes needs only one class at a time: the best value and its class so far are kept,
so the peak is three volumes whatever the number of classes. The label map is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

BYTES_PER_VOXEL = 16
"""Peak of ``logits_to_labels`` without probabilities: resampled class (float32), best value
(float32), mask and label map, and the float64 copy that resampling makes, per image voxel."""


@dataclass(frozen=True)
class Labeled:
    """What an export gives, on the image's grid.

    Attributes:
        labels: ``(z, y, x)`` label ids.
        probabilities: ``(k, z, y, x)`` float32, or ``None``.
        entropy: ``(z, y, x)`` float32 in [0, 1] (1: all outputs equally likely), or ``None``.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None
    entropy: np.ndarray | None = None


def logits_to_labels(
    logits: Any,
    properties: dict[str, Any],
    plans: Any,
    configuration: Any,
    label_manager: Any,
    *,
    with_probabilities: bool = False,
    with_entropy: bool = False,
) -> Labeled:
    """Resample logits to the image's grid and make a label map of them.

    Args:
        logits: ``(k, z, y, x)`` tensor or array on the network's grid.
        properties: What preprocessing noted about the case.
        plans: nnU-Net's ``PlansManager``.
        configuration: Its configuration.
        label_manager: Its label manager.
        with_probabilities: Also return probabilities (takes k volumes).
        with_entropy: Also return the entropy of the outputs.
    """
    resampled = _resampled_classes(logits, properties, plans, configuration)
    shape = tuple(properties["shape_after_cropping_and_before_resampling"])
    if label_manager.has_regions:
        state: _State = _Overlapping(shape, label_manager.regions_class_order)
    else:
        state = _Exclusive(shape, with_entropy)
    kept = []
    for index, values in enumerate(resampled):
        state.add(index, values)
        if with_probabilities:
            kept.append(values)
    many = len(label_manager.foreground_labels) >= 255
    labels = _uncrop(state.labels.astype(np.uint16 if many else np.uint8), properties, plans)
    probabilities = None
    if with_probabilities:
        stacked = label_manager.apply_inference_nonlin(torch.from_numpy(np.stack(kept)))
        outside = 0.0 if label_manager.has_regions else 1.0
        probabilities = np.stack(
            [
                _uncrop(p, properties, plans, fill=outside if i == 0 else 0.0)
                for i, p in enumerate(stacked.numpy())
            ]
        )
    entropy = None
    if with_entropy:
        entropy = _uncrop(state.entropy(), properties, plans)
    return Labeled(labels, probabilities, entropy)


def _resampled_classes(
    logits: Any, properties: dict[str, Any], plans: Any, configuration: Any
) -> Iterator[np.ndarray]:
    """One class after the other on the grid of the cropped image, float32."""
    spacing = [properties["spacing"][i] for i in plans.transpose_forward]
    shape = properties["shape_after_cropping_and_before_resampling"]
    current = list(configuration.spacing)
    if len(current) < len(shape):
        current = [spacing[0], *current]
    for index in range(len(logits)):
        values = configuration.resampling_fn_probabilities(
            logits[index : index + 1], shape, current, spacing
        )
        values = values.numpy() if isinstance(values, torch.Tensor) else values
        yield values[0].astype(np.float32, copy=False)


class _State:
    """Takes classes one by one; holds the label map so far."""

    labels: np.ndarray

    def add(self, index: int, values: np.ndarray) -> None:
        """Take the logits of one output."""
        raise NotImplementedError

    def entropy(self) -> np.ndarray:
        """Normalised entropy of what was added."""
        raise NotImplementedError


class _Exclusive(_State):
    """Softmax outputs: running arg max, and running sums of exp(l) and l exp(l)."""

    def __init__(self, shape: Sequence[int], with_entropy: bool):
        self.labels = np.zeros(shape, dtype=np.uint16)
        self._best: np.ndarray | None = None
        self._sums = np.zeros((2, *shape), dtype=np.float32) if with_entropy else None
        self._n = 0

    def add(self, index: int, values: np.ndarray) -> None:
        self._n += 1
        if self._best is None:
            self._best = values.copy()
            if self._sums is not None:
                self._sums[0] = 1.0
            return
        # the first of equal values wins, as in arg max
        better = values > self._best
        if self._sums is not None:
            self._add_to_sums(values, better)
        self.labels[better] = index
        self._best[better] = values[better]

    def _add_to_sums(self, values: np.ndarray, better: np.ndarray) -> None:
        """Sums relative to the best value: sum exp(l - m) and sum (l - m) exp(l - m)."""
        shift = np.where(better, self._best - values, 0.0)
        scale = np.exp(shift)
        self._sums[1] = scale * (self._sums[1] + shift * self._sums[0])
        self._sums[0] *= scale
        gap = np.where(better, 0.0, values - self._best)
        weight = np.exp(gap)
        self._sums[0] += weight
        self._sums[1] += gap * weight

    def entropy(self) -> np.ndarray:
        total, weighted = self._sums
        return np.clip((np.log(total) - weighted / total) / np.log(max(2, self._n)), 0, 1)


class _Overlapping(_State):
    """Sigmoid outputs: later regions overwrite earlier ones, as in nnU-Net."""

    def __init__(self, shape: Sequence[int], order: Sequence[int]):
        self.labels = np.zeros(shape, dtype=np.uint16)
        self._order = order
        self._entropy = np.zeros(shape, dtype=np.float32)

    def add(self, index: int, values: np.ndarray) -> None:
        self.labels[values > 0] = self._order[index]
        p = 1 / (1 + np.exp(-np.clip(values, -30, 30)))
        bits = -(p * np.log2(p + 1e-12) + (1 - p) * np.log2(1 - p + 1e-12))
        self._entropy += np.clip(bits, 0, 1) / len(self._order)

    def entropy(self) -> np.ndarray:
        return self._entropy


def _uncrop(
    values: np.ndarray, properties: dict[str, Any], plans: Any, fill: float = 0.0
) -> np.ndarray:
    """Put the cropped volume back into the image and undo the transposition."""
    from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image

    whole = np.full(properties["shape_before_cropping"], fill, dtype=values.dtype)
    whole = insert_crop_into_image(whole, values, properties["bbox_used_for_cropping"])
    return np.ascontiguousarray(whole.transpose(plans.transpose_backward))
