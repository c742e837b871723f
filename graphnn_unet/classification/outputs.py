"""What a classification writes: ``predictions.csv``, ``summary.json``, ``rounds.csv``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphnn_unet._version import __version__
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.classification.spreading import normalized, with_decisions
from graphnn_unet.classification.stored import CHECKPOINT, MODEL
from graphnn_unet.classification.table import Finding, encode, read_table, unknown_classes
from graphnn_unet.errors import Fault, InputError, RefusedError
from graphnn_unet.metrics.classification import ClassificationScore, score_classification
from graphnn_unet.progress import say
from graphnn_unet.storage.atomic import write_csv, write_json

PREDICTIONS, SUMMARY, ROUNDS, FAILURES = (
    "predictions.csv", "summary.json", "rounds.csv", "failures.csv",
)  # fmt: skip
_SCHEMA_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """Decisions on all images.

    Attributes:
        cases: Ids.
        findings: What was asked.
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
        return list(self.probability.split([len(one.classes) for one in self.findings], dim=1))


@dataclass(frozen=True)
class RunFacts:
    """What ``summary.json`` tells about how the answers came about.

    Attributes:
        kind: ``transductive`` or ``inductive``.
        encoder: Kind of the encoder.
        settings: Of the training.
        figures: Of the last diffusion.
        log: One record an epoch or round.
        n_held_out: Labeled images that only stopped the training.
    """

    kind: str
    encoder: str
    settings: ClassifySettings
    figures: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]] = ()
    n_held_out: int = 0


def answers_of(
    cases: Sequence[str],
    findings: Sequence[Finding],
    score: Tensor,
    logits: Tensor,
    given: Tensor,
    neighbors: Sequence[Sequence[tuple[str, float]]],
) -> Answers:
    """Decisions; where no label reaches an image, those of the network, with certainty 0.

    Args:
        cases: Ids of ``n`` images.
        findings: What is asked.
        score: ``(n, k)`` diffused labels, rows of a finding sum to 1, or to 0 out of reach.
        logits: ``(n, k)`` of the network.
        given: ``(n, f)`` labels.
        neighbors: Nearest labeled images of each.
    """
    sizes = [len(finding.classes) for finding in findings]
    parts, by_network = [], []
    for part, own in zip(score.split(sizes, 1), logits.double().split(sizes, 1), strict=True):
        reached = part.sum(dim=1) > 0
        parts.append(torch.where(reached.unsqueeze(1), part, own.softmax(dim=1)))
        by_network.append(~reached)
    decided = with_decisions(normalized(torch.cat(parts, dim=1), sizes), given, sizes, {})
    off_graph = torch.stack(by_network, dim=1) & (given < 0)
    return Answers(
        cases=tuple(cases),
        findings=tuple(findings),
        predicted=decided.predicted,
        probability=decided.score,
        certainty=torch.where(off_graph, 0.0, decided.certainty),
        given=given,
        by_network=off_graph,
        neighbors=neighbors,
    )


def refuse_results(output: Path, overwrite: bool) -> None:
    """Refuse a folder with results, or clear it of them.

    Raises:
        RefusedError: There are some, and they are not to be replaced.
    """
    old = [output / name for name in (PREDICTIONS, SUMMARY, ROUNDS, FAILURES, MODEL, CHECKPOINT)]
    found = [path for path in old if path.exists()]
    if found and not overwrite:
        raise RefusedError(
            f"{output} has results already", f"for example {found[0].name}",
            "Go on with --c, replace them with --overwrite, or choose another folder",
        )  # fmt: skip
    for path in found:
        path.unlink()


def evaluate_answers(answers: Answers, truth: Path | str | None) -> dict[str, ClassificationScore]:
    """Figures of each finding over the images whose label was not given.

    Args:
        answers: Decisions that stand.
        truth: Table with the true classes; ``None`` for no evaluation.

    Raises:
        InputError: No image has a truth.
    """
    if truth is None:
        return {}
    table = read_table(truth)
    code = encode(table, answers.findings, answers.cases)
    for name in unknown_classes(table, answers.findings):
        _log.warning("class %s has no labeled image: it is never predicted", name)
    scores = {}
    for number, (finding, probability) in enumerate(
        zip(answers.findings, answers.parts(), strict=True)
    ):
        used = (code[:, number] >= 0) & (answers.given[:, number] < 0)
        if not bool(used.any()):
            say(f"{finding.name}: the truth names no image without a given label")
            continue
        scores[finding.name] = score_classification(
            code[used, number].numpy(),
            answers.predicted[used, number].numpy(),
            probability[used].numpy(),
            finding.classes,
        )
    if not scores:
        raise InputError(
            f"{truth} has no case to evaluate", "its cases were labeled or have no image",
            "Give the classes of unlabeled images",
        )  # fmt: skip
    return scores


def write_results(
    output: Path,
    answers: Answers,
    scores: Mapping[str, ClassificationScore],
    faults: Sequence[Fault],
    facts: RunFacts,
) -> None:
    """Write all tables; ``predictions.csv`` last, so that it means that everything is there."""
    off_graph = answers.by_network.any(dim=1).nonzero().flatten().tolist()
    summary = {
        "schema_version": _SCHEMA_VERSION,
        "version": __version__,
        "kind": facts.kind,
        "n_images": len(answers.cases),
        "n_labeled": int((answers.given >= 0).any(dim=1).sum()),
        "n_held_out": facts.n_held_out,
        "encoder": facts.encoder,
        "settings": facts.settings.model_dump(),
        "findings": {finding.name: list(finding.classes) for finding in answers.findings},
        "diffusion": dict(facts.figures),
        "decided_by_network": [answers.cases[row] for row in off_graph],
        "evaluated_on": "images without a given label" if scores else None,
        "scores": {name: score.as_dict() for name, score in scores.items()},
        "macro_auc": _macro_auc(scores),
        "faults": [asdict(fault) for fault in faults],
    }
    write_json(output / SUMMARY, summary)
    if facts.log:
        columns = list(dict.fromkeys(key for record in facts.log for key in record))
        write_csv(output / ROUNDS, facts.log, columns)
    if faults:
        columns = ("case", "stage", "cause", "remedy")
        rows = [{name: getattr(fault, name) for name in columns} for fault in faults]
        write_csv(output / FAILURES, rows, columns)
    rows = prediction_rows(answers)
    write_csv(output / PREDICTIONS, rows, list(rows[0]))


def prediction_rows(answers: Answers) -> list[dict[str, str]]:
    """Rows of ``predictions.csv``.

    With one finding ``predicted``, ``probability`` and ``certainty`` are single values and the
    class columns have the names of the classes; with several they are joined by ``;`` in the order
    of the findings, and the columns are named ``FINDING=CLASS``.
    """
    single = len(answers.findings) == 1
    columns = [
        name if single else f"{finding.name}={name}"
        for finding in answers.findings
        for name in finding.classes
    ]
    best = torch.stack(
        [
            part.gather(1, answers.predicted[:, number : number + 1]).squeeze(1)
            for number, part in enumerate(answers.parts())
        ],
        dim=1,
    )
    rows = []
    for row, case in enumerate(answers.cases):
        names = [
            finding.classes[int(code)] if single else f"{finding.name}={finding.classes[int(code)]}"
            for finding, code in zip(answers.findings, answers.predicted[row], strict=True)
        ]
        rows.append({
            "case": case,
            "predicted": ";".join(names),
            "probability": _joined(best[row]),
            "certainty": _joined(answers.certainty[row]),
            "neighbours": ";".join(f"{name}:{value:.3f}" for name, value in answers.neighbors[row]),
            **{
                name: f"{value:.6f}"
                for name, value in zip(columns, answers.probability[row].tolist(), strict=True)
            },
        })  # fmt: skip
    return rows


def _joined(values: Tensor) -> str:
    return ";".join(f"{value:.6f}" for value in values.tolist())


def _macro_auc(scores: Mapping[str, ClassificationScore]) -> float | None:
    found = [score.auc for score in scores.values() if score.auc == score.auc]  # NaN is not itself
    return sum(found) / len(found) if found else None
