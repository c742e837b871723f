"""Training methods, each a page on one base; ``from graphnn_unet.trainers import SemiTrainer``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_CLASSES = {
    "SemiTrainer": "semi",
    "SupervisedTrainer": "supervised",
    "BCPTrainer": "bcp",
    "GraphCLTrainer": "graphcl",
}

__all__ = list(_CLASSES)


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(import_module(f"graphnn_unet.trainers.{_CLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
