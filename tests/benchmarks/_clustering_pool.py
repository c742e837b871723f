"""Rows of the method that learns from the whole pool of images first: shared weights.

A row is method, features, seed, case, mask, flags and seconds; the seconds are those of the image
alone, training on the pool comes before. The results are transductive: what is trained has seen all
images, and no label.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graphnn_unet.clustering.collective import shared_weights
from graphnn_unet.clustering.features import BorderFeatures
from graphnn_unet.clustering.images import Source, read_image
from graphnn_unet.clustering.segment import segment_image
from graphnn_unet.clustering.settings import PostProcessing, make_settings

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
    settings = make_settings("unsegmedgat_c", seed=seed)
    left = [s for s in sources if not is_done("unsegmedgat_c", "border", seed, s.case)]
    if left:
        folder = work / f"shared_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        state = shared_weights(sources, border, settings, folder)
        for source in left:
            image = read_image(source)
            began = time.perf_counter()
            result = segment_image(image, border(image), settings, PostProcessing(), state)
            seconds = time.perf_counter() - began
            flags = f"{TRANSDUCTIVE} {result.facts['flags']}".strip()
            yield "unsegmedgat_c", "border", seed, source.case, result.labels > 0, flags, seconds
