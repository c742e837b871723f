"""A raw data set whose label maps are clusters, to pre-train a segmentation model on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from graphnn_unet.clustering.images import Source, read_array
from graphnn_unet.data.paths import folders, new_dataset_name
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset
from graphnn_unet.dataset_conversion.write_raw import require_new, write_raw
from graphnn_unet.images.flat_picture import FLAT_SPACING, RAW_ENDING, is_gray
from graphnn_unet.images.read import read_label_map, read_volume
from graphnn_unet.images.volume import Volume


def raw_folder(name_or_id: str, *, overwrite: bool) -> Path:
    """Where the data set will lie; ``RefusedError`` before any work if it is there already."""
    folder = folders().raw / new_dataset_name(name_or_id, None, "Clusters")
    require_new(folder, overwrite=overwrite, flag="--as-labels")
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
    names = [f"c{number}" for number in range(len(sources[0].paths))]
    if are_pictures and not all(is_gray(read_array(source)[0]) for source in sources):
        names = ["red", "green", "blue"]
    cases = []
    n_labels = 1
    for source in sources:
        path = maps / source.target_name
        label = partial(_picture_labels if are_pictures else _volume, path)
        n_labels = max(n_labels, int(label().array.max()))
        images = source.paths if are_pictures else [partial(_volume, p) for p in source.paths]
        inputs = (*source.paths, path)
        cases.append(Case(source.case, tuple(images), label, "labeled", source.case, inputs))
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


def _picture_labels(path: Path) -> Volume:
    return Volume(read_label_map(path).array[None], FLAT_SPACING)


def _volume(path: Path) -> Volume:
    """A volume, or one slice of a file with two axes."""
    volume = read_volume(path, n_dims=None)
    if volume.array.ndim == 3:
        return volume
    return Volume(volume.array[None], (FLAT_SPACING[0], *volume.spacing))
