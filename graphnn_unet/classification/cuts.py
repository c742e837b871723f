"""Label propagation with p = 1: a minimum or a balanced cut a class, ranked together with p = 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.graph import BalancedCut, Cut, DiffusionSystem, balanced_cut, minimum_cut
from graphnn_unet.graph.explicit import affinity_degree

_SHARE_FACTOR = 3.0
"""A minimum cut counts only where every class gets its labeled share within this factor."""

_ALPHAS = (0.5, 0.9, 0.99)
_SMALL, _N_RANDOM = 300, 8
"""Up to so many nodes random starts are tried too."""


def class_sets(
    affinity: Tensor,
    targets: Tensor,
    n_classes: int,
    score: Tensor,
    settings: ClassifySettings,
    *,
    thorough: bool,
) -> tuple[Tensor, dict[str, Any]]:
    """One cut a class between its labels and those of all others; two classes need one.

    ``score`` of ``p = 2`` breaks ties and starts ``ratio``; ``thorough`` tries more starts. With
    ``variation = "tv"`` the cuts are those of ``ratio`` where a minimum cut collapsed.

    Returns:
        ``(n, c)`` 1 where the cut of a class holds the node, classes may overlap; and the method
        (``tv`` or ``ratio``), gaps, or quotients and their spread over starts.
    """
    inside = (affinity_degree(affinity) > 0).nonzero().flatten()
    graph = _subgraph(affinity, inside)
    given, start = targets[inside], score[inside]
    labels = list(_labels(given, n_classes))
    cuts: list[Cut] = []
    figures: dict[str, Any] = {"method": settings.variation}
    indicator = torch.empty(0)
    if settings.variation == "tv" or thorough:
        cuts = [_minimum_cut(graph, label) for label in labels]
        figures["tv_gap"] = [cut.value - cut.bound for cut in cuts]
    if settings.variation == "tv":
        indicator = _spread_out([cut.indicator for cut in cuts], n_classes)
        if collapsed := _collapsed(indicator, given, n_classes):
            figures |= {"method": "ratio", "tv_collapsed": collapsed}
    if figures["method"] == "ratio":
        balanced: list[BalancedCut] = []
        for number, label in enumerate(labels):
            starts = [_column(start, number, n_classes)]
            if thorough:
                starts += [cuts[number].indicator, *_more_starts(graph, label)]
            balanced.append(_balanced_cut(graph, label, starts))
        figures["ratio_quotient"] = [cut.quotient for cut in balanced]
        figures["ratio_worst_start"] = [cut.worst for cut in balanced]
        indicator = _spread_out([cut.indicator for cut in balanced], n_classes)
    whole = torch.zeros(len(targets), indicator.shape[1], dtype=indicator.dtype)
    whole[inside] = indicator
    return whole, figures


def _minimum_cut(graph: Tensor, label: Tensor) -> Cut:
    if (side := _only_side(label)) is not None:
        return Cut(side, side, 0.0, 0.0, 0, True)
    return minimum_cut(graph, label)


def _balanced_cut(graph: Tensor, label: Tensor, starts: list[Tensor]) -> BalancedCut:
    if (side := _only_side(label)) is not None:
        return BalancedCut(side, 0.0, 0.0)
    return balanced_cut(graph, label, starts)


def _only_side(label: Tensor) -> Tensor | None:
    """A constant where the other side has no label in the graph: there is nothing to cut."""
    kinds = label[~torch.isnan(label)].unique()
    if len(kinds) == 2:
        return None
    return torch.full_like(label, float(kinds[0]) if len(kinds) else 0.0)


def _labels(targets: Tensor, n_classes: int) -> Iterator[Tensor]:
    """Labels 1 for a class and 0 for the others, a problem a class; one for two classes."""
    for number in range(n_classes if n_classes > 2 else 1):
        label = torch.where(targets == number, 1.0, 0.0).double()
        yield torch.where(targets >= 0, label, torch.nan)


def _column(score: Tensor, number: int, n_classes: int) -> Tensor:
    """Where a class stands against the mean of the others, as a signal between 0 and 1."""
    in_class = score[:, number]
    return _share(in_class, (score.sum(dim=1) - in_class) / max(1, n_classes - 1))


def _share(first: Tensor, second: Tensor) -> Tensor:
    """Share of the first in the sum of both, a half where that is 0."""
    total = first + second
    return torch.where(total > 0, first / torch.where(total > 0, total, 1.0), 0.5)


def _more_starts(graph: Tensor, label: Tensor) -> Iterator[Tensor]:
    target = torch.stack([(label == 1).double(), (label == 0).double()], dim=1)
    for alpha in _ALPHAS:
        yield _share(*DiffusionSystem(graph, alpha).solve(target).value.clamp(min=0).T)
    if len(label) <= _SMALL:
        generator = torch.Generator().manual_seed(0)
        for _ in range(_N_RANDOM):
            yield torch.rand(len(label), generator=generator, dtype=torch.float64)


def _spread_out(columns: list[Tensor], n_classes: int) -> Tensor:
    """``(n, c)``; with two classes the second is the rest of the first."""
    return torch.stack([*columns, 1 - columns[0]] if n_classes == 2 else columns, dim=1)


def _collapsed(indicator: Tensor, targets: Tensor, n_classes: int) -> list[int]:
    """Classes whose cut's share of the nodes is not within a factor of their labeled share."""
    labeled = torch.bincount(targets[targets >= 0], minlength=n_classes).double()
    times = indicator.mean(dim=0) / (labeled / labeled.sum())
    within = (times >= 1 / _SHARE_FACTOR) & (times <= _SHARE_FACTOR)
    return (~within & (labeled > 0)).nonzero().flatten().tolist()


def _subgraph(affinity: Tensor, inside: Tensor) -> Tensor:
    """The graph without its isolated nodes, whose step in a cut is not defined."""
    if len(inside) == affinity.shape[0]:
        return affinity
    return affinity.to_sparse_coo().index_select(0, inside).index_select(1, inside)
