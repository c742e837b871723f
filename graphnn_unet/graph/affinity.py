"""Rows, affinities and degrees of the complete graph on the rows of a feature matrix.

Notation of this package: ``F`` is ``(n, c)`` with rows ``f_i``, ``U`` its unit rows, ``S`` a soft
assignment ``(n, k)`` with rows ``s_i``, ``1`` the vector of ones. Every function takes one graph
``(n, .)`` or a batch ``(b, n, .)``; nothing ever runs across the batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphnn_unet.graph._tensors import as_batch, check_choice, full_precision
from graphnn_unet.graph._untyped import row_norm

Rows = Literal["unit", "raw", "centred"]
ROWS = ("unit", "raw", "centred")
Kernel = Literal["shifted", "gram"]
KERNELS = ("shifted", "gram")

# Centering equal rows leaves rounding noise, which unit length would blow up to a direction.
_NOISE = 32


def inverse_norm(feature: Tensor, floor: Tensor | float | None = None) -> Tensor:
    """``1/||f_i||`` as ``(..., n, 1)``; 0, with gradient 0, for rows of a norm up to ``floor``."""
    norm = row_norm(feature, keepdim=True)
    smallest = torch.finfo(feature.dtype).tiny ** 0.5 if floor is None else floor
    alive = norm > smallest
    return torch.where(alive, norm, 1.0).reciprocal() * alive


def unit_rows(feature: Tensor) -> Tensor:
    """Rows of length 1; a zero row stays zero and passes no gradient.

    Args:
        feature: ``(n, c)`` or ``(b, n, c)``.

    Returns:
        Same shape, float32 or wider.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    with full_precision(feature):
        rows, single = as_batch(feature, "feature")
        unit = rows * inverse_norm(rows)
    return unit[0] if single else unit


def row_scale(feature: Tensor, rows: Rows) -> tuple[Tensor, Tensor | None]:
    """The rows a loss works on: a matrix ``(b, n, c)``, a factor ``(b, n, 1)`` or ``None`` for 1.

    Keeping the factor apart lets a product ``(scale * F)^T S`` be formed as ``F^T (scale * S)``,
    which never copies the ``n x c`` matrix. ``raw`` leaves rows as they are; ``unit`` gives them
    length 1; ``centred`` subtracts the mean row of each graph first.
    """
    check_choice("rows", rows, ROWS)
    if rows == "raw":
        return feature, None
    if rows == "unit":
        return feature, inverse_norm(feature)
    with torch.no_grad():
        largest = row_norm(feature, keepdim=True).amax(-2, keepdim=True)
        floor = _NOISE * torch.finfo(feature.dtype).eps * largest
    centered = feature - feature.mean(dim=-2, keepdim=True)
    return centered, inverse_norm(centered, floor)


def prepared_rows(feature: Tensor, rows: Rows) -> Tensor:
    """The matrix that :func:`row_scale` describes, multiplied out, ``(b, n, c)``."""
    matrix, scale = row_scale(feature, rows)
    return matrix if scale is None else matrix * scale


def largest_affinity(feature: Tensor, scale: Tensor | None = None) -> Tensor:
    """``max_ij f_i.f_j = max_i ||f_i||^2`` of each graph, the diagonal included, without gradient.

    By Cauchy-Schwarz no product exceeds the larger squared norm, and the diagonal reaches it.
    ``scale`` holds factors of the rows, as :func:`row_scale` returns them. Source: LF-2.
    """
    with torch.no_grad():
        norm = row_norm(feature)
        if scale is not None:
            norm = norm * scale.squeeze(-1)
        return norm.amax(dim=-1).square()


def positive_block(left: Tensor, right: Tensor, threshold: Tensor) -> Tensor:
    """``max(0, l_i.r_j - threshold)`` as ``(b, p, q)``, computed in one buffer."""
    shift = threshold[:, None, None].neg()
    product = torch.baddbmm(shift, left, right.transpose(1, 2))
    return product.clamp_(min=0) if not product.requires_grad else product.clamp(min=0)


def revive_diagonal(block: Tensor) -> None:
    """Set zeros on the diagonal of ``(b, p, q)`` to 1 in place, as PyG's remaining self-loops."""
    diagonal = block.diagonal(dim1=1, dim2=2)
    diagonal.masked_fill_(diagonal == 0, 1.0)


@dataclass(frozen=True)
class GramAffinity:
    """A complete graph ``W = Phi Phi^T`` that is never built, one a batch entry.

    With row factors ``t_i`` (1 if ``scale`` is ``None``):

        w_ij = constant + factor * t_i t_j f_i.f_j,
        phi_i = [sqrt(constant), sqrt(factor) t_i f_i]

    ``shifted`` is the shifted cosine, ``(1 + u_i.u_j) / 2``: non-negative for any features.
    ``gram`` is ``f_i.f_j``: a graph in the usual sense only if no feature is negative.
    ``matrix`` is ``(b, n, c)``, ``scale`` ``(b, n, 1)``. Source: LF-1, LF-4, LF-15.
    """

    matrix: Tensor
    scale: Tensor | None
    constant: float
    factor: float

    @classmethod
    def of(cls, feature: Tensor, kernel: Kernel) -> GramAffinity:
        """The graph of ``(b, n, c)`` rows under a kernel."""
        check_choice("kernel", kernel, KERNELS)
        if kernel == "gram":
            return cls(feature, None, 0.0, 1.0)
        return cls(feature, inverse_norm(feature), 0.5, 0.5)

    @property
    def n_nodes(self) -> int:
        """Number of nodes of each graph."""
        return self.matrix.shape[1]

    def project(self, signal: Tensor) -> Tensor:
        """``Phi^T X`` for ``(b, n, q)``, as ``(b, r, q)``; ``r`` is ``c`` or ``c + 1``."""
        scaled = signal if self.scale is None else signal * self.scale
        body = self.factor**0.5 * (self.matrix.transpose(1, 2) @ scaled)
        if self.constant == 0:
            return body
        head = self.constant**0.5 * signal.sum(dim=1, keepdim=True)
        return torch.cat([head, body], dim=1)

    def expand(self, inner: Tensor) -> Tensor:
        """``Phi Y`` for ``(b, r, q)``, as ``(b, n, q)``."""
        body = inner if self.constant == 0 else inner[:, 1:]
        result = self.matrix @ (self.factor**0.5 * body)
        if self.scale is not None:
            result = result * self.scale
        return result if self.constant == 0 else result + self.constant**0.5 * inner[:, :1]

    def total(self) -> Tensor:
        """``Phi^T 1 / n``, ``(b, r, 1)``; its squared length is the mean entry of ``W``."""
        share = torch.full_like(self.matrix[..., :1], 1 / self.n_nodes)
        return self.project(share)

    def degree(self) -> Tensor:
        """Row sums of ``W``, ``(b, n)``."""
        return self.expand(self.total()).squeeze(-1) * self.n_nodes

    def diagonal(self) -> Tensor:
        """Self-weights ``w_ii``, ``(b, n)``."""
        norm = row_norm(self.matrix)
        if self.scale is not None:
            norm = norm * self.scale.squeeze(-1)
        return self.constant + self.factor * norm.square()

    def rows(self) -> Tensor:
        """``Phi`` written out, ``(b, n, r)``."""
        body = self.matrix if self.scale is None else self.matrix * self.scale
        body = self.factor**0.5 * body
        if self.constant == 0:
            return body
        return torch.cat([torch.full_like(body[..., :1], self.constant**0.5), body], dim=-1)


def inverse_root(degree: Tensor) -> Tensor:
    """``d^(-1/2)``, and 0 with gradient 0 where the degree is not positive."""
    alive = degree > 0
    return torch.where(alive, degree, 1.0).rsqrt() * alive
