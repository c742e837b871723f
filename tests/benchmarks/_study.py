"""A small study for the benchmark scripts: synthetic scans, planned, in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DATASET = "Dataset990_Bench"


@dataclass(frozen=True)
class Study:
    """A planned data set.

    Attributes:
        home: Folder that holds raw, preprocessed and results.
        plans, dataset_json: As planned.
        configuration: Name of the configuration.
    """

    home: Path
    plans: dict
    dataset_json: dict
    configuration: str = "3d_fullres"

    @property
    def test_images(self) -> Path:
        """Folder of test images."""
        return self.home / "raw" / DATASET / "imagesTs"


@contextmanager
def study(
    overrides: Sequence[str], *, n_labeled: int = 4, n_unlabeled: int = 8, n_test: int = 4
) -> Iterator[Study]:
    """Make scans, convert and plan them; removed at the end."""
    from graphnn_unet import convert, plan_and_preprocess
    from graphnn_unet.progress import set_quiet
    from graphnn_unet.report.demo_scans import LABEL_NAMES, write_scans
    from graphnn_unet.storage.safe_load import read_json

    set_quiet(True)
    with tempfile.TemporaryDirectory(prefix="gnnunet-bench-") as folder:
        home = Path(folder)
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(home / name)
        scans = home / "scans"
        write_scans(scans, n_labeled=n_labeled, n_unlabeled=n_unlabeled, n_test=n_test)
        convert(
            "nifti", images=scans / "images", labels=scans / "labels",
            test_images=scans / "test_images", test_labels=scans / "test_labels",
            label_names=LABEL_NAMES, dataset=DATASET,
        )  # fmt: skip
        plan_and_preprocess(
            DATASET, configurations=["3d_fullres"], overrides=list(overrides), n_workers=0
        )
        target = home / "preprocessed" / DATASET
        yield Study(
            home, read_json(target / "gnnunetPlans.json"), read_json(target / "dataset.json")
        )


def our_trainer(small_study: Study, name: str, device: str, *overrides: str) -> Any:
    """A trainer of ours, ready to step."""
    from graphnn_unet.plans.planner import run_recipe
    from graphnn_unet.plans.recipe import parse_overrides
    from graphnn_unet.trainers.registry import trainer_class
    from graphnn_unet.trainers.run_spec import Execution, RunSpec

    recipe = run_recipe(small_study.plans, small_study.configuration, parse_overrides(overrides))
    trainer = trainer_class(name)(
        dict(small_study.plans), small_study.configuration, "all", small_study.dataset_json,
        torch.device(device),
        RunSpec(DATASET, small_study.configuration, name, recipe=recipe),
        Execution(device, model_folder=small_study.home / "results" / name),
    )  # fmt: skip
    trainer.initialize()
    trainer.prepare_data()
    return trainer


def stock_trainer(small_study: Study, device: str) -> Any:
    """nnU-Net's own trainer on the same plan."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    with contextlib.redirect_stdout(io.StringIO()):
        trainer = nnUNetTrainer(
            {**small_study.plans, "continue_training": False}, small_study.configuration, "all",
            small_study.dataset_json, torch.device(device),
        )  # fmt: skip
        trainer.initialize()
    return trainer
