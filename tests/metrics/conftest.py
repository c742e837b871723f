from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

WriteMap = Callable[..., Path]


@pytest.fixture
def write_map() -> WriteMap:
    """Write an array ``(z, y, x)`` with spacing in the same order."""

    def write(path: Path, array: np.ndarray, spacing=(3.0, 1.0, 0.5), **geometry) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(step) for step in spacing[::-1]])
        if "origin" in geometry:
            image.SetOrigin(geometry["origin"])
        if "direction" in geometry:
            image.SetDirection(geometry["direction"])
        sitk.WriteImage(image, str(path))
        return path

    return write
