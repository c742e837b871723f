"""Which scans stand for the others: k-medoids on the graph of scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def choose_medoids(
    similarity: NDArray[np.floating], candidates: Sequence[int], count: int, chosen: Sequence[int]
) -> list[int]:
    """Scans that, with those chosen already, leave no scan far from its nearest chosen one.

    With the distance ``d = 1 - similarity`` and the chosen scans C fixed, K minimizes

        sum_i  min_{m in C + K}  d(i, m)

    over ``count`` candidates: greedily at first, then by exchanging one of K with another candidate
    as long as the sum falls (BUILD and SWAP of partitioning around medoids).

    Args:
        similarity: ``(N, N)`` in [-1, 1].
        candidates: Scans among which is chosen.
        count: How many.
        chosen: Scans that are chosen already (the labeled ones).

    Returns:
        Scan numbers; the scan that is nearest to the most others comes first.

    Example:
        >>> alike = np.array([[1, 0.9, 0.8, 0], [0.9, 1, 0.8, 0], [0.8, 0.8, 1, 0], [0, 0, 0, 1]])
        >>> choose_medoids(alike, [0, 1, 2, 3], 2, [])
        [0, 3]
        >>> choose_medoids(alike, [1, 2, 3], 1, [0])
        [3]

    Source: Kaufman and Rousseeuw, Finding Groups in Data (1990), chapter 2.
    """
    distance = 1.0 - np.asarray(similarity, dtype=float)
    far = float(distance.max(initial=0.0)) + 1.0
    fixed = distance[:, list(chosen)].min(axis=1, initial=far)
    taken: list[int] = []
    for _ in range(min(count, len(candidates))):
        nearest = distance[:, taken].min(axis=1, initial=far)
        best = np.minimum(fixed, nearest)
        left = [c for c in candidates if c not in taken]
        costs = np.minimum(best[:, None], distance[:, left]).sum(axis=0)
        taken.append(left[int(costs.argmin())])
    while (better := _swapped(distance, fixed, taken, candidates, far)) is not None:
        taken = better
    sizes = _n_nearest(distance, taken, chosen)
    return sorted(taken, key=lambda scan: (-sizes[scan], scan))


def _swapped(
    distance: NDArray[np.floating],
    fixed: NDArray[np.floating],
    taken: list[int],
    candidates: Sequence[int],
    far: float,
) -> list[int] | None:
    """The medoids after the best exchange of one; ``None`` where none makes the sum smaller."""
    now = np.minimum(fixed, distance[:, taken].min(axis=1, initial=far)).sum()
    left = [c for c in candidates if c not in taken]
    best, result = now - 1e-9, None
    for place in range(len(taken)):
        others = taken[:place] + taken[place + 1 :]
        rest = np.minimum(fixed, distance[:, others].min(axis=1, initial=far))
        costs = np.minimum(rest[:, None], distance[:, left]).sum(axis=0)
        if len(left) and costs.min() < best:
            best, result = costs.min(), [*others, left[int(costs.argmin())]]
    return result


def _n_nearest(
    distance: NDArray[np.floating], taken: Sequence[int], chosen: Sequence[int]
) -> dict[int, int]:
    """How many scans each medoid is the nearest of all chosen ones to."""
    medoids = [*taken, *chosen]
    nearest = distance[:, medoids].argmin(axis=1) if medoids else np.array([], int)
    return {scan: int((nearest == place).sum()) for place, scan in enumerate(taken)}


def n_covered(
    similarity: NDArray[np.floating], taken: Sequence[int], chosen: Sequence[int]
) -> dict[int, int]:
    """How many scans, itself among them, each medoid is nearest to.

    Example:
        >>> alike = np.array([[1, 0.9, 0.8, 0], [0.9, 1, 0.8, 0], [0.8, 0.8, 1, 0], [0, 0, 0, 1]])
        >>> n_covered(alike, [0, 3], [])
        {0: 3, 3: 1}
    """
    return _n_nearest(1.0 - np.asarray(similarity, dtype=float), taken, chosen)
