"""Standard output and standard error of a command, whatever they lead to.

Messages and progress are for people: where standard error is closed, full, or lacks the letters of
a path, the work goes on. Results on standard output are for scripts: what cannot be written there
is an error.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from graphnn_unet.errors import InputError


class _Messages(io.FileIO):
    """Standard error, which may be full or have lost its reader."""

    def write(self, b: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  # any buffer, as io passes them
        try:
            return super().write(b)
        except OSError:
            return len(b)


class _Results(io.FileIO):
    """Standard output; a disk that is full is named."""

    def write(self, b: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        try:
            return super().write(b)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(
                "standard output cannot be written",
                (error.strerror or str(error)).lower(),
                "Send it to a place with room",
            ) from error


def use_streams() -> None:
    """Let this process write to whatever its standard streams lead to.

    Streams that were replaced (by a notebook, by a test) stay as they are.
    """
    for number in range(3):
        _open_where_closed(number)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Results(1, "w", closefd=False), sys.stdout)


def _open_where_closed(number: int) -> None:
    """A closed stream leads to nowhere: the next file would get its number, and the messages."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def _text(raw: io.FileIO, before: object) -> io.TextIOWrapper:
    """Text as before, but for letters that the encoding lacks."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",  # a closed stream is None
        errors="backslashreplace",
        line_buffering=raw.fileno() == 2 or raw.isatty(),
    )


@contextmanager
def written_results() -> Iterator[None]:
    """In the block results are printed; at its end they are written.

    Raises:
        InputError: Standard output cannot be written; an error of the block goes first.
        BrokenPipeError: Its reader has gone.
    """
    try:
        yield
        _flush()
    except SystemExit:  # of a parser that has printed its help
        _flush()
        raise
    except BaseException:
        with suppress(OSError, ValueError):
            _flush()
        raise


def _flush() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # what is still waiting is dropped, or Python would fail on it at its end
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        raise
