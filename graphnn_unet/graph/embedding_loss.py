"""The loss that pulls embeddings of one class together and sets those of different ones apart."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from graphnn_unet.graph._tensors import as_batch, check_choice, check_labels, full_precision
from graphnn_unet.graph._untyped import numbered


def pair_loss(
    embedding: Tensor, label: Tensor, *, reduction: Literal["pairs", "mean", "sum"] = "pairs"
) -> Tensor:
    """Squared distance of all inner products from their targets, 1 within a class and 0 across.

        sum_ij [y_i = y_j] (v_i.v_j - 1)^2 + [y_i != y_j] (v_i.v_j)^2
            = ||V^T V||^2 - 2 sum_c ||sum_(i in c) v_i||^2 + sum_c n_c^2

    Args:
        embedding: ``(b, n, e)`` or ``(n, e)``; rows usually of unit length.
        label: ``(b, n)`` or ``(n,)`` integer; nodes with a negative label are left out.
        reduction: ``pairs``: mean over the pairs of different nodes (0 for fewer than two);
            ``mean``: over all ``n^2`` pairs, each node with itself among them; ``sum``: those
            pairs summed.

    Returns:
        ``(b,)``, or a scalar for one graph without batch axis. Non-negative; rounding leaves about
        1e-7 of the mean in float32 where all targets are met.

    Raises:
        ShapeError: The label does not fit the embedding.
        InputError: An unknown word.

    Source: MLLC eq. 12, first sum; identity LF-9. Cost: ``n e (e + C)`` time, ``n C + e^2``
    memory for ``C`` different labels.

    Example:
        >>> label = torch.tensor([0, 0, 1])
        >>> pair_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), label).item()
        0.0
        >>> round(pair_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), label).item(), 4)
        0.6667
    """
    check_choice("reduction", reduction, ("pairs", "mean", "sum"))
    check_labels(label, embedding, "embedding")
    with full_precision(embedding):
        rows, single = as_batch(embedding, "embedding")
        classes = label.unsqueeze(0) if single else label
        classes = classes.long()
        used = (classes >= 0).unsqueeze(-1)
        rows = torch.where(used, rows, 0.0)
        number, n_classes = numbered(classes)  # however large they are
        member = functional.one_hot(number, n_classes) * used
        member = member.to(rows.dtype)
        size = member.sum(dim=1)
        count = size.sum(dim=1)
        # embeddings shrink by the root of n, so that sums over nodes stay of order one
        shrunk = rows / count.clamp(min=1).sqrt()[:, None, None]
        gram = (shrunk.transpose(1, 2) @ shrunk).square().sum(dim=(1, 2))
        pull = (member.transpose(1, 2) @ rows).square().sum(dim=(1, 2))
        n_pairs = count.clamp(min=1).square()
        value = gram - 2 * pull / n_pairs + size.square().sum(dim=1) / n_pairs
        if reduction == "pairs":
            itself = (rows.square().sum(dim=2) - 1).square() * used.squeeze(-1)
            different = (count * (count - 1)).clamp(min=1)
            value = (value * n_pairs - itself.sum(dim=1)) / different
        elif reduction == "sum":
            value = value * n_pairs
        value = value.clamp(min=0)
    return value[0] if single else value
