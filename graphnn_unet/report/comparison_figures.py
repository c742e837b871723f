"""Figures of a comparison of methods, from its scores."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graphnn_unet.benchmarking.tables import Key, Scores
from graphnn_unet.report.class_map import COLORS
from graphnn_unet.report.page import PLAIN_TEXT

_STEP = 0.06
"""Distance of two rows at one number of labels, as part of the distance of two numbers."""


@rc_context(PLAIN_TEXT)
def label_efficiency(scores: Scores, against: str) -> Figure:
    """Dice against the number of labeled cases, and the paired difference from one row.

    Args:
        scores: Scores with several numbers of labeled cases.
        against: Row that the others are compared with; without it the right half stays away.

    Returns:
        Left: means of each row, dots are draws. Right: differences in points on the draws, seeds
        and cases that both rows have, with 95 % intervals over draws and patients.

    Example:
        >>> scores = Scores.read(folder / "benchmark.csv", "development")  # doctest: +SKIP
        >>> label_efficiency(scores, "SupervisedTrainer").savefig("labels.png")  # doctest: +SKIP
    """
    others = [name for name in scores.names if name != against]
    compared = against in scores.names and bool(others)
    figure = Figure(figsize=(10 if compared else 6, 4.2), layout="constrained")
    left, *right = np.atleast_1d(figure.subplots(1, 1 + compared))
    place = {labeled: number for number, labeled in enumerate(scores.labeled)}
    for number, name in enumerate(scores.names):
        keys = _in_order(scores, name, place)
        across = [place[labeled] + _STEP * number for _, labeled in keys]
        color = COLORS[number % len(COLORS)]
        means = [100 * scores.mean(key) for key in keys]
        left.plot(across, means, marker="D", markersize=5, color=color, label=name)
        for at, key in zip(across, keys, strict=True):
            dots = _of_draws(scores.of(key))
            left.plot([at] * len(dots), dots, ".", color=color, alpha=0.6)
    left.set_ylabel("Dice (%); dots are draws")
    left.legend(frameon=False)
    for axes in right:
        _differences(axes, scores, against, place)
    for axes in (left, *right):
        axes.set_xticks(range(len(place)), list(place))
        axes.set_xlabel("labeled cases")
    return figure


@rc_context(PLAIN_TEXT)
def paired_differences(scores: Scores, labeled: str, against: str) -> Figure:
    """Differences from one row at one number of labels: each draw, the mean and its interval.

    Args:
        scores: Scores of several rows.
        labeled: Number of labeled cases, as in ``scores.labeled``.
        against: Row that the others are compared with.
    """
    keys = [key for key in scores.keys if key[1] == labeled and key[0] != against]
    figure = Figure(figsize=(7, 0.9 + 0.42 * len(keys)), layout="constrained")
    axes = figure.subplots()
    for number, key in enumerate(keys):
        difference = scores.difference(key, (against, labeled))
        color = COLORS[number % len(COLORS)]
        dots = _of_draws(np.subtract(*scores.paired(key, (against, labeled))))
        axes.plot(dots, np.full(len(dots), number + 0.16), "o", color=color, markersize=4)
        if not math.isnan(difference.low):
            axes.plot([100 * difference.low, 100 * difference.high], [number] * 2, color=color)
        axes.plot(100 * difference.mean, number, "D", color=color)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(keys)), [key[0] for key in keys])
    axes.set_ylim(len(keys) - 0.5, -0.5)
    axes.set_xlabel(f"Dice less {against} (points); dots are draws")
    return figure


def _differences(axes: Axes, scores: Scores, against: str, place: dict[str, int]) -> None:
    for number, name in enumerate(scores.names):
        if name == against:
            continue
        color = COLORS[number % len(COLORS)]
        for key in _in_order(scores, name, place):
            other = (against, key[1])
            if other not in scores.keys:
                continue
            at = place[key[1]] + _STEP * number
            difference = scores.difference(key, other)
            if not math.isnan(difference.low):
                ends = [100 * difference.low, 100 * difference.high]
                axes.plot([at] * 2, ends, color=color)
            dots = _of_draws(np.subtract(*scores.paired(key, other)))
            axes.plot([at + _STEP / 2] * len(dots), dots, ".", color=color, alpha=0.6)
            axes.plot(at, 100 * difference.mean, "D", markersize=5, color=color)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(f"less {against} (points), 95 % interval")


def _in_order(scores: Scores, name: str, place: dict[str, int]) -> list[Key]:
    """Keys of a row by number of labels, however the file has them."""
    keys = [key for key in scores.keys if key[0] == name]
    return sorted(keys, key=lambda key: place[key[1]])


def _of_draws(values: np.ndarray) -> list[float]:
    """Means of ``(draw, seed, case)`` in percent, of draws that have any."""
    values = values[np.isfinite(values).any((1, 2))]
    return [float(100 * np.nanmean(draw)) for draw in values]
