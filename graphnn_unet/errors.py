"""Errors that a user can fix, and the one line each of them prints.

Every class is also a subclass of the built-in error it resembles, so that ``except ValueError``
in a script keeps working. ``exit_status`` is what the console scripts return (0 done, 1 a bug,
2 the user can fix it, 3 some cases failed, 130 interrupted).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class GraphnnError(Exception):
    """Base of all errors that carry a cause and a remedy.

    Args:
        what: What went wrong and in which case or file, without a full stop.
        why: The cause or the consequence, without a full stop; may be empty.
        remedy: What the user can do, without a full stop; may be empty.
    """

    exit_status = 2

    def __init__(self, what: str, why: str = "", remedy: str = ""):
        self.what, self.why, self.remedy = what, why, remedy
        super().__init__(self.line)

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors reach the process that shows them as they were raised in another."""
        return _error_from, (type(self), self.__dict__)

    @property
    def line(self) -> str:
        """The message on one line, ``<what>: <why>. <remedy>``, each part with its full stop."""
        text = f"{self.what}: {self.why}." if self.why else f"{self.what}."
        return f"{text} {self.remedy}." if self.remedy else text

    @property
    def lines(self) -> list[str]:
        """All lines to print, one a fault."""
        return [self.line]

    @property
    def note(self) -> str:
        """What is said after the lines; mostly nothing."""
        return ""

    def __str__(self) -> str:
        return "\n".join(self.lines)


def _error_from(kind: type[GraphnnError], values: dict[str, Any]) -> GraphnnError:
    error = kind.__new__(kind)
    error.__dict__.update(values)
    return error


class InputError(GraphnnError, ValueError):
    """A file, a value or a combination of options cannot be used."""


def near_names(name: str, known: Iterable[str]) -> str:
    """The cause of an error about a name that nobody knows: near ones, or else all.

    Example:
        >>> near_names("quik", ["la", "quick"]), near_names("x", ["la", "quick"])
        ('near names: quick', 'known names: la, quick')
    """
    names = list(known)
    if near := get_close_matches(name, names, n=3, cutoff=0.4):
        return f"near names: {', '.join(near)}"
    return f"known names: {', '.join(names) or 'none'}"


def require_installed(modules: Sequence[str], extra: str, what: str) -> None:
    """Refuse what needs libraries that are not there.

    Args:
        modules: Names to import.
        extra: The extra of this package that brings them.
        what: What is not possible without them.

    Raises:
        InputError: Says what to install.
    """
    if missing := [name for name in modules if find_spec(name) is None]:
        raise InputError(
            what, f"{', '.join(missing)} is not installed",
            f"Install it with pip install 'graphnn-unet[{extra}]'",
        )  # fmt: skip


MAX_LINES = 100
"""So many faults of one file are told."""
COPY_AGAIN = "Copy or export the file again, or leave the case out"


class BadFileError(InputError):
    """An image file cannot be used.

    Args:
        code: Stable identifier of the kind of fault, as in ``Fault``.
        what: What is wrong with which file, without a full stop.
        remedy: What the user can do, without a full stop.
    """

    def __init__(self, code: str, what: str, remedy: str = COPY_AGAIN):
        super().__init__(what, "", remedy)
        self.code = code

    def __reduce__(self) -> tuple[type[BadFileError], tuple[str, str, str]]:
        return type(self), (self.code, self.what, self.remedy)

    def as_fault(self, case: str, stage: str) -> Fault:
        """The error as a fault of a case."""
        return Fault(case, stage, self.what, self.remedy, code=self.code)


class MissingFileError(GraphnnError, FileNotFoundError):
    """A file or folder that is needed is not there."""


class ShapeError(GraphnnError, ValueError):
    """Two arrays do not fit each other."""


class RecipeError(GraphnnError, ValueError):
    """A recipe has an unknown key or a value of the wrong type."""


class LockedError(GraphnnError, RuntimeError):
    """Another process works in the folder."""


class ClusterError(GraphnnError, RuntimeError):
    """The workers of a cluster cannot be reached, or its scheduler has gone."""


class RefusedError(GraphnnError, RuntimeError):
    """The command would replace or mix up results."""


class UnsafeFileError(GraphnnError, ValueError):
    """A file asks for code or a path that is not on the closed list."""


class SeveralFaultsError(InputError):
    """All faults of one file together, one line each."""

    def __init__(self, errors: Sequence[GraphnnError]):
        self.errors = list(errors)
        causes = "; ".join(error.why for error in self.errors)
        super().__init__(self.errors[0].what, causes, self.errors[0].remedy)

    @property
    def lines(self) -> list[str]:
        """One line a fault, for the first ones where there are very many."""
        lines = [error.line for error in self.errors[:MAX_LINES]]
        more = len(self.errors) - len(lines)
        return [*lines, f"... and {more} more faults."] if more else lines


class SeveralUnsafeError(SeveralFaultsError, UnsafeFileError):
    """Several faults of a file, one of which asks for code."""


class NoSpaceError(GraphnnError, OSError):
    """The disk has too little room."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP,
    errno.ENOTDIR, errno.EISDIR,
)  # fmt: skip
_OF_A_NETWORK = (errno.EBUSY, errno.ESTALE)
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


def from_system(error: OSError) -> GraphnnError | None:
    """What the system refuses and a user can fix; ``None`` for what only a bug explains.

    Example:
        >>> print(from_system(PermissionError(errno.EACCES, "Permission denied", "plans.json")))
        plans.json cannot be used: permission denied. Choose files and folders that you may read \
and write (gnnunet_info shows those in use).
    """
    name = error.filename2 or error.filename
    why = (error.strerror or str(error)).lower()
    if error.errno in _FULL:
        where = f"while writing {name}" if name else "on a disk that is written to"
        why = f"the disk or your quota is full ({why})"
        return NoSpaceError(f"no space left {where}", why, "Free some space and run it again")
    if error.errno in _TOO_MANY:
        return InputError("too many files are open", why, "Raise 'ulimit -n' or use fewer workers")
    if error.errno in _OF_A_NETWORK and name:
        remedy = "Run it again; if that does not help, use a folder on a disk of this machine"
        return InputError(f"{name} cannot be used", why, remedy)
    if error.errno in _REFUSED and name:
        remedy = "Choose files and folders that you may read and write"
        return InputError(
            f"{name} cannot be used", why, f"{remedy} (gnnunet_info shows those in use)"
        )
    return None


class DivergedError(GraphnnError, RuntimeError):
    """Training met non-finite losses several steps in a row."""


@dataclass(frozen=True)
class Fault:
    """One fault of one case, as it stands in reports.

    Attributes:
        case: Case id, or the file or data set where no case can be named.
        stage: ``check``, ``fingerprint``, ``preprocess``, ``predict`` ...
        cause: What is wrong, one line.
        remedy: What to do, one line.
        severity: ``error`` stops the command, ``warning`` does not.
        code: Stable identifier of the kind of fault, for scripts and tests.
    """

    case: str
    stage: str
    cause: str
    remedy: str
    severity: str = "error"
    code: str = ""

    @property
    def line(self) -> str:
        """The fault on one line, case first."""
        return f"{self.case}: {self.cause}." + (f" {self.remedy}." if self.remedy else "")

    def as_dict(self) -> dict[str, str]:
        """The fault as plain values."""
        return asdict(self)


MANY, SHOWN = 10, 10
"""From so many cases with the same fault on, they share a line, which names at most so many
where a report names all."""


class FaultsError(GraphnnError, ValueError):
    """All faults of one pass together, one line each; a fault that many cases share has one.

    Args:
        faults: The faults.
        summary: One line for all of them; their number without it.
        report: The file that holds all of them, where one was written.
    """

    def __init__(self, faults: Sequence[Fault], summary: str = "", report: Path | None = None):
        self.faults = list(faults)
        self.report = report
        super().__init__(summary or f"{len(self.faults)} faults")

    @property
    def lines(self) -> list[str]:
        """One line a fault, in the order they were found, and one for many with the same words."""
        sharing: dict[tuple[str, str], list[Fault]] = {}
        for fault in self.faults:
            sharing.setdefault(_words(fault), []).append(fault)
        lines = []
        for fault in self.faults:
            together = sharing[_words(fault)]
            if len(together) < MANY:
                lines.append(fault.line)
            elif fault is together[0]:
                lines.append(_shared_line(together, SHOWN if self.report else len(together)))
        return lines

    @property
    def note(self) -> str:
        """Where all of them stand."""
        return f"all faults stand in {self.report}" if self.report else ""


def _words(fault: Fault) -> tuple[str, str]:
    """Cause and remedy with ``CASE`` where the cause names the case, in the path of a file say."""
    name = rf"(?<![A-Za-z0-9]){re.escape(fault.case)}(?![A-Za-z0-9])"
    return re.sub(name, "CASE", fault.cause) if fault.case else fault.cause, fault.remedy


def _shared_line(faults: Sequence[Fault], shown: int) -> str:
    """A fault of many cases on one line, their names last."""
    names = ", ".join(fault.case for fault in faults[:shown])
    more = f" and {len(faults) - shown} more" if len(faults) > shown else ""
    whole = replace(faults[0], case=f"{len(faults)} cases", cause=_words(faults[0])[0])
    return f"{whole.line} They are {names}{more}."


class CasesFailedError(FaultsError):
    """Work is done, but some cases failed; they stand in ``failures.csv``."""

    exit_status = 3
