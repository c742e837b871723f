"""Names that stock nnU-Net looks for; it reads every module of this folder, so there is one."""

from __future__ import annotations

from typing import Any

from graphnn_unet import trainers


def __getattr__(name: str) -> Any:
    if name in trainers.TRAINERS:
        return getattr(trainers, name)
    raise AttributeError(name)
