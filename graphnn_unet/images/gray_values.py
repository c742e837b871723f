"""Whether the integers of a map are the gray values of an image, not the ids of a label map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MANY_VALUES = 64
"""More are gray values where most neighbors differ; the areas of an atlas are of one value."""


def are_gray_values(integers: NDArray[Any], n_values: int) -> bool:
    """Whether a map has many values, and most voxels above 0 differ from their neighbor.

    Args:
        integers: The map.
        n_values: How many different ones it has.
    """
    if n_values <= _MANY_VALUES:
        return False
    inside = integers[..., 1:] > 0
    differs = inside & (integers[..., 1:] != integers[..., :-1])
    return 2 * int(np.count_nonzero(differs)) > int(np.count_nonzero(inside))
