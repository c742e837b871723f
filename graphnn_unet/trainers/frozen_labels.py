"""Labels of whole scans that stay as they are over a round: on disk, read patch by patch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from graphnn_unet.pseudo_labels.corrector import Place
from graphnn_unet.pseudo_labels.scan_graph import cut
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.scan_graph.votes import read_shares
from graphnn_unet.storage.arrays import write_array
from graphnn_unet.storage.atomic import write_text

WHOLE = "done"
"""File in a folder of labels that has those of all scans."""


class LabelsOnDisk:
    """A folder with a file for each scan, whole or not there, and a note when all are there.

    Args:
        folder: Where they are, or will be.
        ending: Of the files' names.
    """

    def __init__(self, folder: Path, ending: str):
        self.folder, self._ending = folder, ending

    @property
    def is_whole(self) -> bool:
        """Whether all scans have labels."""
        return (self.folder / WHOLE).is_file()

    def path(self, scan: Scan) -> Path:
        """File of a scan."""
        return self.folder / f"{scan.case_id}{self._ending}"

    def has(self, scan: Scan) -> bool:
        """Whether a scan has labels."""
        return self.path(scan).is_file()

    def finish(self) -> None:
        """Note that all scans have labels."""
        write_text(self.folder / WHOLE, "")


class FrozenLabels(LabelsOnDisk):
    """Shares of the classes of whole scans.

    Args:
        folder: Where they are, or will be.
        overlapping: Outputs are regions: outside of a scan there is none, instead of background.
    """

    def __init__(self, folder: Path, *, overlapping: bool):
        super().__init__(folder, ".b2nd")
        self.overlapping = overlapping

    def write(self, scan: Scan, share: np.ndarray) -> None:
        """Store the shares ``(k, z, y, x)`` of a scan, right to 0.0005."""
        write_array(self.path(scan), share.astype(np.float16))

    def patch(self, scan: Scan, place: Place, shape: Sequence[int]) -> np.ndarray:
        """Shares ``(k, *s)`` float32 of the part of a scan that a patch shows.

        Args:
            scan: The scan.
            place: Where the patch lies and how it is mirrored.
            shape: ``(k, z, y, x)``, or ``(k, y, x)`` of a patch of a slice.

        Raises:
            InputError: The file is damaged.
        """
        n_flat = 4 - len(shape)
        place = Place(place.start, tuple(axis + n_flat for axis in place.mirrored))
        read = partial(read_shares, self.path(scan), remedy="Use --restart to train anew")
        whole = tuple(int(n) for n in scan.image().shape[1:])
        share = cut(read, whole, place, (shape[0], *[1] * n_flat, *shape[1:]))
        assert share is not None  # noqa: S101  # read_shares returns an array or raises
        if not self.overlapping:
            share[0] += np.clip(1 - share.sum(0), 0, 1)
            share /= share.sum(0)  # rounding of what is stored may leave more than 1
        return share.reshape(tuple(shape))
