"""nnU-Net for people with few labels.

Importing this package is light: the functions below, one for each command, are imported when they
are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphnn_unet._version import __version__

_FUNCTIONS = {
    "classify": "graphnn_unet.classification.run",
    "cluster": "graphnn_unet.clustering.cluster",
    "convert": "graphnn_unet.dataset_conversion.convert",
    "plan_and_preprocess": "graphnn_unet.data.plan_and_preprocess",
    "train": "graphnn_unet.trainers.run",
    "predict": "graphnn_unet.models.predict",
    "evaluate": "graphnn_unet.metrics.evaluate",
    "export": "graphnn_unet.models.export",
    "install_model": "graphnn_unet.models.install",
    "demo": "graphnn_unet.report.demo",
}

__all__ = [
    "__version__",
    "classify",
    "cluster",
    "convert",
    "demo",
    "evaluate",
    "export",
    "install_model",
    "plan_and_preprocess",
    "predict",
    "train",
]

if TYPE_CHECKING:
    from graphnn_unet.classification.run import classify
    from graphnn_unet.clustering.cluster import cluster
    from graphnn_unet.data.plan_and_preprocess import plan_and_preprocess
    from graphnn_unet.dataset_conversion.convert import convert
    from graphnn_unet.metrics.evaluate import evaluate
    from graphnn_unet.models.export import export
    from graphnn_unet.models.install import install_model
    from graphnn_unet.models.predict import predict
    from graphnn_unet.report.demo import demo
    from graphnn_unet.trainers.run import train


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        value = getattr(import_module(_FUNCTIONS[name]), name)
        globals()[name] = value
        return value
    if name in ("graph", "metrics", "trainers"):
        return import_module(f"graphnn_unet.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FUNCTIONS])
