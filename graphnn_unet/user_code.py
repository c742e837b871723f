"""A class that a user names by its file or module: a trainer, an encoder."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from graphnn_unet.errors import GraphnnError, InputError, MissingFileError

MODULE_PREFIX = "graphnn_unet_user_"
"""Modules made of users' files; two of them may define the same names."""


def load_class(source: Path | str, class_name: str, kind: str) -> Callable[..., Any]:
    """Import a user's class.

    The code of the file runs with the rights of the user, who named it.

    Args:
        source: ``path/to/file.py``, or the dotted name of an installed module.
        class_name: Class, or another callable, that it defines.
        kind: What it serves as (``trainer``, ``encoder``), for messages.

    Returns:
        The class; whether it is one of the wanted kind is for the caller to judge.

    Raises:
        MissingFileError: There is no such file.
        InputError: It cannot be imported, or does not define the name.
    """
    is_file = str(source).endswith(".py")
    shown = Path(source).expanduser().resolve() if is_file else source
    if isinstance(shown, Path) and not shown.is_file():
        raise MissingFileError(f"{kind} file {shown} is missing")
    try:
        module = _from_file(shown) if isinstance(shown, Path) else importlib.import_module(shown)
    except GraphnnError:
        raise  # says what is wrong with the class already
    except Exception as error:  # whatever a user's file may raise
        raise InputError(
            f"{kind} {'file ' if is_file else ''}{shown} cannot be imported",
            f"{type(error).__name__}: {error}",
            "Fix it; --verbose shows the line" if is_file else "Check its name, or install it",
        ) from error
    user_class = getattr(module, class_name, None)
    if not callable(user_class):
        raise InputError(f"{shown} has no class {class_name}")
    return user_class


def _from_file(file: Path) -> ModuleType:
    # the hash keeps two files of one name apart; pickles find the class by the module's name
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:12]
    name = f"{MODULE_PREFIX}{file.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # a half-made module must not be found
        raise
    return module
