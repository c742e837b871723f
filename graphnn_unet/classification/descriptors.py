"""Hand-made descriptors of whole images: a second view of them, which no label has to teach.

From ten labels a network learns a poor similarity, and labels propagated over it repeat its errors.
Colors, edges and where they are do not depend on the labels, so they err elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from graphnn_unet.classification.images import ImageSet
from graphnn_unet.classification.settings import Augmentation
from graphnn_unet.progress import track

_BATCH = 64
_SCALES = (1.0, 2.0, 4.0)  # pixels
_N_LEVELS, _N_EDGE_LEVELS, _N_RINGS, _N_CELLS = 16, 12, 8, 4
_THUMBNAIL = {2: 16, 3: 8}
_LARGEST_SAMPLE = 2**22  # pixels that the bins are learned of: memory does not grow with the set
_LAB_RANGE = ((0.0, 100.0), (-60.0, 60.0), (-60.0, 60.0))  # stains and skin stay within
_VOLUME_RANGE = (-3.0, 3.0)  # deviations

_ANYWHERE = ("levels", "edges")
_TURNED, _UPRIGHT = ("rings", "shapes"), ("gradients", "thumbnail")
_PICTURES_ALONE = ("shapes", "gradients")


@dataclass(frozen=True)
class DescriptorExtractor:
    """Describes images, with what it learned of a set of them and without labels.

    The parts, each brought to unit variance a number and to unit length an image:

    * ``levels``: histogram of each channel; colors in CIELAB.
    * ``edges``: histograms of gradient magnitude and Laplacian of Gaussian at 1, 2 and 4 pixels.
    * ``rings``: mean and deviation of each channel in rings around the center, and ``shapes``
      (pictures alone): size, number and form of what lies beyond two Otsu thresholds of each
      channel. For images without an up and down, as cells under a microscope.
    * ``gradients``: histograms of oriented gradients in a 4 x 4 grid (pictures alone), and
      ``thumbnail``: the image in 16 x 16 pixels or 8 x 8 x 8 voxels. For upright images.

    Attributes:
        parts: Their names.
        bins: ``(2 * scales, bins - 1)`` borders of the histograms of ``edges``.
        mean, deviation: Of each number of each part; 1 for the deviation of a constant.

    Source: histograms of oriented gradients, Dalal and Triggs, CVPR 2005,
    https://doi.org/10.1109/CVPR.2005.177; moments of shapes, Hu, 1962,
    https://doi.org/10.1109/TIT.1962.1057692; thresholds, Otsu, 1979,
    https://doi.org/10.1109/TSMC.1979.4310076; all by scikit-image.
    """

    parts: Sequence[str]
    bins: Tensor
    mean: Sequence[Tensor] = ()
    deviation: Sequence[Tensor] = ()

    @classmethod
    def learn(
        cls, images: ImageSet, augmentation: Augmentation
    ) -> tuple[DescriptorExtractor, Tensor]:
        """Learn bins and scales of a set; returns the extractor and the rows of these images.

        ``any-orientation`` chooses parts that do not change when an image turns.
        """
        placed = _TURNED if augmentation == "any-orientation" else _UPRIGHT
        if images.n_dims == 3:
            placed = tuple(part for part in placed if part not in _PICTURES_ALONE)
        parts = (*_ANYWHERE, *placed)
        step = -(-images.pixels[:, 0].numel() // _LARGEST_SAMPLE)
        sample = _channels(images.pixels[::step])[:, 0]
        inner = np.linspace(0, 1, _N_EDGE_LEVELS + 1)[1:-1]
        bins = np.stack([np.quantile(response, inner) for response in _responses(sample)])
        raw = cls(parts, torch.from_numpy(bins))._raw(images.pixels)
        deviation = [part.std(axis=0) for part in raw]
        extractor = cls(
            parts,
            torch.from_numpy(bins),
            [torch.from_numpy(part.mean(axis=0)) for part in raw],
            [torch.from_numpy(np.where(value > 1e-9, value, 1.0)) for value in deviation],
        )
        return extractor, extractor._scaled(raw)

    def __call__(self, images: ImageSet) -> Tensor:
        """``(n, q)`` float32 of unit length, in which the parts weigh the same."""
        return self._scaled(self._raw(images.pixels))

    def _scaled(self, raw: list[NDArray[np.float64]]) -> Tensor:
        scaled = []
        for part, mean, deviation in zip(raw, self.mean, self.deviation, strict=True):
            row = (torch.from_numpy(part) - mean) / deviation
            scaled.append(torch.nn.functional.normalize(row, dim=1))
        return torch.nn.functional.normalize(torch.cat(scaled, dim=1), dim=1).float()

    def _raw(self, pixels: Tensor) -> list[NDArray[np.float64]]:
        describe = {**_PARTS, "edges": partial(_edges, bins=self.bins.numpy())}
        batches = pixels.split(_BATCH)
        rows = []
        for batch in track(batches, len(batches), "descriptors", "batch"):
            channels = _channels(batch)
            rows.append([describe[part](channels) for part in self.parts])
        return [np.concatenate(part) for part in zip(*rows, strict=True)]


def joined(feature: Tensor, description: Tensor | None, share: float) -> Tensor:
    """Rows whose cosine is ``(1 - share) cos(network) + share cos(descriptors)``.

    From unit rows ``(n, q)`` and ``(n, r)`` or ``None``; zero rows count as unlike everything.
    """
    if description is None or share == 0:
        return feature
    both = torch.cat([(1 - share) ** 0.5 * feature, share**0.5 * description], dim=1)
    return torch.nn.functional.normalize(both, dim=1)


def _channels(pixels: Tensor) -> NDArray[np.float64]:
    """``(n, c, ...)`` with values in [0, 1], the first channel the lightness."""
    values = pixels.numpy().astype(np.float64)
    if pixels.dim() == 5:
        ranges: tuple[tuple[float, float], ...] = (_VOLUME_RANGE,)
    elif pixels.shape[1] == 3:
        from skimage.color import rgb2lab

        values, ranges = rgb2lab(values / 255, channel_axis=1), _LAB_RANGE
    else:
        ranges = ((0.0, 255.0),)
    low, high = np.array(ranges).T.reshape(2, 1, -1, *[1] * (values.ndim - 2))
    return np.clip((values - low) / (high - low), 0, 1)


def _shares(level: NDArray[np.intp], n_levels: int) -> NDArray[np.float64]:
    """``(n, n_levels)`` roots of the shares of pixels at each level, so that rare ones count."""
    rows = level.reshape(len(level), -1)
    count = np.stack([np.bincount(row, minlength=n_levels) for row in rows])
    return np.sqrt(count / rows.shape[1])


def _levels(channels: NDArray[np.float64]) -> NDArray[np.float64]:
    level = np.minimum((channels * _N_LEVELS).astype(np.intp), _N_LEVELS - 1)
    return np.concatenate([_shares(channel, _N_LEVELS) for channel in level.swapaxes(0, 1)], axis=1)


def _edges(channels: NDArray[np.float64], bins: NDArray[np.float64]) -> NDArray[np.float64]:
    pairs = zip(_responses(channels[:, 0]), bins, strict=True)
    return np.concatenate([_shares(np.searchsorted(b, r), len(b) + 1) for r, b in pairs], axis=1)


def _responses(lightness: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Laplacian and gradient magnitude of each image ``(n, ...)`` at each scale."""
    n_dims = lightness.ndim - 1
    responses = []
    for scale in _SCALES:
        # a sigma for each axis, 0 for that of the images: scipy's gradient magnitude takes `axes`,
        # but differentiates along the others too
        sigma = [0.0, *[scale] * n_dims]
        slopes = [
            ndimage.gaussian_filter(lightness, sigma, order=[0, *unit])  # pyright: ignore[reportArgumentType]  # scipy's inferred types are too narrow
            for unit in np.eye(n_dims, dtype=int)
        ]
        bends = [
            ndimage.gaussian_filter(lightness, sigma, order=[0, *(2 * unit)])  # pyright: ignore[reportArgumentType]  # scipy's inferred types are too narrow
            for unit in np.eye(n_dims, dtype=int)
        ]
        responses += [sum(bends), np.sqrt(sum(slope**2 for slope in slopes))]
    return responses


def _rings(channels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean and deviation in rings of equal width; the corners are one more."""
    shape = channels.shape[2:]
    center = [(n - 1) / 2 for n in shape]
    grid = np.meshgrid(*(np.arange(n) - c for n, c in zip(shape, center, strict=True)))
    radius = np.sqrt(sum(axis**2 for axis in grid)) / (min(shape) / 2)
    ring = np.minimum((radius * _N_RINGS).astype(int), _N_RINGS).ravel()
    member = np.eye(_N_RINGS + 1)[ring]
    member = member[:, member.any(axis=0)]
    member /= member.sum(axis=0)
    flat = channels.reshape(*channels.shape[:2], -1)
    mean = flat @ member
    variance = np.maximum(flat**2 @ member - mean**2, 0)
    return np.concatenate([mean, np.sqrt(variance)], axis=2).reshape(len(flat), -1)


def _shapes(channels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(
        [
            np.concatenate([_shape(mask) for channel in image for mask in _masks(channel)])
            for image in channels
        ]
    )


def _masks(channel: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """What lies beyond each of two thresholds, on the side that is smaller."""
    from skimage.filters import threshold_multiotsu

    smooth = ndimage.gaussian_filter(channel, 1.0)
    try:
        thresholds = threshold_multiotsu(smooth, 3)
    except ValueError:  # fewer than three gray levels
        return [np.zeros(smooth.shape, dtype=bool)] * 2
    above = [smooth > threshold for threshold in thresholds]
    return [mask if mask.mean() <= 0.5 else ~mask for mask in above]


def _shape(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Twelve numbers that stay when the mask is turned or mirrored; zeros if it is empty."""
    from skimage.measure import label, moments_central, moments_hu, moments_normalized, regionprops

    regions = regionprops(label(mask))
    if not regions:
        return np.zeros(12)
    areas = np.array([region.area for region in regions])
    largest = regions[int(areas.argmax())]
    moments = moments_hu(moments_normalized(moments_central(mask.astype(float))))
    moments = moments[:6]  # the seventh changes its sign in the mirror
    return np.array(
        [
            mask.mean(),
            largest.area / mask.size,
            (areas > 0.1 * largest.area).sum(),
            largest.solidity,
            largest.eccentricity,
            largest.perimeter**2 / largest.area,
            *np.sign(moments) * np.log10(np.abs(moments) + 1e-12),
        ]
    )


def _gradients(channels: NDArray[np.float64]) -> NDArray[np.float64]:
    from skimage.feature import hog

    cell = [n // _N_CELLS for n in channels.shape[2:]]
    histogram = partial(hog, orientations=8, pixels_per_cell=cell, cells_per_block=(2, 2))
    return np.stack([histogram(image[0]) for image in channels])


def _thumbnail(channels: NDArray[np.float64]) -> NDArray[np.float64]:
    n_dims = channels.ndim - 2
    pool = torch.nn.functional.adaptive_avg_pool2d
    if n_dims == 3:
        pool = torch.nn.functional.adaptive_avg_pool3d
    return pool(torch.from_numpy(channels), _THUMBNAIL[n_dims]).flatten(1).numpy()


_PARTS = {
    "levels": _levels,
    "rings": _rings,
    "shapes": _shapes,
    "gradients": _gradients,
    "thumbnail": _thumbnail,
}
