"""Nearest-neighbor graphs in the cosine sense, by exact search in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import check_choice, check_positive, full_precision, widen
from graphnn_unet.graph._untyped import csr_tensor, true_places
from graphnn_unet.graph.affinity import unit_rows

Symmetrize = Literal["sum", "max", "mutual"]

BLOCK_ROWS = 512
"""Rows compared at a time."""


@dataclass(frozen=True)
class Neighbors:
    """The nearest nodes of each node, nearest first; equal cosines in the order of the index.

    Attributes:
        index: ``(n, k)`` int32.
        cosine: ``(n, k)`` float32 or wider.
    """

    index: Tensor
    cosine: Tensor


def knn_affinity(
    node_feature: Tensor, *, n_neighbors: int, gamma: float = 1.0, symmetrize: Symmetrize = "sum"
) -> Tensor:
    """Sparse affinity that links each node with its nearest ones.

        a_ij = max(0, cos(f_i, f_j))^gamma  if j is among the nearest of i, j != i;  0 otherwise
        w_ij = a_ij + a_ji  (sum),    max(a_ij, a_ji)  (max),    (a_ij + a_ji) / 2 if both (mutual)

    Args:
        node_feature: ``(n, c)``; rows need not have unit length, a zero row gets no edge.
        n_neighbors: Links sought for each node, at least 1; more than ``n - 1`` means all.
        gamma: Positive; larger values favor near-identical nodes.
        symmetrize: ``sum`` counts a mutual link twice, as MLLC and GraphNet Zoo do.

    Returns:
        ``(n, n)`` CSR, int32 indices, symmetric, zero diagonal, only positive weights stored; no
        gradient.

    Raises:
        ShapeError: Not ``(n, c)``, or fewer than two nodes.
        InputError: A feature is not finite, a number is out of range, or a word is not known.

    Source: MLLC eqs. 4-5, GraphNet Zoo. Cost: ``n^2 c`` time, ``512 n`` and ``n k`` memory.
    Nodes with equal features tie exactly only as far as the matrix product rounds them alike,
    which is the same from run to run but may differ between devices.

    Example:
        >>> feature = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> knn_affinity(feature, n_neighbors=1).to_dense()
        tensor([[0.0000, 1.6000, 0.0000],
                [1.6000, 0.0000, 0.6000],
                [0.0000, 0.6000, 0.0000]])
    """
    check_positive("gamma", gamma)
    check_choice("symmetrize", symmetrize, ("sum", "max", "mutual"))
    neighbors = nearest_neighbors(node_feature, n_neighbors)
    return symmetrized(neighbors, gamma=gamma, symmetrize=symmetrize)


def nearest_neighbors(node_feature: Tensor, n_neighbors: int) -> Neighbors:
    """The ``n_neighbors`` other nodes of largest cosine, exactly; smaller index first on ties.

    Args:
        node_feature: ``(n, c)``.
        n_neighbors: At least 1; more than ``n - 1`` means all.

    Returns:
        Index and cosine, ``(n, min(n_neighbors, n - 1))``.

    Raises:
        ShapeError: Not ``(n, c)``, or fewer than two nodes.
        InputError: A feature is not finite, or a number is out of range.

    Example:
        >>> neighbors = nearest_neighbors(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 2)
        >>> neighbors.index.tolist()
        [[1, 2], [0, 2], [1, 0]]
    """
    unit, n_neighbors = _checked(node_feature, n_neighbors)
    with full_precision(unit):
        blocks = [
            _nearest_in_block(unit, start, min(start + BLOCK_ROWS, len(unit)), n_neighbors)
            for start in range(0, len(unit), BLOCK_ROWS)
        ]
    index, cosine = zip(*blocks, strict=True)
    return Neighbors(torch.cat(index), torch.cat(cosine))


def symmetrized(neighbors: Neighbors, *, gamma: float, symmetrize: Symmetrize) -> Tensor:
    """Symmetric CSR affinity of directed links, see :func:`knn_affinity`."""
    # sorted by their place in the matrix, mutual links stand twice in a row; nothing is summed in
    # an order that could change
    n_nodes, device = len(neighbors.index), neighbors.index.device
    weight = neighbors.cosine.clamp(min=0).pow(gamma)
    keep = weight > 0
    source = torch.arange(n_nodes, device=device).unsqueeze(1).expand_as(weight)[keep]
    target, weight = neighbors.index[keep].long(), weight[keep]
    place = torch.cat([source * n_nodes + target, target * n_nodes + source])
    place, order = place.sort(stable=True)
    weight = torch.cat([weight, weight])[order]
    mutual = torch.zeros_like(place, dtype=torch.bool)
    mutual[:-1] = place[1:] == place[:-1]
    first = torch.ones_like(mutual)
    first[1:] = ~mutual[:-1]
    second = torch.where(mutual, weight.roll(-1), 0.0)
    if symmetrize == "sum":
        weight = weight + second
    elif symmetrize == "max":
        weight = torch.maximum(weight, second)
    else:
        weight, first = (weight + second) / 2, mutual
    place, weight = place[first], weight[first]
    degree = torch.bincount(place // n_nodes, minlength=n_nodes)
    start = torch.cat([degree.new_zeros(1), degree.cumsum(0)]).to(torch.int32)
    return csr_tensor(start, (place % n_nodes).to(torch.int32), weight, (n_nodes, n_nodes))


def _nearest_in_block(
    unit: Tensor, start: int, stop: int, n_neighbors: int
) -> tuple[Tensor, Tensor]:
    """Neighbors of the rows ``start`` to ``stop``, among all nodes but themselves."""
    cosine = unit[start:stop] @ unit.T
    here = torch.arange(stop - start, device=unit.device)
    cosine[here, here + start] = -torch.inf
    # one more than asked for: topk takes any of the nodes that tie at the last place, and the next
    # value tells where that happened
    best, index = cosine.topk(n_neighbors + 1, dim=1)
    tied = (best[:, -2] == best[:, -1]).nonzero().squeeze(1)
    best, index = best[:, :-1], index[:, :-1]
    if len(tied):
        rows, edge = cosine[tied], best[tied, -1:]
        above, level = rows > edge, rows == edge
        missing = n_neighbors - above.sum(dim=1, keepdim=True)
        nearest = above | (level & (level.cumsum(dim=1) <= missing))
        index[tied] = nearest.nonzero()[:, 1].view(len(tied), n_neighbors)
        best[tied] = rows.gather(1, index[tied])
    # by falling cosine, equal ones by index
    index, order = index.sort(dim=1)
    best, order = best.gather(1, order).sort(dim=1, descending=True, stable=True)
    index = index.gather(1, order)
    return index.to(torch.int32), best.clamp(-1, 1)


def _checked(node_feature: Tensor, n_neighbors: int) -> tuple[Tensor, int]:
    """Unit rows without gradient, and the number of neighbors there can be."""
    if node_feature.dim() != 2 or len(node_feature) < 2:
        raise ShapeError(
            f"node_feature has shape {tuple(node_feature.shape)}",
            "neighbors need (node, channel) with at least two nodes",
        )
    if n_neighbors < 1:
        raise InputError(f"n_neighbors={n_neighbors} cannot be used", "it starts at 1")
    finite = torch.isfinite(node_feature).all(dim=1)
    if not bool(finite.all()):
        bad = true_places(~finite)
        raise InputError(
            f"{len(bad)} nodes have features that are not finite",
            f"the first ones are {', '.join(map(str, bad[:5]))}",
            "Look at the inputs of these nodes",
        )
    with torch.no_grad():
        unit = unit_rows(widen(node_feature))
    return unit, min(n_neighbors, len(unit) - 1)
