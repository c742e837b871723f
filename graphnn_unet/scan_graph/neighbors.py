"""Which scans are alike: the links that are worth a registration.

Every scan is brought to one of them by an affine registration, so a data set of N scans costs N
cheap registrations and N^2 products of small images, not N^2 registrations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from graphnn_unet.errors import InputError
from graphnn_unet.scan_graph.registration import RegistrationSettings, align
from graphnn_unet.scan_graph.scan import Scan, intensities

_LONGEST = 32
"""Voxels of the longest axis of the small images that are compared."""


def similarity_of(
    scans: Sequence[Scan],
    spacing_mm: Sequence[float],
    settings: RegistrationSettings | None = None,
    reference: int = 0,
) -> np.ndarray:
    """Correlation of all pairs of scans after affine registration to one of them.

    Args:
        scans: N scans.
        spacing_mm: Voxel size, z, y, x.
        settings: How scans are registered.
        reference: The scan that the others are brought to.

    Returns:
        ``(N, N)`` in [-1, 1], symmetric, 1 on the diagonal. A scan that cannot be registered is
        -1 to all others.
    """
    target = intensities(scans[reference])
    factor = min(1.0, _LONGEST / max(target.shape))
    rows = []
    for number, scan in enumerate(scans):
        try:
            moved = intensities(scan)
            if number != reference:
                moved = align(target, moved, spacing_mm, settings)
            small = np.asarray(
                ndimage.zoom(ndimage.gaussian_filter(moved, 0.5 / factor), factor, order=1)
            )
            row = small.ravel() - small.mean()
            length = float(np.linalg.norm(row))
            rows.append(row / length if length > 0 else None)
        except InputError:
            rows.append(None)
    result = np.full((len(scans), len(scans)), -1.0)
    for i, first in enumerate(rows):
        for j, second in enumerate(rows):
            if first is not None and second is not None:
                result[i, j] = float(np.clip(first @ second, -1, 1))
    np.fill_diagonal(result, 1.0)
    return result


def choose_neighbors(similarity: np.ndarray, is_labeled: Sequence[bool], k: int) -> list[list[int]]:
    """The k scans that each scan is linked to.

    All labeled scans are among them where there are at most ``k``; the most alike unlabeled ones
    fill up. With more labeled scans than ``k`` the most alike labeled ones are taken.

    Args:
        similarity: ``(N, N)``.
        is_labeled: N flags.
        k: Neighbors of a scan.

    Returns:
        Scan numbers for each scan, most alike first; never the scan itself.

    Example:
        >>> similarity = np.array([[1, 0.5, 0.9], [0.5, 1, 0.2], [0.9, 0.2, 1]])
        >>> choose_neighbors(similarity, [True, True, False], k=1)
        [[1], [0], [0]]
    """
    flags = np.asarray(is_labeled, dtype=bool)
    neighbors = []
    for number in range(len(similarity)):
        order = [int(j) for j in np.argsort(-similarity[number], kind="stable") if j != number]
        labeled = [j for j in order if flags[j]][:k]
        others = [j for j in order if not flags[j]][: k - len(labeled)]
        neighbors.append(sorted([*labeled, *others], key=order.index))
    return neighbors
