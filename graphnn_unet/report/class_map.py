"""A classification as two pictures: the graph as a map colored by class, and the confusion matrix.

The map is for looking, not for measuring: linked images attract each other, all others repel, from
the two main directions of the features on. Near means alike; distances between groups say little.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from graphnn_unet.classification.outputs import CONFUSION, MAP, picture_name
from graphnn_unet.errors import ShapeError
from graphnn_unet.graph import nearest_neighbors
from graphnn_unet.metrics.classification import ClassificationScore
from graphnn_unet.report.page import PLAIN_TEXT
from graphnn_unet.storage.atomic import atomic_path

if TYPE_CHECKING:
    from graphnn_unet.classification.run import ClassificationResult

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#7F7F7F")
"""One a class, in order and then again; told apart with color blindness too (Okabe and Ito)."""

MAX_NODES = 20_000
"""More are thinned evenly: the picture would be one patch of color."""

_LINKS_SHOWN, _ROUNDS, _REPELLED = 5, 200, 5
_DPI = 150
_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def layout(feature: Floats, neighbor: Ints, *, rounds: int = _ROUNDS) -> Floats:
    """Places of nodes ``(n, 2)``, centered, deviation 1; the same for the same input."""
    n = len(feature)
    centered = feature - feature.mean(axis=0)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    axes = vectors[:, ::-1][:, :2]
    # the sign of an eigenvector is free: its largest entry points up
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    rng = np.random.default_rng(0)
    place = np.zeros((n, 2))
    place[:, : axes.shape[1]] = centered @ axes
    place = 10 * _standardized(place) + rng.normal(0, 1e-3, (n, 2))
    for step in range(rounds):
        pull = np.zeros_like(place)
        for links in neighbor.T:
            difference = place[links] - place
            near = difference / (1 + (difference**2).sum(axis=1, keepdims=True))
            pull += near
            np.add.at(pull, links, -near)
        push = np.zeros_like(place)
        for _ in range(_REPELLED):
            other = rng.permutation(n)
            difference = place - place[other]
            square = (difference**2).sum(axis=1, keepdims=True)
            push += difference / ((0.01 + square) * (1 + square))
        move = pull / max(1, neighbor.shape[1]) + 4 * push / _REPELLED
        place = place + np.clip(move, -4, 4) * (1 - step / rounds)
    return _standardized(place)


@rc_context(PLAIN_TEXT)
def draw_map(
    target: Path,
    feature: Floats,
    predicted: Ints,
    certainty: Floats,
    given: Ints,
    names: Sequence[str],
    *,
    title: str = "",
) -> Path:
    """Draw the graph: a dot an image in the color of its class, paler where it is uncertain.

    Images whose class was given (negative: not) get a black ring.

    Raises:
        ShapeError: The arrays are not of one length.
    """
    if not len(feature) == len(predicted) == len(certainty) == len(given):
        raise ShapeError("features, classes and certainties are not of the same images")
    step = -(-len(feature) // MAX_NODES)
    feature, predicted = feature[::step].astype(np.float64), predicted[::step]
    certainty, given = certainty[::step], given[::step]
    neighbor = nearest_neighbors(torch.from_numpy(feature), _LINKS_SHOWN).index.long().numpy()
    place = layout(feature, neighbor)
    figure = Figure(figsize=(8, 8))
    axes = figure.add_axes((0.02, 0.10, 0.96, 0.84))
    size = float(np.clip(6000 / len(place), 3, 40))
    source = place.repeat(neighbor.shape[1], axis=0)
    lines = np.stack([source, place[neighbor.ravel()], np.full_like(source, np.nan)], axis=1)
    axes.plot(*lines.reshape(-1, 2).T, color="#00000018", lw=0.5, zorder=1)
    color = np.array(COLORS)[predicted % len(COLORS)]
    for labeled in (False, True):
        dots = (predicted >= 0) & ((given >= 0) == labeled)
        if dots.any():
            axes.scatter(
                *place[dots].T,
                s=size * (2 if labeled else 1),
                c=color[dots],
                alpha=0.3 + 0.7 * certainty[dots],  # pyright: ignore[reportArgumentType]  # matplotlib takes an array, too
                linewidths=1.2 if labeled else 0,
                edgecolors="black",
            )
    axes.set_axis_off()
    axes.set_title(title)
    shown = [
        Line2D([], [], ls="", marker="o", color=color, label=name)
        for name, color in zip(names, cycle(COLORS), strict=False)
    ]
    shown.append(Line2D([], [], ls="", marker="o", mfc="white", mec="black", label="given"))
    figure.legend(handles=shown, loc="lower center", ncol=min(5, len(shown)), frameon=False)
    return _save(figure, target)


@rc_context(PLAIN_TEXT)
def draw_confusion(target: Path, score: ClassificationScore) -> Path:
    """Draw the confusion matrix: rows are the ground truth, colors shares of rows."""
    names = [class_score.name for class_score in score.classes]
    counts = score.confusion
    columns = [*names, "none"] if counts[:, -1].any() else names
    counts = counts[:, : len(columns)]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    edge = 1.6 + 0.9 * len(columns)
    figure = Figure(figsize=(edge + 1, edge))
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("ground truth")
    axes.set_title(f"accuracy {score.accuracy:.3f} on {score.n} images")
    figure.tight_layout()
    return _save(figure, target)


def draw_classification(result: ClassificationResult) -> list[Path]:
    """Map and, with a ground truth, confusion matrix of every finding, beside the tables.

    ``map.png`` and ``confusion.png``; with several findings ``map_FINDING.png`` and so on. Fewer
    than two images make no map. A picture that fails is told and left out: the results are there.
    """
    predictions, pictures = result.predictions, []
    names = [finding.name for finding in predictions.findings]
    for number, finding in enumerate(predictions.findings):
        if len(predictions.cases) > 1:
            draw = partial(
                draw_map,
                feature=result.feature.numpy(),
                predicted=predictions.predicted[:, number].numpy(),
                certainty=predictions.certainty[:, number].numpy(),
                given=predictions.given[:, number].numpy(),
                names=finding.classes,
                title=f"{finding.name}, {len(predictions.cases)} images",
            )
            pictures += _drawn(draw, result.output / picture_name(MAP, finding.name, names))
        if finding.name in result.scores:
            draw = partial(draw_confusion, score=result.scores[finding.name])
            pictures += _drawn(draw, result.output / picture_name(CONFUSION, finding.name, names))
    return pictures


def _drawn(draw: Callable[[Path], Path], target: Path) -> list[Path]:
    """The picture, or none and a line that says why."""
    try:
        return [draw(target)]
    except Exception as error:  # noqa: BLE001  # no picture is worth the results
        _log.warning("%s was not drawn: %s", target.name, error)
        _log.debug("%s", target, exc_info=True)
        return []


def _standardized(place: Floats) -> Floats:
    centered = place - place.mean(axis=0)
    return centered / max(float(centered.std()), 1e-12)


def _save(figure: Figure, target: Path) -> Path:
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    return target
