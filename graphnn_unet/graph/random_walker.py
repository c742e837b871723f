"""Labels on a graph with a data term: ``(L + M) F = M Y``, exactly, whole or block by block.

``L`` is the Laplacian of the graph, ``M`` the certainty of each node's own label ``Y``. The system
is an M-matrix wherever a path leads to data: ``F`` lies between the values of ``Y``, rows of
probabilities stay rows of probabilities, and the solution is unique.

Papers:
    Random walker with priors (Grady 2005): https://doi.org/10.1109/CVPR.2005.239
    Harmonic functions (Zhu et al. 2003): https://www.aaai.org/Papers/ICML/2003/ICML03-118.pdf
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import full_precision, widen
from graphnn_unet.graph._untyped import csr_of_coordinates
from graphnn_unet.graph.diffusion import NotConvergedWarning, conjugate_gradients
from graphnn_unet.graph.explicit import edge_list


@dataclass(frozen=True)
class Walk:
    """A solution of the random walker.

    Attributes:
        value: ``(n, q)``; rows of nodes that no path connects to data are zero.
        reached: ``(n,)`` bool, whether a path leads from the node to data.
        n_iterations: Steps of conjugate gradients, or sweeps over the blocks.
        residual: Largest relative residual of a column, or the last change of a value.
        converged: Whether it is within the tolerance.
    """

    value: Tensor
    reached: Tensor
    n_iterations: int
    residual: float
    converged: bool


def random_walker(
    affinity: Tensor,
    target: Tensor,
    certainty: Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int = 2000,
) -> Walk:
    """Minimize ``1/2 sum_uv w_uv |F_u - F_v|^2 + 1/2 sum_u m_u |F_u - Y_u|^2``, each edge once.

    Args:
        affinity: ``(n, n)``, symmetric, non-negative, dense or sparse.
        target: ``(n, q)``; rows without certainty are not read.
        certainty: ``(n,)``, at least 0; ``inf`` fixes a node to its target.
        tolerance: Relative residual, default 1e-8 in float64 and 1e-6 in float32.
        max_iterations: Steps at most.

    Raises:
        ShapeError: The arguments do not fit each other.
        InputError: A weight or a certainty is negative or NaN.

    Warns:
        NotConvergedWarning: The tolerance was not met.

    Source: Grady 2005, priors as in section 3; graph of scans.
    Cost: edges times columns for each step of preconditioned conjugate gradients.

    Example:
        A chain of three nodes whose ends are fixed, the middle three times closer to the first:

        >>> chain = torch.tensor([[0.0, 3.0, 0.0], [3.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> target = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> random_walker(chain, target, torch.tensor([torch.inf, 0.0, torch.inf])).value[1]
        tensor([0.7500, 0.2500])
    """
    with torch.no_grad(), full_precision(target):
        system = _System.of(affinity, target, certainty)
        free = system.reached & ~system.fixed
        value = torch.where(system.fixed.unsqueeze(1), system.target, 0.0)
        if tolerance is None:
            tolerance = 1e-8 if value.dtype == torch.float64 else 1e-6
        solution = system.solve(free, value, tolerance, max_iterations)
        if not solution.converged:
            warnings.warn(
                f"the random walker stopped after {solution.n_iterations} steps with relative "
                f"residual {solution.residual:.1e}; raise max_iterations",
                NotConvergedWarning,
                stacklevel=2,
            )
        return solution


def random_walker_by_blocks(
    rows_of: Callable[[int], Tensor],
    blocks: Sequence[Tensor],
    target: Tensor,
    certainty: Tensor,
    *,
    tolerance: float = 1e-6,
    max_sweeps: int = 200,
) -> Walk:
    """Solve the same system block by block, so that the whole graph need not be in memory.

    Every sweep solves each block exactly with its neighbors held (block Gauss-Seidel, which
    converges for an M-matrix), until no value changes by more than ``tolerance``. A block whose
    neighbors have moved by no more than that since it was solved is left as it is.

    Args:
        rows_of: Block number to the rows of its nodes, ``(len(block), n)`` sparse or dense. It is
            called at most once a sweep; ``rows_of`` may load them from disk.
        blocks: Node numbers of each block; together every node once.
        target: ``(n, q)``.
        certainty: ``(n,)``, ``inf`` fixes a node.
        tolerance: Largest change of a value in the last sweep.
        max_sweeps: Sweeps at most.

    Returns:
        As :func:`random_walker`; ``reached`` is found by the sweeps as well.

    Raises:
        ShapeError: The blocks are no partition of the nodes.

    Source: graph of scans; a scan and its neighbors make a block.

    Example:
        >>> chain = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> blocks = [torch.tensor([0, 1]), torch.tensor([2])]
        >>> target, certainty = torch.tensor([[1.0], [0], [0]]), torch.tensor([torch.inf, 0, 1])
        >>> random_walker_by_blocks(
        ...     lambda number: chain[blocks[number]], blocks, target, certainty
        ... ).value.squeeze(1).round(decimals=3)
        tensor([1.0000, 0.6670, 0.3330])
    """
    n_nodes = len(target)
    covered = torch.cat([torch.as_tensor(block) for block in blocks])
    if not torch.equal(covered.sort().values, torch.arange(n_nodes, device=covered.device)):
        raise ShapeError("the blocks are no partition of the nodes", "each must be in one block")
    wide = widen(target)
    fixed = torch.isinf(certainty)
    value = torch.where((certainty > 0).unsqueeze(1), wide, 0.0)
    reached = certainty > 0
    block_of = torch.empty(n_nodes, dtype=torch.int64, device=value.device)
    for number, block in enumerate(blocks):
        block_of[block] = number
    # how far the neighbors of a block have moved since it was solved: its values move no further
    moved = torch.full((len(blocks),), torch.inf, dtype=torch.float64)
    sweep, change = 0, float("inf")
    while sweep < max_sweeps and change > tolerance:
        change, sweep = 0.0, sweep + 1
        for number, block in enumerate(blocks):
            if moved[number] <= tolerance or bool(fixed[block].all()):
                continue
            rows = _coordinates(rows_of(number), (len(block), n_nodes))
            new, now_reached = _solve_block(rows, block, value, wide, certainty, reached, tolerance)
            spread = bool((now_reached != reached[block]).any())
            difference = float((new - value[block]).abs().max()) if len(block) else 0.0
            difference = float("inf") if spread else difference
            change = max(change, difference)
            value[block], reached[block] = new, now_reached | fixed[block]
            near = torch.zeros(len(blocks), dtype=torch.bool)
            near[block_of[rows[0][1]].cpu()] = True  # this block among them
            moved = torch.where(near, moved + difference, moved)
            moved[number] = 0.0
    return Walk(value, reached, sweep, change, change <= tolerance)


@dataclass(frozen=True)
class _System:
    """Edges, targets and certainties of a checked problem."""

    edges: Tensor
    weight: Tensor
    target: Tensor
    certainty: Tensor

    @classmethod
    def of(cls, affinity: Tensor, target: Tensor, certainty: Tensor) -> _System:
        n_nodes = len(target)
        if (
            target.dim() != 2
            or tuple(affinity.shape) != (n_nodes, n_nodes)
            or tuple(certainty.shape) != (n_nodes,)
        ):
            raise ShapeError(
                f"affinity {tuple(affinity.shape)}, target {tuple(target.shape)} and certainty "
                f"{tuple(certainty.shape)} do not fit",
                "they must be (n, n), (n, q) and (n,)",
            )
        edges, weight = edge_list(affinity)
        weight, certainty = widen(weight), widen(certainty)
        if not bool((weight >= 0).all()) or not bool((certainty >= 0).all()):
            raise InputError(
                "a weight or a certainty is negative or NaN",
                "the walker needs values of at least 0",
            )
        dtype = torch.promote_types(weight.dtype, widen(target).dtype)
        return cls(edges, weight.to(dtype), target.to(dtype), certainty.to(dtype))

    @property
    def fixed(self) -> Tensor:
        """Nodes of infinite certainty."""
        return torch.isinf(self.certainty)

    @property
    def reached(self) -> Tensor:
        """Nodes from which a path leads to data."""
        component = _components(self.edges, len(self.target))
        with_data = torch.zeros_like(component, dtype=torch.bool)
        with_data[component[self.certainty > 0]] = True
        return with_data[component]

    def solve(self, free: Tensor, known: Tensor, tolerance: float, max_iterations: int) -> Walk:
        """Values of the free nodes, the others held at ``known``."""
        source, target = self.edges
        degree = torch.zeros_like(self.certainty).index_add_(0, target, self.weight)
        finite = torch.where(torch.isinf(self.certainty), 0.0, self.certainty)
        place = torch.cumsum(free, 0) - 1
        inside = free[source] & free[target]
        border = free[target] & ~free[source]
        right = finite.unsqueeze(1) * torch.where((finite > 0).unsqueeze(1), self.target, 0.0)
        flow = self.weight[border].unsqueeze(1) * known[source[border]]
        right = right.index_add(0, target[border], flow)[free]
        # scaled by the diagonal (Jacobi), which makes it I - S with a row sum of S of at most 1
        root = (degree + finite)[free].rsqrt()
        rows, columns = place[target[inside]], place[source[inside]]
        values = self.weight[inside] * root[rows] * root[columns]
        matrix = csr_of_coordinates(rows, columns, values, (len(root), len(root)))
        result = conjugate_gradients(
            lambda signal: signal - matrix @ signal,
            root.unsqueeze(1) * right,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        value = known.clone()
        value[free] = root.unsqueeze(1) * result.value
        reached = free | self.fixed
        return Walk(value, reached, result.n_iterations, result.residual, result.converged)


def _solve_block(
    rows: tuple[Tensor, Tensor],
    block: Tensor,
    value: Tensor,
    target: Tensor,
    certainty: Tensor,
    reached: Tensor,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """A block with the rest of the graph held; edges to nodes not yet reached are left out."""
    (row, column), weight = rows
    n_nodes, n_block = len(target), len(block)
    place = torch.full((n_nodes,), -1, dtype=torch.int64, device=block.device)
    place[block] = torch.arange(n_block, device=block.device)
    outside = place[column] < 0
    live = outside & reached[column]
    inside = ~outside
    # held neighbors become one data term a node: weight sum_v w_uv, target their mean
    pull = torch.zeros(n_block, dtype=value.dtype, device=block.device)
    pull = pull.index_add(0, row[live], weight[live].to(value.dtype))
    flow = weight[live].to(value.dtype).unsqueeze(1) * value[column[live]]
    certain = certainty[block].to(value.dtype)
    finite = torch.where(torch.isinf(certain), 0.0, certain)
    sums = finite.unsqueeze(1) * torch.where((certain > 0).unsqueeze(1), target[block], 0.0)
    sums = sums.index_add(0, row[live], flow)
    total = torch.where(torch.isinf(certain), certain, certain + pull)
    mean = sums / torch.where(total > 0, total, 1.0).unsqueeze(1)
    mean = torch.where(torch.isinf(certain).unsqueeze(1), target[block].to(value.dtype), mean)
    system = _System(
        torch.stack([place[column[inside]], row[inside]]),
        weight[inside].to(value.dtype),
        mean,
        total,
    )
    now = system.reached
    known = torch.where(system.fixed.unsqueeze(1), mean, 0.0)
    # below what a sweep may change, and within reach
    inner = max(1e-2 * tolerance, 1e-10 if value.dtype == torch.float64 else 1e-6)
    solution = system.solve(now & ~system.fixed, known, inner, 2000)
    return solution.value, now


def _coordinates(rows: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """``(2, e)`` row and column, and ``(e,)`` weights of the rows of a block."""
    if tuple(rows.shape) != shape:
        raise ShapeError(f"rows of a block have shape {tuple(rows.shape)}, expected {shape}")
    stored = rows.to_sparse_coo().coalesce()
    keep = stored.values() != 0  # a weight of 0 is no edge
    return stored.indices()[:, keep], widen(stored.values()[keep])


def _components(edges: Tensor, n_nodes: int) -> Tensor:
    """Smallest node of each node's connected component, by hooking and pointer jumping."""
    parent = torch.arange(n_nodes, device=edges.device)
    while True:
        lowest = parent.clone()
        lowest.scatter_reduce_(0, parent[edges[1]], parent[edges[0]], "amin")
        lowest = lowest[lowest]
        while not torch.equal(lowest, shorter := lowest[lowest]):
            lowest = shorter
        if torch.equal(lowest, parent):
            return parent
        parent = lowest
