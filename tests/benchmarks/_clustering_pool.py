"""Rows of methods that learn from the whole pool of images first: shared weights, own encoder.

A row is method, features, seed, case, mask, flags and seconds; the seconds are those of the image
alone, training on the pool comes before. The results are transductive: what is trained has seen all
images, and no label.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphnn_unet.clustering.collective import shared_weights
from graphnn_unet.clustering.features import BorderFeatures, FeatureSource
from graphnn_unet.clustering.fit import State
from graphnn_unet.clustering.images import Source, read_image
from graphnn_unet.clustering.segment import Finish, segment_image
from graphnn_unet.clustering.self_features import SelfFeatures
from graphnn_unet.clustering.settings import METHODS, make_settings

NAMED_CELL, TRANSDUCTIVE = 8, "transductive"
Result = tuple[str, str, int, str, Any, str, float]


def shared_rows(
    sources: Sequence[Source], work: Path, seed: int, is_done: Callable[..., bool]
) -> Iterator[Result]:
    """The collective schedule: weights shared over the pool, then each image by itself.

    Args:
        sources: The pool.
        work: Folder that keeps the weights.
        seed: Of the schedule.
        is_done: Whether a row is there, by method, features, seed and case.
    """
    border = BorderFeatures(192, NAMED_CELL)
    settings = replace(METHODS["unsegmedgat_c"], seed=seed)
    left = [s for s in sources if not is_done("unsegmedgat_c", "border", seed, s.case)]
    if left:
        folder = work / f"shared_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        state = shared_weights(sources, border, settings, folder)
        for source in left:
            yield _row(
                "unsegmedgat_c", "border", source, border, settings, Finish(), TRANSDUCTIVE, state
            )


def self_rows(
    sources: Sequence[Source], work: Path, is_done: Callable[..., bool]
) -> Iterator[Result]:
    """The three losses on features of an encoder trained on the pool; arguments as above."""
    own = SelfFeatures(seed=0).prepared(sources, work)
    yield from rows_of_losses("self", own, TRANSDUCTIVE, sources, is_done)


def rows_of_losses(
    named: str, features: FeatureSource, flag: str, sources: Sequence[Source],
    is_done: Callable[..., bool],
) -> Iterator[Result]:  # fmt: skip
    """The three losses with GCN on one source of features; ``flag`` says what it has seen."""
    for loss in ("ncut", "cc", "dmon"):
        settings = make_settings(layer="gcn", loss=loss, steps=40, lr=1e-2)
        for source in sources:
            if not is_done(f"{loss} gcn", named, 0, source.case):
                finish = Finish(main_components=True)
                yield _row(f"{loss} gcn", named, source, features, settings, finish, flag)


def _row(
    method: str, named: str, source: Source, features: FeatureSource, settings: Any,
    finish: Finish, flag: str, state: State | None = None,
) -> Result:  # fmt: skip
    image = read_image(source)
    began = time.perf_counter()
    made = segment_image(image, features(image), settings, finish, state)
    seconds = time.perf_counter() - began
    flags = f"{flag} {made.facts['flags']}".strip()
    return method, named, settings.seed, source.case, made.labels > 0, flags, seconds
