"""From logits on the network's grid to a label map on the image's grid, in bounded memory.

nnU-Net resamples all classes at once, which takes several arrays of classes x image volume. A label
map alone is made block by block (``label_blocks``). Beside probabilities or entropy one class at a
time is resampled: the best value and its class so far are kept, so the peak does not grow with the
number of classes. The label map is the same. Probabilities are made in place, in the one array that
is returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

from graphnn_unet.prediction.label_blocks import BlockLabels

_BYTES_PER_IMAGE_VOXEL, _BYTES_PER_GRID_VOXEL = 20, 12
"""Peak of an export class by class beside the logits: running best, label map, and float64 copies
that resampling one class makes on both grids. Measured with 8 classes and factors 0.8 to 1.3: 15
and 8, rounded up for the allocator."""
_BYTES_OF_LABELS = 8
"""Label maps alone, an image voxel: of the cropped and of the whole image, two bytes each, and
as much again for the allocator."""
_BYTES_SEPARATE_AXIS = 96
"""The same for an image voxel where nnU-Net resamples the coarse axis apart: it holds the
coordinates of all voxels as 64-bit numbers (measured: 74 to 81)."""


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

    The label map is the same whatever else is asked for.

    Args:
        logits: ``(k, z, y, x)`` tensor or array on the network's grid.
        properties: What preprocessing noted about the case.
        plans: nnU-Net's ``PlansManager``.
        configuration: Its configuration.
        label_manager: Its label manager.
        with_probabilities: Also return probabilities (takes k volumes).
        with_entropy: Also return the entropy of the outputs.
    """
    if not (with_probabilities or with_entropy) and BlockLabels.can_resample(configuration):
        whole = [(0, torch.as_tensor(logits))]
        return rows_to_labels(
            whole, logits.shape[1:], properties, plans, configuration, label_manager
        )
    shape = tuple(properties["shape_after_cropping_and_before_resampling"])
    if label_manager.has_regions:
        state: _State = _Overlapping(shape, label_manager.regions_class_order, with_entropy)
    else:
        state = _Exclusive(shape, len(logits), with_entropy)
    probabilities = inside = None
    if with_probabilities:
        probabilities, inside = _canvas(properties, plans, np.float32, len(logits))
        if not label_manager.has_regions:
            probabilities[0] = 1  # outside of what was predicted is background
    for index in range(len(logits)):
        values = _resampled(logits[index : index + 1], properties, plans, configuration)
        if inside is not None:
            inside[index] = values
        state.add(index, values)
        del values  # two classes are never held at once
    if inside is not None:
        for z in range(inside.shape[1]):
            inside[:, z] = label_manager.apply_inference_nonlin(inside[:, z].copy()).numpy()
    labels = _on_canvas(state.labels, properties, plans, label_manager)
    entropy = None
    if with_entropy:
        entropy, inside = _canvas(properties, plans, np.float32)
        inside[:] = state.entropy()
    return Labeled(labels, probabilities, entropy)


def rows_to_labels(
    rows: Iterable[tuple[int, torch.Tensor]],
    grid_shape: Sequence[int],
    properties: dict[str, Any],
    plans: Any,
    configuration: Any,
    label_manager: Any,
) -> Labeled:
    """The label map of ``logits_to_labels`` from logits that come row by row.

    Args:
        rows: First row and logits ``(k, n, y, x)``, as ``BlockLabels.add`` takes them.
        grid_shape: Spatial size of all logits.
        properties: What preprocessing noted about the case.
        plans: nnU-Net's ``PlansManager``.
        configuration: Its configuration, with the resampling of ``BlockLabels.can_resample``.
        label_manager: Its label manager.
    """
    blocks = BlockLabels(
        grid_shape,
        properties["shape_after_cropping_and_before_resampling"],
        label_manager.num_segmentation_heads,
        _spacings(properties, plans, configuration),
        label_manager.regions_class_order if label_manager.has_regions else None,
    )
    for first, logits in rows:
        blocks.add(first, logits)
    return Labeled(_on_canvas(blocks.labels, properties, plans, label_manager))


def export_gb(
    properties: dict[str, Any],
    grid_shape: Sequence[int],
    plans: Any,
    configuration: Any,
    n_outputs: int,
    *,
    with_probabilities: bool = False,
    with_entropy: bool = False,
    n_rows: int | None = None,
) -> float:
    """Memory in GB that ``logits_to_labels`` takes, float16 logits included.

    Args:
        properties: What preprocessing noted about the case.
        grid_shape: Spatial size of the logits.
        plans: nnU-Net's ``PlansManager``.
        configuration: Its configuration.
        n_outputs: Number of logits a voxel.
        with_probabilities: As in ``logits_to_labels``.
        with_entropy: As in ``logits_to_labels``.
        n_rows: Rows of the grid whose logits are there at once, for ``rows_to_labels``.
    """
    image, grid = float(np.prod(properties["shape_before_cropping"])), float(np.prod(grid_shape))
    logits = 2 * n_outputs * grid * (1 if n_rows is None else min(1, n_rows / grid_shape[0]))
    if BlockLabels.can_resample(configuration) and not (with_probabilities or with_entropy):
        return (image * _BYTES_OF_LABELS + logits) / 2**30
    current, spacing = _spacings(properties, plans, configuration)
    target = properties["shape_after_cropping_and_before_resampling"]
    resampled = tuple(int(n) for n in grid_shape) != tuple(int(n) for n in target)
    apart = resampled and determine_do_sep_z_and_axis(None, current, spacing)[0]  # pyright: ignore[reportArgumentType]  # None is a value
    per_voxel = _BYTES_SEPARATE_AXIS if apart else _BYTES_PER_IMAGE_VOXEL
    per_voxel += 4 * n_outputs * with_probabilities + 12 * with_entropy
    return (image * per_voxel + grid * _BYTES_PER_GRID_VOXEL + logits) / 2**30


def _spacings(
    properties: dict[str, Any], plans: Any, configuration: Any
) -> tuple[list[float], list[float]]:
    """Spacing of the network's grid and of the image, in the network's order of axes."""
    spacing = [properties["spacing"][i] for i in plans.transpose_forward]
    current = list(configuration.spacing)
    if len(current) < len(spacing):  # 2d: slices keep their distance
        current = [spacing[0], *current]
    return current, spacing


def _resampled(
    logits: Any, properties: dict[str, Any], plans: Any, configuration: Any
) -> np.ndarray:
    """The logits ``(1, z, y, x)`` of one class on the grid of the cropped image, float32."""
    current, spacing = _spacings(properties, plans, configuration)
    shape = properties["shape_after_cropping_and_before_resampling"]
    values = configuration.resampling_fn_probabilities(logits, shape, current, spacing)
    values = values.numpy() if isinstance(values, torch.Tensor) else values
    return values[0].astype(np.float32)


class _State(ABC):
    """Takes classes one by one; holds the label map so far."""

    labels: np.ndarray

    @abstractmethod
    def add(self, index: int, values: np.ndarray) -> None:
        """Take the logits of one output."""

    @abstractmethod
    def entropy(self) -> np.ndarray:
        """Normalized entropy of what was added."""


class _Exclusive(_State):
    """Softmax outputs: running arg max, and running sums relative to the largest logit ``m``.

    With ``s = sum exp(l - m)`` and ``t = sum (l - m) exp(l - m)`` the entropy is ``log s - t / s``.
    """

    def __init__(self, shape: Sequence[int], n_outputs: int, with_entropy: bool):
        self.labels = np.zeros(shape, dtype=np.uint8 if n_outputs <= 256 else np.uint16)
        self._best = np.full(shape, -np.inf, dtype=np.float32)
        self._sums = np.zeros((2, *shape), dtype=np.float32) if with_entropy else None
        self._n_outputs = n_outputs

    def add(self, index: int, values: np.ndarray) -> None:
        for z in range(len(values)):  # temporary arrays of one slice
            best, value = self._best[z], values[z]
            if self._sums is not None:
                self._add_to_sums(self._sums[:, z], best, value)
            better = value > best  # the first of equal values wins, as in arg max
            self.labels[z][better] = index
            np.maximum(best, value, out=best)

    @staticmethod
    def _add_to_sums(sums: np.ndarray, best: np.ndarray, value: np.ndarray) -> None:
        largest = np.maximum(best, value)
        # before the first class nothing is summed, and -inf - largest would give NaN
        fall = np.where(np.isfinite(best), best - largest, 0)
        shrink, gap = np.exp(fall), value - largest
        weight = np.exp(gap)
        sums[1] = shrink * (sums[1] + fall * sums[0]) + gap * weight
        sums[0] = shrink * sums[0] + weight

    def entropy(self) -> np.ndarray:
        total, weighted = self._sums  # pyright: ignore[reportGeneralTypeIssues]  # asked for
        weighted /= total
        np.log(total, out=total)
        total -= weighted
        total /= np.log(max(2, self._n_outputs))
        return np.clip(total, 0, 1, out=total)


class _Overlapping(_State):
    """Sigmoid outputs: later regions overwrite earlier ones, as in nnU-Net."""

    def __init__(self, shape: Sequence[int], order: Sequence[int], with_entropy: bool):
        self.labels = np.zeros(shape, dtype=np.uint16)
        self._order = order
        self._entropy = np.zeros(shape, dtype=np.float32) if with_entropy else None

    def add(self, index: int, values: np.ndarray) -> None:
        for z in range(len(values)):
            # a sigmoid in float32 is 0.5 for tiny positive logits too; nnU-Net compares it
            p = torch.sigmoid(torch.from_numpy(values[z])).numpy()
            self.labels[z][p > 0.5] = self._order[index]
            if self._entropy is not None:
                q = np.clip(p, 1e-7, 1 - 1e-7)
                bits = -(q * np.log2(q) + (1 - q) * np.log2(1 - q))
                self._entropy[z] += bits / len(self._order)

    def entropy(self) -> np.ndarray:
        return np.clip(self._entropy, 0, 1, out=self._entropy)  # pyright: ignore[reportArgumentType, reportCallIssue]  # asked for


def _on_canvas(
    labels: np.ndarray, properties: dict[str, Any], plans: Any, label_manager: Any
) -> np.ndarray:
    """The label map of the cropped image on the image's grid."""
    many = len(label_manager.foreground_labels) >= 255
    whole, inside = _canvas(properties, plans, np.uint16 if many else np.uint8)
    inside[:] = labels
    return whole


def _canvas(
    properties: dict[str, Any], plans: Any, dtype: Any, *leading: int
) -> tuple[np.ndarray, np.ndarray]:
    """Zeros on the image's grid, and a view of the predicted part in the network's axes."""
    shape = properties["shape_before_cropping"]
    whole = np.zeros((*leading, *(shape[i] for i in plans.transpose_backward)), dtype=dtype)
    n = len(leading)
    transposed = whole.transpose(*range(n), *(n + i for i in plans.transpose_forward))
    box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    return whole, transposed[(slice(None),) * n + box]
