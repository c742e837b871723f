"""Whether what a file unpacks to fits into the memory, asked before it is unpacked."""

from __future__ import annotations

import psutil

from graphnn_unet.errors import BadFileError

MAX_VOXELS = 2**31
"""Voxels or pixels of one file; a scan of 1300 voxels along each edge has fewer."""
SHARE = 0.5
"""Share of the free memory that one file may take: it is copied and converted afterwards."""


def require_room(n_voxels: int, n_bytes: int, name: str) -> None:
    """Refuse a file that would unpack to more than one case may take.

    Args:
        n_voxels: Voxels, or values of all channels of a picture, that its header claims.
        n_bytes: Bytes that they take.
        name: How messages call the file.

    Raises:
        BadFileError: It is too large.
    """
    free = psutil.virtual_memory().available
    if n_voxels > MAX_VOXELS or n_bytes > SHARE * free:
        what = (
            f"{name} would unpack to {n_voxels} voxels of {n_bytes / 2**30:.1f} GB, of "
            f"{free / 2**30:.1f} GB that are free"
        )
        raise BadFileError("S15", what, "Leave it out, crop it or give it a smaller type of voxels")
