"""Whole cases after training: predicted, written, scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.models.load import Predictor
from graphnn_unet.prediction.export_logits import logits_to_labels
from graphnn_unet.prediction.write_case import Outputs, write_case
from graphnn_unet.progress import track

if TYPE_CHECKING:
    from graphnn_unet.trainers.semi import SemiTrainer


def validate_cases(trainer: SemiTrainer, save_probabilities: bool = False) -> Path:
    """Predict the held-out cases of a fold and score them; ``validation/`` holds the result.

    With fold ``all`` nothing is held out: the labelled training cases are predicted and
    ``summary.json`` says ``is_estimate: false``.

    Returns:
        ``validation/summary.json``.
    """
    held_out = trainer.cases.held_out
    cases = held_out or trainer.cases.labeled
    folder = Path(trainer.output_folder) / "validation"
    network = trainer.deployed_network()
    was_deep = network.decoder.deep_supervision
    network.decoder.deep_supervision = False
    try:
        predictor = Predictor(
            network,
            trainer.plans_manager,
            trainer.configuration_name,
            trainer.dataset_json,
            [network.state_dict()],
            trainer.inference_allowed_mirroring_axes,
            trainer_name=type(trainer).__name__,
            device=trainer.device,
        )
        outputs = Outputs(trainer.dataset_json["file_ending"], save_probabilities)
        for case in track(cases, len(cases), "validate"):
            _predict_case(predictor, case, folder, outputs)
    finally:
        network.decoder.deep_supervision = was_deep
    references = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
    result = evaluate(
        folder,
        references,
        folder,
        dataset_json=Path(trainer.preprocessed_dataset_folder_base) / "dataset.json",
        cases=[case.case_id for case in cases],
        is_estimate=bool(held_out),
        n_workers=0,
    )
    return result.summary_json


def _predict_case(predictor: Predictor, case: StoredCase, folder: Path, outputs: Outputs) -> None:
    """Predict one preprocessed case and write it."""
    properties = case.properties()
    made = logits_to_labels(
        predictor.logits(torch.from_numpy(np.asarray(case.image()[:]))),
        properties,
        predictor.plans,
        predictor.configuration,
        predictor.label_manager,
        with_probabilities=outputs.probabilities,
    )
    write_case(made, folder, case.case_id, properties, predictor.plans, outputs)
