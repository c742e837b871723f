# pyright: basic
"""Functions of PyTorch that come without types: here they get them, once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributed.nn.functional import all_gather, all_reduce


def row_norm(value: Tensor, *, keepdim: bool = False) -> Tensor:
    """Euclidean length of the rows, ``(..., c)`` to ``(...)`` or ``(..., 1)``."""
    return torch.linalg.vector_norm(value, dim=-1, keepdim=keepdim)


def matrix_norm(value: Tensor) -> Tensor:
    """Frobenius norm of each matrix, ``(..., n, m)`` to ``(...)``."""
    return torch.linalg.matrix_norm(value)


def cholesky(matrix: Tensor) -> Tensor | None:
    """Lower factor of each matrix; ``None`` where one is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return None if bool(failed.any()) else factor


def eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of each symmetric matrix, ascending, and its eigenvectors as columns."""
    return torch.linalg.eigh(matrix)


def unflatten(value: Tensor, axis: int, sizes: tuple[int, int]) -> Tensor:
    """An axis as two."""
    return value.unflatten(axis, sizes)


def numbered(label: Tensor) -> tuple[Tensor, int]:
    """Labels as 0, 1, 2 ... in their order, and how many different ones there are."""
    values, number = label.unique(return_inverse=True)
    return number, len(values)


def true_places(flags: Tensor) -> list[int]:
    """Places of the true entries of ``(n,)``."""
    return flags.nonzero().flatten().tolist()


def csr_tensor(start: Tensor, column: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A sparse tensor of compressed rows, columns ascending within a row."""
    with warnings.catch_warnings():
        # PyTorch calls CSR beta once a process; users cannot act on it
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(start, column, values, size, check_invariants=False)


def csr_of_coordinates(
    row: Tensor, column: Tensor, values: Tensor, size: tuple[int, int]
) -> Tensor:
    """A sparse tensor of compressed rows; weights of equal places are added."""
    stored = torch.sparse_coo_tensor(
        torch.stack([row, column]), values, size, check_invariants=False
    ).coalesce()
    row, column = stored.indices()
    start = torch.searchsorted(row, torch.arange(size[0] + 1, device=row.device))
    return csr_tensor(start, column, stored.values(), size)


class _Symmetric(Function):
    @staticmethod
    def forward(ctx: Any, operator: Callable[[Tensor], Tensor], signal: Tensor) -> Tensor:
        ctx.operator = operator
        return operator(signal)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, symmetric_product(ctx.operator, gradients[0])


def symmetric_product(operator: Callable[[Tensor], Tensor], signal: Tensor) -> Tensor:
    """Product with a constant linear operator that equals its transpose, as its gradient is."""
    return _Symmetric.apply(operator, signal)


def gathered(tensor: Tensor) -> Tensor:
    """The tensors of all processes in a row; the gradient is summed over them."""
    return torch.cat(all_gather(tensor))


def summed(tensor: Tensor) -> Tensor:
    """Sum of the tensors of all processes; the gradient is summed likewise."""
    return all_reduce(tensor)


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solution of dense systems, ``(b, n, n)`` and ``(b, n, q)``."""
    return torch.linalg.solve(matrix, right)
