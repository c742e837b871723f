"""nnU-Net for people with few labels.

Importing this package is light: its functions, one for each command, are imported when they are
first used. ``__init__.pyi`` lists them, for this module and for type checkers.
"""

import re as _re
from importlib import import_module as _import_module
from pathlib import Path as _Path

from graphnn_unet._version import __version__ as __version__

_MODULE_OF = {
    name: module
    for module, name in _re.findall(
        r"^from (graphnn_unet\.\S+) import ([a-z]\w*) as",
        _Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"),
        _re.MULTILINE,
    )
}
_ROOMS = ("graph", "metrics", "trainers")

__all__ = ["__version__", *sorted(_MODULE_OF)]  # pyright: ignore[reportUnsupportedDunderAll]  # a table


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        from graphnn_unet.data.paths import require_variables

        require_variables()  # nnU-Net fails on them when it is imported
        value = getattr(_import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return _import_module(f"graphnn_unet.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
