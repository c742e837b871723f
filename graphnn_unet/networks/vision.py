"""torchvision and timm, imported also where torchvision's compiled operators do not fit torch."""

from __future__ import annotations

from types import ModuleType

# torchvision.<operator> that its Python code refers to while it is being imported
_AT_IMPORT = ("nms", "qnms")
_registered: list[object] = []


def import_torchvision() -> ModuleType:
    """Import ``torchvision`` with ``torchvision.models``.

    The wheel of torchvision from the package index is compiled for the CUDA build of torch. Beside
    a CPU build of torch of the same version its operators (non-maximum suppression and other parts
    of detectors) do not load, and the import of the whole package fails with ``operator
    torchvision::nms does not exist``. Architectures for classification need none of them, so the
    two names are declared without an implementation and the import is tried again.

    Returns:
        The module.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: The import fails for another reason.
    """
    import torch

    try:
        import torchvision.models
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _forget_half_imported()
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _AT_IMPORT:
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _registered.append(library)  # operators vanish with their library object
        import torchvision.models
    return torchvision


def import_timm() -> ModuleType:
    """Import ``timm``, which imports torchvision.

    Raises:
        ImportError: timm or torchvision is not installed.
    """
    import_torchvision()
    import timm

    return timm


def _forget_half_imported() -> None:
    """Drop modules of the failed import, so that the next one starts anew."""
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
