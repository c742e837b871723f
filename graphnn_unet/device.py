"""The device to compute on, and how it keeps memory."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

from graphnn_unet.errors import InputError

if TYPE_CHECKING:
    import torch

KEPT = 512 * 2**20  # more does not save time, and 0.5 GB is little beside a network's activations


def resolve_device(name: str = "auto") -> torch.device:
    """``auto`` (cuda, mps, cpu in this order), ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.

    Raises:
        InputError: No such device here; says which there are.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    available = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    available += ["mps"] * has_mps + ["cpu"]
    if name == "auto":
        name = available[0].replace("cuda:0", "cuda")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    wanted = "cuda:0" if name == "cuda" else name
    if device is None or wanted not in available:
        raise InputError(
            f"device {name!r} is not available", f"there are {', '.join(available)}",
            "Choose one with -device, or leave it out",
        )  # fmt: skip
    return device


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, let this process use freed memory again instead of asking the system for new.

    PyTorch caches memory on a GPU alone. On a CPU glibc hands blocks of 32 MB and more, as feature
    maps of volumes are, back as soon as they are freed, and the system clears each page of the next
    one: a quarter of the processor time of prediction of a left atrium. From here on the process
    keeps up to 512 MB at the end of its heap.

    Nothing is done on another device, without glibc, or where ``MALLOC_`` variables or
    ``GLIBC_TUNABLES`` already say how to allocate.

    Example:
        >>> import torch
        >>> keep_freed_memory(torch.device("cpu"))
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if device.type != "cpu" or sys.platform != "linux" or told:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # Numbers of malloc.h: no block comes from mmap, and the heap ends at most KEPT above its use.
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt(m_trim_threshold, KEPT)
    mallopt(m_mmap_max, 0)
