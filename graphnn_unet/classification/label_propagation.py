"""Label propagation on a graph of embeddings: scores, decisions, certainties, class weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.classification.cuts import class_sets
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.classification.table import UNLABELED
from graphnn_unet.errors import InputError
from graphnn_unet.graph import DiffusionSystem, knn_affinity

TOLERANCE, MAX_ITERATIONS = 1e-8, 500
NEIGHBORS_SHOWN = 5
EQUAL = 1e-6
_BLOCK = 512
_WEIGHT_RANGE = (0.1, 10.0)


@dataclass(frozen=True)
class PropagatedLabels:
    """Diffused labels of all nodes.

    Attributes:
        score: ``(n, k)`` float64; the columns of a finding sum to 1, or to 0 where no label
            reaches the node.
        predicted: ``(n, f)`` class, the smallest on a tie; ``UNLABELED`` where no label reaches.
        certainty: ``(n, f)`` in [0, 1].
        figures: How it went: iterations, residual, nodes no label reaches, ties, methods.
    """

    score: Tensor
    predicted: Tensor
    certainty: Tensor
    figures: dict[str, Any] = field(default_factory=dict)


def build_graph(feature: Tensor, settings: ClassifySettings, cases: Sequence[str]) -> Tensor:
    """``w_ij = a_ij + a_ji``, ``a_ij = max(0, cos)^gamma`` for the nearest nodes; exact search.

    Raises:
        InputError: A feature is not finite (names the image), or there is one image only.
    """
    if len(feature) < 2:
        raise InputError("one image makes no graph", "", "Give more images")
    bad = (~torch.isfinite(feature).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        named = ", ".join(cases[int(row)] for row in bad[:5])
        raise InputError(
            f"{len(bad)} images have features that are not finite",
            f"for example {named}",
            "Look at these images, or train with a lower learning rate",
        )
    return knn_affinity(
        feature,
        n_neighbors=settings.neighbors(len(feature)),
        gamma=settings.gamma,
        symmetrize=settings.symmetrize,
    )


def one_hot(targets: Tensor, sizes: Sequence[int]) -> Tensor:
    """``(n, k)`` float64 with a one for each label, the findings side by side."""
    label = torch.zeros(len(targets), sum(sizes), dtype=torch.float64)
    start = 0
    for finding, size in enumerate(sizes):
        row = (targets[:, finding] >= 0).nonzero().flatten()
        label[row, start + targets[row, finding]] = 1.0
        start += size
    return label


def propagate_labels(
    affinity: Tensor,
    targets: Tensor,
    sizes: Sequence[int],
    settings: ClassifySettings,
    *,
    thorough: bool = True,
) -> PropagatedLabels:
    """Diffuse labels over a graph: ``H = (I - alpha S)^-1 Y``.

    Args:
        affinity: ``(n, n)`` sparse, symmetric.
        targets: ``(n, f)`` classes of the labeled nodes, ``UNLABELED`` elsewhere.
        sizes: Classes a finding.
        settings: ``p``, ``alpha``, ``prior``, ``variation``. With ``p = 1`` scores are the mean of
            the cuts, which decide, and of the ``p = 2`` scores, which break ties.
        thorough: For ``p = 1``: try several starts of a balanced cut.

    Source: GraphNet Zoo, https://arxiv.org/abs/2003.06451.
    """
    label = one_hot(targets, sizes)
    if settings.prior:
        label = label / label.sum(dim=0).clamp(min=1)
    system = DiffusionSystem(affinity.to(torch.float64), settings.alpha)
    solution = system.solve(label, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS)
    score = normalized(solution.value.clamp(min=0), sizes)
    figures: dict[str, Any] = {
        "iterations": solution.n_iterations,
        "residual": solution.residual,
        "converged": solution.converged,
    }
    if settings.p == 1:
        score, figures["cuts"] = _with_cuts(affinity, targets, sizes, score, settings, thorough)
    return to_predictions(score, targets, sizes, figures)


def _with_cuts(
    affinity: Tensor,
    targets: Tensor,
    sizes: Sequence[int],
    score: Tensor,
    settings: ClassifySettings,
    thorough: bool,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Scores of ``p = 1``, and for each finding which cut was used."""
    parts, used = [], []
    for finding, part in enumerate(score.split(list(sizes), dim=1)):
        indicator, figures = class_sets(
            affinity, targets[:, finding], sizes[finding], part, settings, thorough=thorough
        )
        reached = part.sum(dim=1, keepdim=True) > 0
        indicator = torch.where(reached, indicator, 0.0)
        parts.append(torch.where(reached, (indicator + part) / 2, 0.0))
        used.append(figures)
    return normalized(torch.cat(parts, dim=1), sizes), used


def normalized(score: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows that sum to 1 in each finding; rows of zeros stay."""
    parts = []
    for part in score.split(list(sizes), dim=1):
        total = part.sum(dim=1, keepdim=True)
        parts.append(torch.where(total > 0, part / torch.where(total > 0, total, 1.0), 0.0))
    return torch.cat(parts, dim=1)


def to_predictions(
    score: Tensor, targets: Tensor, sizes: Sequence[int], figures: dict[str, Any]
) -> PropagatedLabels:
    """Classes and certainties of normalized scores; labeled nodes keep their label."""
    predicted, sure = [], []
    unreached, ties = [], []
    for finding, part in enumerate(score.split(list(sizes), dim=1)):
        reached = part.sum(dim=1) > 0
        # max() may return any of equal values; the first is wanted
        is_best = part == part.max(dim=1, keepdim=True).values
        first = is_best.int().argmax(dim=1)
        ties.append(int(((is_best.sum(dim=1) > 1) & reached).sum()))
        given = targets[:, finding]
        unreached.append(int((~reached & (given < 0)).sum()))
        choice = torch.where(reached, first, UNLABELED)
        predicted.append(torch.where(given >= 0, given, choice))
        sure.append(torch.where(given >= 0, 1.0, certainty(part)))
    figures = {**figures, "not_reached": unreached, "ties": ties}
    return PropagatedLabels(score, torch.stack(predicted, dim=1), torch.stack(sure, dim=1), figures)


def certainty(score: Tensor) -> Tensor:
    """``xi = 1 - E(h) / log C`` with ``E = - sum h log h``, 0 for a row of zeros.

    Raises:
        InputError: One class, for which the certainty has no meaning.

    Source: GraphNet Zoo, certainty of a node, https://arxiv.org/abs/2003.06451.
    """
    if score.shape[1] < 2:
        raise InputError("one class has no certainty", "log 1 = 0", "Give at least two classes")
    entropy = -torch.special.xlogy(score, score).sum(dim=1)
    value = (1 - entropy / math.log(score.shape[1])).clamp(0, 1)
    return torch.where(score.sum(dim=1) > 0, value, 0.0)


def class_weights(given: Tensor, n_classes: int) -> Tensor:
    """``zeta_c = n / (C n_c)`` from the classes that were given, within [0.1, 10]; 0 if empty.

    Negative ones do not count. A deviation: diffused labels neither enter ``n_c`` nor have the
    weight, under which those that are wrongly of a rare class would teach most.
    """
    counts = torch.bincount(given[given >= 0], minlength=n_classes).double()
    weight = (counts.sum() / (n_classes * counts.clamp(min=1))).clamp(*_WEIGHT_RANGE)
    return torch.where(counts > 0, weight, 0.0)


def ramp(t: int, settings: ClassifySettings) -> float:
    """``a(t) = a_max exp(-5 (1 - min(1, t / T))^2)``: the weight of diffused labels in round t."""
    length = settings.ramp_rounds or max(1, settings.rounds // 2)
    return settings.a_max * math.exp(-5 * (1 - min(1.0, t / length)) ** 2)


def extend(
    feature: Tensor, stored: Tensor, score: Tensor, sizes: Sequence[int], settings: ClassifySettings
) -> tuple[Tensor, Tensor]:
    """Scores of images that were not there, from their neighbors among those that were.

        score(x) = sum_j a_j h_j / sum_j a_j,    a_j = max(0, cos(x, j))^gamma,  j nearest to x

    Returns:
        ``(m, k)`` for unit rows ``(m, q)``, convex combinations of neighbors' scores, normalized
        where a neighbor had none; and ``(m,)``, whether any neighbor has a positive cosine.
    """
    scores, near = [], []
    k = min(settings.neighbors(len(stored)), len(stored))
    for block in feature.split(_BLOCK):
        cosine, index = (block @ stored.T).topk(k, dim=1)
        weight = cosine.double().clamp(min=0).pow(settings.gamma)
        total = weight.sum(dim=1, keepdim=True)
        mixed = (weight.unsqueeze(2) * score[index]).sum(dim=1)
        scores.append(mixed / torch.where(total > 0, total, 1.0))
        near.append(total.squeeze(1) > 0)
    return normalized(torch.cat(scores), sizes), torch.cat(near)


def nodes_among(
    feature: Tensor, cases: Sequence[str], stored: Tensor, stored_cases: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Which images are nodes of the graph: ``(m,)`` by id, and ``(m,)`` by features.

    Features are equal where the cosine of unit rows ``(m, q)`` and ``(n, q)`` is above
    ``1 - EQUAL``.
    """
    known = set(stored_cases)
    by_id = torch.tensor([case in known for case in cases], dtype=torch.bool)
    by_feature = []
    for block in feature.split(_BLOCK):
        nearest = stored[(block @ stored.T).argmax(dim=1)]
        # anew in 64 bits: rounding of 32 is of the size of the limit
        cosine = functional.cosine_similarity(block.double(), nearest.double())
        by_feature.append(cosine > 1 - EQUAL)
    return by_id, torch.cat(by_feature)


def nearest_labeled(
    feature: Tensor,
    stored: Tensor,
    targets: Tensor,
    cases: Sequence[str],
    own_row: Tensor | None = None,
) -> list[list[tuple[str, float]]]:
    """Ids and cosines of up to ``NEIGHBORS_SHOWN`` labeled nodes for each image, nearest first.

    Unit rows ``(m, q)`` are compared with those of the graph ``(n, q)``, whose nodes have ids and
    labels ``(n, f)``. ``own_row`` ``(m,)`` is where an image stands there itself.
    """
    labeled = (targets >= 0).any(dim=1).nonzero().flatten()
    candidates = stored[labeled].T
    neighbors = []
    for start in range(0, len(feature), _BLOCK):
        cosine = feature[start : start + _BLOCK] @ candidates
        if own_row is not None:
            cosine[own_row[start : start + _BLOCK, None] == labeled[None]] = -torch.inf
        best, index = cosine.topk(min(NEIGHBORS_SHOWN, len(labeled)), dim=1)
        for rows, values in zip(labeled[index].tolist(), best.tolist(), strict=True):
            pairs = zip(rows, values, strict=True)
            neighbors.append([(cases[row], value) for row, value in pairs if value > -math.inf])
    return neighbors
