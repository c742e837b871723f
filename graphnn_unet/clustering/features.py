"""One interface for all sources of features: an image in, nodes with features out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

from graphnn_unet.clustering.border_features import SOURCE as BORDER_SOURCE
from graphnn_unet.clustering.border_features import border_features
from graphnn_unet.clustering.hand_features import SOURCE as HAND_SOURCE
from graphnn_unet.clustering.hand_features import hand_features
from graphnn_unet.clustering.images import Image
from graphnn_unet.clustering.nodes import Grid, NodeFeatures

CELL = 4


class FeatureSource(Protocol):
    """Anything that gives the nodes of an image."""

    @property
    def name(self) -> str:
        """What the features are called in files."""
        ...

    @property
    def facts(self) -> dict[str, str]:
        """What decides the features, by name."""
        ...

    def __call__(self, image: Image) -> NodeFeatures:
        """Nodes of the image without its frame."""
        ...


@dataclass(frozen=True)
class _CellFeatures:
    side: int = 0
    cell: int | None = None

    @property
    def facts(self) -> dict[str, str]:
        """What decides about the features, for the record."""
        return {"side": str(self.side), "cell": str(self.cell or "auto")}


@dataclass(frozen=True)
class HandFeatures(_CellFeatures):
    """Hand-made features on cells of the image, reduced to ``side`` pixels where it is larger.

    Attributes:
        side: Longest side of the working image.
        cell: Edge of a cell in its pixels; 4 without it.
    """

    side: int = 224
    name: str = HAND_SOURCE

    def __call__(self, image: Image) -> NodeFeatures:
        """Nodes of the image without its frame."""
        work = working_image(image, self.side)
        grid = Grid.of_cells(work.shape[1:], self.cell or CELL)
        return hand_features(work, grid, is_color=image.is_color)


@dataclass(frozen=True)
class BorderFeatures(_CellFeatures):
    """Distances to the border on cells of the image, see :mod:`.border_features`.

    Attributes:
        side: Longest side of the working image.
        cell: Edge of a cell in its pixels; 2 without it, 4 in volumes.
    """

    side: int = 192
    name: str = BORDER_SOURCE

    def __call__(self, image: Image) -> NodeFeatures:
        """Nodes of the image without its frame."""
        work = working_image(image, self.side)
        grid = Grid.of_cells(work.shape[1:], self.cell or (2 if work.ndim == 3 else CELL))
        return border_features(work, grid, is_color=image.is_color)


def working_image(image: Image, side: int) -> np.ndarray:
    """The image without its frame, at most ``side`` pixels along its longest axis, aspect kept."""
    array = image.array[(slice(None), *image.inner)]
    scale = side / max(array.shape[1:])
    if scale >= 1:
        return array
    # half a pixel of the coarser grid: what is finer would alias
    smooth = ndimage.gaussian_filter(array, [0] + [0.4 / scale] * (array.ndim - 1))
    target = [max(round(n * scale), 2) for n in array.shape[1:]]
    zoomed = ndimage.zoom(
        smooth, [1, *(t / n for t, n in zip(target, array.shape[1:], strict=True))], order=1,
        grid_mode=True, mode="nearest",
    )  # fmt: skip
    return zoomed.astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]  # scipy's inferred types are too wide
