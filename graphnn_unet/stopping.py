"""Interrupts: a training finishes its step, everything else stops where it is and says so."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def termination_signals() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP of a lost terminal unless ``nohup`` ignores it."""
    numbers = [signal.SIGTERM]
    if (hangup := getattr(signal, "SIGHUP", None)) and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    return numbers


@contextmanager
def _handled(numbers: list[signal.Signals], handler: Any) -> Iterator[None]:
    """Handle signals in the block; they belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a termination sets, so that a step is finished before stopping."""
    event = threading.Event()

    def request(number: int, _frame: Any) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; go on from the last checkpoint with --c")
        event.set()

    with _handled([signal.SIGINT, *termination_signals()], request):
        yield event


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """In the block a termination ends like Ctrl-C: everything is cleared up, exit status 130."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    with _handled(termination_signals(), interrupt):
        yield


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """The block ends as if the process were terminated once the time is over; ``None``: never."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
