"""The demonstration: the whole flow on synthetic scans, as a user would go through it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphnn_unet.data.plan_and_preprocess import plan_and_preprocess
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.errors import RefusedError
from graphnn_unet.metrics.aggregate import Estimate
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.models.predict import predict
from graphnn_unet.progress import say
from graphnn_unet.report.demo_scans import LABEL_NAMES, write_scans
from graphnn_unet.report.overlay import OverlayRow, save_contact_sheet, worst_median_best
from graphnn_unet.trainers.run import train

DATASET = "Dataset900_Demo"
TRAINERS = ("SupervisedTrainer", "GraphCLTrainer")
"""Rows of the table."""

N_LABELED, N_UNLABELED, N_TEST = 2, 20, 10


@dataclass(frozen=True)
class TrainerResult:
    """Figures of one trainer on the test scans.

    Attributes:
        trainer: One of ``TRAINERS``.
        dice: Mean Dice over cases, then classes, with its interval.
        hd95_mm: Mean 95HD in mm, with its interval.
        case_dice: Case to its mean Dice over classes.
        train_s: Seconds of training.
    """

    trainer: str
    dice: Estimate
    hd95_mm: Estimate
    case_dice: dict[str, float]
    train_s: float
    predictions: Path
    metrics: Path


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made.

    Attributes:
        overlay: PNG of the worst, the median and the best test scan, with and without the
            unlabeled scans.
    """

    folder: Path
    results: list[TrainerResult]
    overlay: Path
    seconds: float


def demo(output: Path | str = "gnnunet_demo", device: str = "auto", *, seed: int = 0) -> DemoResult:
    """Make scans, convert, plan, train with and without the unlabeled ones, evaluate and draw.

    Everything lies below ``output``; the user's own nnU-Net folders are not touched.

    Args:
        output: Folder, must be empty or new.
        device: As ``-device``.
        seed: Which patients are made; the trainings keep theirs.

    Raises:
        RefusedError: The folder holds something.
    """
    folder = Path(output).absolute()
    if folder.exists() and any(folder.iterdir()):
        raise RefusedError(f"{folder} is not empty", "", "Give another folder with -o")
    try:
        return _demo_in(folder, device, seed)
    except KeyboardInterrupt as interrupt:
        hint = f"remove {folder} and run the same command again, or give another folder with -o"
        raise KeyboardInterrupt(hint) from interrupt


def _demo_in(folder: Path, device: str, seed: int) -> DemoResult:
    n_parts, began = 2 + len(TRAINERS), time.monotonic()
    # this process alone works in the demonstration's folders
    os.environ |= {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
    }
    say(
        f"1/{n_parts} making {N_LABELED} labeled, {N_UNLABELED} unlabeled and {N_TEST} test scans; "
        "the whole takes about seven minutes on two cores"
    )
    scans = folder / "scans"
    write_scans(scans, n_labeled=N_LABELED, n_unlabeled=N_UNLABELED, n_test=N_TEST, seed=seed)
    convert(
        "nifti",
        images=scans / "images",
        labels=scans / "labels",
        test_images=scans / "test_images",
        test_labels=scans / "test_labels",
        label_names=LABEL_NAMES,
        dataset=DATASET,
    )
    say(f"2/{n_parts} planning and preprocessing")
    plan_and_preprocess(DATASET, recipe="demo")
    results = []
    for number, trainer in enumerate(TRAINERS, 3):
        say(f"{number}/{n_parts} {trainer}: training, prediction of the test scans, evaluation")
        results.append(_one_trainer(trainer, folder, device))
    return DemoResult(folder, results, _draw(folder, results), time.monotonic() - began)


def _one_trainer(trainer: str, folder: Path, device: str) -> TrainerResult:
    began = time.monotonic()
    trained = train(DATASET, "3d_fullres", trainer, device=device)
    train_s = time.monotonic() - began
    raw = folder / "raw" / DATASET
    predictions = folder / "predictions" / trained.model.name
    # mirrored copies take eight times as long and change little on scans of this size
    predict(
        raw / "imagesTs", predictions, model=trained.model, device=device, mirroring=False,
        n_workers=0,
    )  # fmt: skip
    scores = evaluate(predictions, raw / "labelsTs", n_workers=0)
    by_case: dict[str, list[float]] = {}
    for score in scores.scores:
        by_case.setdefault(score.case, []).append(score["dice"])
    return TrainerResult(
        trainer,
        scores.mean["dice"],
        scores.mean["hd95"],
        {case: float(np.nanmean(values)) for case, values in by_case.items()},
        train_s,
        predictions,
        scores.metrics_csv,
    )


def _draw(folder: Path, results: Sequence[TrainerResult]) -> Path:
    """Worst, median and best scan by the mean of the two trainers, a row for each of them."""
    means = {case: sum(r.case_dice[case] for r in results) for case in results[0].case_dice}
    raw = folder / "raw" / DATASET
    rows = [
        OverlayRow(
            raw / "imagesTs" / f"{case}_0000.nii.gz",
            result.predictions / f"{case}.nii.gz",
            raw / "labelsTs" / f"{case}.nii.gz",
            f"{word}: {case}, {result.trainer}",
        )
        for word, case in worst_median_best(means)
        for result in results
    ]
    overlay = folder / "comparison.png"
    save_contact_sheet(rows, overlay, {name: number for number, name in LABEL_NAMES.items()})
    return overlay
