"""nnU-Net's sliding window, one row of tiles after the other.

The sums, their order and their types are those of nnU-Net's predictor. Two things differ: a tile of
one value is predicted once, and logits are handed out as soon as no later tile adds to them, so
that no array of all classes over the whole volume has to exist. On request small tiles go through
the network in pairs: PyTorch takes a slow convolution for a single small image on a CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, cast

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from torch import Tensor, nn

from graphnn_unet.errors import InputError

_PAIR_VOXELS = 2**18
"""Voxels of a pair at most: larger tiles gain nothing. With a patch of 32 x 48 x 32 pairs were 1.56
times as fast as one by one on a CPU, four or eight in a batch 1.3 times."""
_SLICES = 8
"""Slices that are handed out together where the patch is a slice."""


class SlidingWindow:
    """Logits of whole images by one network, in rows along the first axis.

    Args:
        network: Its output is ``(b, k, *patch)``.
        patch_size: Two or three sizes; with two, each slice is predicted by itself.
        n_outputs: k.
        step_size: Step of the window as a share of the patch.
        mirror_axes: Axes of the patch along which copies are mirrored, in all combinations.
        device: Where the network runs.
        in_pairs: Small tiles and mirrored copies go through the network two by two: faster on a
            CPU, and logits differ in the last digits of a 32-bit number.
    """

    def __init__(
        self,
        network: nn.Module,
        patch_size: Sequence[int],
        n_outputs: int,
        *,
        step_size: float,
        mirror_axes: Sequence[int] | None,
        device: torch.device,
        in_pairs: bool = False,
    ):
        self.network, self.patch_size = network, tuple(int(n) for n in patch_size)
        self._n_outputs, self._step_size, self._device = n_outputs, step_size, device
        axes = [axis + 1 for axis in mirror_axes or ()]
        self._flips = [
            flip for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)
        ]
        fits = 2 * prod(self.patch_size) <= _PAIR_VOXELS
        self._n_together = 2 if in_pairs and fits else 1
        self._constant: dict[tuple[float, ...] | int, Tensor] = {}
        self._weights: Mapping[str, Any] | None = None

    @property
    def depth(self) -> int:
        """Rows of the volume that are worked on together."""
        return self.patch_size[0] if len(self.patch_size) == 3 else _SLICES

    def rows(self, data: Tensor, weights: Mapping[str, Any]) -> Iterator[tuple[int, Tensor]]:
        """Finished logits of an image, from its first row to its last.

        Args:
            data: ``(c, z, y, x)`` float32.
            weights: Of the network.

        Yields:
            First row, and logits ``(k, n, y, x)`` on the CPU. All but the first begin with the
            last row of those before. They are overwritten when the next are drawn.

        Raises:
            InputError: Logits are not finite.
        """
        padded, inside = cast(
            tuple[Tensor, tuple[slice, ...]],
            pad_nd_image(
                data, self.patch_size, "constant", {"value": 0}, True, None  # pyright: ignore[reportArgumentType]  # None is a value
            ),
        )  # fmt: skip
        starts = self._starts(padded.shape[1:])
        sums = self._sums(padded.shape[2:])
        begin, end = inside[1].start, inside[1].stop
        self._weights = None  # somebody else may have used the network
        for start, following in zip(starts[0], [*starts[0][1:], padded.shape[1]], strict=True):
            with torch.inference_mode():
                self._use(weights)
                self._add_row(padded, start, starts[1:], sums)
                finished = sums.finish(following - start)
            # rows of the padding are cut off; one more row stands before the finished ones
            first, last = max(begin, start - 1), min(end, following)
            if first < last and following > begin:
                part = finished[:, first - (start - 1) : last - (start - 1)]
                yield first - begin, part[:, :, inside[2], inside[3]]
            sums.drop(following - start)

    def _starts(self, shape: Sequence[int]) -> list[Sequence[int]]:
        flat = len(shape) - len(self.patch_size)
        steps = compute_steps_for_sliding_window(
            tuple(shape[flat:]), self.patch_size, self._step_size
        )
        return [range(0, shape[0], _SLICES), *steps] if flat else list(steps)

    def _sums(self, size: Sequence[int]) -> _Sums:
        try:
            return _Sums(self._n_outputs, self.depth, size, self._device)
        except torch.OutOfMemoryError:
            return _Sums(self._n_outputs, self.depth, size, torch.device("cpu"))

    def _use(self, weights: Mapping[str, Any]) -> None:
        if self._weights is not weights:
            self.network.load_state_dict(weights)
            self.network.to(self._device).eval()
            self._weights, self._constant = weights, {}

    def _add_row(
        self, padded: Tensor, start: int, starts: Sequence[Sequence[int]], sums: _Sums
    ) -> None:
        weight = compute_gaussian(
            self.patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=self._device
        )
        places = self._places(start, padded.shape[1], starts)
        n_tiles = max(1, self._n_together // len(self._flips))
        for first in range(0, len(places), n_tiles):
            group = places[first : first + n_tiles]
            tiles = [padded[:, z, y, x].reshape(-1, *self.patch_size) for z, y, x in group]
            for (z, y, x), logits in zip(group, self._predicted(tiles), strict=True):
                sums.add(logits * weight, weight, (slice(z.start - start, z.stop - start), y, x))

    def _places(
        self, start: int, n_rows: int, starts: Sequence[Sequence[int]]
    ) -> list[tuple[slice, ...]]:
        """Boxes of the tiles of a row, in nnU-Net's order."""
        size = self.patch_size if len(self.patch_size) == 3 else (1, *self.patch_size)
        firsts = [start] if size[0] > 1 else range(start, min(start + self.depth, n_rows))
        return [
            tuple(slice(s, s + n) for s, n in zip(corner, size, strict=True))
            for corner in itertools.product(firsts, *starts)
        ]

    def _predicted(self, tiles: Sequence[Tensor]) -> list[Tensor]:
        """Logits ``(k, *patch)`` of each tile ``(c, *patch)``, means over mirrored copies."""
        names = [_value_of(tile) or index for index, tile in enumerate(tiles)]
        waiting = {
            name: tile
            for name, tile in zip(names, tiles, strict=True)
            if name not in self._constant
        }
        logits = dict(zip(waiting, self._through_network([*waiting.values()]), strict=True))
        logits |= self._constant
        for name in names:
            if isinstance(name, tuple):  # the last one alone is kept
                self._constant = {name: logits[name]}
        return [logits[name] for name in names]

    def _through_network(self, tiles: Sequence[Tensor]) -> list[Tensor]:
        copies = [(index, flip) for index in range(len(tiles)) for flip in self._flips]
        sums: list[Tensor | None] = [None] * len(tiles)
        there = [tile.to(self._device) for tile in tiles]
        for begin in range(0, len(copies), self._n_together):
            group = copies[begin : begin + self._n_together]
            with _precision(self._device):
                images = [torch.flip(there[index], flip) for index, flip in group]
                outputs = self.network(torch.stack(images))
                for (index, flip), output in zip(group, outputs, strict=True):
                    turned, total = torch.flip(output, flip), sums[index]
                    sums[index] = turned if total is None else total.add_(turned)
        n_copies = len(self._flips)
        return [total / n_copies if n_copies > 1 else total for total in sums if total is not None]


class _Sums:
    """Weighted sums of logits in the rows that a tile covers, and the last row before them.

    nnU-Net sums in float16; the label maps are to be the same.
    """

    def __init__(self, n_outputs: int, depth: int, size: Sequence[int], device: torch.device):
        self._logits = torch.zeros((n_outputs, depth + 1, *size), dtype=torch.half, device=device)
        self._weights = torch.zeros((depth + 1, *size), dtype=torch.half, device=device)

    def add(self, logits: Tensor, weight: Tensor, place: Sequence[slice]) -> None:
        """Add the weighted logits of a tile at a place: rows counted from the first, y, x."""
        rows = slice(place[0].start + 1, place[0].stop + 1)  # behind the last one before them
        here, where = self._logits[:, rows, place[1], place[2]], self._weights.device
        here += logits.to(where).reshape(here.shape)
        self._weights[rows, place[1], place[2]] += weight.to(where)

    def finish(self, n: int) -> Tensor:
        """The row before and the first ``n`` rows, divided by their weights, on the CPU."""
        done = self._logits[:, 1 : n + 1]
        for logits in done:  # one class at a time, for small temporary arrays
            logits /= self._weights[1 : n + 1]
            if not torch.isfinite(logits).all():
                raise InputError("the network's output is not finite")
        return self._logits[:, : n + 1].cpu()

    def drop(self, n: int) -> None:
        """Move on by ``n`` rows."""
        for sums in (*self._logits, self._weights):
            kept = sums[n:].clone()
            sums[: len(kept)] = kept
            sums[len(kept) :] = 0


def _value_of(tile: Tensor) -> tuple[float, ...] | None:
    """The value of each channel, if each has one value."""
    lowest, highest = tile.flatten(1).aminmax(dim=1)
    return tuple(lowest.tolist()) if torch.equal(lowest, highest) else None


def _precision(device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()
