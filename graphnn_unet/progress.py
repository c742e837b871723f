"""Progress on stderr: a bar on a terminal, one line every 30 s elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_INTERVAL_S = 30.0
_state = {"quiet": False}


def set_quiet(quiet: bool) -> None:
    """Switch all progress output of this process off or on."""
    _state["quiet"] = quiet


def is_quiet() -> bool:
    """Whether progress output is off."""
    return _state["quiet"]


def say(message: str) -> None:
    """One line for the user on stderr, unless quiet; never through a bar."""
    if not _state["quiet"]:
        tqdm.write(message, file=sys.stderr)


class Progress:
    """A bar with time left, or a line now and then where no one watches.

    Args:
        total: Number of units.
        description: What is counted, for the head of the bar.
        unit: Name of one unit.
        initial: Units already done when a run continues.
    """

    def __init__(self, total: int, description: str, unit: str = "case", initial: int = 0):
        self.total, self.description, self.unit = total, description, unit
        self.done = self._initial = initial
        self._started = self._last_line = time.monotonic()
        on_terminal = sys.stderr.isatty() and not _state["quiet"]
        self._bar = (
            tqdm(
                total=total,
                desc=description,
                unit=unit,
                initial=initial,
                file=sys.stderr,
                dynamic_ncols=True,
            )
            if on_terminal
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, note: str = "") -> None:
        """Count one unit; ``note`` is shown behind the numbers."""
        self.done += 1
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if not _state["quiet"] and now - self._last_line >= LINE_INTERVAL_S:
            self._last_line = now
            rate = (self.done - self._initial) / (now - self._started)
            left = (self.total - self.done) / rate if rate else float("inf")
            print(  # noqa: T201  # the one place where progress is printed
                f"{self.description}: {self.done}/{self.total} {self.unit}s, "
                f"{_minutes(left)} left{'  ' + note if note else ''}",
                file=sys.stderr,
                flush=True,
            )


def track(items: Iterable[T], total: int, description: str, unit: str = "case") -> Iterator[T]:
    """Yield ``items`` and show how far they are."""
    with Progress(total, description, unit) as progress:
        for item in items:
            yield item
            progress.update()


def _minutes(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
