"""The public names and how they are called; a change is wanted, or it is a bug.

``public_surface.txt`` beside this file holds them. After a wanted change write it anew and say so
in CHANGELOG.md::

    GNNUNET_WRITE_PUBLIC_SURFACE=1 pytest tests/test_public_surface.py
"""

import difflib
import inspect
import os
from collections.abc import Iterator
from enum import EnumMeta
from importlib import import_module
from pathlib import Path

SURFACE = Path(__file__).with_name("public_surface.txt")
MODULES = ("graphnn_unet", "graphnn_unet.graph", "graphnn_unet.metrics", "graphnn_unet.trainers")


def public_surface() -> Iterator[str]:
    """One line a public name: functions and classes with their arguments, methods below."""
    for module_name in MODULES:
        module = import_module(module_name)
        for name in sorted(set(module.__all__) - {"__version__"}):
            thing = getattr(module, name)
            yield f"{module_name}.{name}{arguments(thing)}"
            if isinstance(thing, type):
                for method in sorted(vars(thing)):
                    if not method.startswith("_"):
                        yield f"    .{method}{arguments(inspect.getattr_static(thing, method))}"


def arguments(thing: object) -> str:
    """Names, kinds and defaults; without the types, which versions of Python spell differently."""
    thing = getattr(thing, "__func__", thing)
    if isinstance(thing, EnumMeta) or not (inspect.isfunction(thing) or inspect.isclass(thing)):
        return ""
    signature = inspect.signature(thing)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def test_public_names_and_arguments_stay():
    lines = list(public_surface())
    if os.environ.get("GNNUNET_WRITE_PUBLIC_SURFACE"):
        SURFACE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    stored = SURFACE.read_text(encoding="utf-8").splitlines()
    difference = "\n".join(difflib.unified_diff(stored, lines, "stored", "now", lineterm="", n=0))
    assert not difference, (
        f"the public surface changed:\n{difference}\nWanted? Run GNNUNET_WRITE_PUBLIC_SURFACE=1 "
        "pytest tests/test_public_surface.py, commit the file and tell users in CHANGELOG.md"
    )
