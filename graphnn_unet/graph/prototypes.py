"""A slow mean embedding of each class, and the loss that draws nodes to that of their class.

Papers:
    MLLC: https://arxiv.org/abs/2404.02065
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnn_unet.errors import ShapeError
from graphnn_unet.graph._tensors import (
    as_batch,
    check_labels,
    check_positive,
    full_precision,
    widen,
)
from graphnn_unet.graph.affinity import unit_rows
from graphnn_unet.graph.shared_batch import sum_over_processes


class ClassPrototypes(nn.Module):
    """Mean embedding of every class after each step of a correction, moved slowly.

    The mean of a batch is that of all its nodes of the class, whatever image or process they are
    in. The first one is taken whole; a class that is absent keeps its prototype.

        p <- beta p + (1 - beta) p_batch

    All is in buffers, so a state dict restores it.

    Args:
        n_levels: Steps of the correction.
        n_classes: Classes ``C``.
        size: Entries ``e`` of an embedding.
        beta: Share of the old prototype that is kept.

    Attributes:
        mean: ``(n_levels, C, e)``.
        sightings: ``(C,)`` int64, batches in which each class was present.

    Source: MLLC eqs. 13-14. Printed with ``beta`` at the new mean, which replaces 99 % of a memory
    that the text calls slow-moving.

    Example:
        >>> prototypes = ClassPrototypes(1, 2, 2)
        >>> label = torch.tensor([[0]])
        >>> prototypes.update([torch.tensor([[[1.0, 0.0]]])], label)
        >>> prototypes.update([torch.tensor([[[0.0, 1.0]]])], label)
        >>> prototypes.mean[0]
        tensor([[0.9900, 0.0100],
                [0.0000, 0.0000]])
    """

    mean: Tensor
    sightings: Tensor

    def __init__(self, n_levels: int, n_classes: int, size: int, beta: float = 0.99):
        super().__init__()
        self.beta = beta
        self.register_buffer("mean", torch.zeros(n_levels, n_classes, size))
        self.register_buffer("sightings", torch.zeros(n_classes, dtype=torch.int64))

    @property
    def seen(self) -> Tensor:
        """``(C,)`` bool: classes that have been present."""
        return self.sightings > 0

    @torch.no_grad()
    def update(self, embeddings: Sequence[Tensor], label: Tensor) -> None:
        """Take in the nodes of a batch.

        Args:
            embeddings: ``(b, n, e)`` for each level.
            label: ``(b, n)`` integer; nodes with a negative label are left out.

        Raises:
            ShapeError: The label does not fit, or the number of levels is another.
        """
        if len(embeddings) != len(self.mean):
            raise ShapeError(f"{len(embeddings)} levels were given", f"there are {len(self.mean)}")
        if not embeddings:
            return
        n_classes = len(self.sightings)
        used = (label >= 0).flatten()
        member = functional.one_hot(label.flatten().clamp(min=0).long(), n_classes)
        member = (member * used.unsqueeze(1)).to(self.mean.dtype)
        with full_precision(self.mean):
            totals: list[Tensor] = []
            for level in embeddings:
                if level.shape[:-1] != label.shape:
                    raise ShapeError(
                        f"embedding {tuple(level.shape)} and label {tuple(label.shape)} do not fit"
                    )
                totals.append(member.T @ level.flatten(0, -2).to(self.mean.dtype))
            total = sum_over_processes(torch.stack(totals))
            count = sum_over_processes(member.sum(dim=0))
            batch = total / count.clamp(min=1).unsqueeze(1)
            moved = torch.where(
                self.seen.unsqueeze(1), self.beta * self.mean + (1 - self.beta) * batch, batch
            )
            # a batch that overflowed must not stay in the memory
            present = (count > 0) & torch.isfinite(batch).all(dim=-1).all(dim=0)
            self.mean.copy_(torch.where(present.unsqueeze(1), moved, self.mean))
            self.sightings += present


def prototype_loss(
    embedding: Tensor, label: Tensor, prototype: Tensor, seen: Tensor, *, tau: float = 0.1
) -> Tensor:
    """Cross-entropy of each node's class under the cosines with all prototypes.

        mean_i -log[ exp(v_i.p_(y_i) / tau) / sum_c exp(v_i.p_c / tau) ]

    Args:
        embedding: ``(b, n, e)`` or ``(n, e)``, rows of unit length.
        label: ``(b, n)`` or ``(n,)`` integer; nodes with a negative label are left out.
        prototype: ``(C, e)``, made unit rows here; no gradient reaches it.
        seen: ``(C,)`` bool; other classes are left out of the sum, their nodes out of the mean.
        tau: Temperature.

    Returns:
        ``(b,)``, or a scalar for one graph; 0 where no node counts.

    Raises:
        ShapeError: The label does not fit the embedding.
        InputError: ``tau`` is not positive.

    Source: MLLC eq. 12, second sum. Cost: ``n C e``.

    Example:
        >>> prototype, seen = torch.eye(2), torch.ones(2, dtype=torch.bool)
        >>> prototype_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), prototype, seen, tau=1.0)
        tensor(1.3133)
    """
    check_positive("tau", tau)
    check_labels(label, embedding, "embedding")
    with full_precision(embedding):
        rows, single = as_batch(embedding, "embedding")
        target = (label.unsqueeze(0) if single else label).long()
        center = unit_rows(prototype.detach()).to(rows.dtype)
        score = (rows @ center.T / tau).masked_fill(~seen, torch.finfo(rows.dtype).min)
        inside = target.clamp(min=0)
        used = (target >= 0) & seen[inside]
        entropy = score.logsumexp(dim=-1) - score.gather(-1, inside.unsqueeze(-1)).squeeze(-1)
        value = torch.where(used, entropy, 0.0).sum(dim=-1) / used.sum(dim=-1).clamp(min=1)
    return value[0] if single else value


def self_weighted_entropy(probability: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of given labels, each node weighed by the probability it has for its label.

        mean_i -w_i log p_(i, y_i),    w_i = p_(i, y_i) without gradient

    With gradient through the weight the loss would push probabilities below 1/e down.

    Args:
        probability: ``(b, n, C)`` or ``(n, C)``, rows on the simplex.
        label: ``(b, n)`` or ``(n,)`` integer, 0 to ``C - 1``.

    Returns:
        ``(b,)``, or a scalar for one graph; at least 0. Probabilities count as at least 1e-8.

    Raises:
        ShapeError: The label does not fit.

    Source: MLLC eqs. 15-16, with the minus sign that is missing in print.

    Example:
        >>> self_weighted_entropy(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor(0.3466)
    """
    check_labels(label, probability, "probability")
    with full_precision(probability):
        chosen = widen(probability).gather(-1, label.long().unsqueeze(-1)).squeeze(-1)
        return -(chosen.detach() * chosen.clamp(min=1e-8).log()).mean(dim=-1)
