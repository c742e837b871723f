"""How well two drawings of one object agree: pictures that show the same thing twice.

Some pictures of a set were cut out or scanned twice and drawn twice, without a word in the set.
They are found by correlation. What their masks differ bounds every method that sees the picture
alone: 1 - IoU is a metric (Kosub, Pattern Recognition Letters 2019), so the mean distance of any
mask to both drawings is at least half of that between the drawings.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

COLUMNS = ("data", "case", "again", "down", "right", "correlation", "iou", "most")
SAME = 0.99
"""Correlation from which two pictures show one object; the next pairs of WBC have 0.984 (another
focus) and 0.982 (other cells)."""

_MAYBE, _OVERLAP, _FAINTEST = 0.97, 0.55, 3.0


class Pair(NamedTuple):
    """Two pictures, ``b[y, x]`` at ``a[y + down, x + right]``, and their correlation there."""

    a: str
    b: str
    down: int
    right: int
    correlation: float


def overlap(a: np.ndarray, b: np.ndarray, down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of both that show the same place."""
    top, left = max(0, down), max(0, right)
    bottom, end = min(len(a), len(b) + down), min(a.shape[1], b.shape[1] + right)
    return a[top:bottom, left:end], b[top - down : bottom - down, left - right : end - right]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two pictures of one size; -1 where one is as good as constant."""
    centered, other_centered = a - a.mean(), b - b.mean()
    spread = np.sqrt((centered**2).mean() * (other_centered**2).mean())
    return float((centered * other_centered).mean() / spread) if spread > _FAINTEST**2 else -1.0


def same_object(pictures: dict[str, np.ndarray]) -> Iterator[Pair]:
    """Pairs of gray pictures that are one but for a shift of up to half their size."""
    halves = {case: _halved(gray) for case, gray in pictures.items()}
    size = 1 << (2 * max(max(half.shape) for half in halves.values()) - 1).bit_length()
    ready = {case: _transforms(half, size) for case, half in halves.items()}
    for a, b in combinations(sorted(pictures), 2):
        least = _OVERLAP * min(halves[a].size, halves[b].size)
        value, down, right = _best_shift(ready[a], ready[b], size, least)
        if value > _MAYBE:
            shifted = [
                Pair(a, b, y, x, correlation(*overlap(pictures[a], pictures[b], y, x)))
                for y in range(2 * down - 2, 2 * down + 3)
                for x in range(2 * right - 2, 2 * right + 3)
            ]
            best = max(shifted, key=lambda pair: pair.correlation)
            if best.correlation >= SAME:
                yield best


def agreement_row(data: str, pair: Pair, masks: dict[str, np.ndarray]) -> dict[str, object]:
    """IoU of the two masks, and the most that one mask can have with both on average."""
    first_mask, second_mask = overlap(masks[pair.a], masks[pair.b], pair.down, pair.right)
    iou = float((first_mask & second_mask).sum() / (first_mask | second_mask).sum())
    values = (data, *pair[:4], f"{pair.correlation:.4f}", f"{iou:.4f}", f"{(1 + iou) / 2:.4f}")
    return dict(zip(COLUMNS, values, strict=True))


def _halved(gray: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    even = gray[: len(gray) // 2 * 2, : gray.shape[1] // 2 * 2]
    return even.reshape(len(even) // 2, 2, -1, 2).mean(axis=(1, 3))


def _transforms(gray: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """Of the picture, its square and its extent."""
    centered = gray - gray.mean()
    return tuple(
        np.fft.rfft2(np.pad(plane, [(0, size - n) for n in gray.shape]))
        for plane in (centered, centered**2, np.ones_like(gray))
    )


def _best_shift(
    a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], size: int, least: float
) -> tuple[float, int, int]:
    """The highest correlation over the shifts with enough overlap (Padfield, 2012, eq. 13)."""
    (pa, qa, ma), (pb, qb, mb) = a, tuple(np.conj(plane) for plane in b)

    def shifted(product: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(product, s=(size, size))

    exact = shifted(ma * mb)
    n = np.maximum(exact, 1)
    sum_a, sum_b = shifted(pa * mb), shifted(ma * pb)
    var_a = shifted(qa * mb) / n - (sum_a / n) ** 2
    var_b = shifted(ma * qb) / n - (sum_b / n) ** 2
    known = (exact > least) & (np.minimum(var_a, var_b) > _FAINTEST**2)
    spread = np.sqrt(np.maximum(var_a * var_b, 1e-12))
    value = np.where(known, (shifted(pa * pb) / n - sum_a * sum_b / n**2) / spread, -1.0)
    down, right = divmod(int(value.argmax()), size)
    wrap = size // 2
    return (float(value.max()), (down + wrap) % size - wrap, (right + wrap) % size - wrap)
