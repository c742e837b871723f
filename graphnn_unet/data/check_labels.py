"""Label maps: integers, their values, and how many pieces each class has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import cc3d
import numpy as np

from graphnn_unet.data.check_files import fault, non_finite_faults
from graphnn_unet.errors import Fault
from graphnn_unet.images.read import NEARLY_INTEGER, nearest_integers

_COUNTABLE = 2**16
MAX_LABEL = 2**24 - 1
"""No atlas in use has larger label values, and tables of labels stay small."""


@dataclass(frozen=True)
class ClassMetadata:
    """One foreground class in one label map.

    Attributes:
        n_voxels: Voxels of the class.
        n_components: Connected components, 26-neighborhood.
        largest_share: Share of the class's voxels that lies in its largest component, 0 to 1.
    """

    n_voxels: int
    n_components: int
    largest_share: float


def integer_labels(
    array: np.ndarray, name: str, case: str
) -> tuple[np.ndarray | None, list[Fault]]:
    """The label map as integers, or ``None`` with the fault that says why not.

    Values within ``NEARLY_INTEGER`` of an integer are counted as that integer.
    """
    if faults := non_finite_faults(array, name, case, ("I12", "I12")):
        return None, faults
    integers = nearest_integers(array)
    if integers.n_wrong:
        cause = f"{name} has {integers.n_wrong} values that are no integers, such as "
        remedy = "A label map holds integers; export it again"
        return None, [fault(case, "I24", f"{cause}{integers.example:g}", remedy)]
    if (largest := largest_value(integers.values, array)) > MAX_LABEL:
        cause = f"{name} has the value {largest:g}, which is larger than any label"
        remedy = f"Give the structures numbers up to {MAX_LABEL}, or check that it is a label map"
        return None, [fault(case, "I23", cause, remedy)]
    if integers.n_rounded:
        within = f"(within {NEARLY_INTEGER})"
        cause = f"{name} has {integers.n_rounded} values just beside an integer {within}"
        remedy = "They would be cut, not rounded: gnnunet_convert writes them rounded"
        faults = [fault(case, "I25", cause, remedy)]
    return integers.values, faults


def largest_value(integers: np.ndarray, stored: np.ndarray) -> float:
    """Largest value of a label map; of floats as stored, since their integers may not hold it."""
    return float((stored if stored.dtype.kind == "f" else integers).max())


def voxels_of(counts: Mapping[int, int], unit: str = "voxels", shown: int = 10) -> str:
    """Values and how many voxels have them, for a sentence, the first ones where there are many."""
    listed = [f"{value} ({n} {unit})" for value, n in counts.items()]
    more = f" and {len(listed) - shown} more values" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


def count_values(values: np.ndarray) -> dict[int, int]:
    """Value to number of voxels, layer by layer so that no large copy is made."""
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high < _COUNTABLE:  # counting is many times faster than the sort of unique
        total = np.zeros(high + 1, np.int64)
        for layer in values:
            total += np.bincount(layer.ravel(), minlength=high + 1)
        return {int(value): int(total[value]) for value in np.flatnonzero(total)}
    counts: dict[int, int] = defaultdict(int)
    for layer in values:
        for value, n in zip(*np.unique(layer, return_counts=True), strict=True):
            counts[int(value)] += int(n)
    return dict(sorted(counts.items()))


def class_metadata(label: np.ndarray, counts: Mapping[int, int]) -> dict[int, ClassMetadata]:
    """Components of every foreground class.

    Args:
        label: ``(z, y, x)`` non-negative integers.
        counts: Value to number of voxels.
    """
    if not label.any():
        return {}
    small = np.uint8 if label.max() < 2**8 else np.uint32
    label = np.ascontiguousarray(label[bounding_box(label)]).astype(small)
    components, n_components = cc3d.connected_components(label, connectivity=26, return_N=True)
    value_of = np.zeros(n_components + 1, np.int64)
    sizes = np.zeros(n_components + 1, np.int64)
    for layer, label_layer in zip(components, label, strict=True):
        value_of[layer] = label_layer
        sizes += np.bincount(layer.ravel(), minlength=n_components + 1)
    components_of = {}
    for value in (v for v in counts if v > 0):
        of_class = sizes[1:][value_of[1:] == value]
        share = float(of_class.max() / of_class.sum())
        components_of[value] = ClassMetadata(counts[value], len(of_class), share)
    return components_of


def bounding_box(label: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around all voxels above 0; there must be one."""
    box = []
    for axis in range(label.ndim):
        others = tuple(other for other in range(label.ndim) if other != axis)
        hit = np.flatnonzero(label.any(axis=others))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)
