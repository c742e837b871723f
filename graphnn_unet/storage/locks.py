"""One writer a folder.

The lock itself is the operating system's (``filelock``), so it ends with the process that holds
it; a file beside it says who that is. A second process is refused with that name; the note of a
dead process is taken over with a message.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from graphnn_unet.errors import InputError, LockedError, NoSpaceError
from graphnn_unet.storage.atomic import (
    TEMPORARY_MARK,
    naming_a_full_disk,
    no_space,
    unwritable,
    write_json,
)

_log = logging.getLogger(__name__)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
READERS = ".gnnunet-readers"
_PART = ".part"
_LOOKS_FOR_S, _HAS_NOTE_S = 60.0, 2.0
"""Time that a part waits for others that look whether the whole is worked on, and where a note says
that it is: the note may be one of a process that was killed."""
_LOCK, _NOTE = ".gnnunet.lock", ".gnnunet.lock.json"
WORK_FOLDER = f".{TEMPORARY_MARK}work-"
"""Beginning of the name of a folder in which a result grows that is moved to its place."""


@contextmanager
def folder_lock(folder: Path | str, purpose: str) -> Generator[None]:
    """Hold the lock of ``folder`` for the length of the block.

    Args:
        folder: Folder to work in; made where it is missing. The lock file is
            ``folder/.gnnunet.lock``, its note ``folder/.gnnunet.lock.json``.
        purpose: What the holder does, for the message of the one who is refused.

    Raises:
        LockedError: Another process holds the lock; the message names host, pid and start time.
        InputError: The folder cannot be written to, or its file system has no locks.
    """
    folder = Path(folder)
    note = folder / _NOTE
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()  # pyright: ignore[reportUnknownMemberType]  # filelock is partly typed
    except NotImplementedError as error:
        raise _without_locks(folder) from error
    except Timeout as error:
        raise _in_use(folder) from error
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _without_locks(folder) from error
        raise unwritable(folder, error) from error
    try:
        if previous := _describe(note):
            _log.info("took over the lock of a process that ended early (%s)", previous)
        write_json(
            note,
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
                "purpose": purpose,
            },
        )
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def part_lock(folder: Path, part: int | None, purpose: str) -> Generator[None]:
    """The lock of a part of a work, which several processes share, or of the whole.

    Args:
        folder: Folder of all of them.
        part: Number of this part; ``None`` for one process that does all, beside which there must
            be no part.
        purpose: What the holder does, for the message of the one who is refused.

    Raises:
        LockedError: Another process does this part, or the whole, or, where the whole is asked
            for, any part.
    """
    if part is None:
        with folder_lock(folder, purpose):
            for other in sorted(folder.glob(f"{_PART}*")):
                with folder_lock(other, purpose):
                    pass
            yield
        return
    with folder_lock(folder / f"{_PART}{part}", purpose):
        _require_free(folder)
        yield


def _require_free(folder: Path) -> None:
    """Refuse a folder whose whole is worked on; other parts hold its lock while they look."""
    lock, began = FileLock(folder / _LOCK), time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0.2)  # pyright: ignore[reportUnknownMemberType]  # partly typed
        except Timeout as error:
            # who looks leaves no note
            patience = _HAS_NOTE_S if (folder / _NOTE).exists() else _LOOKS_FOR_S
            if time.monotonic() - began > patience:
                raise _in_use(folder) from error
        else:
            lock.release()
            return


def _in_use(folder: Path) -> LockedError:
    return LockedError(
        f"{folder} is in use",
        _describe(folder / _NOTE) or "another process holds its lock",
        "Wait for it to end or stop it, then run the command again",
    )


def _without_locks(folder: Path) -> InputError:
    return InputError(
        f"{folder} cannot be locked",
        "its file system has no locks, as some network drives",
        "Use a folder on another disk (gnnunet_info --paths shows those in use)",
    )


@contextmanager
def reading(folder: Path, purpose: str) -> Generator[None]:
    """Say that files of a folder are read for the length of the block; any number may.

    Args:
        folder: What is read; ``require_unread`` of it raises meanwhile.
        purpose: Who reads, for the message of the one who is refused.
    """
    with folder_lock(folder / READERS / f"{socket.gethostname()}-{os.getpid()}", purpose):
        yield


def require_unread(folder: Path) -> None:
    """Refuse to change files that another process reads; notes of dead readers are removed.

    Raises:
        LockedError: A process is within ``reading`` of this folder; names it.
    """
    for reader in sorted((folder / READERS).glob("*")):
        with folder_lock(reader, "look for readers"):
            pass
        shutil.rmtree(reader, ignore_errors=True)


@contextmanager
def work_folder(target: Path) -> Generator[Path]:
    """A folder beside a target for what is moved there when it is whole.

    It is removed at the end of the block. Those of killed processes, whose locks are free, are
    removed by the next that works in the same place.

    Raises:
        NoSpaceError: The disk is full.
        InputError: The folder cannot be made or written to.
    """
    parent = target.parent
    with naming_a_full_disk(target):
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{WORK_FOLDER}*"):
            with suppress(LockedError), folder_lock(left, "look for leftovers"):
                shutil.rmtree(left, ignore_errors=True)
        work = parent / f"{WORK_FOLDER}{secrets.token_hex(6)}"
        try:
            with folder_lock(work, "write what becomes whole"):
                yield work
        except NoSpaceError as error:
            raise no_space(target) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _describe(note: Path) -> str:
    """Who holds or held the lock, from its note; empty without one."""
    try:
        holder = json.loads(note.read_text(encoding="utf-8"))
        return (
            f"{holder['purpose']} by process {holder['pid']} on {holder['host']} "
            f"since {holder['started']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ""
