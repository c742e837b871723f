"""Names that are going to end: each warns, says when it ends, and raises from then on.

A deprecation is declared once, in the module that still honors the old name, and registers itself;
``tests/test_deprecation.py`` fails when one outlives its version.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from graphnn_unet import _version
from graphnn_unet.errors import InputError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

DEPRECATIONS: list[Deprecation] = []
"""All that the modules imported so far have declared."""


class ExpiredError(InputError):
    """A deprecated name was used after its end."""


@dataclass(frozen=True)
class Deprecation:
    """A function, keyword argument, flag, recipe key or column that is going to end.

    Attributes:
        name: What ends, with its kind: ``column hd95_mm``, ``flag --foo``.
        since: Version that warned first.
        removed: First version that raises.
        use: What to use instead.
    """

    name: str
    since: str
    removed: str
    use: str

    @property
    def is_over(self) -> bool:
        """Whether this version no longer honors the name."""
        return release(_version.__version__) >= release(self.removed)

    def warn(self, place: str = "", *, stacklevel: int = 2) -> None:
        """Warn that the old name was used.

        Args:
            place: Where it was met, for names that stand in files.
            stacklevel: As of ``warnings.warn``: 1 shows the line that calls this method, 2 the
                caller of the function in which it stands.

        Raises:
            ExpiredError: The name has come to its end.
        """
        what = f"{self.name} in {place}" if place else self.name
        if self.is_over:
            raise ExpiredError(f"{what} ended with version {self.removed}", "", f"Use {self.use}")
        warnings.warn(
            f"{what} is deprecated since {self.since} and ends with {self.removed}. "
            f"Use {self.use}.",
            FutureWarning,
            stacklevel=stacklevel + 1,
        )


def deprecated_name(name: str, *, since: str, removed: str, use: str) -> Deprecation:
    """Declare that a column, flag or keyword argument is going to end; call ``warn`` at its use.

    Example:
        >>> old = deprecated_name("flag --speed", since="0.1", removed="99", use="--rate")
        >>> old.is_over
        False
        >>> _ = DEPRECATIONS.pop()
    """
    deprecation = Deprecation(name, since, removed, use)
    DEPRECATIONS.append(deprecation)
    return deprecation


def deprecated(
    *, since: str, removed: str, use: str
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Mark a function that is going to end; it warns at the line of its caller.

    Args:
        since: Version that warned first.
        removed: First version in which a call raises :class:`ExpiredError`.
        use: What to call instead.

    Example:
        >>> @deprecated(since="0.1", removed="99", use="new_sum")
        ... def old_sum(a, b):
        ...     return a + b
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     old_sum(1, 2)
        3
        >>> print(caught[0].message)
        old_sum() is deprecated since 0.1 and ends with 99. Use new_sum.
        >>> _ = DEPRECATIONS.pop()
    """

    def mark(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        old = deprecated_name(f"{function.__name__}()", since=since, removed=removed, use=use)

        @wraps(function)
        def warned(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            old.warn(stacklevel=2)
            return function(*args, **kwargs)

        return warned

    return mark


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what marks it as a pre-release, and without end zeros.

    Example:
        >>> release("0.3.0rc1"), release("0.10") > release("0.9.2")
        ((0, 3), True)
    """
    numbers = re.match(r"\d+(\.\d+)*", version)
    text = numbers[0] if numbers else "0"
    return tuple(map(int, re.sub(r"(\.0+)+$", "", text).split(".")))
