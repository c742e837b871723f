"""The collective schedule: weights shared over a folder first, then each image by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from graphnn_unet.clustering.features import FeatureSource
from graphnn_unet.clustering.fit import (
    Draw,
    Graph,
    State,
    make_graph,
    make_network,
    make_optimizer,
    run_steps,
    seed_of,
)
from graphnn_unet.clustering.images import Source, content_of, read_image
from graphnn_unet.clustering.settings import ClusterSettings
from graphnn_unet.errors import GraphnnError, InputError
from graphnn_unet.progress import Progress, say
from graphnn_unet.seeds import Stream, generator, index_of
from graphnn_unet.storage.atomic import atomic_path
from graphnn_unet.storage.safe_load import load_plain

WEIGHTS = "shared_weights.pt"
KEPT_BYTES = 2**30
"""Features of a folder are kept in memory up to this size, else made again on every pass."""


def shared_weights(
    sources: Sequence[Source], features: FeatureSource, settings: ClusterSettings, folder: Path
) -> State | None:
    """Weights after ``shared_steps`` passes over all images, in an order drawn for each pass.

    One optimizer takes ``steps_per_visit`` steps on each image. The label maps of these images then
    depend on each other: they are transductive. Weights are kept in ``folder`` and taken from there
    when images and settings are the same. Images that cannot be read are left out and reported
    later. ``None`` without shared steps: every image starts from the seed.

    Raises:
        InputError: Images have features of different widths.
    """
    if not settings.shared_steps:
        return None
    key = _key(sources, features, settings)
    if (kept := _kept(folder / WEIGHTS, key)) is not None:
        say("shared weights: taken from the earlier run")
        return kept
    kept_features: dict[str, torch.Tensor] = {}

    def graph_of(source: Source) -> Graph:
        values = kept_features.get(source.case)
        if values is None:
            values = features(read_image(source)).values
            if sum(v.nbytes for v in (*kept_features.values(), values)) <= KEPT_BYTES:
                kept_features[source.case] = values
        return make_graph(values, settings)

    weights = train_together([(s.case, s) for s in sources], graph_of, settings)
    if weights is not None:
        with atomic_path(folder / WEIGHTS) as temporary:
            torch.save({"key": key, "weights": weights}, temporary)
    return weights


def train_together(
    images: Sequence[tuple[str, Any]], graph_of: Callable[[Any], Graph], settings: ClusterSettings
) -> State | None:
    """The shared passes themselves, ``None`` where no image could be used.

    ``images`` are names and whatever ``graph_of`` takes; it raises a ``GraphnnError`` for one that
    cannot be used.
    """
    network = optimizer = None
    n_visits = settings.shared_steps * len(images)
    by_name = sorted(images, key=lambda pair: pair[0])
    with torch.random.fork_rng(devices=[]), Progress(n_visits, "shared weights", "visit") as bar:
        for epoch in range(settings.shared_steps):
            draws = generator(settings.seed, Stream.CLUSTERING_FIT, Draw.IMAGE_ORDER, epoch)
            for number in draws.permutation(len(by_name)):
                name, image = by_name[number]
                bar.update(name)
                try:
                    graph = graph_of(image)
                except GraphnnError:
                    continue
                n_channels = graph.feature.shape[1]
                if network is None or optimizer is None:
                    network = make_network(n_channels, settings)
                    optimizer = make_optimizer(network, settings)
                if n_channels != network.in_channels:
                    raise InputError(
                        f"{name} has {n_channels} features, other images {network.in_channels}",
                        "shared weights need images of one kind",
                        "Cluster gray and color images in folders of their own",
                    )
                torch.manual_seed(seed_of(settings, Draw.SHARED_DROPOUT, epoch, index_of(name)))
                run_steps(network, optimizer, graph, settings.steps_per_visit)
    return None if network is None else network.state_dict()


def _key(sources: Sequence[Source], features: FeatureSource, settings: ClusterSettings) -> str:
    """What the shared weights depend on, as one digest."""
    files = [[s.case, content_of(s)] for s in sources]
    facts = [files, features.name, features.facts, settings.model_dump()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _kept(path: Path, key: str) -> State | None:
    """Weights of an earlier run with the same key, if they can be read."""
    try:
        content = load_plain(path)
    except GraphnnError:  # a cache that is missing or damaged is made again
        return None
    return content.get("weights") if content.get("key") == key else None
