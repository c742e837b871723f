"""Files and folders that are either whole or not there.

A writer gets a temporary path in the target's own folder; the file is flushed to the disk and
renamed when the writer has finished. A crash, a kill or a full disk therefore never leaves a
fragment under a final name (requirement G4 of the reliability table).
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphnn_unet.errors import NoSpaceError

TEMPORARY_MARK = ".partial-"
"""Part of every temporary name; what is left of a killed writer can be told by it."""


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every system can open a folder (Windows cannot)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full_suffix(path: Path) -> str:
    """``.nii.gz`` of ``a.b_0000.nii.gz``: image writers choose the format by it."""
    name = path.name
    return name[-7:] if name.endswith(".nii.gz") else path.suffix


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it when the block ends without an error.

    Args:
        target: Final path. Its folder is made where it is missing.

    Yields:
        A path in the same folder with the same file ending, to be written by the caller.

    Raises:
        NoSpaceError: The disk is full; the temporary file is gone, an older target is untouched.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{TEMPORARY_MARK}", suffix=_full_suffix(target), dir=target.parent
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files readable by their owner alone; results are shared like other files
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise no_space(target) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def no_space(target: Path) -> NoSpaceError:
    """The error for a write to ``target`` that found no room."""
    free = shutil.disk_usage(target.parent).free / 2**20
    return NoSpaceError(
        f"no space left while writing {target}",
        f"{free:.0f} MB are free in {target.parent}",
        "Free some space and run the command again; what was there before is unchanged",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(target: Path | str, content: bytes) -> None:
    """Write ``content`` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path | str, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(target, content.encode("utf-8"))


def write_json(target: Path | str, content: Any) -> None:
    """Write JSON atomically; numpy scalars and arrays become numbers and lists."""
    write_text(target, json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_csv(
    target: Path | str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]
) -> None:
    """Write rows as CSV atomically, with exactly ``columns`` in this order."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(target, buffer.getvalue())


def replace_folder(new: Path, target: Path) -> None:
    """Put the whole folder ``new`` in the place of ``target``.

    The old folder stays valid until the new one is complete: it is moved aside in one rename,
    the new one is moved in by the next, and only then is the old one deleted.
    """
    aside = target.with_name(f".{TEMPORARY_MARK}old-{target.name}-{os.getpid()}")
    if target.exists():
        target.replace(aside)
    new.replace(target)
    _sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path) -> int:
    """Delete temporary files that killed writers left in ``folder``; return how many.

    Call it only while holding the folder's lock: a living writer uses the same names.
    """
    leftovers = [path for path in folder.glob(f".{TEMPORARY_MARK}*") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def require_free_space(folder: Path, n_bytes: int, purpose: str) -> None:
    """Raise ``NoSpaceError`` unless ``n_bytes`` are free where ``folder`` is or will be."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < n_bytes:
        raise NoSpaceError(
            f"too little room for {purpose} in {folder}",
            f"it needs {n_bytes / 2**20:.0f} MB, {free / 2**20:.0f} MB are free",
            "Free some space or set another folder (gnnunet_info --paths shows them)",
        )
