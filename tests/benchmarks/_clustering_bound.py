"""What masks are worth: a network trained with those of the development part.

A reference, not a proof of what can be reached: labels of so few images may be beaten.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _clustering_pool import Result

from graphnn_unet.clustering.as_labels import write_pseudo_labels
from graphnn_unet.clustering.images import Source, read_array

METHOD, FEATURES = "supervised network", "masks"
_TRAINER, _CONFIGURATION, _RECIPE = "SupervisedTrainer", "2d", "quick"


def home(work: Path) -> None:
    """Let raw data, plans and models lie under ``work``."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(work / name)
        (work / name).mkdir(parents=True, exist_ok=True)


def raw_data(sources: list[Source], masks: dict[str, np.ndarray], folder: Path) -> Path:
    """Pictures with masks as a raw data set."""
    from PIL import Image

    maps = folder.parents[1] / "masks" / folder.name
    maps.mkdir(parents=True, exist_ok=True)
    for source in sources:
        Image.fromarray(masks[source.case].astype(np.uint8)).save(maps / source.target_name)
    return write_pseudo_labels(sources, maps, folder, maps, overwrite=True)


def distinct(sources: list[Source]) -> list[Source]:
    """Of pictures that are there twice the first."""
    first = {read_array(source)[0].tobytes(): source for source in reversed(sources)}
    return sorted(first.values(), key=lambda source: source.case)


def trained(name: str, work: Path, sources: list[Source], masks: dict[str, np.ndarray]) -> Path:
    """The model of one set; trained where it is not there yet."""
    from graphnn_unet import plan_and_preprocess, train

    done = next((work / "results").glob(f"*_{name}/*/fold_all/checkpoint_final.pth"), None)
    if done:
        return done.parents[1]
    number = 900 + sorted(("EMDS5", "WBC")).index(name)
    raw_data(distinct(sources), masks, work / "raw" / f"Dataset{number}_{name}")
    plan_and_preprocess(number, configurations=[_CONFIGURATION], recipe=_RECIPE)
    return train(number, _CONFIGURATION, _TRAINER, recipe=_RECIPE, device="cpu").model


def bound_rows(model: Path, name: str, work: Path, sources: list[Source]) -> Iterator[Result]:
    """The network's own masks."""
    from graphnn_unet import predict

    nothing = {s.case: np.eye(*read_array(s)[0].shape[1:], dtype=bool) for s in sources}
    raw = raw_data(sources, nothing, work / "raw" / f"Dataset950_{name}test")
    began = time.perf_counter()
    output = work / f"predicted_{name}"
    predict(raw / "imagesTr", output, model=model, continue_prediction=output.is_dir())
    seconds = (time.perf_counter() - began) / len(sources)
    from graphnn_unet.images.read import read_label_map

    for source in sources:
        mask = read_label_map(output / f"{source.case}.nii.gz").array[0] > 0
        yield METHOD, FEATURES, 0, source.case, mask, "trained with masks", seconds
