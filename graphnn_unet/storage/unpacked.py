"""Unpacked copies of gzip files that several phases read, so that each is unpacked once.

To unpack a scan takes up to a tenth of the time of planning it, and check, fingerprint and
preprocessing of each configuration read it. The check unpacks all anyway and leaves copies, of no
more files than fit well into memory and onto the disk; whoever finds none reads the file itself.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil

from graphnn_unet.storage.atomic import TEMPORARY_MARK

_PREFIX = f".{TEMPORARY_MARK}unpacked-"
"""Of folders for copies; the name of the machine and the process follow."""
_MEMORY_SHARE, _DISK_SHARE = 0.25, 0.1
"""Of what is free: copies are read from the system's cache, and may not fill it or the disk."""
_ENDING = ".nii.gz"
_LARGEST = 2**32
"""A gzip file tells its unpacked size up to here."""


@contextmanager
def folder_for_copies(target: Path) -> Generator[Path]:
    """A folder inside ``target`` that is gone afterwards; after a kill, with the next command.

    ``target`` is removed too where it was not there before and nothing has come into it.
    """
    existed = target.is_dir()
    here = f"{_PREFIX}{re.sub(r'[^A-Za-z0-9]', '_', platform.node())}-"
    for left in target.glob(f"{here}*"):
        number = left.name.removeprefix(here)
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    folder = target / f"{here}{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with suppress(OSError):  # something has come
                target.rmdir()


def worth_keeping(paths: Iterable[Path], folder: Path) -> set[Path]:
    """Those of the files whose unpacked copies have room together.

    Args:
        paths: Files in the order of their importance.
        folder: Where copies would lie.
    """
    room = min(
        _MEMORY_SHARE * psutil.virtual_memory().available,
        _DISK_SHARE * shutil.disk_usage(folder).free,
    )
    kept: set[Path] = set()
    for path in paths:
        if not path.name.endswith(_ENDING):
            continue
        room -= _unpacked_size(path)
        if room < 0:
            break
        kept.add(path)
    return kept


def keeping_copy(path: Path, folder: Path | None) -> Callable[[bytes], None] | None:
    """What writes the unpacked content of a file into a folder; nothing without one."""
    return None if folder is None else partial(_keep_copy, path, folder)


def _keep_copy(path: Path, folder: Path, content: bytes) -> None:
    copy = _copy(path, folder)
    part = copy.with_suffix(".part")
    try:
        part.write_bytes(content)
        part.replace(copy)
    except OSError:  # the disk is full, or the folder was cleared away
        with suppress(OSError):
            part.unlink()


def copy_or_file(path: str, folder: Path | None) -> str:
    """The unpacked copy of a file, or the file itself where there is none."""
    if folder is None:
        return path
    copy = _copy(Path(path), folder)
    return str(copy) if copy.is_file() else path


def _copy(path: Path, folder: Path) -> Path:
    return folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.nii"


def _unpacked_size(path: Path) -> int:
    """What the end of a gzip file says, and no less than the file itself."""
    try:
        n_bytes = path.stat().st_size
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            return max(n_bytes, int.from_bytes(file.read(4), "little"))
    except OSError:
        return _LARGEST
