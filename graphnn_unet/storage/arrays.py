"""Compressed arrays on disk, whole or not there, read in parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blosc2 as _blosc2  # pyright: ignore[reportMissingTypeStubs]  # it has none
import numpy as np

from graphnn_unet.errors import InputError
from graphnn_unet.storage.atomic import atomic_path

blosc2: Any = _blosc2
_THREADS = "BLOSC_NTHREADS"


def write_array(path: Path, array: np.ndarray, facts: Mapping[str, Any] | None = None) -> None:
    """Write a ``.b2nd`` file with a few facts beside the values."""
    with atomic_path(path) as temporary:
        stored = compress(temporary, array)
        for name, value in (facts or {}).items():
            stored.schunk.vlmeta[name] = value


def compress(path: Path, array: np.ndarray, **settings: Any) -> Any:
    """Write a ``.b2nd`` file in place, with one thread.

    Args:
        path: The file; an older one is replaced.
        array: Its values.
        settings: Of compression (``codec``, ``filters``), and ``chunks`` and ``blocks``.
    """
    shapes = {name: settings.pop(name) for name in ("chunks", "blocks") if name in settings}
    # blosc2 (4.14) starts threads for every chunk whatever it is told; only its variable stops it
    usual = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        return blosc2.asarray(
            np.ascontiguousarray(array), urlpath=str(path), mode="w",
            cparams={"nthreads": 1, **settings}, **shapes,
        )  # fmt: skip
    finally:
        if usual is None:
            os.environ.pop(_THREADS, None)  # another thread may have been here
        else:
            os.environ[_THREADS] = usual


def open_array(path: Path, remedy: str) -> Any:
    """A ``.b2nd`` file whose parts are read on access.

    Args:
        path: The file.
        remedy: What to do where it is damaged.

    Raises:
        InputError: It cannot be read.
    """
    blosc2.set_nthreads(1)
    # blosc2 cannot map files into memory on Windows (nnU-Net#2723)
    mapped: dict[str, Any] = {} if os.name == "nt" else {"mmap_mode": "r"}
    try:
        return blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}, **mapped)
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read",
            (str(error).strip().splitlines() or ["it is damaged"])[0].rstrip("."),
            remedy,
        ) from error


def facts_of(array: Any) -> dict[str, Any]:
    """The facts that were written beside the values."""
    stored = array.schunk.vlmeta[:]  # names are bytes in blosc2 3.3
    return {n.decode() if isinstance(n, bytes) else n: value for n, value in stored.items()}
