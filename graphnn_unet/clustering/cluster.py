"""``graphnn_unet.cluster``: unsupervised segmentation of a folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphnn_unet.clustering.features import BorderFeatures, FeatureSource, HandFeatures
from graphnn_unet.clustering.run import ClusteringResult, cluster_folder
from graphnn_unet.clustering.settings import (
    FEATURES,
    SECTIONS,
    ClusterSettings,
    FeatureSettings,
    PostProcessing,
    RunSettings,
    make_settings,
)
from graphnn_unet.errors import InputError, near_names
from graphnn_unet.progress import say
from graphnn_unet.settings import Section, make_section


def cluster(
    input: Path | str,  # the command's own words
    output: Path | str,
    settings: ClusterSettings | None = None,
    **options: Any,
) -> ClusteringResult:
    """Segment every image of a folder by clustering the graph of its own patches.

    No label is read. Each image gets a label map of its name and geometry, PNG for pictures.

    Args:
        input: Folder of PNG, JPEG, TIFF, BMP or NIfTI, MetaImage, NRRD files, 2D or 3D.
        output: Folder for label maps, ``clusters.csv`` and ``clustering.json``.
        settings: How to cluster; by default those of the method ``auto``.
        options: Fields of :class:`~graphnn_unet.clustering.settings.ClusterSettings` (``method``,
            ``layer``, ``loss``, ``n_clusters``, also called ``clusters``, ``steps`` ...),
            ``FeatureSettings`` (``features``, ``dino``, ``side``, ``cell`` ...), ``PostProcessing``
            (``merge``, ``fill_holes``, ``largest_component``, ``refine``) and ``RunSettings``
            (``by_slice``, ``channels``, ``as_labels``, ``overwrite``, ``n_workers``); ``None``
            leaves the default of the method. ``merge`` is on with two clusters.

    Raises:
        CasesFailedError: Some images failed; the others are written, ``failures.csv`` says why.
        FaultsError: All images failed.
        RefusedError: The output folder holds label maps made otherwise.
        MissingFileError, InputError: No images, or settings that cannot be used.
    """
    given = _by_section(options)
    if settings is None:
        settings = make_settings(**given[ClusterSettings])
    elif given[ClusterSettings]:
        settings = make_section(ClusterSettings, settings.model_dump() | given[ClusterSettings])
    is_auto = settings.method == "auto"
    by_method = {
        "merge": settings.n_clusters == 2,
        "main_components": is_auto,
        "color_edges": is_auto,
        "nearest": settings.as_released,
    }
    finish = make_section(PostProcessing, by_method | given[PostProcessing])
    source = feature_source(make_section(FeatureSettings, given[FeatureSettings]))
    run_settings = make_section(RunSettings, given[RunSettings])
    facts = "".join(f"  {key} {value}" for key, value in source.facts.items())
    say(f"features: {source.name}{facts}")
    say(
        f"method: {settings.method} (loss {settings.loss}, layer {settings.layer}, "
        f"{settings.graph} graph)"
    )
    return cluster_folder(Path(input), Path(output), source, settings, finish, run_settings)


def _by_section(options: Mapping[str, Any]) -> dict[type[Section], dict[str, Any]]:
    """The options that were given, by the section that declares them; others are refused."""
    values = {name: value for name, value in options.items() if value is not None}
    if "clusters" in values:
        values["n_clusters"] = values.pop("clusters")
    known = [name for section in SECTIONS for name in section.model_fields]
    for name in values:
        if name not in known:
            raise InputError(f"cluster has no option {name!r}", near_names(name, known))
    return {
        section: {name: values[name] for name in section.model_fields if name in values}
        for section in SECTIONS
    }


def feature_source(settings: FeatureSettings) -> FeatureSource:
    """The source of features that the settings name.

    Raises:
        InputError: An unknown word, or options that do not go together.
        MissingFileError: The weights are not there.
    """
    name = settings.features
    if name not in FEATURES:
        raise InputError(f"features {name!r} are not known", f"there are {', '.join(FEATURES)}")
    if name == "auto":
        name = "dino" if settings.dino is not None else "border"
    unused = ("cell",) if name == "dino" else ("dino", "stride")
    options = [f"--{key}" for key in unused if getattr(settings, key) is not None]
    if options:
        raise InputError(
            f"{', '.join(options)} does not go with --features {name}", "it would do nothing"
        )
    if name == "dino":
        return _dino(settings)
    kind = HandFeatures if name == "hand" else BorderFeatures
    side, cell = settings.side or kind.side, settings.cell
    if side < 8 or (cell is not None and not 1 <= cell <= side // 2):
        raise InputError(f"--cell {cell} with --side {side} cannot be used", "cells are smaller")
    return kind(side, cell)


def _dino(settings: FeatureSettings) -> FeatureSource:
    from graphnn_unet.clustering.dino import WHERE, DinoFeatures
    from graphnn_unet.device import resolve_device

    if settings.dino is None:
        raise InputError("--features dino needs a weight file", WHERE, "Give it with --dino FILE")
    source = DinoFeatures(
        Path(settings.dino),
        settings.stride,
        settings.branch,
        settings.side,
        str(resolve_device(settings.device)),
    )
    _ = source.facts  # reads the file: a wrong one is told before any work
    return source
