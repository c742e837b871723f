"""What the graph of scans needs to know about a scan."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

_PERCENTILES = (0.5, 99.5)


class Scan(Protocol):
    """A preprocessed case: at the plan's spacing, normalized, read when asked for."""

    @property
    def case_id(self) -> str:
        """Name of the case."""
        ...

    def image(self) -> Any:
        """Array ``(c, z, y, x)``."""
        ...

    def label(self) -> Any:
        """Array ``(1, z, y, x)``; fails for scans whose label the run may not see."""
        ...


def intensities(scan: Scan) -> np.ndarray:
    """First channel of a scan, ``(z, y, x)`` float32 between 0 and 1.

    Clipped to its 0.5 and 99.5 percentiles, so that single bright voxels do not decide.
    """
    return clipped(np.asarray(scan.image()[0], dtype=np.float32))


def clipped(image: np.ndarray) -> np.ndarray:
    """``(z, y, x)`` float32 between 0 and 1; see ``intensities``."""
    low, high = np.percentile(image, _PERCENTILES)
    if high <= low:
        return np.zeros_like(image)
    return (np.clip(image, low, high) - low) / np.float32(high - low)


def one_hot(scan: Scan, n_classes: int) -> np.ndarray:
    """Label map of a scan as ``(k, z, y, x)`` float32, background first.

    Voxels outside of the image content (-1) and ignored ones belong to no class: they cast no vote.
    """
    label = np.asarray(scan.label()[0])
    return (label == np.arange(n_classes).reshape(-1, 1, 1, 1)).astype(np.float32)
