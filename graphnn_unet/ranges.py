"""The ranges of numbers that users give, on a command line and in Python, in the same words."""

from __future__ import annotations

import math
from operator import index

from graphnn_unet.errors import InputError

MAX_SEED, MAX_COUNT, MAX_WORKERS = 2**32 - 1, 10**6, 1024
"""NumPy's random numbers take seeds up to the first; no count that is given needs more than the
second, and no machine has more cores than the third."""


def out_of_range(
    value: float, low: float = 0, high: float = MAX_COUNT, *, above: bool = False
) -> str:
    """What is wrong with a number; empty where nothing is.

    Args:
        value: The number.
        low: Smallest value.
        high: Largest value.
        above: ``low`` itself is too small.
    """
    if low <= value <= high and not (above and value == low):
        return ""
    to = "" if math.isinf(high) else f" to {high}"
    return f"is out of range: use a number {'above' if above else 'from'} {low}{to}"


def require_count(name: str, value: object, low: int = 0, high: int = MAX_COUNT) -> None:
    """Refuse what is no whole number of a range; ``None`` stands for a default and passes.

    Raises:
        InputError: Names the argument, the value and the range.
    """
    if value is None:
        return
    try:
        wrong = out_of_range(index(value), low, high)  # pyright: ignore[reportArgumentType]  # raises for others
    except TypeError:
        wrong = "is not a whole number"
    if wrong or isinstance(value, bool):
        raise InputError(f"{name} {str(value)[:40]} {wrong or 'is not a whole number'}")


def require_number(
    name: str, value: object, low: float = 0, high: float = math.inf, *, above: bool = False
) -> None:
    """Refuse what is no finite number of a range; ``None`` stands for a default and passes.

    Raises:
        InputError: Names the argument, the value and the range.
    """
    if value is None:
        return
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]  # raises for others
        wrong = out_of_range(number, low, high, above=above)
        wrong = wrong or ("is out of range: use a finite number" if math.isinf(number) else "")
    except (TypeError, ValueError, OverflowError):
        wrong = "is not a number"
    if wrong or isinstance(value, (bool, str)):
        raise InputError(f"{name} {str(value)[:40]} {wrong or 'is not a number'}")
