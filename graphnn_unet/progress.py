"""Progress on stderr: a bar on a terminal, one line every 30 s elsewhere, nothing when quiet."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_INTERVAL_S = 30.0
_HOURS_FROM_S = 3 * 3600
MEASURED_S, LONG_S = 5.0, 60.0
"""An announcement follows after the first, and only where more than the second is left."""
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


def counted(n: int, noun: str) -> str:
    """A number and its noun, which takes an s but for 1.

    Example:
        >>> counted(1, "case"), counted(3, "labeled case")
        ('1 case', '3 labeled cases')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


class Progress:
    """A bar with time left, or a line now and then where no one watches.

    Args:
        total: Number of units.
        description: What is counted, for the head of the bar.
        unit: Name of one unit.
        initial: Units already done when a run continues.
        needs: Memory and disk that the run takes, asked for once its speed is known; with it, one
            line then says how long the run takes on this machine. ``None`` says nothing.
        work: Work of the first n units, where units differ; by default n.
    """

    def __init__(
        self,
        total: int,
        description: str,
        unit: str = "case",
        initial: int = 0,
        *,
        needs: Callable[[], str] | None = None,
        work: Callable[[int], float] = float,
    ):
        self.total, self.description, self.unit = total, description, unit
        self.done = self._initial = self._n_worked = initial
        self._needs, self._work = needs, work
        self._started = self._last_line = time.monotonic()
        # the first unit pays for loading and warming up: it counts only where it is a long one
        self._measured_from = (initial, self._started)
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

    def update(self, note: str = "", *, ahead: int = 0) -> None:
        """Count one unit.

        Args:
            note: Shown behind the numbers.
            ahead: Units that are done but for what goes on beside the next ones; they are not
                counted yet, but tell how fast the work is.
        """
        self.done += 1
        self._n_worked = self.done + ahead
        now = time.monotonic()
        is_first = self._n_worked == self._initial + 1
        if self._needs is not None and now - self._started >= (LONG_S if is_first else MEASURED_S):
            self._announce(self._needs, now)
        if self.done == self._initial + 1:
            self._measured_from = (self._n_worked, now)
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
            return
        if not _state["quiet"] and now - self._last_line >= LINE_INTERVAL_S:
            self._last_line = now
            left = self._seconds_left(self._initial, self._started, now)
            print(  # noqa: T201  # the one place where progress is printed
                f"{self.description}: {self.done}/{self.total} {self.unit}s, "
                f"{_minutes(left)} left{'  ' + note if note else ''}",
                file=sys.stderr,
                flush=True,
            )

    def _seconds_left(self, since: int, since_s: float, now: float) -> float:
        rate = (self._work(self._n_worked) - self._work(since)) / max(now - since_s, 1e-9)
        return (
            (self._work(self.total) - self._work(self._n_worked)) / rate if rate else float("inf")
        )

    def _announce(self, needs: Callable[[], str], now: float) -> None:
        self._needs = None
        left = self._seconds_left(*self._measured_from, now)
        if left > LONG_S and not _state["quiet"]:
            say(
                f"{self.description}: {self.total - self._initial} {self.unit}s take about "
                f"{_about(left + now - self._started)} on this machine; {needs()}"
            )


def track(items: Iterable[T], total: int, description: str, unit: str = "case") -> Iterator[T]:
    """Yield ``items`` and show how far they are."""
    with Progress(total, description, unit) as progress:
        for item in items:
            yield item
            progress.update()


def needs_text(disk_bytes: float | None = None) -> str:
    """Memory, and room on the disk where that is known.

    Args:
        disk_bytes: What the run writes.
    """
    if disk_bytes is None:
        return _memory_text()
    n_mb = max(1, math.ceil(disk_bytes / 2**20))
    size = f"{n_mb / 2**10:.1f} GB" if n_mb >= 2**10 else f"{n_mb} MB"
    return f"{_memory_text()} and about {size} on the disk"


def _memory_text() -> str:
    """Memory of this process and its workers now, and of the GPU at most until now.

    Pages that processes share count once each, so with many workers it is an upper bound.
    """
    import psutil  # not at the start of --help

    process = psutil.Process()
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:  # it has ended
            continue
    text = f"it takes {total / 2**30:.1f} GB of memory"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        text += f", {torch.cuda.max_memory_reserved() / 2**30:.1f} GB of GPU memory"
    return text


def _about(seconds: float) -> str:
    """A duration to two digits, in the unit in which people think of it.

    Example:
        >>> _about(95), _about(5000), _about(11000), _about(400000)
        ('1.6 min', '83 min', '3.1 h', '4.6 days')
    """
    for unit, size in (("days", 86400), ("h", 3600)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 60:.2g} min"


def _minutes(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    if seconds >= _HOURS_FROM_S:
        return _about(seconds)
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
