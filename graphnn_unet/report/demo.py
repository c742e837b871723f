"""The demonstration: the whole flow on synthetic scans, as a user would go through it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from graphnn_unet.data.plan_and_preprocess import plan_and_preprocess
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.errors import RefusedError
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.models.predict import predict
from graphnn_unet.progress import say
from graphnn_unet.report.demo_scans import LABEL_NAMES, write_scans
from graphnn_unet.report.overlay import OverlayRow, save_contact_sheet
from graphnn_unet.trainers.run import train

DATASET = "Dataset900_Demo"
TRAINERS = ("SupervisedTrainer", "GraphCLTrainer")
N_LABELED, N_UNLABELED, N_TEST = 4, 12, 6
_SHOWN = 3


@dataclass(frozen=True)
class TrainerResult:
    """Figures of one trainer on the test scans.

    Attributes:
        dice: Mean Dice over cases, then classes.
        hd95_mm: Mean 95HD in mm.
        train_s: Seconds of training.
        overlay: PNG of predictions over images.
    """

    trainer: str
    dice: float
    hd95_mm: float
    train_s: float
    predictions: Path
    metrics: Path
    overlay: Path


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made."""

    folder: Path
    results: list[TrainerResult]
    seconds: float


def demo(output: Path | str = "gnnunet_demo", device: str = "auto") -> DemoResult:
    """Make scans, convert, plan, train two methods, predict, evaluate and draw.

    Everything lies below ``output``; the user's own nnU-Net folders are not touched.

    Args:
        output: Folder, must be empty or new.
        device: As ``-device``.

    Raises:
        RefusedError: The folder holds something.
    """
    folder = Path(output).absolute()
    if folder.exists() and any(folder.iterdir()):
        raise RefusedError(f"{folder} is not empty", "", "Give another folder with -o")
    try:
        return _demo_in(folder, device)
    except KeyboardInterrupt as interrupt:
        hint = f"remove {folder} and run the same command again, or give another folder with -o"
        raise KeyboardInterrupt(hint) from interrupt


def _demo_in(folder: Path, device: str) -> DemoResult:
    began = time.monotonic()
    # this process alone works in the demonstration's folders
    os.environ |= {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
    }
    say(f"1/4 making {N_LABELED} labeled, {N_UNLABELED} unlabeled and {N_TEST} test scans")
    scans = folder / "scans"
    write_scans(scans, n_labeled=N_LABELED, n_unlabeled=N_UNLABELED, n_test=N_TEST)
    convert(
        "nifti",
        images=scans / "images",
        labels=scans / "labels",
        test_images=scans / "test_images",
        test_labels=scans / "test_labels",
        label_names=LABEL_NAMES,
        dataset=DATASET,
    )
    say("2/4 planning and preprocessing")
    plan_and_preprocess(DATASET, recipe="demo")
    results = [_one_trainer(name, folder, device) for name in TRAINERS]
    return DemoResult(folder, results, time.monotonic() - began)


def _one_trainer(name: str, folder: Path, device: str) -> TrainerResult:
    step = 3 + TRAINERS.index(name)
    say(f"{step}/4 {name}: training, prediction of the test scans, evaluation")
    began = time.monotonic()
    trained = train(DATASET, "3d_fullres", name, device=device)
    train_s = time.monotonic() - began
    raw = folder / "raw" / DATASET
    predictions = folder / "predictions" / name
    predict(raw / "imagesTs", predictions, model=trained.model, device=device)
    scores = evaluate(predictions, raw / "labelsTs", n_workers=0)
    overlay = folder / f"overlay_{name}.png"
    cases = sorted(path.name[:-7] for path in (raw / "labelsTs").glob("*.nii.gz"))[:_SHOWN]
    rows = [
        OverlayRow(
            raw / "imagesTs" / f"{case}_0000.nii.gz",
            predictions / f"{case}.nii.gz",
            raw / "labelsTs" / f"{case}.nii.gz",
        )
        for case in cases
    ]
    labels = {name: number for number, name in LABEL_NAMES.items()}
    save_contact_sheet(rows, overlay, labels)
    return TrainerResult(
        name,
        scores.mean["dice"].value,
        scores.mean["hd95"].value,
        train_s,
        predictions,
        scores.metrics_csv,
        overlay,
    )
