"""The ground truth: judged before the training, its classes read when everything is decided."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphnn_unet.classification.images import ImageSet
from graphnn_unet.classification.outputs import Predictions
from graphnn_unet.classification.table import (
    Finding,
    encode,
    groups_of,
    read_table,
    unknown_classes,
)
from graphnn_unet.errors import InputError
from graphnn_unet.images.find import some
from graphnn_unet.metrics.classification import ClassificationScore, score_classification
from graphnn_unet.progress import counted, say

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """A table of ground truth that can be used.

    Attributes:
        path: The table.
        without_image: Cases of it that have no image.
        not_read: Cases of it whose image could not be read.
        patients: Patient of each case by the table of labels.
        counted: Which images count, in words.
        left_out: ``(n,)`` images that do not count although their label was not given.
    """

    path: Path | str
    without_image: tuple[str, ...] = ()
    not_read: tuple[str, ...] = ()
    patients: Mapping[str, str] = field(default_factory=dict)
    counted: str = "images whose class was not given"
    left_out: Tensor | None = None

    def facts(self) -> dict[str, Any]:
        """What ``summary.json`` says of it."""
        return {
            "evaluated_on": self.counted,
            "truth_without_image": list(self.without_image),
            "truth_not_read": list(self.not_read),
        }


def check_truth(
    path: Path | str | None,
    findings: Sequence[Finding],
    images: ImageSet,
    given: Tensor,
    patients: Mapping[str, str] | None = None,
) -> GroundTruth | None:
    """Judge a ground truth before hours of training; no class of it is told apart.

    Args:
        path: The table, if there is one.
        findings: Those that it must have.
        images: All images.
        given: ``(n, f)`` labels that were given, negative where there was none.
        patients: Patient of each case by the table of labels.

    Raises:
        MissingFileError, FaultsError: There is no such table, or rows of it are wrong.
        InputError: It lacks a finding, or all cases that it names.
    """
    if path is None:
        return None
    table = read_table(path)
    is_filled = encode(table, findings, images.cases) >= 0
    if not bool((is_filled & (given < 0)).any()):
        raise _nothing_to_evaluate(path)
    known, unread = set(images.cases), {fault.case for fault in images.faults}
    others = [case for case, cells in table.rows.items() if any(cells) and case not in known]
    truth = GroundTruth(
        path,
        tuple(case for case in others if case not in unread),
        tuple(case for case in others if case in unread),
        patients or {},
    )
    for cases, why in ((truth.without_image, "no image"), (truth.not_read, "no readable image")):
        if cases:
            has = "has" if len(cases) == 1 else "have"
            does = "does" if len(cases) == 1 else "do"
            n_cases = counted(len(cases), "case")
            _log.warning(
                "%s of the truth %s %s and %s not count: %s", n_cases, has, why, does, some(cases)
            )
    return truth


def of_new_images(truth: GroundTruth, by_id: Tensor, in_graph: Tensor) -> GroundTruth:
    """The truth of images that are no nodes of the graph; a model knows the others.

    ``by_id`` ``(n,)`` says which have the name of a node, ``in_graph`` which have its features,
    and do not count; how many is told.
    """
    if n := int(in_graph.sum()):
        n_images = counted(len(in_graph), "image")
        _log.warning("%d of %s are in the graph of the model and do not count", n, n_images)
    if n := int((by_id & ~in_graph).sum()):
        has = "has the name" if n == 1 else "have names"
        _log.warning(
            "%s %s of images of the training, but other features: taken for new ones",
            counted(n, "image"),
            has,
        )
    return replace(
        truth, counted="images that are not in the graph of the model", left_out=in_graph
    )


def evaluate_predictions(
    predictions: Predictions,
    truth: Path | str | None,
    patients: Mapping[str, str] | None = None,
    left_out: Tensor | None = None,
) -> dict[str, ClassificationScore]:
    """Figures of each finding over the images whose label was not given.

    ``patients`` are those of the table of labels; what the truth says of a case goes before. Images
    of ``left_out`` ``(n,)`` do not count.

    Raises:
        InputError: No image has a truth.
    """
    if truth is None:
        return {}
    table = read_table(truth)
    targets = encode(table, predictions.findings, predictions.cases)
    for name in unknown_classes(table, predictions.findings):
        _log.warning("class %s has no labeled image: it is never predicted", name)
    table = replace(table, patients={**(patients or {}), **table.patients})
    patient = groups_of(table, predictions.cases).numpy()
    counts = torch.ones(len(patient), dtype=torch.bool) if left_out is None else ~left_out
    scores, without = {}, []
    pairs = zip(predictions.findings, predictions.parts(), strict=True)
    for number, (finding, probability) in enumerate(pairs):
        used = (targets[:, number] >= 0) & (predictions.given[:, number] < 0) & counts
        if not bool(used.any()):
            without.append(finding.name)
            continue
        scores[finding.name] = score_classification(
            targets[used, number].numpy(),
            predictions.predicted[used, number].numpy(),
            probability[used].numpy(),
            finding.classes,
            patient[used.numpy()],
        )
    if not scores and left_out is not None:
        say(f"no figures of {truth}: the model has learned from all images that it names")
    elif not scores:
        raise _nothing_to_evaluate(truth)
    for name in without:
        say(f"{name}: the truth names no image that counts")
    return scores


def _nothing_to_evaluate(truth: Path | str) -> InputError:
    return InputError(
        f"{truth} has no case to evaluate",
        "its cases were labeled or have no image",
        "Give the classes of unlabeled images",
    )
