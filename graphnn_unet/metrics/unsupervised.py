"""Score label maps of clusters, which have no names, against reference label maps.

Two ways: the foreground as one class, or clusters matched one to one to classes (Hungarian
method). The matching looks at the reference, in the evaluation alone; so does the choice of
polarity, which belongs to the published protocol and is marked there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]  # it has no type hints
from scipy.stats import contingency  # pyright: ignore[reportMissingTypeStubs]  # nor has this

from graphnn_unet.errors import (
    CasesFailedError,
    Fault,
    FaultsError,
    InputError,
    MissingFileError,
)
from graphnn_unet.images.find import VOLUMES, file_ending, image_files
from graphnn_unet.images.grid import grid_mismatch
from graphnn_unet.images.read import read_label_map
from graphnn_unet.images.volume import Volume
from graphnn_unet.metrics.earlier import require_no_other_evaluation
from graphnn_unet.metrics.evaluate import (
    STAGE,
    require_not_swapped,
    require_two_folders,
    under_case_ids,
)
from graphnn_unet.metrics.intervals import mean_intervals
from graphnn_unet.metrics.protocols import check_protocol, csv_columns
from graphnn_unet.progress import Progress
from graphnn_unet.storage.atomic import write_csv, write_json
from graphnn_unet.storage.failures import FAILURES, write_failures

_optimize: Any = optimize  # it has no type hints
_contingency: Any = contingency

Matching = Literal["foreground", "hungarian"]
MATCHINGS = ("foreground", "hungarian")
LABEL_MAPS = (*VOLUMES, ".png", ".tif", ".tiff", ".bmp")
"""Endings of label maps: pictures that lose nothing among them."""
SCHEMA_VERSION = 1
MAX_CLASSES = 64

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class UnsupervisedScore:
    """Figures of one class of one image.

    Attributes:
        case: Name of the image.
        class_name: ``foreground``, or the value of the class in the true label map.
        dice: Fraction; 1 where neither map has the class.
        jaccard: Fraction; the IoU.
        missed: The reference has it, the prediction lacks it (a missing prediction among them).
        invented: The prediction has it, the reference lacks it.
    """

    case: str
    class_name: str
    dice: float
    jaccard: float
    missed: bool
    invented: bool = False


@dataclass(frozen=True)
class UnsupervisedResult:
    """The result of an evaluation of clusters.

    Attributes:
        protocol: ``honest``, or ``published`` (foreground selected by the reference, an oracle).
        matching: ``foreground`` or ``hungarian``.
        scores: One an image and class.
        n_cases: Images with a true label map; all count.
        mean_iou: Mean over images of their mean over classes.
        mean_dice: The same of Dice.
        iou_interval: 95 % bootstrap interval over images.
        dice_interval: The same of Dice.
        faults: Images without a usable prediction; they count with 0.
        metrics_csv: Where the rows stand.
    """

    protocol: str
    matching: Matching
    scores: tuple[UnsupervisedScore, ...]
    n_cases: int
    mean_iou: float
    mean_dice: float
    iou_interval: tuple[float, float]
    dice_interval: tuple[float, float]
    faults: tuple[Fault, ...]
    metrics_csv: Path


class PartlyPredictedError(CasesFailedError):
    """Some images have no usable prediction; they count with 0 in ``result``."""

    def __init__(self, faults: Sequence[Fault], result: UnsupervisedResult):
        self.result = result
        super().__init__(faults, report=result.metrics_csv.with_name(FAILURES))


def evaluate_unsupervised(
    predictions: Path | str,
    labels: Path | str,
    output: Path | str | None = None,
    protocol: str = "honest",
    *,
    matching: Matching = "foreground",
    overwrite: bool = False,
) -> UnsupervisedResult:
    """Score label maps of clusters and write ``metrics.csv`` and ``summary.json``.

    Every true label map counts: an image without a usable prediction has IoU and Dice 0. Where
    neither map has a class both are 1. Means run over the classes of an image, then over images.

    Args:
        predictions: Folder of label maps: PNG, TIFF, BMP, NIfTI, MetaImage or NRRD.
        labels: Folder of true label maps of the same names; 0 is background.
        output: Folder for the results; the predictions' folder without it.
        protocol: ``honest``, or ``published``: the better of the foreground and its complement
            counts, as the published programs choose it by the reference. Always an oracle.
        matching: ``foreground``: everything but 0 on both sides. ``hungarian``: clusters matched to
            the classes of the reference, background among them, for the largest total overlap;
            unmatched clusters count as background.
        overwrite: Take the place of another evaluation.

    Raises:
        FaultsError: No image could be scored.
        PartlyPredictedError: Some have no usable prediction; ``error.result`` holds the figures.
        RefusedError: Both folders are the same or swapped, or the results would take the place of
            those of another evaluation.
        MissingFileError: A folder is missing or empty.
        InputError: The protocol or the matching is not known.
    """
    protocol = check_protocol(protocol)
    if matching not in MATCHINGS:
        raise InputError(f"matching {matching!r} is not known", f"use {' or '.join(MATCHINGS)}")
    if protocol == "published" and matching != "foreground":
        raise InputError(
            "the published protocol with clusters matched to classes",
            "its programs score the foreground",
            "Leave one of the two out",
        )
    predictions, labels = Path(predictions), Path(labels)
    target = predictions if output is None else Path(output)
    predicted, true = _by_case(predictions), _by_case(labels)
    require_two_folders(predictions, labels)
    require_not_swapped(predictions, labels)
    under_case_ids(predicted, true)
    options = {"kind": "unsupervised", "protocol": protocol, "matching": matching}
    require_no_other_evaluation(target, predictions, labels, options, overwrite)
    scores: list[UnsupervisedScore] = []
    faults: list[Fault] = []
    n_scored = 0
    with Progress(len(true), "evaluate", "image") as progress:
        for case, path in true.items():
            case_scores, fault = _score_case(case, predicted.get(case), path, protocol, matching)
            scores += case_scores
            faults += [fault] if fault else []
            n_scored += fault is None
            progress.update(case)
    if not n_scored:
        raise FaultsError(faults)
    result = _summarize(scores, len(true), protocol, matching, faults, target / "metrics.csv")
    _write(result, predictions, labels)
    if faults:
        raise PartlyPredictedError(faults, result)
    return result


def match_clusters(overlap: NDArray[Any]) -> dict[int, int]:
    """Clusters matched one to one to classes for the largest total overlap.

    Args:
        overlap: ``(cluster, class)`` counts of pixels.

    Returns:
        Class of each matched cluster; where there are more clusters than classes some are missing.

    Source: the method of Kuhn, https://doi.org/10.1002/nav.3800020109.

    Example:
        >>> match_clusters(np.array([[1, 9], [8, 2], [3, 3]]))
        {0: 1, 1: 0}
    """
    rows, columns = _optimize.linear_sum_assignment(-np.asarray(overlap, dtype=float))
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True)}


def overlap_counts(
    prediction: Labels, reference: Labels
) -> tuple[NDArray[Any], list[int], list[int]]:
    """Pixels of each cluster in each class, and the ids of clusters and classes.

    Args:
        prediction: Label map of any shape.
        reference: Same shape.

    Returns:
        ``(cluster, class)`` counts, ids of the clusters, ids of the classes.

    Example:
        >>> overlap_counts(np.array([0, 0, 7]), np.array([0, 5, 5]))
        (array([[1, 1],
               [0, 1]]), [0, 7], [0, 5])
    """
    table = _contingency.crosstab(prediction.ravel(), reference.ravel())
    clusters, classes = table.elements
    return table.count, clusters.tolist(), classes.tolist()


def foreground_scores(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], *, oracle: bool = False
) -> tuple[float, float]:
    """IoU and Dice of two masks; with ``oracle`` of the better of the mask and its complement.

    Args:
        prediction: Mask of any shape.
        reference: Same shape.
        oracle: Select the foreground by the reference.

    Example:
        >>> mask, reference = np.array([True, False, False]), np.array([False, True, True])
        >>> foreground_scores(mask, reference), foreground_scores(mask, reference, oracle=True)
        ((0.0, 0.0), (1.0, 1.0))
    """
    scores = _overlap(prediction, reference)
    return max(scores, _overlap(~prediction, reference)) if oracle else scores


def _overlap(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[float, float]:
    both = int(np.count_nonzero(prediction & reference))
    either = int(np.count_nonzero(prediction | reference))
    if either == 0:
        return 1.0, 1.0
    return both / either, 2 * both / (both + either)


def _score_case(
    case: str, predicted: Path | None, true: Path, protocol: str, matching: Matching
) -> tuple[list[UnsupervisedScore], Fault | None]:
    """Scores of one image; those of one without a usable prediction are 0."""
    reference_map = read_label_map(true)
    reference = reference_map.array.astype(np.int64)
    names = _class_names(reference, matching, case)
    try:
        if predicted is None:
            raise MissingFileError("there is no prediction")
        predicted_map = read_label_map(predicted)
        if why := _mismatch(predicted_map, predicted, reference_map, true):
            raise InputError(why)
        prediction = predicted_map.array.astype(np.int64)
    except (InputError, MissingFileError) as error:
        zero = [UnsupervisedScore(case, name, 0.0, 0.0, missed=True) for name in names]
        cause = f"{error.line.rstrip('.')} (it counts with 0)"
        return zero, Fault(case, STAGE, cause, "Cluster the image again")
    if matching == "foreground":
        mask = prediction > 0
        iou, dice = foreground_scores(mask, reference > 0, oracle=protocol == "published")
        has_it, true_has_it = bool(mask.any()), bool((reference > 0).any())
        missed, invented = true_has_it and not has_it, has_it and not true_has_it
        return [UnsupervisedScore(case, "foreground", dice, iou, missed, invented)], None
    counts, clusters, classes = overlap_counts(prediction, reference)
    matched = {clusters[row]: classes[column] for row, column in match_clusters(counts).items()}
    predicted_classes = np.zeros_like(reference)
    for cluster, value in matched.items():
        predicted_classes[prediction == cluster] = value
    scores: list[UnsupervisedScore] = []
    for name in names:
        mask, true_mask = predicted_classes == int(name), reference == int(name)
        iou, dice = _overlap(mask, true_mask)
        missed = bool(
            true_mask.any() and not mask.any()
        )  # classes of the reference: none is invented
        scores.append(UnsupervisedScore(case, name, dice, iou, missed))
    return scores, None


def _mismatch(prediction: Volume, path: Path, reference: Volume, true: Path) -> str:
    """Why two maps cannot be compared; of pictures, which lie nowhere, the size alone counts."""
    grid = prediction.grid
    if not (file_ending(path) and file_ending(true)):
        grid = replace(reference.grid, shape=grid.shape)
    return grid_mismatch("the prediction", grid, "the label map", reference.grid)


def _class_names(reference: Labels, matching: Matching, case: str) -> list[str]:
    if matching == "foreground":
        return ["foreground"]
    values = [int(value) for value in np.unique(reference) if value]
    if len(values) > MAX_CLASSES:
        raise InputError(
            f"the true label map of {case} has {len(values)} classes",
            f"more than {MAX_CLASSES} look like an image",
            "Give the folder with true label maps with -g",
        )
    return [str(value) for value in values] or ["0"]


def _by_case(folder: Path) -> dict[str, Path]:
    """Label maps of a folder, one at least, by the name without its ending."""
    listing = image_files(folder, LABEL_MAPS)
    listing.say_left_out()
    files = listing.one_per_case(STAGE)
    if not files:
        endings = ", ".join(LABEL_MAPS)
        raise MissingFileError(f"{folder} holds no label maps", f"looked for {endings}")
    return files


def _summarize(
    scores: Sequence[UnsupervisedScore],
    n_cases: int,
    protocol: str,
    matching: Matching,
    faults: Sequence[Fault],
    metrics_csv: Path,
) -> UnsupervisedResult:
    by_case: dict[str, list[UnsupervisedScore]] = {}
    for score in scores:
        by_case.setdefault(score.case, []).append(score)
    per_image = np.array(
        [
            [np.mean([s.jaccard for s in rows]), np.mean([s.dice for s in rows])]
            for rows in by_case.values()
        ],
        dtype=np.float64,
    )
    low, high = mean_intervals(per_image)
    iou, dice = map(float, per_image.mean(axis=0))
    return UnsupervisedResult(
        protocol=protocol,
        matching=matching,
        scores=tuple(scores),
        n_cases=n_cases,
        mean_iou=iou,
        mean_dice=dice,
        iou_interval=(float(low[0]), float(high[0])),
        dice_interval=(float(low[1]), float(high[1])),
        faults=tuple(faults),
        metrics_csv=metrics_csv,
    )


def _write(result: UnsupervisedResult, predictions: Path, labels: Path) -> None:
    rows = (
        {
            **dict.fromkeys(csv_columns(), ""),
            "case": s.case,
            "class": s.class_name,
            "dice": f"{s.dice:.6f}",
            "jaccard": f"{s.jaccard:.6f}",
            "missed": int(s.missed),
            "invented": int(s.invented),
            "protocol": result.protocol,
        }
        for s in result.scores
    )
    write_csv(result.metrics_csv, rows, csv_columns())
    write_failures(result.metrics_csv.with_name(FAILURES), result.faults, stage=STAGE)
    ends = [
        [*interval] if all(map(math.isfinite, interval)) else None
        for interval in (result.iou_interval, result.dice_interval)
    ]
    write_json(
        result.metrics_csv.with_name("summary.json"),
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "unsupervised",
            "protocol": result.protocol,
            "oracle": result.protocol == "published",
            "matching": result.matching,
            "matching_uses_truth": result.matching == "hungarian",
            "n_cases": result.n_cases,
            "failed_cases": sorted(fault.case for fault in result.faults),
            "mean_iou": {"value": result.mean_iou, "interval": ends[0]},
            "mean_dice": {"value": result.mean_dice, "interval": ends[1]},
            "inputs": {
                "predictions": str(predictions.absolute()),
                "labels": str(labels.absolute()),
            },
        },
    )
