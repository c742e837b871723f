"""What only pictures in a raw folder can have wrong: nnU-Net would read other pixels, or channels.

A picture holds all channels of a case in one file, or each of several files holds one gray channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from graphnn_unet.data.check_files import fault
from graphnn_unet.errors import Fault
from graphnn_unet.images.flat_picture import is_picture, stored_plainly

_CONVERT = "Write the data set with gnnunet_convert pictures"


def n_files_of(ending: str, n_channels: int, cases: Iterable[Mapping[int, Path]]) -> int:
    """Files of each case: a picture may hold all channels.

    Args:
        ending: Of the image files.
        n_channels: Channels of each case.
        cases: Channel number to file, for each case.
    """
    if not is_picture(ending) or any(max(channels, default=0) > 0 for channels in cases):
        return n_channels
    return 1


def channel_count_faults(
    case: str, paths: Sequence[Path], n_read: int, n_channels: int
) -> list[Fault]:
    """A fault where the pictures of a case have more or fewer channels than the data set.

    Args:
        case: Case id.
        paths: The image files of the case.
        n_read: Channels in them.
        n_channels: Channels that dataset.json lists.
    """
    if n_read in (0, n_channels) or not is_picture(paths[0]):
        return []
    kind = {1: "gray", 3: "colored"}.get(n_read, "several pictures")
    cause = f"{paths[0].name} is {kind} ({n_read} channels), dataset.json lists {n_channels}"
    return [fault(case, "I22" if n_read > n_channels else "I21", cause, _CONVERT)]


def storage_faults(case: str, images: Sequence[Path], label: Path | None) -> list[Fault]:
    """Faults of pictures that stock nnU-Net, and so training, would read in another way."""
    faults = []
    for path in (*images, *(() if label is None else (label,))):
        if is_picture(path) and (why := stored_plainly(path, is_label=path == label)):
            faults.append(
                fault(case, "I14", f"{path.name} cannot be used as it is: {why}", _CONVERT)
            )
    return faults
