"""Training methods, each a page on one base; ``from graphnn_unet.trainers import SemiTrainer``.

A method is a file of this folder with a class ``...Trainer``; nothing else lists it.
"""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Any

_DEFINITION = re.compile(r"^class (\w+Trainer)\(", re.MULTILINE)
BASE = "SemiTrainer"
TRAINERS = {
    name: path.stem
    for path in sorted(Path(__file__).parent.glob("*.py"))
    for name in _DEFINITION.findall(path.read_text(encoding="utf-8"))
}
"""Class to module of the base and of all methods."""

_WITH_THEM = {
    "Batch": "graphnn_unet.trainers.batch",
    "Phase": "graphnn_unet.trainers.batch",
    "Section": "graphnn_unet.settings",
    "StepLoss": "graphnn_unet.trainers.batch",
    "Tap": "graphnn_unet.networks.features",
}
"""What a method of one's own is written with."""

__all__ = [*TRAINERS, *_WITH_THEM]  # names of classes, read from the files


def __getattr__(name: str) -> Any:
    if name in TRAINERS:
        return getattr(import_module(f"graphnn_unet.trainers.{TRAINERS[name]}"), name)
    if name in _WITH_THEM:
        return getattr(import_module(_WITH_THEM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def summaries() -> dict[str, str]:
    """Name of each method with the first line of its docstring; nothing is imported."""
    lines = {}
    for name, module in TRAINERS.items():
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name != BASE:
                lines[name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return lines
