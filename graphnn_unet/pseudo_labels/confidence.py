"""How good a network expects its own label map to be."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


def expected_dice(share: Tensor, labels: Tensor, always: Collection[int] = ()) -> float | None:
    """Dice of a label map with a truth that is drawn from the network's probabilities.

    ``2 Σ p / (Σ_all p + |map|)`` for each class, the first sum over its voxels in the map: the
    expectation of numerator and denominator, which for more than a few voxels is that of Dice.
    It ranks scans; as a figure it is too high, since networks are too sure of themselves.

    Args:
        share: Probabilities ``(k, z, y, x)`` of the classes, without the background.
        labels: ``(k, z, y, x)`` bool, the voxels of each class in the map.
        always: Indices of classes that every scan is known to show: not found, they count as 0.
            Others count where they were found.

    Returns:
        The mean over the classes that count; ``None`` where none does, since a map without any
        class may be right as well as blind.

    Examples:
        >>> share = torch.tensor([0.9, 0.8, 0.1]).reshape(1, 1, 1, 3)
        >>> round(expected_dice(share, share > 0.5), 3)
        0.895
        >>> expected_dice(share, share > 1), expected_dice(share, share > 1, always=[0])
        (None, 0.0)
    """
    values = []
    for index, (p, in_map) in enumerate(zip(share, labels, strict=True)):
        n_in_map = int(in_map.sum())
        if n_in_map or index in always:
            both = float(torch.where(in_map, p, 0).sum(dtype=torch.float64))
            total = float(p.sum(dtype=torch.float64)) + n_in_map
            values.append(2 * both / total if total else 0.0)
    return sum(values) / len(values) if values else None
