"""What is done to a teacher's answer before it teaches; each correction is one file.

``pseudo_label.correct`` of the recipe lists corrections by the names of their files; they are
applied in this order, then labels are cleaned (``largest_component.py``).
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphnn_unet.pseudo_labels.corrector import Corrector

_DEFINITION = re.compile(r"^class (\w+)\(Corrector\)", re.MULTILINE)


@cache
def known_correctors() -> dict[str, str]:
    """Names of all corrections with their classes; nothing is imported."""
    names = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if definition := _DEFINITION.search(path.read_text(encoding="utf-8")):
            names[path.stem] = definition[1]
    return names


def corrector_class(name: str) -> type[Corrector]:
    """Class of a correction in :func:`known_correctors`."""
    return getattr(import_module(f"{__name__}.{name}"), known_correctors()[name])


def load_correctors() -> None:
    """Import all corrections, which declares their recipe sections."""
    import_module(f"{__name__}.pipeline")
    for name in known_correctors():
        corrector_class(name)
