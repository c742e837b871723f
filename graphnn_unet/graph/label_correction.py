"""Alternating correction of class probabilities and embeddings on two graphs of the same nodes.

The semantic-level graph links nodes of similar embedding and corrects their classes; the
class-level graph links nodes of one class and smooths their embeddings.

Papers:
    MLLC: https://arxiv.org/abs/2404.02065
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import as_pair, check_positive, full_precision
from graphnn_unet.graph.affinity import inverse_root, unit_rows
from graphnn_unet.graph.explicit import affinity_product, normalized_affinity
from graphnn_unet.graph.knn import Neighbors, nearest_neighbors, symmetrized
from graphnn_unet.graph.propagation import class_graph_propagate

_SHARPNESS = 10.0
"""Initial weight of the message in a learned vote: shares (0.3, 0.1) become (0.88, 0.12)."""


class CorrectionStep(Protocol):
    """The two functions of one pass, each of a node's state and the message of its neighbors."""

    def label(self, state: Tensor, message: Tensor) -> Tensor:
        """Probability rows ``(..., n, C)`` that the neighbors suggest."""
        ...

    def embedding(self, state: Tensor, message: Tensor) -> Tensor:
        """New unit rows ``(..., n, e)``."""
        ...


class VoteStep:
    """Without parameters: the neighbors' votes as shares, and the mean of state and message.

    Example:
        >>> step = VoteStep()
        >>> step.label(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.3, 0.1]]))
        tensor([[0.7500, 0.2500]])
    """

    def label(self, state: Tensor, message: Tensor) -> Tensor:
        """``m_ic / sum_c m_ic``; a node without message keeps its state."""
        total = message.sum(dim=-1, keepdim=True)
        return torch.where(total > 0, message / torch.where(total > 0, total, 1.0), state)

    def embedding(self, state: Tensor, message: Tensor) -> Tensor:
        """Unit rows of ``(x + u) / 2``."""
        return unit_rows((state + message) / 2)


class LearnedStep(nn.Module):
    """Linear maps of state and message, that start near the vote.

        f_C(x, m) = softmax(W_c [x; m] + b_c),    W_c = [0 | 10 I] at first
        f_S(x, u) = unit(W_s [x; u] + b_s),       W_s = [I / 2 | I / 2] at first

    Args:
        n_classes: Classes ``C``.
        size: Entries ``e`` of an embedding.

    Source: MLLC eqs. 8 and 10, whose "non-linear functions" are not published; these are ours.

    Example:
        >>> step = LearnedStep(2, 3)
        >>> step.label(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.3, 0.1]]))[0].round(decimals=2)
        tensor([0.8800, 0.1200], grad_fn=<RoundBackward1>)
    """

    def __init__(self, n_classes: int, size: int):
        super().__init__()
        self.class_map = nn.Linear(2 * n_classes, n_classes)
        self.embedding_map = nn.Linear(2 * size, size)
        with torch.no_grad():
            nothing, classes = torch.zeros(n_classes, n_classes), torch.eye(n_classes)
            self.class_map.weight.copy_(torch.cat([nothing, _SHARPNESS * classes], dim=1))
            self.class_map.bias.zero_()
            self.embedding_map.weight.copy_(torch.eye(size).repeat(1, 2) / 2)
            self.embedding_map.bias.zero_()

    def label(self, state: Tensor, message: Tensor) -> Tensor:
        """Probability rows ``(..., n, C)``."""
        with full_precision(state):
            return self.class_map(torch.cat([state, message], dim=-1)).softmax(dim=-1)

    def embedding(self, state: Tensor, message: Tensor) -> Tensor:
        """Unit rows ``(..., n, e)``."""
        with full_precision(state):
            return unit_rows(self.embedding_map(torch.cat([state, message], dim=-1)))


@dataclass(frozen=True)
class CorrectedNodes:
    """What the nodes are after a pass.

    Attributes:
        probability: ``(b, n, C)``, rows on the simplex.
        embedding: ``(b, n, e)``.
    """

    probability: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class CorrectionSettings:
    """How the graphs are made and how far a node follows its neighbors.

    Attributes:
        n_neighbors: Nearest nodes each is linked with; 0 for none.
        gamma: Power of the cosine that is the weight of a link.
        alpha: Share that a confident node takes from its neighbors; others take ``1 - alpha``.
        detach_graph: Whether no gradient flows through the weights of the graphs.
    """

    n_neighbors: int = 20
    gamma: float = 1.0
    alpha: float = 0.2
    detach_graph: bool = True

    def __post_init__(self) -> None:
        if self.n_neighbors < 0:
            raise InputError(f"n_neighbors={self.n_neighbors} cannot be used", "it starts at 0")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha={self.alpha} cannot be used", "it is a share, 0 to 1")
        check_positive("gamma", self.gamma)


def correct_labels(
    probability: Tensor,
    embedding: Tensor,
    confident: Tensor,
    steps: Iterable[CorrectionStep],
    settings: CorrectionSettings | None = None,
) -> list[CorrectedNodes]:
    """Correct classes and embeddings in turn, class level first.

    For each step, with the semantic graph ``A`` of the embeddings before it and the class graph
    ``W`` of the probabilities just corrected,

        v_i = f_C(p_i, sum_j A_ij p_j)
        p_i <- p_i + alpha (v_i - p_i)  if confident,    p_i + (1 - alpha) (v_i - p_i)  if not
        x_i <- f_S(x_i, sum_j W_ij x_j)

    A node without a link keeps its probabilities. Every image has its graphs to itself.

    Args:
        probability: ``(b, n, C)``, rows on the simplex.
        embedding: ``(b, n, e)``.
        confident: ``(b, n)`` bool; see :func:`graphnn_unet.graph.is_confident`.
        steps: The functions ``f_C`` and ``f_S`` of each pass.
        settings: Graphs and shares; ``None`` for the published ones.

    Returns:
        The nodes after each step; empty without steps.

    Raises:
        ShapeError: The inputs do not describe the same graphs and nodes.

    Source: MLLC, algorithm 1. The paper prints ``alpha`` = 0.8, its best table has 0.2, as here.
    Cost: a step takes ``n^2 e`` time for the search of neighbors, ``n (k + C^2 e)`` for the rest.

    Example:
        >>> probability = torch.tensor([[[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]])
        >>> embedding = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]]])
        >>> sure = torch.tensor([[True, True, False]])
        >>> correct_labels(probability, embedding, sure, [VoteStep()])[0].probability[0, 2]
        tensor([0.8000, 0.2000])
    """
    settings = settings or CorrectionSettings()
    if probability.dim() != 3 or confident.shape != probability.shape[:2]:
        raise ShapeError(
            f"probability {tuple(probability.shape)} and confident {tuple(confident.shape)} "
            "do not fit",
            "they are (graph, node, class) and (graph, node)",
        )
    states: list[CorrectedNodes] = []
    with full_precision(probability):
        share, rows, _ = as_pair(probability, embedding, ("probability", "embedding"))
        taken = torch.where(confident, settings.alpha, 1 - settings.alpha).to(share.dtype)
        for step in steps:
            message = semantic_propagate(rows, share, settings)
            vote = step.label(share, message)
            linked = message.detach().sum(dim=-1, keepdim=True) > 0
            share = torch.lerp(share, torch.where(linked, vote, share), taken.unsqueeze(-1))
            smooth = class_graph_propagate(share, rows, detach_graph=settings.detach_graph)
            rows = step.embedding(rows, smooth)
            states.append(CorrectedNodes(share, rows))
    return states


def semantic_propagate(
    embedding: Tensor, signal: Tensor, settings: CorrectionSettings | None = None
) -> Tensor:
    """Normalized product with the semantic-level graph: nearest neighbors in embedding space.

        a_ij = max(0, cos(x_i, x_j))^gamma  if j is among the nearest of i, j != i;  0 otherwise
        y = D^(-1/2) (a + a^T) D^(-1/2) s,    D the degrees of a + a^T

    Args:
        embedding: ``(b, n, e)``; rows need not have unit length. A row of zeros, or one that is
            not finite, has no link.
        signal: ``(b, n, q)``.
        settings: Neighbors, power, and whether weights are constant.

    Returns:
        ``(b, n, q)``; zero rows for nodes without a link. Eigenvalues of the operator lie in
        [-1, 1].

    Raises:
        ShapeError: The inputs do not describe the same graphs and nodes.

    Source: MLLC eqs. 4-5 with the degree of ``a + a^T``; the printed one would double ``a``.
    Cost: ``n^2 e`` time, ``512 n + n k`` memory.

    Example:
        >>> embedding = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]])
        >>> nearest = CorrectionSettings(n_neighbors=1)
        >>> semantic_propagate(embedding, torch.eye(4)[None], nearest)[0, 0]
        tensor([0.0000, 0.8528, 0.0000, 0.0000])
    """
    settings = settings or CorrectionSettings()
    with full_precision(embedding):
        rows, carried, _ = as_pair(embedding, signal, ("embedding", "signal"))
        if settings.n_neighbors == 0 or rows.shape[1] < 2:
            return torch.zeros_like(carried)
        finite = torch.isfinite(rows.detach()).all(dim=-1, keepdim=True)
        rows = torch.where(finite, rows, 0.0)
        products: list[Tensor] = []
        for graph, values in zip(rows.unbind(), carried.unbind(), strict=True):
            neighbors = nearest_neighbors(graph.detach(), settings.n_neighbors)
            if settings.detach_graph:
                affinity = symmetrized(neighbors, gamma=settings.gamma, symmetrize="sum")
                products.append(affinity_product(normalized_affinity(affinity), values))
            else:
                products.append(_trained_product(graph, values, neighbors, settings.gamma))
    return torch.stack(products)


def _trained_product(
    embedding: Tensor, signal: Tensor, neighbors: Neighbors, gamma: float
) -> Tensor:
    """The product with gradient through the weights of the links, ``(n, q)``."""
    unit, target = unit_rows(embedding), neighbors.index.long()
    cosine = (unit.unsqueeze(1) * unit[target]).sum(dim=-1)
    weight = torch.where(cosine > 0, torch.where(cosine > 0, cosine, 1.0).pow(gamma), 0.0)
    place = target.flatten()
    degree = weight.sum(dim=1).index_add(0, place, weight.flatten())
    root = inverse_root(degree).unsqueeze(-1)
    scaled = root * signal
    outward = (weight.unsqueeze(-1) * scaled[target]).sum(dim=1)
    inward = (weight.unsqueeze(-1) * scaled.unsqueeze(1)).flatten(0, 1)
    return root * outward.index_add(0, place, inward)
