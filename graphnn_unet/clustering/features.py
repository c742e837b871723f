"""One interface for all sources of features: an image in, nodes with features out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from scipy import ndimage

from graphnn_unet.clustering.border_features import border_features
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
        """What decides about the features, for the record."""
        ...

    def __call__(self, image: Image) -> NodeFeatures:
        """Nodes of the image without its frame."""
        ...


@dataclass(frozen=True)
class _CellFeatures:
    """Features of the cells of an image, which is reduced where it is larger than ``side`` pixels.

    Attributes:
        side: Longest side of the working image.
        cell: Edge of a cell in its pixels; without it ``picture_cell``, 4 in volumes.
    """

    side: int = 0
    cell: int | None = None
    name: ClassVar[str]
    picture_cell: ClassVar[int] = CELL
    compute: ClassVar[Callable[..., NodeFeatures]]

    @property
    def facts(self) -> dict[str, str]:
        return {"side": str(self.side), "cell": str(self.cell or "auto")}

    def __call__(self, image: Image) -> NodeFeatures:
        work = working_image(image, self.side)
        cell = self.cell or (self.picture_cell if work.ndim == 3 else CELL)
        return self.compute(work, Grid.of_cells(work.shape[1:], cell), is_color=image.is_color)


@dataclass(frozen=True)
class HandFeatures(_CellFeatures):
    """Color, gradients and texture, see :mod:`.hand_features`."""

    side: int = 224
    name = "hand-made color, gradient and texture"
    compute = staticmethod(hand_features)


@dataclass(frozen=True)
class BorderFeatures(_CellFeatures):
    """Distances to the border, see :mod:`.border_features`."""

    side: int = 192
    name = "hand-made distance to the border"
    picture_cell = 2
    compute = staticmethod(border_features)


def working_image(image: Image, side: int) -> np.ndarray:
    """The image without its frame, at most ``side`` pixels along its longest axis, aspect kept."""
    array = image.array[(slice(None), *image.inner)]
    scale = side / max(array.shape[1:])
    if scale >= 1:
        return array
    # half a pixel of the coarser grid: what is finer would alias
    smooth = ndimage.gaussian_filter(array, [0] + [0.4 / scale] * (array.ndim - 1))
    target = [max(round(n * scale), 2) for n in array.shape[1:]]
    factors = [1, *(t / n for t, n in zip(target, array.shape[1:], strict=True))]
    zoomed = ndimage.zoom(smooth, factors, order=1, grid_mode=True, mode="nearest")
    return zoomed.astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]  # scipy's inferred types are too wide
