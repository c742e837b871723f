"""Pictures to predict: of any kind that ``gnnunet_convert pictures`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.data.check_files import STAGE, fault
from graphnn_unet.errors import Fault, InputError
from graphnn_unet.images.find import HIDDEN, PICTURES, image_files, split_channel
from graphnn_unet.images.flat_picture import FLAT_SPACING, MAX_BITS, network_picture


def picture_cases(
    folder: Path, n_channels: int
) -> tuple[dict[str, list[Path]], list[Fault], list[str]]:
    """Pictures of a folder by case: each is one, whatever its name.

    Names that all end in ``_0000`` lose it, as in a raw folder. Where they end in ``_0000`` to the
    last channel of the model, each file is a gray channel.

    Args:
        folder: PNG, JPEG, TIFF or BMP files.
        n_channels: Channels of the model.

    Returns:
        Cases, faults of those that cannot be predicted, names of other files.

    Raises:
        InputError: There is no picture.
    """
    files = image_files(folder, PICTURES)
    skipped = [name for name, reason in files.skipped.items() if reason != HIDDEN]
    if not files.paths:
        raise InputError(
            f"no pictures in {folder}",
            f"the model takes {', '.join(PICTURES)}; found: {', '.join(skipped[:3]) or 'nothing'}",
            "Give the folder with -i",
        )
    by_stem, faults = files.by_case(STAGE)
    split = {stem: split_channel(stem) for stem in by_stem}
    numbers = {channel for _, channel in split.values()}
    if numbers == {0}:
        return {split[stem][0]: [path] for stem, path in by_stem.items()}, faults, skipped
    if n_channels == 1 or numbers != set(range(n_channels)):
        return {stem: [path] for stem, path in by_stem.items()}, faults, skipped
    cases: dict[str, list[Path]] = {}
    for stem, path in sorted(by_stem.items()):
        cases.setdefault(split[stem][0], []).append(path)
    for case in [case for case, paths in cases.items() if len(paths) != n_channels]:
        cause = f"it has {len(cases.pop(case))} of {n_channels} channels"
        faults.append(fault(case, "I21", cause, "Add the missing file"))
    return cases, faults, skipped


def picture_data(
    case: str, paths: Sequence[Path], n_channels: int, color_bits: int = MAX_BITS
) -> tuple[NDArray[np.float32], dict[str, Any], list[Fault]]:
    """A case as nnU-Net's reader of natural images gives it.

    Args:
        case: Case id.
        paths: One picture, or a gray one a channel.
        n_channels: Channels of the model.
        color_bits: As ``network_picture``; those of the training.

    Returns:
        ``(c, 1, y, x)``, the properties that preprocessing wants, and warnings about what is
        unlike the pictures that trained the model.

    Raises:
        BadFileError: A file cannot be used, or is colored where the model takes gray.
    """
    per_file = n_channels if len(paths) == 1 else 1
    pictures = [network_picture(path, per_file, color_bits) for path in paths]
    warnings = [
        fault(case, "I21", f"{path.name}: {note}", "Look at it", "warning")
        for path, picture in zip(paths, pictures, strict=True)
        for note in picture.notes
    ]
    data = np.concatenate([picture.array for picture in pictures]).astype(np.float32)
    return data[:, np.newaxis], {"spacing": FLAT_SPACING}, warnings
