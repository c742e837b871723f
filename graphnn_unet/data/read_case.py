"""One case from its files to arrays, by nnU-Net's reader, in the data set's orientation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphnn_unet.images.nifti_forms import plain_files
from graphnn_unet.images.orientation import TURNED, orientation_of, turned, turned_axes
from graphnn_unet.storage.unpacked import copy_or_file


def read_case(
    reader: Any,
    images: Sequence[str],
    label: str | None,
    orientation: str,
    unpacked: Path | None = None,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Read the channels of a case and its label map.

    Args:
        reader: An instance of one of nnU-Net's readers.
        images: One file a channel, in channel order.
        label: Label map, or ``None``.
        orientation: Of the arrays, such as ``LPS``; empty leaves them as they are stored. Slices
            and readers that note no directions have none.
        unpacked: Folder with unpacked copies of some of the files.

    Returns:
        ``(c, z, y, x)`` float32, ``(1, z, y, x)`` or ``None``, and the reader's properties. Their
        ``spacing`` belongs to the arrays; the geometry by which files are written is that of the
        file, and what is written is turned back to it (``orientation.turned_back``).
    """
    # nnU-Net's readers would add the intercept of a file without a slope
    stored_files = [*images] if label is None else [*images, label]
    files = [Path(copy_or_file(path, unpacked)) for path in stored_files]
    with plain_files(files, None) as placed:
        names = tuple(map(str, placed))
        data, properties = reader.read_images(names[: len(images)])
        seg = None if label is None else reader.read_seg(names[-1])[0]
    direction = properties.get("sitk_stuff", {}).get("direction", ())
    stored = orientation_of(direction) if len(direction) == 9 else ""
    if not orientation or stored in ("", orientation):
        return data, seg, properties
    properties["spacing"] = list(turned_axes(properties["spacing"], stored, orientation))
    properties[TURNED] = (stored, orientation)
    if seg is not None:
        seg = turned(seg, stored, orientation)
    return turned(data, stored, orientation), seg, properties
