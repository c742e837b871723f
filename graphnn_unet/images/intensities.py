"""Intensities of any unit brought within reach of programs that guard divisions with an epsilon.

Diffusion in m²/s is about 1e-9: a deviation below the 1e-8 of nnU-Net's z-score would count as
none, and the network would see zeros. A factor that is a power of two changes no digit of a
floating-point number, so that everything that does not depend on the unit stays bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALL_DEVIATION = 1e-4
_LARGE = 1e12
"""Deviations above the one and magnitudes below the other are left alone: no epsilon of nnU-Net's,
and no square in single precision, is near."""
_ROUNDING = 1e-6
"""A deviation below this share of the magnitude is rounding in single precision."""
_NNUNETS_EPSILON = 1e-8
_FREE_OF_UNIT = {"ZScoreNormalization", "RescaleTo01Normalization"}
"""nnU-Net's normalizations whose result does not depend on the unit."""


def unit_factor(values: NDArray) -> float:
    """The power of two that brings the deviation of an image near 1.

    Args:
        values: Of any shape; floats.

    Returns:
        1.0 for images of usual units, of one value alone, and with values that are not finite.

    Example:
        >>> unit_factor(np.array([0.0, 100.0])), unit_factor(np.array([5e-9, 5e-9]))
        (1.0, 1.0)
        >>> unit_factor(np.array([1e-9, 3e-9])) == 2.0**30
        True
    """
    if not values.size:
        return 1.0
    largest = max(abs(float(values.min())), abs(float(values.max())))
    if not math.isfinite(largest):
        return 1.0
    if largest > _LARGE:
        return 2.0 ** -math.floor(math.log2(largest))
    if largest * _ROUNDING > _SMALL_DEVIATION:
        return 1.0
    deviation = float(values.std(dtype=np.float64))
    if not largest * _ROUNDING < deviation < _SMALL_DEVIATION:
        return 1.0
    return 2.0 ** min(-math.floor(math.log2(deviation)), 126)


def in_usual_unit(values: NDArray) -> NDArray:
    """The image times ``unit_factor``; the array itself where that is 1."""
    factor = unit_factor(values)
    return values if factor == 1.0 else values * np.asarray(factor, values.dtype)


def in_usual_units(channels: NDArray, schemes: Sequence[str]) -> NDArray:
    """Channels before nnU-Net's normalization, each in a unit that no epsilon outweighs.

    Args:
        channels: ``(c, z, y, x)`` float32.
        schemes: Name of the normalization of each channel; others than z-score and range stay.
    """
    factors = [
        unit_factor(channel) if scheme in _FREE_OF_UNIT else 1.0
        for channel, scheme in zip(channels, schemes, strict=True)
    ]
    if set(factors) <= {1.0}:
        return channels
    return channels * np.asarray(factors, channels.dtype).reshape(-1, *[1] * (channels.ndim - 1))


def small_unit_note(plans: Mapping[str, Any]) -> str:
    """What stock nnU-Net does differently with a plan of very small intensities; empty if nothing.

    Args:
        plans: An nnU-Net plan with the intensities of the foreground.
    """
    properties = plans.get("foreground_intensity_properties_per_channel") or {}
    small = {
        channel: 2 ** -math.floor(math.log2(values["std"]))
        for channel, values in properties.items()
        if 0 < values.get("std", 1.0) < _NNUNETS_EPSILON
    }
    if not small:
        return ""
    factors = ", ".join(f"channel {channel} by {factor:.3g}" for channel, factor in small.items())
    return (
        f"stock nnU-Net takes deviations below {_NNUNETS_EPSILON:g} for none: multiply the images "
        f"before it predicts them ({factors})"
    )
