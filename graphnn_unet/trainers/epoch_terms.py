"""The terms of the loss in the steps of an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from graphnn_unet.metrics.aggregate import finite_mean

Term = Tensor | float


class EpochTerms:
    """Terms of the loss, step by step; tensors stay on their device until they are asked for.

    Example:
        >>> terms = EpochTerms()
        >>> terms.add({"loss": 1.0})
        >>> terms.add({"loss": float("nan")})
        >>> terms.means(), terms.n_not_finite("loss")
        ({'loss': 1.0}, 1)
    """

    def __init__(self, values: Mapping[str, Sequence[Term]] | None = None):
        self._values: dict[str, list[Term]] = {k: list(v) for k, v in (values or {}).items()}

    def add(self, terms: Mapping[str, Term]) -> None:
        """The terms of one step."""
        for name, value in terms.items():
            self._values.setdefault(name, []).append(value)

    def last(self, name: str) -> float:
        """The latest value of a term; NaN without one."""
        values = self._values.get(name)
        return float(values[-1]) if values else math.nan

    def means(self) -> dict[str, float]:
        """Mean of the finite values of each term; NaN where none is."""
        return {name: finite_mean(values) for name, values in self._arrays().items()}

    def n_not_finite(self, name: str) -> int:
        """Steps in which a term was not finite."""
        return int((~np.isfinite(_as_array(self._values[name]))).sum())

    def as_lists(self) -> dict[str, list[float]]:
        """For a checkpoint."""
        return {name: values.tolist() for name, values in self._arrays().items()}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: _as_array(values) for name, values in self._values.items()}


def _as_array(values: Sequence[Term]) -> np.ndarray:
    """Scalars as float64; one transfer from the device for all of them."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) == len(values):
        return torch.stack([t.double() for t in tensors]).cpu().numpy()
    return np.array([float(value) for value in values])
