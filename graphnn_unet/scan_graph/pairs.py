"""Labeled scans in the shape of unlabeled ones: further images whose label maps are known.

A labeled image and its label map are carried part of the way along a link, so a few drawings are
seen in as many shapes as there are scans.

Paper:
    Data augmentation using learned transformations (Zhao et al. 2019): https://arxiv.org/abs/1902.09383
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from graphnn_unet.errors import InputError
from graphnn_unet.scan_graph.fields import Fields, Link, read_field
from graphnn_unet.scan_graph.registration import Displacement
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.scan_graph.vote import is_inside

_QUANTILES = np.linspace(0, 1, 129)
_SEARCH_STEPS = 8
OUTSIDE = -1
"""Label of voxels that no scan shows."""


@dataclass(frozen=True)
class WarpedPairs:
    """The links along which labeled scans are carried.

    Attributes:
        share: Share of the labeled patches that are carried ones.
        partners: Labeled case id to the unlabeled scans that it has a link to, with its file.
    """

    share: float
    partners: Mapping[str, Sequence[tuple[Scan, Path]]]
    _quantiles: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def draw(self, scan: Scan, generator: np.random.Generator) -> WarpedScan | None:
        """A partner and how far to go; ``None`` where this patch is to be an ordinary one."""
        partners = self.partners.get(scan.case_id, ())
        if generator.random() >= self.share or not partners:
            return None
        partner, path = partners[int(generator.integers(len(partners)))]
        part = float(generator.random())
        ends = self._quantiles_of(scan), self._quantiles_of(partner)
        return WarpedScan(scan, read_field(path), part, *ends)

    def _quantiles_of(self, scan: Scan) -> np.ndarray:
        if scan.case_id not in self._quantiles:
            image = np.asarray(scan.image()[:], dtype=np.float32)
            self._quantiles[scan.case_id] = np.quantile(
                image.reshape(len(image), -1), _QUANTILES, axis=1
            ).T
        return self._quantiles[scan.case_id]


@dataclass(frozen=True)
class WarpedScan:
    """A labeled scan part of the way to the shape of another one, with that one's intensities.

    Attributes:
        scan: The labeled scan.
        field: Where the other scan's voxels lie in it.
        part: Share of the way, 0 to 1.
        before: ``(c, q)`` quantiles of the intensities of the labeled scan.
        after: ``(c, q)`` those of the other one.
    """

    scan: Scan
    field: Displacement
    part: float
    before: np.ndarray
    after: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Size in voxels, z, y, x: that of the other scan."""
        return self.field.shape

    def voxel_of(self, place: Sequence[float]) -> np.ndarray:
        """The voxel ``(3,)`` that shows a place of the labeled scan, by fixed-point search."""
        voxel = np.asarray(place, dtype=np.float64)
        for _ in range(_SEARCH_STEPS):
            near = np.clip(np.rint(voxel), 0, np.asarray(self.shape) - 1).astype(int)
            at = self.field.places([slice(i, i + 1) for i in near], self.part)[:, 0, 0, 0]
            voxel = np.asarray(place) - (at - near)
        return np.clip(np.rint(voxel), 0, np.asarray(self.shape) - 1).astype(int)

    def cut(self, box: Sequence[slice]) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(c, z, y, x)`` float32 and label map ``(1, z, y, x)`` of a part.

        Voxels that the labeled scan does not show are 0 in the image and -1 in the label map.
        """
        image, label = self.scan.image(), self.scan.label()
        place = self.field.places(box, self.part)
        seen = is_inside(place, image.shape[1:])
        near = _box_around(place, image.shape[1:])
        local = place - np.array([axis.start for axis in near], np.float32).reshape(3, 1, 1, 1)
        carried = [
            matched(_values(channel, local, order=1), before, after)
            for channel, before, after in zip(
                np.asarray(image[(slice(None), *near)], dtype=np.float32), self.before, self.after,
                strict=True,
            )
        ]  # fmt: skip
        labels = _values(np.asarray(label[(0, *near)]), local, order=0)
        return (
            np.where(seen, np.stack(carried), 0).astype(np.float32),
            np.where(seen, labels, OUTSIDE)[None].astype(label.dtype),
        )


def matched(values: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Intensities with the distribution of another scan.

    Args:
        values: Any shape.
        before: ``(q,)`` quantiles of the scan that they are of.
        after: ``(q,)`` those of the other one.

    Returns:
        Same shape. A value that several quantiles share, as air that was cut off at one number,
        becomes the mean of theirs; the lowest and the highest value become the other scan's.

    Example:
        >>> air = np.array([0.0, 0.0, 0.0, 1.0])
        >>> matched(np.array([0.0, 0.5, 1.0]), air, np.array([0.0, 0.0, 1.0, 2.0]))
        array([0., 1., 2.])
    """
    levels, run = np.unique(before, return_inverse=True)
    means = np.bincount(run, weights=after) / np.bincount(run)
    if len(levels) > 1:
        means[0], means[-1] = after[0], after[-1]
    return np.interp(values, levels, means)


def make_pairs(
    fields: Fields,
    share: float,
    labeled: Sequence[Scan],
    unlabeled: Sequence[Scan],
    *,
    n_workers: int,
) -> WarpedPairs:
    """Make the links that are missing, and pair each labeled scan with all unlabeled ones.

    Raises:
        InputError: There is no unlabeled scan, or none that a link leads to.
    """
    links = [Link(scan, voter) for voter in labeled for scan in unlabeled]
    fields.ensure(links, n_workers=n_workers)
    partners: dict[str, list[tuple[Scan, Path]]] = {}
    for link in links:
        if fields.has(link):
            entry = (link.fixed, fields.path(link))
            partners.setdefault(link.moving.case_id, []).append(entry)
    if not partners:
        raise InputError(
            "scan_graph.pairs needs links to unlabeled scans",
            "there are none" if not unlabeled else "no scan could be registered",
            "Use --set scan_graph.pairs=0",
        )
    return WarpedPairs(share, partners)


def _box_around(place: np.ndarray, shape: Sequence[int]) -> list[slice]:
    """Voxels that linear interpolation at these places reads."""
    box = []
    for axis, length in zip(place, shape, strict=True):
        low = int(np.clip(np.floor(axis.min()), 0, length - 1))
        high = int(np.clip(np.ceil(axis.max()), 0, length - 1))
        box.append(slice(low, high + 1))
    return box


def _values(volume: np.ndarray, place: np.ndarray, order: int) -> np.ndarray:
    return ndimage.map_coordinates(volume, place, order=order, mode="nearest", prefilter=False)
