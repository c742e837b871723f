"""Label diffusion: the solution of ``(I - alpha S) H = Y`` on a graph, exactly.

On the complete graph of feature products through a small matrix (Woodbury), on a sparse graph
through conjugate gradients for all right-hand sides at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import as_batch, as_pair, full_precision
from graphnn_unet.graph._untyped import cholesky, eigenvectors, symmetric_product
from graphnn_unet.graph.affinity import GramAffinity
from graphnn_unet.graph.explicit import (
    affinity_product,
    checked_affinity,
    is_sparse,
    normalized_affinity,
    require_no_negative,
)

# A graph whose second eigenvalue is below this hardly tells nodes apart; it is not amplified more.
_FLATTEST = 1e-3


class NotConvergedWarning(UserWarning):
    """The solver stopped before its tolerance; the result is returned all the same."""


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients give.

    Attributes:
        value: The solution, shaped as the right-hand side.
        n_iterations: Steps taken.
        residual: Largest relative residual of a column.
        converged: Whether it is within the tolerance.
    """

    value: Tensor
    n_iterations: int
    residual: float
    converged: bool


def diffuse_labels(
    label: Tensor,
    *,
    node_feature: Tensor | None = None,
    affinity: Tensor | None = None,
    alpha: float = 0.99,
    max_iterations: int = 500,
) -> Tensor:
    """Spread labels over a graph: ``H = (I - alpha D^(-1/2) W D^(-1/2))^(-1) Y``.

    Give the graph either as features, whose complete graph is then solved without building it, or
    as a matrix. A node without edges keeps its row of ``Y``. Differentiable in ``label`` and, on
    the complete graph, in ``node_feature``.

    Args:
        label: ``(n, q)`` or ``(b, n, q)``: rows of labeled nodes one-hot, others zero.
        node_feature: ``(n, c)`` or ``(b, n, c)``; all pairs, each node with itself among them, are
            linked by their shifted cosine, ``(1 + cosine) / 2``.
        affinity: Symmetric, non-negative; ``(n, n)`` sparse or dense, or ``(b, n, n)`` dense.
        alpha: Reach, ``0 <= alpha < 1``; 0 returns the labels.
        max_iterations: For ``affinity``: steps at most, until ``||residual|| / ||column||`` is
            below 1e-8 in float64 or 1e-6 in float32.

    Returns:
        Scores of the shape of ``label``; multiplied by ``1 - alpha`` they are averages of ``Y``.

    Raises:
        ShapeError: Label and graph do not fit.
        InputError: Neither or both graphs, or ``alpha`` out of range (1 is singular).

    Warns:
        NotConvergedWarning: The tolerance was not met within ``max_iterations``.

    Source: GraphNet Zoo, p = 2, after Zhou et al. 2004; identity LF-10.
    Cost: ``n c^2`` on features; edges times columns times at most
    ``1 + sqrt((1 + alpha) / (1 - alpha)) ln(2 / tolerance) / 2`` steps on a matrix.

    Example:
        >>> chain = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> label = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> diffuse_labels(label, affinity=chain, alpha=0.5).round(decimals=2)
        tensor([[1.1700, 0.1700],
                [0.4700, 0.4700],
                [0.1700, 1.1700]])
    """
    if not 0 <= alpha < 1:
        raise InputError(f"alpha={alpha} cannot be used", "the system is singular outside [0, 1)")
    if (node_feature is None) == (affinity is None):
        raise InputError("diffuse_labels needs one graph", "give node_feature or affinity")
    with full_precision(label):
        if node_feature is not None:
            feature, wide, single = as_pair(node_feature, label, ("node_feature", "label"))
            value = _woodbury(GramAffinity.of(feature, "shifted"), wide, alpha)
            return value[0] if single else value
        system = DiffusionSystem(affinity, alpha)  # type: ignore[arg-type]  # one is not None
        solution = system.solve(label, max_iterations=max_iterations)
    if not solution.converged:
        warnings.warn(
            f"diffusion stopped after {solution.n_iterations} steps with relative residual "
            f"{solution.residual:.1e}; raise max_iterations or lower alpha={alpha}",
            NotConvergedWarning,
            stacklevel=2,
        )
    return solution.value


def similar_labels(label: Tensor, *, node_feature: Tensor, alpha: float = 0.5) -> Tensor:
    """What nodes of similar features say of each node: diffusion without the node's own label.

        M = T + [(I - alpha S' / lambda)^(-1) - I] Y,    T = phi phi^T Y,    S' = S - phi phi^T

    with weights ``f_i.f_j``, ``phi`` the root of the degrees at unit length, the eigenvector of S
    to the eigenvalue 1, and ``lambda`` the largest eigenvalue of S'. On a complete graph
    :func:`diffuse_labels` returns little else than ``T``, the mean label, amplified by
    ``1 / (1 - alpha)``. Here ``T`` stays as it is, and the strongest difference between nodes gets
    the gain ``alpha / (1 - alpha)``: with ``alpha`` = 1/2 two separate groups of nodes get the mean
    label of each. The sum over nodes, weighed by the root of the degrees, is that of the labels.

    Args:
        label: ``(n, q)`` or ``(b, n, q)``.
        node_feature: ``(n, c)`` or ``(b, n, c)``, usually without negative entries: degrees must
            be positive.
        alpha: Reach, ``0 <= alpha < 1``; 0 returns ``T``, and so do equal features.

    Returns:
        The shape of ``label``, no gradient; entries may be negative.

    Raises:
        ShapeError: Label and features do not fit.
        InputError: ``alpha`` is out of range, or a degree is not positive.

    Source: ours, from p = 2 diffusion (Zhou et al. 2004) in the eigenbasis of LF-10.
    Cost: ``n c^2``.

    Example:
        >>> feature = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> label = torch.tensor([[1.0], [0.6], [0.1], [0.3]])
        >>> similar_labels(label, node_feature=feature)
        tensor([[0.8000],
                [0.8000],
                [0.2000],
                [0.2000]])
    """
    if not 0 <= alpha < 1:
        raise InputError(f"alpha={alpha} cannot be used", "the system is singular outside [0, 1)")
    with torch.no_grad(), full_precision(label):
        feature, wide, single = as_pair(node_feature, label, ("node_feature", "label"))
        graph = GramAffinity.of(feature, "gram")
        degree = graph.degree()
        if bool((degree <= 0).any()):
            raise InputError(
                f"{int((degree <= 0).sum())} nodes have no positive degree",
                "a diffusion divides by degrees",
                "Use features without negative entries",
            )
        unit = (degree / degree.sum(dim=1, keepdim=True)).sqrt().unsqueeze(-1)
        root = degree.rsqrt().unsqueeze(-1)
        # with U = D^(-1/2) Phi, S = U U^T: the part of U^T U beside U^T phi has the values of S'
        small = _weighted_gram(graph, root.square()).double()
        still = graph.project(root * unit).double()
        values, vectors = eigenvectors(small - still @ still.mT)
        gain = alpha / (values[:, -1:].clamp(min=_FLATTEST) - alpha * values)
        inner = vectors.mT @ (graph.project(root * wide) - graph.project(
            root * unit) @ (unit.mT @ wide)).double()  # fmt: skip
        inner = vectors @ (gain.unsqueeze(-1) * inner)
        inner = (inner - still @ (still.mT @ inner)).to(wide.dtype)
        value = unit * (unit.mT @ wide) + root * graph.expand(inner)
    return value[0] if single else value


class DiffusionSystem:
    """The operator ``I - alpha D^(-1/2) W D^(-1/2)`` of an explicit graph, ready to solve.

    Args:
        affinity: Symmetric, non-negative; counts as constant.
        alpha: ``0 <= alpha < 1``.

    Example:
        >>> chain = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> solution = DiffusionSystem(chain, alpha=0.5).solve(torch.eye(3)[:, :1])
        >>> solution.converged
        True
    """

    def __init__(self, affinity: Tensor, alpha: float):
        self.weight = checked_affinity(affinity.detach())
        self.alpha = alpha
        require_no_negative(self.weight, "diffusion needs weights of at least 0")
        # scaled once here instead of the signals in every step: a fifth less time
        self.weight = normalized_affinity(self.weight)

    def __call__(self, signal: Tensor) -> Tensor:
        """The operator on ``(..., n, q)``."""
        if is_sparse(self.weight) and not torch.is_grad_enabled():
            # product and difference in one pass: a fifth less time
            with full_precision(signal):
                return torch.addmm(signal, self.weight, signal, alpha=-self.alpha)
        return torch.sub(signal, affinity_product(self.weight, signal), alpha=self.alpha)

    def solve(
        self, target: Tensor, *, tolerance: float | None = None, max_iterations: int = 500
    ) -> Solution:
        """Solve for all columns at once; differentiable in ``target``.

        Raises:
            ShapeError: ``target`` does not fit the graph.
        """
        wide, single = as_batch(target, "label")
        wide = wide[0] if single else wide
        if wide.dim() != self.weight.dim() or wide.shape[:-1] != self.weight.shape[:-1]:
            raise ShapeError(
                f"affinity {tuple(self.weight.shape)} and label {tuple(target.shape)} do not fit"
            )
        dtype = torch.promote_types(wide.dtype, self.weight.dtype)
        self.weight = self.weight.to(dtype)
        if tolerance is None:
            tolerance = 1e-8 if dtype == torch.float64 else 1e-6
        solutions: list[Solution] = []

        def inverse(column: Tensor) -> Tensor:
            solutions.append(
                conjugate_gradients(
                    self, column, tolerance=tolerance, max_iterations=max_iterations
                )
            )
            return solutions[-1].value

        value = symmetric_product(inverse, wide.to(dtype))
        return replace(solutions[0], value=value)


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], target: Tensor, *, tolerance: float, max_iterations: int
) -> Solution:
    """Solve a symmetric positive definite system for every column of ``target``, without gradient.

    The right-hand sides are also the starting point. A column whose residual relative to its
    right-hand side is at most ``tolerance`` stays as it is.
    """
    with torch.no_grad():
        value = target.clone()
        residual = target - operator(value)
        direction = residual.clone()
        square = residual.square().sum(dim=-2, keepdim=True)
        goal = tolerance**2 * target.square().sum(dim=-2, keepdim=True)
        steps = 0
        while steps < max_iterations and bool((active := square > goal).any()):
            image = operator(direction)
            curvature = (direction * image).sum(dim=-2, keepdim=True)
            active = active & (curvature > 0)
            length = torch.where(active, square / torch.where(active, curvature, 1.0), 0.0)
            # in place: a new matrix a step costs more than the arithmetic
            value.addcmul_(length, direction)
            residual.addcmul_(length, image, value=-1)
            fresh = residual.square().sum(dim=-2, keepdim=True)
            turn = torch.where(active, fresh / torch.where(active, square, 1.0), 0.0)
            direction.mul_(turn).add_(residual)
            square = torch.where(active, fresh, square)
            steps += 1
        scale = target.square().sum(dim=-2, keepdim=True)
        relative = torch.where(scale > 0, square / torch.where(scale > 0, scale, 1.0), 0.0)
        largest = float(relative.max().sqrt())
    return Solution(value, steps, largest, not bool((square > goal).any()))


def _woodbury(graph: GramAffinity, label: Tensor, alpha: float) -> Tensor:
    """LF-10: ``H = Y + alpha U (I - alpha U^T U)^-1 U^T Y`` with ``U = D^(-1/2) Phi``."""
    root = graph.degree().rsqrt().unsqueeze(-1)
    small = -alpha * _weighted_gram(graph, root.square())
    eye = torch.eye(small.shape[1], dtype=small.dtype, device=small.device)
    factor = cholesky(eye + small)
    if factor is None:
        raise InputError(
            f"alpha={alpha} cannot be used with {str(label.dtype).removeprefix('torch.')}",
            "the system is singular to that precision",
            "Lower it, or give float64",
        )
    inner = torch.cholesky_solve(graph.project(root * label), factor)
    return label + alpha * root * graph.expand(inner)


def _weighted_gram(graph: GramAffinity, weight: Tensor) -> Tensor:
    """``Phi^T diag(w) Phi`` as ``(b, r, r)``."""
    rows = graph.rows()
    return rows.transpose(1, 2) @ (weight * rows)
