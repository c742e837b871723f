"""Files and folders that are either whole or not there.

A writer gets a temporary path in the target's own folder; the file is flushed to the disk and
renamed when the writer has finished. A crash, a kill or a full disk therefore never leaves a
fragment under a final name.
"""

from __future__ import annotations

import csv
import ctypes
import errno
import gzip
import io
import json
import math
import os
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from graphnn_unet.errors import GraphnnError, InputError, NoSpaceError, RefusedError, from_system
from graphnn_unet.storage.csv_cells import as_cell

TEMPORARY_MARK = ".partial-"
"""Part of every temporary name; what is left of a killed writer can be told by it."""

TEMPORARY_FOLDER = f".{TEMPORARY_MARK}folder-"
"""Beginning of the name of a folder of temporary files."""

_OLD_MARK = f".{TEMPORARY_MARK}old-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PASSING = (errno.ESTALE, errno.EBUSY)
PAUSES_S = (0.1, 0.5, 2.0)
"""Between tries to rename where a file system of a network fails."""


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every system can open a folder (Windows cannot)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(target: Path | str) -> Generator[Path]:
    """Yield a temporary path beside ``target``; rename it when the block ends without an error.

    Args:
        target: Final path. Its folder is made where it is missing.

    Yields:
        A path in the same folder with the same file ending, to be written by the caller.

    Raises:
        NoSpaceError: The disk is full; the temporary file is gone, an older target is untouched.
        InputError: The folder cannot be written to.
    """
    target = Path(target)
    temporary = _reserve(target)
    try:
        with naming_a_full_disk(target):
            yield temporary
            _require_whole(temporary, target)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            rename(temporary, target)
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_a_full_disk(target: Path, n_bytes: int = 2**20) -> Generator[None]:
    """Turn the errors of a writer that finds no room, or may not write, into those of a user.

    Writers in C++ do not say why they fail; their ``RuntimeError`` is put down to a full disk, a
    quota or a limit on the size of files where ``n_bytes`` cannot be written beside the target.

    Raises:
        NoSpaceError: There is no room.
        InputError: The system refuses something else, such as a file that may not be written.
    """
    try:
        yield
    except GraphnnError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise no_space(target) from error
        if refused := from_system(error):
            raise refused from error
        raise
    except RuntimeError as error:
        if not _has_room(_existing(target.parent), n_bytes):
            raise no_space(target) from error
        raise


def _has_room(folder: Path, n_bytes: int) -> bool:
    """Whether a file of a size can be written in a folder."""
    if shutil.disk_usage(folder).free < n_bytes:
        return False
    probe = folder / f".{TEMPORARY_MARK}{secrets.token_hex(6)}"
    try:
        with probe.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # a quota shows only when blocks are taken
                os.posix_fallocate(file.fileno(), 0, max(n_bytes, 1))
            else:
                file.truncate(n_bytes)
    except OSError as error:
        return error.errno not in _FULL
    finally:
        probe.unlink(missing_ok=True)
    return True


def _reserve(target: Path) -> Path:
    """Make an empty file with a temporary name; its permissions follow the umask."""
    # image writers choose the format by the suffix
    suffix = ".nii.gz" if target.name.endswith(".nii.gz") else target.suffix
    temporary = target.with_name(f".{TEMPORARY_MARK}{secrets.token_hex(6)}{suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise unwritable(target, error) from error
    return temporary


def unwritable(target: Path, error: OSError) -> GraphnnError:
    """The error for a file or folder that may not or cannot be made."""
    if error.errno in _FULL:
        return no_space(target)
    return InputError(
        f"{target} cannot be written",
        (error.strerror or str(error)).lower(),
        "Choose a folder that you may write to (gnnunet_info --paths shows those in use)",
    )


def no_space(target: Path) -> NoSpaceError:
    """The error for a write to ``target`` that found no room."""
    existing = _existing(target.parent)
    free = shutil.disk_usage(existing).free / 2**20
    return NoSpaceError(
        f"no space left while writing {target}",
        f"the disk or your quota is full ({free:.0f} MB are free in {existing})",
        "Free some space and run the command again; what was there before is unchanged",
    )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _require_whole(temporary: Path, target: Path) -> None:
    """Raise ``NoSpaceError`` for a NIfTI file that is shorter than its header says.

    ITK's writer, which SimpleITK uses, reports nothing when the disk is full and leaves a short
    file (SimpleITK 2.5, tried with a limit on the file size).
    """
    if target.name.endswith((".nii", ".nii.gz")):
        try:
            whole = _nifti_is_whole(temporary)
        except (OSError, EOFError, zlib.error, ValueError):
            whole = False
        if not whole:
            raise no_space(target)


def _nifti_is_whole(path: Path) -> bool:
    """Whether a NIfTI file holds the bytes its header promises; mostly reads header and end only.

    The last four bytes of a gzip stream are the length of what was compressed, modulo 2**32; only
    if they do not fit is the whole stream read.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        voxels = cast(Any, nibabel).load(path).dataobj
    except ImageFileError:
        return False
    promised = voxels.offset + voxels.dtype.itemsize * math.prod(voxels.shape)
    packed = path.name.endswith(".gz")
    if not packed:
        return path.stat().st_size >= promised
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        if int.from_bytes(file.read(4), "little") == promised % 2**32:
            return True
    with gzip.open(path, "rb") as file:  # several streams in a row, or more than was promised
        while block := file.read(2**22):
            promised -= len(block)
    return promised <= 0


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name on the same disk, which replaces a file of that name.

    File systems of a network fail now and then with an error that is gone a moment later.

    Raises:
        OSError: The last try failed too; names the target.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            source.replace(target)
        except OSError as error:
            if error.errno not in _PASSING or pause_s is None:
                raise
            time.sleep(pause_s)
            if target.exists() and not source.exists():  # the answer was lost, not the request
                return
        else:
            return


def link_or_copy(source: Path, target: Path, *, symbolic: bool = False) -> None:
    """A second name for a file: a hard link, or a copy where the file system has none.

    Args:
        source: The file.
        target: The name; one that is there is kept.
        symbolic: Rather a symbolic link than a copy, for files that stay where they are.
    """
    for make in (os.link, os.symlink) if symbolic else (os.link,):
        try:
            make(source.resolve() if symbolic else source, target)
        except FileExistsError:
            return
        except OSError:
            continue
        return
    shutil.copyfile(source, target)


def move_into_place(new: Path, target: Path) -> None:
    """Give a whole file its final name; it lies on the same disk."""
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    rename(new, target)
    _sync_folder(target.parent)


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


def _plain(value: object) -> object:
    if callable(tolist := getattr(value, "tolist", None)):
        return tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return list(cast(Iterable[object], value))
    if isinstance(value, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", value))
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_csv(
    target: Path | str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]
) -> None:
    """Write rows as CSV atomically, with exactly ``columns`` in this order.

    Texts that a spreadsheet would run are marked as text; ``read_csv`` takes the mark off.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(columns), lineterminator="\n")
    writer.writerow({name: as_cell(name) for name in columns})
    writer.writerows({name: as_cell(value) for name, value in row.items()} for row in rows)
    write_text(target, buffer.getvalue())


def replace_folder(new: Path, target: Path) -> None:
    """Put the whole folder ``new`` in the place of ``target``.

    The old folder stays valid until the new one is complete: it is moved aside in one rename,
    the new one is moved in by the next, and only then is the old one deleted. A crash between the
    two renames is undone by ``remove_leftovers`` of the parent folder.
    """
    aside = target.with_name(f"{_OLD_MARK}{target.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        rename(target, aside)
    try:
        rename(new, target)
    except OSError:
        if aside.exists():
            rename(aside, target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def exchange_folder(new: Path, target: Path) -> None:
    """Put the whole folder ``new`` in the place of ``target`` in a single step.

    A kill at any instant leaves one of the two under the name, and the other, where ``target`` was
    there, under that of ``new``: who goes on after a kill cannot tell which from the names.
    Where the system or its disk cannot exchange two names (Windows, some file systems of a
    network), the two steps of :func:`replace_folder` are taken.
    """
    if not _exchanged(new, target):
        replace_folder(new, target)
        return
    _sync_folder(target.parent)
    shutil.rmtree(new, ignore_errors=True)


def _exchanged(first: Path, second: Path) -> bool:
    """Whether the system has exchanged the names of two folders; Python has no call for it."""
    swap = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
    names = os.fsencode(first), os.fsencode(second)
    here = -100 if sys.platform == "linux" else -2  # AT_FDCWD
    call = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform, "")
    try:
        rename_at = getattr(ctypes.CDLL(None), call)
    except (AttributeError, TypeError, OSError):
        return False
    return rename_at(here, names[0], here, names[1], ctypes.c_uint(swap)) == 0


Fingerprint = dict[str, int]
"""``bytes`` and ``crc32`` of files."""


def checksum(path: Path) -> int:
    """CRC-32 of a file's bytes: it tells a flipped bit, and is as fast as the disk."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            value = zlib.crc32(block, value)
    return value


def fingerprint(files: Sequence[Path]) -> Fingerprint:
    """Size and CRC-32 of the files of a case, in their order."""
    checksums = b"".join(checksum(path).to_bytes(4, "big") for path in files)
    n_bytes = sum(path.stat().st_size for path in files)
    return {"bytes": n_bytes, "crc32": zlib.crc32(checksums)}


def remove_leftovers(folder: Path) -> int:
    """Clear ``folder`` of what killed writers left; return how many things were found.

    Temporary files are deleted. A folder that was moved aside goes back to its place when a crash
    left that place empty, and is deleted otherwise.

    Call it only while holding the folder's lock: a living writer uses the same names.
    """
    files = [path for path in folder.glob(f".{TEMPORARY_MARK}*") if path.is_file()]
    for path in files:
        path.unlink(missing_ok=True)
    for path in folder.glob(f"{TEMPORARY_FOLDER}*"):
        files.append(path)
        shutil.rmtree(path, ignore_errors=True)
    folders = [path for path in folder.glob(f"{_OLD_MARK}*") if path.is_dir()]
    for aside in folders:
        target = folder / aside.name[len(_OLD_MARK) :].rpartition("-")[0]
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            rename(aside, target)
    return len(files) + len(folders)


def require_output_folder(source: Path, target: Path) -> None:
    """Refuse to write label maps into a file, or where they would be read as images."""
    if target.exists() and not target.is_dir():
        raise InputError(f"output {target} is a file", "", "Give a folder with -o")
    if target.exists() and source.resolve() == target.resolve():
        raise RefusedError(
            f"input and output are both {source}",
            "label maps would be taken for images the next time",
            "Give another folder with -o",
        )


def require_free_space(folder: Path, n_bytes: int, purpose: str) -> None:
    """Raise ``NoSpaceError`` unless ``n_bytes`` are free where ``folder`` is or will be."""
    existing = _existing(folder)
    disk = shutil.disk_usage(existing)
    if disk.free < n_bytes and disk.total:  # some file systems tell no size
        raise NoSpaceError(
            f"too little room for {purpose} in {folder}",
            f"it needs {n_bytes / 2**20:.0f} MB, {disk.free / 2**20:.0f} MB are free",
            "Free some space or set another folder (gnnunet_info --paths shows them)",
        )
