"""Whole cases after training: predicted, written, scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.prediction.export_logits import logits_to_labels
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.prediction.write_case import Outputs, label_colors, write_case
from graphnn_unet.progress import track


def validate_cases(
    cases: Sequence[StoredCase],
    predictor: Predictor,
    target: Path,
    preprocessed: Path,
    *,
    is_estimate: bool,
    save_probabilities: bool = False,
) -> Path:
    """Predict preprocessed cases and score them.

    Args:
        cases: Cases whose label maps may be opened.
        predictor: The trained network.
        target: Folder for label maps, ``metrics.csv`` and ``summary.json``.
        preprocessed: Folder of the preprocessed data set, with the label maps to compare with.
        is_estimate: The cases did not train, so that their scores say something about new ones.
        save_probabilities: Also write probabilities.

    Returns:
        ``summary.json``.
    """
    colors = label_colors(predictor.dataset_json)
    outputs = Outputs(predictor.dataset_json["file_ending"], save_probabilities, colors=colors)
    for case in track(cases, len(cases), "validate"):
        _predict_case(predictor, case, target, outputs)
    result = evaluate(
        target,
        preprocessed / "gt_segmentations",
        target,
        dataset_json=preprocessed / "dataset.json",
        cases=[case.case_id for case in cases],
        is_estimate=is_estimate,
        n_workers=0,
        overwrite=True,
    )
    return result.summary_json


def _predict_case(predictor: Predictor, case: StoredCase, target: Path, outputs: Outputs) -> None:
    """Predict one preprocessed case and write it."""
    properties = case.properties()
    image = torch.from_numpy(np.asarray(case.image()[:]))
    if outputs.probabilities:
        labeled = logits_to_labels(
            predictor.logits(image),
            properties,
            predictor.plans,
            predictor.configuration,
            predictor.label_manager,
            with_probabilities=True,
        )
    else:
        labeled = predictor.labels(image, properties)
    write_case(labeled, target, case.case_id, properties, predictor.plans, outputs)
