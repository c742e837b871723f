"""Checkpoints of a fold: whole or absent, two generations, tensors and plain values only."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.storage.atomic import atomic_path, no_space, rename
from graphnn_unet.storage.safe_load import load_checkpoint

_log = logging.getLogger(__name__)

LATEST, PREVIOUS = "checkpoint_latest.pth", "checkpoint_previous.pth"
DAMAGED = "checkpoint_damaged.pth"
FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"
RESUME_ORDER = (LATEST, PREVIOUS)


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; ``checkpoint_latest.pth`` keeps its predecessor beside it.

    Raises:
        NoSpaceError: The disk is full; the older files are whole.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(plain(content), temporary)
        except RuntimeError as error:  # torch's archive writer hides the system's error
            if "iostream" in str(error) or "unexpected pos" in str(error):
                raise no_space(path) from error
            raise
        if path.name == LATEST and path.exists():
            rename(path, path.with_name(PREVIOUS))


def plain(value: Any) -> Any:
    """Tensors on the CPU and built-in values, so that the file loads with ``weights_only``."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        table = cast(Mapping[Any, Any], value)
        return {key: plain(item) for key, item in table.items()}
    if isinstance(value, (list, tuple)):
        sequence = cast(list[Any] | tuple[Any, ...], value)
        return type(sequence)(plain(item) for item in sequence)
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return cast(Any, value).item()
    if isinstance(value, (torch.device, Path)):
        return str(value)
    return value


def load_resumable(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The latest undamaged checkpoint of a fold.

    Raises:
        MissingFileError: There is none.
        InputError: All of them are damaged; names the last one tried.
    """
    failure: InputError | None = None
    for name in RESUME_ORDER:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = load_checkpoint(path)
        except InputError as error:
            _log.warning("%s", error.line)
            failure = error
            continue
        if failure is not None:
            _log.warning("continuing from %s instead", path.name)
        return path, content
    if failure is not None:
        raise InputError(failure.what, failure.why, "Use --restart to train anew") from failure
    raise MissingFileError(
        f"nothing to continue in {folder}",
        f"there is no {LATEST}",
        "Leave --c out to start the training",
    )


def require_finite(weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise ``InputError`` when weights hold NaN or Inf."""
    for name, value in weights.items():
        if value.is_floating_point() and not math.isfinite(float(value.sum())):
            raise InputError(
                f"the weights of {source} are not finite", f"first in {name}",
                "Use another checkpoint or train again",
            )  # fmt: skip
