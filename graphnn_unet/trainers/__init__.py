"""Training methods, each a page on one base; ``from graphnn_unet.trainers import SemiTrainer``.

A method is a file of this folder with a class ``...Trainer``; nothing else lists it.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

_DEFINITION = re.compile(r"^class (\w+Trainer)\(", re.MULTILINE)
_MODULES = {
    name: path.stem
    for path in sorted(Path(__file__).parent.glob("*.py"))
    for name in _DEFINITION.findall(path.read_text(encoding="utf-8"))
}

__all__ = [*_MODULES]  # names of classes, read from the files


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"graphnn_unet.trainers.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
