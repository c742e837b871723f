"""``graphnn_unet.cluster``: unsupervised segmentation of a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphnn_unet.clustering.features import BorderFeatures, FeatureSource, HandFeatures
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
    dino: Path | str | None = None,
    stride: int | None = None,
    branch: str = "student",
    as_released: bool = False,
    refine: bool = False,
    fill_holes: bool = True,
    largest_component: bool = False,
    merge: bool | None = None,
    by_slice: bool = False,
    as_labels: str | None = None,
    device: str = "auto",
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
        features: ``border``, ``hand`` or ``dino``; ``auto`` takes ``dino`` where its weights are
            given, else ``border``.
        side: Longest side of the working image in pixels.
        cell: Edge of a node in pixels of the working image.
        dino: Weights of DINO ViT-S/8 or ViT-S/16.
        stride: Pixels between DINO's patches.
        branch: ``student`` or ``teacher`` of a DINO training checkpoint.
        as_released: Reproduce the released programs with their errors.
        refine: Move edges to those of the image.
        fill_holes: Fill holes of the foreground.
        largest_component: Keep only the largest component of the foreground.
        merge: One id for all foreground clusters; by default with 2 clusters, or under ``cc``.
        by_slice: Cluster volumes slice by slice.
        as_labels: Name or id of a raw data set to write from images and label maps.
        device: For ``dino``; graphs are fitted on the CPU.
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
    is_auto = chosen.method == "auto"
    finish = Finish(
        merge, fill_holes, largest_component, main_components=is_auto, color_edges=is_auto,
        refine=refine, nearest=as_released,
    )  # fmt: skip
    source = feature_source(
        features, side=side, cell=cell, dino=dino, stride=stride, branch=branch, device=device
    )
    facts = "".join(f"  {key} {value}" for key, value in source.facts.items())
    say(f"features: {source.name}{facts}")
    say(f"method: {chosen.method} (loss {chosen.loss}, layer {chosen.layer}, {chosen.graph} graph)")
    return cluster_folder(
        Path(input), Path(output), source, chosen, finish, by_slice=by_slice,
        as_labels=as_labels, overwrite=overwrite, n_workers=n_workers,
    )  # fmt: skip


def feature_source(
    name: str = "auto",
    *,
    side: int | None = None,
    cell: int | None = None,
    dino: Path | str | None = None,
    stride: int | None = None,
    branch: str = "student",
    device: str = "auto",
) -> FeatureSource:
    """The source of features by its name; the arguments are those of :func:`cluster`.

    Raises:
        InputError: An unknown word, or options that do not go together.
        MissingFileError: The weights are not there.
    """
    if name not in FEATURES:
        raise InputError(f"features {name!r} are not known", f"there are {', '.join(FEATURES)}")
    if name == "auto":
        name = "dino" if dino is not None else "border"
    _refuse_unused(name, dino=dino, stride=stride, cell=cell, side=side)
    if name == "dino":
        return _dino(dino, stride, branch, side, device)
    kind = HandFeatures if name == "hand" else BorderFeatures
    side = side or kind.side
    if side < 8 or (cell is not None and not 1 <= cell <= side // 2):
        raise InputError(f"--cell {cell} with --side {side} cannot be used", "cells are smaller")
    return kind(side, cell)


def _dino(
    path: Path | str | None, stride: int | None, branch: str, side: int | None, device: str
) -> FeatureSource:
    from graphnn_unet.clustering.dino import WHERE, DinoFeatures
    from graphnn_unet.device import resolve_device

    if path is None:
        raise InputError("--features dino needs a weight file", WHERE, "Give it with --dino FILE")
    if branch not in ("student", "teacher"):
        raise InputError(f"branch {branch!r} is not known", "use student or teacher")
    source = DinoFeatures(Path(path), stride, branch, side, str(resolve_device(device)))
    _ = source.facts  # reads the file: a wrong one is told before any work
    return source


def _refuse_unused(name: str, **given: object) -> None:
    """Options that the chosen features do not have."""
    own = {
        "dino": {"dino", "stride", "side"},
        "hand": {"cell", "side"},
        "border": {"cell", "side"},
    }[name]
    unused = [key for key, value in given.items() if value is not None and key not in own]
    if unused:
        options = ", ".join(f"--{key}" for key in unused)
        raise InputError(f"{options} does not go with --features {name}", "it would do nothing")
