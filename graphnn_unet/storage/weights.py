"""Files of weights that users bring: tensors by name, read without running what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.storage.safe_load import load_plain

_TABLES = ("network_weights", "state_dict", "model")
_BRANCHES = ("student", "teacher")
_PREFIXES = ("module.", "backbone.")


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Attributes:
        tensors: By name, on the CPU, all finite.
        sha256: Of the file, in hexadecimal digits.
    """

    tensors: dict[str, Tensor]
    sha256: str


def read_weights(path: Path | str, branch: str = "teacher", remedy: str = "") -> Weights:
    """Read the weights of one network from a file that ``torch.save`` wrote.

    The table may lie under ``network_weights``, ``state_dict`` or ``model``, or, in a checkpoint
    of self-distillation (DINO), under ``student`` and ``teacher``. Prefixes ``module.`` and
    ``backbone.`` of the names are dropped, and so is what is no tensor.

    Args:
        path: The file.
        branch: ``student`` or ``teacher``, where the file has both.
        remedy: What the user can do when the file does not serve, for messages.

    Raises:
        MissingFileError: There is no such file.
        UnsafeFileError: It holds something else than tensors and plain values.
        InputError: It is damaged, has no such branch, holds no table of tensors, or one that is
            not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"the weights {path} are missing", "", remedy)
    content = _table(load_plain(path, "weights file", remedy)) or {}
    for key in _TABLES:
        inner = _table(content.get(key))
        content = content if inner is None else inner
    if any(key in content for key in _BRANCHES):
        inner = _table(content.get(branch))
        if inner is None:
            raise InputError(f"{path} has no branch {branch!r}", "", "Use the other branch")
        content = inner
    tensors = {_plain_name(str(key)): v for key, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no table of weights", "", remedy)
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"the weights {path} are not finite", f"first in {name}", remedy)
    return Weights(tensors, sha256_of(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _table(value: object) -> Mapping[Any, object] | None:
    return cast(Mapping[Any, object], value) if isinstance(value, Mapping) else None


def _plain_name(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key
