"""A raw data set whose label maps are clusters, to pre-train a segmentation model on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from graphnn_unet.clustering.images import Source, read_array
from graphnn_unet.data.paths import folders, new_dataset_name
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset
from graphnn_unet.dataset_conversion.write_raw import require_new, write_raw
from graphnn_unet.images.flat_picture import FLAT_SPACING, RAW_ENDING, is_gray
from graphnn_unet.images.header import read_grid
from graphnn_unet.images.read import read_label_map
from graphnn_unet.images.volume import Volume


def raw_folder(name_or_id: str, *, overwrite: bool) -> Path:
    """Where the data set will lie; ``RefusedError`` before any work if it is there already."""
    folder = folders().raw / new_dataset_name(name_or_id, None, "Clusters")
    require_new(folder, overwrite=overwrite)
    return folder


def write_pseudo_labels(
    sources: Sequence[Source], maps: Path, folder: Path, origin: Path, *, overwrite: bool
) -> Path:
    """Write images and their cluster maps as a raw data set; all cases are labeled.

    Pictures stay pictures, with red, green and blue in one file.

    Raises:
        FaultsError: Images differ in their channels, or a label map is damaged.
        RefusedError: The folder exists.
    """
    are_pictures = sources[0].ending == RAW_ENDING
    n_channels = len(read_array(sources[0])[0])
    if are_pictures:
        n_channels = 1 if all(is_gray(read_array(source)[0]) for source in sources) else 3
    n_labels = 1
    for source in sources:
        n_labels = max(n_labels, int(_labels_of(source, maps).array.max()))
    cases = [
        Case(
            source.case,
            (source.paths[0],)
            if are_pictures
            else tuple(_channel(source, number) for number in range(n_channels)),
            lambda source=source: _labels_of(source, maps),
            "labeled",
            source.case,
            (*source.paths, maps / source.target_name),
        )
        for source in sources
    ]
    names = ["red", "green", "blue"] if n_channels == 3 else [f"c{n}" for n in range(n_channels)]
    dataset = ConvertedDataset(
        name=folder.name.split("_", 1)[1],
        default_id=None,
        form="gnnunet_cluster",
        source=origin,
        channel_names=dict(enumerate(names)),
        labels={"background": 0, **{f"cluster_{n}": n for n in range(1, n_labels + 1)}},
        cases=cases,
        notes=["the label maps are clusters found without labels, not truth"],
        file_ending=RAW_ENDING if are_pictures else ".nii.gz",
    )
    return write_raw(dataset, folder, overwrite=overwrite, n_workers=0).folder


def _channel(source: Source, number: int) -> Callable[[], Volume]:
    def read() -> Volume:
        array, _ = read_array(source)
        return _as_volume(source, array[number] if number < len(array) else array[0])

    return read


def _labels_of(source: Source, maps: Path) -> Volume:
    return _as_volume(source, read_label_map(maps / source.target_name).array)


def _as_volume(source: Source, array: np.ndarray) -> Volume:
    """One slice for a picture; the geometry of the image for a volume."""
    if source.ending == ".png":
        return Volume(array[None], FLAT_SPACING)
    grid = read_grid(source.paths[0])
    if array.ndim == 2:
        return Volume(array[None], (999.0, *grid.spacing))
    return Volume(array, grid.spacing, grid.origin, grid.direction)
