"""Total variation on an explicit graph with given labels: minimum cuts and balanced cuts.

By the coarea formula the least total variation between labels 0 and 1 is the weight of a minimum
cut, and every threshold of a minimizer is one. Solved by a primal-dual iteration, whose dual value
proves how good the answer is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import check_choice, full_precision
from graphnn_unet.graph._untyped import csr_tensor
from graphnn_unet.graph.affinity import inverse_root
from graphnn_unet.graph.explicit import (
    affinity_degree,
    checked_affinity,
    edge_list,
    require_no_negative,
)

EdgeNorm = Literal["sym", "none"]

_CHECK_EVERY = 25
"""Steps between two looks at primal and dual value: a sweep costs as much as a few steps."""

MAX_ROUNDS = 50


@dataclass(frozen=True)
class Cut:
    """A set of nodes that holds all labels 1 and no label 0.

    Attributes:
        indicator: ``(n,)`` 1 in the set, 0 outside; the best threshold of ``signal``.
        signal: ``(n,)`` in [0, 1], the last iterate.
        value: Weight of the edges that leave the set, plus its linear cost.
        bound: No set and no signal is better than this.
        n_iterations: Steps taken.
        converged: Whether ``value - bound <= tolerance (1 + |value|)``.
    """

    indicator: Tensor
    signal: Tensor
    value: float
    bound: float
    n_iterations: int
    converged: bool


@dataclass(frozen=True)
class BalancedCut:
    """The best set found for a quotient of cut and volume.

    Attributes:
        indicator: ``(n,)`` 1 in the set, 0 outside.
        quotient: ``cut / min(volume inside, volume outside)``.
        worst: Largest quotient that a start ended with.
    """

    indicator: Tensor
    quotient: float
    worst: float


class CutProblem:
    """One graph with some nodes fixed to 0 or 1; arguments and errors as in :func:`minimum_cut`."""

    def __init__(self, affinity: Tensor, label: Tensor, edge_norm: EdgeNorm = "sym"):
        check_choice("edge_norm", edge_norm, ("sym", "none"))
        n_nodes = affinity.shape[-1]
        if label.shape != (n_nodes,) or affinity.dim() != 2:
            raise ShapeError(f"affinity {tuple(affinity.shape)}, label {tuple(label.shape)}")
        given = ~torch.isnan(label)
        kinds = {float(kind) for kind in label[given].unbind()}
        if kinds != {0.0, 1.0}:  # with one of them the minimum would be a constant
            known = ", ".join(f"{kind:g}" for kind in sorted(kinds)) or "none"
            raise InputError("a cut needs labels 0 and 1", f"found {known}", "Label both sides")
        affinity = checked_affinity(affinity.detach())
        require_no_negative(affinity, "a cut needs weights of 0 or more")
        pair, weight = edge_list(affinity)
        once = pair[0] < pair[1]
        self.first, self.second = pair[0][once], pair[1][once]
        self.degree = affinity_degree(affinity).double()
        weight = weight[once].double()
        if edge_norm == "sym":
            root = inverse_root(self.degree)
            weight = weight * root[self.first] * root[self.second]
        self.weight, self.n_nodes = weight, n_nodes
        self.given, self.label = given, torch.where(given, label, 0.0).double()
        ends = torch.cat([self.first, self.second])
        edge = torch.arange(len(weight), device=weight.device).repeat(2)
        signed = torch.cat([weight, -weight])
        order = torch.argsort(ends, stable=True)
        counts = torch.bincount(ends, minlength=n_nodes)
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        # rows are nodes, columns edges: the transposed difference operator
        size = (n_nodes, max(len(weight), 1))
        self._gather = csr_tensor(start, edge[order], signed[order], size)
        total = torch.zeros(n_nodes, dtype=torch.float64, device=weight.device)
        total = total.index_add(0, ends, torch.cat([weight, weight]))
        self._step = torch.where(total > 0, 1 / torch.where(total > 0, total, 1.0), 0.0)

    def variation(self, signal: Tensor) -> float:
        """``sum_(i<j) w_ij |u_i - u_j|``."""
        return float((self.weight * (signal[self.first] - signal[self.second]).abs()).sum())

    def with_labels(self, signal: Tensor) -> Tensor:
        """The signal in [0, 1], the given labels inserted."""
        return torch.where(self.given, self.label, signal.double().clamp(0, 1))

    def thresholds(self, signal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Order of the nodes, largest first, and cut and volume of their first 0 to ``n``."""
        key = torch.where(self.given, 4 * self.label - 2, signal)  # labels before or behind all
        order = torch.argsort(key, descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(self.n_nodes, device=order.device)
        low = torch.minimum(rank[self.first], rank[self.second])
        high = torch.maximum(rank[self.first], rank[self.second])
        change = self.weight.new_zeros(self.n_nodes + 1)
        change = change.index_add(0, low + 1, self.weight).index_add(0, high + 1, -self.weight)
        volume = torch.cat([change.new_zeros(1), self.degree[order].cumsum(0)])
        return order, change.cumsum(0), volume

    def sweep(self, signal: Tensor, linear: Tensor | None = None) -> tuple[Tensor, float]:
        """The threshold set of smallest cut plus linear cost, and its value."""
        order, cut, _ = self.thresholds(signal)
        if linear is not None:
            cut = cut + torch.cat([cut.new_zeros(1), linear[order].cumsum(0)])
        return self._best_set(order, cut)

    def sweep_quotient(self, signal: Tensor) -> tuple[Tensor, float]:
        """The threshold set of smallest ``cut / min(volume, rest)``; infinite without a set."""
        order, cut, volume = self.thresholds(signal)
        smaller = torch.minimum(volume, volume[-1] - volume)
        quotient = torch.where(smaller > 0, cut / smaller.clamp(min=1e-300), torch.inf)
        return self._best_set(order, quotient)

    def balance(self, signal: Tensor) -> tuple[float, Tensor]:
        """``B(u) = sum d_i |u_i - median|`` and a subgradient whose sum is 0.

        The median is the lower one, weighted by degree; nodes on it share what makes the sum 0 in
        proportion to their degree.
        """
        order = torch.argsort(signal, stable=True)
        filled = self.degree[order].cumsum(0)
        half = int(torch.searchsorted(filled, filled[-1:] / 2))
        median = signal[order[min(half, self.n_nodes - 1)]]
        slope = self.degree * torch.sign(signal - median)
        tied = (signal == median) & (self.degree > 0)
        share = slope.sum() / self.degree[tied].sum()
        slope = torch.where(tied, -self.degree * share, slope)
        return float((self.degree * (signal - median).abs()).sum()), slope

    def minimize(
        self,
        *,
        linear: Tensor | None = None,
        start: Tensor | None = None,
        tolerance: float = 1e-6,
        max_iterations: int = 5000,
    ) -> Cut:
        """Minimize ``TV(u) + c.u`` over signals in [0, 1] that agree with the labels.

            p_e <- clip(p_e + (ub_i - ub_j) / 2, -1, 1)
            u'   = clip(u - (K^T p + c) / degree, 0, 1), labels inserted;  ub = 2 u' - u

        ``linear`` are the costs ``c``, ``start`` is the first signal, ``tolerance`` that of the gap
        between value and bound, relative to ``1 + |value|``.

        Source: Chambolle and Pock 2011 with the diagonal steps of Pock and Chambolle 2011. Cost:
        ``e`` a step; a sweep, ``n log n + e``, every 25 steps.
        """
        cost = torch.zeros_like(self.label) if linear is None else linear.double()
        signal = self.with_labels(torch.full_like(self.label, 0.5) if start is None else start)
        ahead, dual = signal, torch.zeros_like(self.weight)
        best, value = self.sweep(signal, linear)
        bound, steps, pull = -torch.inf, 0, cost
        while steps < max_iterations:
            for _ in range(min(_CHECK_EVERY, max_iterations - steps)):
                dual = (dual + (ahead[self.first] - ahead[self.second]) / 2).clamp(-1, 1)
                pull = self._pull(dual) + cost
                moved = (signal - self._step * pull).clamp(0, 1)
                moved = torch.where(self.given, self.label, moved)
                ahead, signal = 2 * moved - signal, moved
                steps += 1
            # dual value: labels pay their pull, free nodes choose the cheaper of 0 and 1
            paid = torch.where(self.given, self.label * pull, pull.clamp(max=0))
            bound = max(bound, float(paid.sum()))
            threshold_set, cut = self.sweep(signal, linear)
            if cut < value:
                best, value = threshold_set, cut
            if value - bound <= tolerance * (1 + abs(value)):
                break
        converged = value - bound <= tolerance * (1 + abs(value))
        return Cut(best, signal, value, float(bound), steps, bool(converged))

    def _pull(self, dual: Tensor) -> Tensor:
        if not len(dual):
            return torch.zeros_like(self.label)
        return (self._gather @ dual.unsqueeze(1)).squeeze(1)

    def _best_set(self, order: Tensor, value: Tensor) -> tuple[Tensor, float]:
        """The first nodes of smallest value, all labels 1 and no label 0 among them."""
        low = int(self.label.sum())
        high = low + self.n_nodes - int(self.given.sum())
        size = low + int(value[low : high + 1].argmin())
        inside = torch.zeros_like(self.label)
        inside[order[:size]] = 1.0
        return inside, float(value[size])


def minimum_cut(
    affinity: Tensor, label: Tensor, *, edge_norm: EdgeNorm = "sym", max_iterations: int = 5000
) -> Cut:
    """The labels of least total variation: a minimum cut between labels 0 and 1.

        min_u sum_(i<j) w_ij |u_i - u_j|,   0 <= u <= 1,   u_i = label where one is given

    With few labels the minimum cut often just isolates the smaller labeled set; look at the sizes.

    Args:
        affinity: ``(n, n)`` sparse or dense, symmetric, non-negative.
        label: ``(n,)`` 0 or 1, NaN for free nodes.
        edge_norm: ``sym`` for ``w_ij / sqrt(d_i d_j)``, or ``none``.
        max_iterations: Steps at most, until the proven gap is below 1e-6 of ``1 + value``.

    Returns:
        The cut with its bound. Nodes without edges stay at 0.5 in ``signal``.

    Raises:
        ShapeError: Label and graph do not fit.
        InputError: A weight is negative, a label is neither 0 nor 1, or only one of them occurs.

    Source: GraphNet Zoo, p = 1, as a convex problem; coarea formula.

    Example:
        >>> chain = torch.tensor([[0.0, 2.0, 0.0], [2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> cut = minimum_cut(chain, torch.tensor([1.0, torch.nan, 0.0]), edge_norm="none")
        >>> cut.indicator.tolist(), round(cut.value, 4), cut.converged
        ([1.0, 1.0, 0.0], 1.0, True)
    """
    with full_precision(affinity):
        return CutProblem(affinity, label, edge_norm).minimize(max_iterations=max_iterations)


def balanced_cut(
    affinity: Tensor, label: Tensor, starts: Sequence[Tensor], *, max_iterations: int = 5000
) -> BalancedCut:
    """A set of small ``cut / min(volume inside, volume outside)`` that agrees with the labels.

    From each start: linearize the denominator at ``u``, minimize ``TV(v) - lambda g.v`` (again a
    minimum cut), round by a sweep, repeat while the quotient falls. Local: several starts are
    tried, the best is returned.

    Args:
        affinity: ``(n, n)`` sparse or dense, symmetric, non-negative.
        label: ``(n,)`` 0 or 1, NaN for free nodes.
        starts: ``(n,)`` signals in [0, 1].
        max_iterations: Of the inner cuts.

    Raises:
        ShapeError: Label and graph do not fit.
        InputError: Negative weights, labels of one kind only, or no start with two levels.

    Source: a reconstruction of GraphNet Zoo's quotient, whose program was not published.

    Example:
        >>> chain = torch.tensor([[0.0, 2.0, 0.0], [2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> label = torch.tensor([1.0, torch.nan, 0.0])
        >>> best = balanced_cut(chain, label, [torch.tensor([1.0, 0.6, 0.0])])
        >>> best.quotient, best.worst
        (1.0, 1.0)
    """
    with full_precision(affinity):
        problem = CutProblem(affinity, label, "none")
        ends = [_descend(problem, problem.with_labels(start), max_iterations) for start in starts]
    sets = [end for end in ends if end is not None]
    if not sets:
        raise InputError("no start has contrast", "all nodes with edges are on one level")
    indicator, quotient = min(sets, key=lambda end: end[1])
    return BalancedCut(indicator, quotient, max(end[1] for end in sets))


def _descend(
    problem: CutProblem, signal: Tensor, max_iterations: int
) -> tuple[Tensor, float] | None:
    """From one start to a set that no step improves, and its quotient; none without contrast."""
    volume, _ = problem.balance(signal)
    if volume <= 0:
        return None
    indicator, best = problem.sweep_quotient(signal)
    # by the coarea formula a threshold is never worse than the signal
    best = min(best, problem.variation(signal) / volume)
    for _ in range(MAX_ROUNDS):
        _, slope = problem.balance(indicator)
        cost = -best * slope
        cut = problem.minimize(linear=cost, start=indicator, max_iterations=max_iterations)
        volume, _ = problem.balance(cut.indicator)
        quotient = problem.variation(cut.indicator) / volume if volume > 0 else float("inf")
        if quotient >= best - 1e-12:
            break
        indicator, best = cut.indicator, quotient
    return indicator, best
