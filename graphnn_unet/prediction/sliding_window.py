"""nnU-Net's sliding window, one row of tiles after the other.

The sums, their order and their types are those of nnU-Net's predictor. Three things differ: a tile
of one value is predicted once, logits are handed out as soon as no later tile adds to them, so that
no array of all classes over the whole volume has to exist, and on a GPU the rest of an image is
predicted in bfloat16 once a network has left the range of float16, where nnU-Net gives up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from torch import Tensor, nn

from graphnn_unet.errors import InputError
from graphnn_unet.networks.onednn import OneDnnConvolutions

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
    ):
        self.network, self.patch_size = network, tuple(int(n) for n in patch_size)
        self._n_outputs, self._step_size, self._device = n_outputs, step_size, device
        self._first_precision = torch.float16 if device.type == "cuda" else None
        self._precision = self._first_precision
        axes = [axis + 1 for axis in mirror_axes or ()]
        self._flips = [
            flip for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)
        ]
        self._constant: dict[tuple[float, ...], Tensor] = {}
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
        self._precision = self._first_precision
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
        for z, y, x in self._places(start, padded.shape[1], starts):
            logits = self._predicted(padded[:, z, y, x].reshape(-1, *self.patch_size))
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

    def _predicted(self, tile: Tensor) -> Tensor:
        """Logits ``(k, *patch)`` of a tile ``(c, *patch)``, the mean over mirrored copies."""
        value = _value_of(tile)
        if value is None:
            return self._through_network(tile)
        if value not in self._constant:  # the last one alone is kept
            self._constant = {value: self._through_network(tile)}
        return self._constant[value]

    def _through_network(self, tile: Tensor) -> Tensor:
        tile = tile.to(self._device)
        logits = self._mean_of_copies(tile)
        if self._precision is torch.float16 and not torch.isfinite(logits).all():
            self._precision = torch.bfloat16
            logits = self._mean_of_copies(tile)
        return logits

    def _mean_of_copies(self, tile: Tensor) -> Tensor:
        total = self._mirrored(tile, self._flips[0])
        for flip in self._flips[1:]:
            total += self._mirrored(tile, flip)
        return total / len(self._flips) if len(self._flips) > 1 else total

    def _mirrored(self, tile: Tensor, flip: tuple[int, ...]) -> Tensor:
        with self._computing():
            return torch.flip(self.network(torch.flip(tile, flip)[None])[0], flip)

    def _computing(self) -> AbstractContextManager[object]:
        if self._precision is None:
            return OneDnnConvolutions()
        return torch.autocast(self._device.type, dtype=self._precision)


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
