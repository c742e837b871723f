"""``graphnn_unet.cluster``: unsupervised segmentation of a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphnn_unet.clustering.features import (
    BorderFeatures,
    FeatureSource,
    HandFeatures,
)
from graphnn_unet.clustering.run import ClusteringResult, cluster_folder
from graphnn_unet.clustering.segment import Finish
from graphnn_unet.clustering.settings import FEATURES, make_settings
from graphnn_unet.errors import InputError
from graphnn_unet.progress import say


def cluster(
    input: Path | str,  # the command's own words
    output: Path | str,
    *,
    method: str = "auto",
    layer: str | None = None,
    loss: str | None = None,
    clusters: int | None = None,
    features: str = "auto",
    side: int | None = None,
    cell: int | None = None,
    as_released: bool = False,
    refine: bool = False,
    fill_holes: bool = True,
    largest_component: bool = False,
    merge: bool | None = None,
    overwrite: bool = False,
    n_workers: int | None = None,
    **settings: Any,
) -> ClusteringResult:
    """Segment every image of a folder by clustering the graph of its own patches.

    No label is read. Each image gets a label map of its name and geometry, PNG for pictures.

    Args:
        input: Folder of PNG, JPEG, TIFF, BMP or NIfTI, MetaImage, NRRD files, 2D or 3D.
        output: Folder for label maps, ``clusters.csv`` and ``clustering.json``.
        method: ``auto``, ``grid`` or a published method.
        layer: Of the grid of layers and losses.
        loss: Of the grid, or of ``deepcut``.
        clusters: Number of clusters, default 2.
        features: Where the features come from; ``auto`` takes the best that is available.
        side: Longest side of the working image in pixels.
        cell: Edge of a node in pixels of the working image.
        as_released: Reproduce the released programs with their errors.
        refine: Move edges to those of the image.
        fill_holes: Fill holes of the foreground.
        largest_component: Keep only the largest component of the foreground.
        merge: One id for all foreground clusters; by default with 2 clusters, or under ``cc``.
        overwrite: Replace label maps that are there.
        n_workers: Processes; 0 does all work in this one.
        settings: Other fields of ``ClusterSettings``.

    Raises:
        CasesFailedError: Some images failed; the others are written, ``failures.csv`` says why.
        FaultsError: All images failed.
        RefusedError: The output folder holds label maps made otherwise.
        MissingFileError, InputError: No images, or settings that cannot be used.
    """
    chosen = make_settings(
        method, layer=layer, loss=loss, as_released=as_released, n_clusters=clusters, **settings
    )
    if merge is None:
        merge = clusters is None or clusters == 2
    finish = Finish(
        merge, fill_holes, largest_component, chosen.method == "auto", refine, as_released
    )
    source = feature_source(features, side=side, cell=cell)
    say(f"features: {source.name}  method: {chosen.method} ({chosen.loss}, {chosen.layer})")
    return cluster_folder(
        Path(input), Path(output), source, chosen, finish, overwrite=overwrite,
        n_workers=n_workers,
    )  # fmt: skip


def feature_source(name: str, *, side: int | None, cell: int | None) -> FeatureSource:
    """The source of features by its name.

    Raises:
        InputError: An unknown word, or sizes that cannot be used.
    """
    if name not in FEATURES:
        raise InputError(f"features {name!r} are not known", f"there are {', '.join(FEATURES)}")
    kind = HandFeatures if name == "hand" else BorderFeatures
    side, cell = side or kind.side, cell or kind.cell
    if side < 8 or not 1 <= cell <= side // 2:
        raise InputError(f"--cell {cell} with --side {side} cannot be used", "cells are smaller")
    return kind(side, cell)
