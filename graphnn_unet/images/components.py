"""Connected components of label maps."""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np


def keep_largest_components(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Keep the largest connected component of each of ``classes``, drop the rest of it.

    Args:
        labels: ``(z, y, x)`` or ``(y, x)`` unsigned integers, 0 = background. Not changed.
        classes: Label ids to clean; others stay as they are.

    Returns:
        Same shape and dtype. Equal sizes: the component that comes first in raster order stays. An
        absent class stays absent.
    """
    if not classes:
        return labels
    connectivity = 8 if labels.ndim == 2 else 26
    components, n_components = cc3d.connected_components(
        labels, connectivity=connectivity, return_N=True
    )
    if n_components == 0:
        return labels
    sizes = np.bincount(components.ravel(), minlength=n_components + 1)
    first = np.zeros(n_components + 1, dtype=labels.dtype)
    # every voxel of a component has its class; writing backwards leaves the first voxel's
    flat = components.ravel()
    first[flat[::-1]] = labels.ravel()[::-1]
    keep = np.ones(n_components + 1, dtype=bool)
    for label in classes:
        members = np.flatnonzero(first[1:] == label) + 1
        if len(members) > 1:
            keep[members] = False
            largest = members[sizes[members] == sizes[members].max()]
            keep[largest[0] if len(largest) == 1 else _first_in_raster(flat, largest)] = True
    return np.where(keep[components], labels, 0).astype(labels.dtype, copy=False)


def _first_in_raster(flat: np.ndarray, candidates: np.ndarray) -> int:
    return int(flat[np.argmax(np.isin(flat, candidates))])
