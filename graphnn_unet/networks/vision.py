"""timm, imported also where torchvision's compiled operators do not fit torch."""

from __future__ import annotations

import sys
from types import ModuleType

from graphnn_unet.errors import InputError

_registered: list[object] = []


def import_timm(needed_by: str = "this network") -> ModuleType:
    """Import ``timm``, which imports torchvision.

    torchvision of the package index is compiled for the CUDA build of torch. Beside a CPU build
    its operators (non-maximum suppression and other parts of detectors) do not load, and its
    import fails with ``operator torchvision::nms does not exist``. Backbones need none of them, so
    the two names that its Python code refers to are declared without an implementation and the
    import is tried again. The workaround can go once timm imports without torchvision, or
    torchvision without its operators (https://github.com/pytorch/vision/issues/9085; still so with
    timm 1.0.22 and torchvision 0.28).

    Args:
        needed_by: What the user asked for, for messages.

    Raises:
        InputError: timm or torchvision is not installed.
        RuntimeError: The import fails for another reason.
    """
    try:
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _declare_operators()
        import timm
    except ImportError as missing:
        raise InputError(
            f"{needed_by} needs a package that is missing",
            str(missing),
            "pip install 'graphnn-unet[vision]'",
        ) from missing
    return timm


def _declare_operators() -> None:
    """Forget the half-imported modules, and declare what torchvision looks for."""
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _registered.append(library)  # operators vanish with their library object
