"""What a classification writes: ``predictions.csv``, ``summary.json``, ``rounds.csv``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphnn_unet._version import __version__
from graphnn_unet.classification.label_propagation import normalized, to_predictions
from graphnn_unet.classification.stored import CHECKPOINT, MODEL
from graphnn_unet.classification.table import Finding
from graphnn_unet.errors import Fault, GraphnnError, RefusedError
from graphnn_unet.metrics.aggregate import finite_mean, finite_or_none
from graphnn_unet.metrics.classification import ClassificationScore
from graphnn_unet.storage.atomic import write_csv, write_json
from graphnn_unet.storage.failures import FAILURES, write_failures
from graphnn_unet.storage.safe_load import read_table

PREDICTIONS, SUMMARY, ROUNDS = "predictions.csv", "summary.json", "rounds.csv"
MAP, CONFUSION = "map", "confusion"
"""Kinds of pictures that the report draws beside them."""
_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_FILES = (PREDICTIONS, SUMMARY, ROUNDS, FAILURES, MODEL, CHECKPOINT)
_COLUMNS = ("case", "predicted", "probability", "certainty", "neighbours")
"""Columns of the predictions before those of the classes; British in all files that exist."""
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Predictions:
    """Decisions on all images.

    Attributes:
        predicted: ``(n, f)`` class numbers; a given label is kept.
        probability: ``(n, k)``, the columns of a finding sum to 1.
        certainty: ``(n, f)`` in [0, 1]; 1 for given labels, 0 where no label reaches the image.
        given: ``(n, f)`` labels that were given, negative where there was none.
        by_network: ``(n, f)`` whether no label reached the image, so that the network decided.
        neighbors: Ids and cosines of the nearest labeled images.
    """

    cases: tuple[str, ...]
    findings: tuple[Finding, ...]
    predicted: Tensor
    probability: Tensor
    certainty: Tensor
    given: Tensor
    by_network: Tensor
    neighbors: Sequence[Sequence[tuple[str, float]]]

    def parts(self) -> list[Tensor]:
        """Probabilities of each finding."""
        sizes = [len(finding.classes) for finding in self.findings]
        return list(self.probability.split(sizes, dim=1))


def predictions_of(
    cases: Sequence[str],
    findings: Sequence[Finding],
    score: Tensor,
    logits: Tensor,
    given: Tensor,
    neighbors: Sequence[Sequence[tuple[str, float]]],
) -> Predictions:
    """Decisions; where no label reaches an image, those of the network, with certainty 0.

    ``score`` holds diffused labels, whose rows of a finding sum to 1, or to 0 out of reach.
    """
    sizes = [len(finding.classes) for finding in findings]
    parts, by_network = [], []
    pairs = zip(score.split(sizes, 1), logits.double().split(sizes, 1), strict=True)
    for part, part_logits in pairs:
        off_graph = part.sum(dim=1, keepdim=True) <= 0
        parts.append(torch.where(off_graph, part_logits.softmax(dim=1), part))
        by_network.append(off_graph)
    decided = to_predictions(normalized(torch.cat(parts, dim=1), sizes), given, sizes, {})
    off_graph = torch.cat(by_network, dim=1) & (given < 0)
    return Predictions(
        cases=tuple(cases),
        findings=tuple(findings),
        predicted=decided.predicted,
        probability=decided.score,
        certainty=torch.where(off_graph, 0.0, decided.certainty),
        given=given,
        by_network=off_graph,
        neighbors=neighbors,
    )


def picture_name(kind: str, finding: str, findings: Sequence[str]) -> str:
    """File name of a picture of the results, with the finding where there are several.

    Example:
        >>> picture_name("map", "edema", ["edema", "mass / nodule"])
        'map_edema.png'
    """
    end = "" if len(findings) == 1 else f"_{_NO_FILE_NAME.sub('_', finding)[:80]}"
    return f"{kind}{end}.png"


def refuse_results(output: Path) -> None:
    """Raise ``RefusedError`` for a folder with results."""
    present = [name for name in _FILES if (output / name).exists()]
    if present:
        raise RefusedError(
            f"{output} has results already",
            f"for example {present[0]}",
            "Go on with --c, replace them with --overwrite, or choose another folder",
        )


def clear_results(output: Path) -> None:
    """Delete the results of a folder and the pictures of them, if there are any.

    ``predictions.csv`` goes first: where it is, everything is there.
    """
    pictures = _pictures(output)
    for name in (*_FILES, *pictures):
        (output / name).unlink(missing_ok=True)


def _pictures(output: Path) -> list[str]:
    """Names of what the report drew of the results in a folder; no other picture is ours."""
    try:
        findings = [*read_table(output / SUMMARY)["findings"]]
    except (GraphnnError, KeyError, TypeError):
        return []
    return [picture_name(kind, name, findings) for kind in (MAP, CONFUSION) for name in findings]


def write_results(
    output: Path,
    predictions: Predictions,
    scores: Mapping[str, ClassificationScore],
    faults: Sequence[Fault],
    facts: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write all tables; ``predictions.csv`` last, so that it means that everything is there.

    ``log`` holds a record an epoch; the others are those of :func:`write_summary`.
    """
    write_summary(output, predictions, scores, faults, facts)
    if log:
        columns = list(dict.fromkeys(key for record in log for key in record))
        write_csv(output / ROUNDS, log, columns)
    write_failures(output / FAILURES, faults)
    rows = prediction_rows(predictions)
    write_csv(output / PREDICTIONS, rows, list(rows[0]))


def write_summary(
    output: Path,
    predictions: Predictions,
    scores: Mapping[str, ClassificationScore],
    faults: Sequence[Fault],
    facts: Mapping[str, Any],
) -> None:
    """Write ``summary.json``; ``facts`` say in it how the predictions came about."""
    off_graph = predictions.by_network.any(dim=1).nonzero().flatten().tolist()
    summary = {
        "schema_version": _SCHEMA_VERSION,
        "version": __version__,
        "n_images": len(predictions.cases),
        "n_labeled": int((predictions.given >= 0).any(dim=1).sum()),
        "findings": {finding.name: list(finding.classes) for finding in predictions.findings},
        "decided_by_network": [predictions.cases[row] for row in off_graph],
        "evaluated_on": None,
        "scores": {name: score.as_dict() for name, score in scores.items()},
        "macro_auc": finite_or_none(finite_mean(score.auc for score in scores.values())),
        "faults": [asdict(fault) for fault in faults],
        **facts,
    }
    write_json(output / SUMMARY, summary)


def prediction_rows(predictions: Predictions) -> list[dict[str, str]]:
    """Rows of ``predictions.csv``.

    With one finding ``predicted``, ``probability`` and ``certainty`` are single values and the
    class columns have the names of the classes; with several they are joined by ``;`` in the order
    of the findings, and the columns are named ``FINDING=CLASS``, as they are where a class is
    called like another column.
    """
    single = len(predictions.findings) == 1
    columns = _class_columns(predictions.findings)
    pairs = zip(predictions.parts(), predictions.predicted.T, strict=True)
    best = torch.cat([part.gather(1, index[:, None]) for part, index in pairs], dim=1)
    rows = []
    for row, case in enumerate(predictions.cases):
        numbers = predictions.predicted[row].tolist()
        pairs = zip(predictions.findings, numbers, strict=True)
        names = [(finding.name, finding.classes[number]) for finding, number in pairs]
        neighbors = [f"{name}:{cosine:.3f}" for name, cosine in predictions.neighbors[row]]
        values = [f"{value:.6f}" for value in predictions.probability[row].tolist()]
        rows.append(
            {
                "case": case,
                "predicted": ";".join(name if single else f"{head}={name}" for head, name in names),
                "probability": _joined(best[row]),
                "certainty": _joined(predictions.certainty[row]),
                "neighbours": ";".join(neighbors),
                **dict(zip(columns, values, strict=True)),
            }
        )
    return rows


def _class_columns(findings: Sequence[Finding]) -> list[str]:
    """Heads of the columns of the classes."""
    if len(findings) == 1 and not set(findings[0].classes) & set(_COLUMNS):
        return list(findings[0].classes)
    return [f"{finding.name}={name}" for finding in findings for name in finding.classes]


def _joined(values: Tensor) -> str:
    return ";".join(f"{value:.6f}" for value in values.tolist())
