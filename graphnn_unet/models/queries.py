"""Which scans a model is uncertain about: class-stratified predictive entropy with decaying noise.

Source: ClaSP PE (Lüth, Traub et al., TMLR 2026, arXiv 2601.13677): two thirds of the budget go to
the classes in turn, the rest to all voxels together; scores get noise on the log scale, much in
early rounds and little in late ones. Deviations: whole scans are asked for, not patches, so a score
is a mean over the voxels of a scan (of those predicted as a class); the noise decays with the
rounds of ``add_corrected`` by a factor of ten each, which is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRATIFIED_SHARE = 2 / 3
_STEEPEST = 100.0
_TINY = 1e-12


@dataclass(frozen=True)
class ScanScore:
    """How uncertain a model is about a scan.

    Attributes:
        whole: Mean normalized entropy of all voxels, in [0, 1].
        of_class: Class to that of the voxels predicted as it; classes not predicted are left out.
    """

    whole: float
    of_class: Mapping[str, float]


@dataclass(frozen=True)
class Query:
    """One scan that is asked for.

    Attributes:
        case: Case id.
        score: Its score, without noise.
        why: In words.
    """

    case: str
    score: float
    why: str


def score_scan(
    labels: NDArray[np.integer], entropy: NDArray[np.floating], classes: Mapping[int, str]
) -> ScanScore:
    """Mean entropies of a prediction.

    Args:
        labels: ``(z, y, x)`` predicted ids.
        entropy: Likewise, normalized to [0, 1].
        classes: Id to name, without background.

    Example:
        >>> labels = np.array([[[0, 0, 1, 1]]])
        >>> score_scan(labels, np.array([[[0.0, 0.2, 0.4, 0.8]]]), {1: "organ", 2: "lesion"})
        ScanScore(whole=0.35, of_class={'organ': 0.6})
    """
    means = {
        name: round(float(entropy[mask].mean()), 6)
        for number, name in classes.items()
        if (mask := labels == number).any()
    }
    return ScanScore(round(float(entropy.mean()), 6), means)


def noise_scale(round_number: int) -> float:
    """Scale of the Gumbel noise on log scores in a round, from 1 on.

    Example:
        >>> [noise_scale(number) for number in (1, 2, 3, 4)]
        [1.0, 0.1, 0.01, 0.01]
    """
    return 1.0 / min(_STEEPEST, 10.0 ** (round_number - 1))


def choose_queries(
    scores: Mapping[str, ScanScore],
    count: int,
    *,
    round_number: int,
    generator: np.random.Generator,
) -> list[Query]:
    """The scans to ask for, in the order in which they are chosen.

    Args:
        scores: By case.
        count: How many; all where there are fewer.
        round_number: Which round this is, from 1 on.
        generator: Of the noise.
    """
    cases = sorted(scores)
    count = min(count, len(cases))
    classes = sorted({name for score in scores.values() for name in score.of_class})
    n_turns = round(STRATIFIED_SHARE * count) if classes else 0
    turns = [classes[i % len(classes)] for i in range(n_turns)]
    queries: list[Query] = []
    for name in [*turns, *[None] * count]:
        left = [case for case in cases if case not in {query.case for query in queries}]
        values = {case: _value(scores[case], name) for case in left}
        values = {case: value for case, value in values.items() if value is not None}
        if values and len(queries) < count:
            case = _noisy_best(values, noise_scale(round_number), generator)
            where = "all voxels" if name is None else f"voxels predicted as {name}"
            queries.append(Query(case, values[case], f"entropy of {where}"))
    return queries


def _value(score: ScanScore, name: str | None) -> float | None:
    return score.whole if name is None else score.of_class.get(name)


def _noisy_best(values: Mapping[str, float], scale: float, generator: np.random.Generator) -> str:
    """The case with the highest log score plus Gumbel noise."""
    cases: Sequence[str] = list(values)
    logs = np.log(np.maximum([values[case] for case in cases], _TINY))
    return cases[int((logs + generator.gumbel(0.0, scale, len(cases))).argmax())]
