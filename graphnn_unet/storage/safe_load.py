"""Reading files that came from elsewhere without running what is in them.

Checkpoints load as tensors and plain values, properties through an unpickler with a closed list.
What the tables of JSON files may hold stands in ``schemas.py``.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeGuard, cast

from graphnn_unet.errors import InputError, MissingFileError, UnsafeFileError
from graphnn_unet.storage.text import read_text

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

MAX_DEPTH = 50
"""Tables inside tables; plans and summaries have less than ten."""


def read_json(path: Path | str) -> Any:
    """Read a JSON file in UTF-8 or UTF-16; errors name the file, line and column.

    Raises:
        MissingFileError: There is no such file.
        InputError: It cannot be read, is not valid JSON, or is nested too deeply.
    """
    path = Path(path)
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is missing") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON",
            f"line {error.lineno}, column {error.colno}: {error.msg}",
            "Restore the file or write it again",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file", str(error)) from error
    except (RecursionError, ValueError, OSError) as error:  # ValueError: a number of 5000 digits
        why = (
            "its tables are nested too deeply" if isinstance(error, RecursionError) else str(error)
        )
        raise InputError(f"{path} cannot be read", why) from error
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [value for part in level for value in _values(part)]
        if not level:
            return content
    raise InputError(f"{path} cannot be read", "its tables are nested too deeply")


def _values(part: Any) -> list[Any]:
    """Values of a table or list; none of anything else."""
    if _is_dict(part):
        return list(part.values())
    return list(cast("list[Any]", part)) if isinstance(part, list) else []


def read_table(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that holds a table.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is not valid JSON, or no table.
    """
    content = read_json(path)
    if not _is_dict(content):
        raise InputError(f"{path} holds no table", "", "Restore the file or write it again")
    return content


_DAMAGED_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What the unpickler raises for bytes that are not those that were written."""


class _PlainUnpickler(pickle.Unpickler):
    """Admits numpy arrays and scalars and built-in containers, nothing that can run code."""

    _ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("_codecs", "encode"),
        }
        | {
            (module, name)
            for module in (
                "numpy.core.multiarray",
                "numpy._core.multiarray",
                "numpy._core.numeric",
                "numpy.core.numeric",
            )
            for name in ("_reconstruct", "scalar", "_frombuffer")
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._ALLOWED:
            return super().find_class(module, name)
        raise UnsafeFileError(
            f"a pickle asks for {module}.{name}", "only arrays and plain values are read"
        )


def load_properties(path: Path | str) -> dict[str, Any]:
    """Read nnU-Net's ``CASE.pkl`` of a preprocessed case without running code from it.

    Raises:
        InputError: The file is missing, cut off or no pickle; names it.
        UnsafeFileError: It holds something else than arrays and plain values; names it.
    """
    path = Path(path)
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is missing") from error
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path} is refused", error.line.rstrip(".")) from error
    except _DAMAGED_PICKLE as error:
        raise _unreadable_properties(path, str(error) or "it is cut off") from error
    if not _is_dict(content):
        raise _unreadable_properties(path, f"it holds a {type(content).__name__}, not a table")
    return content


def _unreadable_properties(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} cannot be read", why.rstrip("."), "Run gnnunet_plan_and_preprocess again"
    )


def load_plain(path: Path, what: str = "checkpoint", remedy: str = "") -> Any:
    """Load a file that ``torch.save`` wrote onto the CPU, as tensors and plain values.

    Stock nnU-Net checkpoints hold numpy scalars in their logs, and checkpoints of DINO a table of
    options; these are on the list.

    Args:
        path: The file, which is there.
        what: What it is, for messages.
        remedy: What the user can do, for messages.

    Raises:
        InputError: It is cut off or no such file.
        UnsafeFileError: It holds an object outside the closed list.
    """
    import numpy as np
    import torch

    multiarray: Any = import_module(
        f"numpy.{'_core' if hasattr(np, '_core') else 'core'}.multiarray"
    )
    admitted: list[Any] = [multiarray.scalar, np.dtype, np.ndarray, multiarray._reconstruct]
    admitted += [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    admitted += [(SimpleNamespace, "argparse.Namespace")]
    _require_unpacked(path, what, remedy)
    try:
        with torch.serialization.safe_globals(admitted):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise UnsafeFileError(
                f"{what} {path} is refused",
                "it holds an object that is neither a tensor nor a plain value",
                remedy or "Load only models from people you trust, saved as plain tensors",
            ) from error
        raise _broken(path, error, what, remedy) from error
    except (RuntimeError, OSError, *_DAMAGED_PICKLE) as error:
        raise _broken(path, error, what, remedy) from error


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Load a checkpoint onto the CPU as tensors and plain values; see :func:`load_plain`.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is cut off, a bit of it has changed, or it is no checkpoint.
        UnsafeFileError: It holds an object outside the closed list.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"checkpoint {path} is missing")
    _require_unpacked(path, "checkpoint", "")
    _require_checksums(path)
    content = load_plain(path)
    if not _is_dict(content) or "network_weights" not in content:
        raise InputError(f"{path} is not a checkpoint of this program or of nnU-Net")
    return content


def require_class_name(name: object, source: Path | str) -> str:
    """Return the name of a trainer that stands in a file if it is one.

    Raises:
        UnsafeFileError: It is something else, such as a file to run.
    """
    if isinstance(name, str) and name.isidentifier():
        return name
    raise UnsafeFileError(
        f"{source} is refused",
        f"it names the trainer {name!r}, which is no name of a class",
        "A file that is to be run can only be given with -tr FILE.py:Class",
    )


def _require_unpacked(path: Path, what: str, remedy: str) -> None:
    """Refuse an archive with compressed entries: torch writes none, and would unpack a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # the older format, or damaged, which torch tells
    unpacked, stored = sum(entry.file_size for entry in entries), path.stat().st_size
    if any(entry.compress_type for entry in entries) or unpacked > stored:
        raise UnsafeFileError(
            f"{what} {path} is refused",
            f"it would unpack to {unpacked / 2**20:.0f} MB from {stored / 2**20:.1f} MB",
            remedy or "Save it again with torch.save",
        )


def _require_checksums(path: Path) -> None:
    """Compare the parts of a checkpoint with the checksums that torch has stored and never reads.

    Raises:
        InputError: A part is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, zlib.error):
        return  # the older format, or damaged, which torch tells
    if damaged is not None:
        changed = ValueError(f"the checksum of {damaged} in it is another")
        raise _broken(path, changed, "checkpoint", "")


def _broken(path: Path, error: Exception, what: str, remedy: str) -> InputError:
    return InputError(
        f"{what} {path} cannot be read",
        f"it is cut off or damaged ({str(error).splitlines()[0][:120] if str(error) else 'empty'})",
        remedy or "Use another checkpoint of the same folder (-chk FILE) or copy the file again",
    )


def _is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)
