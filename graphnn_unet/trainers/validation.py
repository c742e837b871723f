"""Whole cases after training: predicted, written, scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from graphnn_unet.inference.export_logits import logits_to_labels
from graphnn_unet.inference.model import Predictor
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.progress import track
from graphnn_unet.storage.atomic import atomic_path

if TYPE_CHECKING:
    from graphnn_unet.trainers.semi import SemiTrainer


def validate_cases(trainer: SemiTrainer, save_probabilities: bool = False) -> Path:
    """Predict the held-out cases of a fold and score them; ``validation/`` holds the result.

    With fold ``all`` nothing is held out: the labelled training cases are predicted and
    ``summary.json`` says ``is_estimate: false``.

    Returns:
        ``validation/summary.json``.
    """
    import numpy as np

    held_out = trainer.cases.held_out
    cases = held_out or trainer.cases.labeled
    folder = Path(trainer.output_folder) / "validation"
    network = trainer.deployed_network()
    plans, configuration = trainer.plans_manager, trainer.configuration_manager
    was_deep = network.decoder.deep_supervision
    network.decoder.deep_supervision = False
    predictor = Predictor(
        network,
        plans,
        trainer.configuration_name,
        trainer.dataset_json,
        [network.state_dict()],
        trainer.inference_allowed_mirroring_axes,
        trainer_name=type(trainer).__name__,
        device=trainer.device,
    )
    writer = plans.image_reader_writer_class()
    ending = trainer.dataset_json["file_ending"]
    for case in track(cases, len(cases), "validate"):
        data = torch.from_numpy(np.asarray(case.image()[:]))
        properties = case.properties()
        made = logits_to_labels(
            predictor.logits(data),
            properties,
            plans,
            configuration,
            trainer.label_manager,
            with_probabilities=save_probabilities,
        )
        if made.probabilities is not None:
            with atomic_path(folder / f"{case.case_id}.npz") as temporary:
                np.savez_compressed(temporary, probabilities=made.probabilities.astype(np.float16))
        with atomic_path(folder / f"{case.case_id}{ending}") as temporary:
            writer.write_seg(made.labels, str(temporary), properties)
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
