"""What the scripts about labeling share: scans with hidden labels, training and scores."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

RECIPE = "hippocampus"
SMALL = (
    "batch.labeled=2", "batch.unlabeled=2", "schedule.pretrain_steps=200",
    "schedule.selftrain_steps=400", "schedule.steps_per_epoch=100", "augmentation.mirror=false",
)  # fmt: skip
"""600 steps; other data sets give a recipe of their own with --recipe."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of both scripts."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with imagesTr and labelsTr")
    add("--work", type=Path, required=True, help="folder to work in; the same command goes on")
    add("--pool", type=int, default=80, help="scans to choose from, the first ones by name")
    add("--test", type=int, default=40, help="scans to score on, the last ones by name")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--recipe", default=RECIPE, help="recipe of the data set")
    add("--set", nargs="+", default=[], dest="overrides", help="recipe values over the small ones")
    add("-device", default="cpu")


@dataclass(frozen=True)
class Scans:
    """A public data set whose label maps are hidden until they are asked for.

    Attributes:
        folder: With ``imagesTr`` and ``labelsTr``.
        pool: Names of the scans that may be labeled.
        test: Names of those that are scored.
    """

    folder: Path
    pool: list[str]
    test: list[str]

    @classmethod
    def find(cls, options: argparse.Namespace) -> Scans:
        """The scans that the flags ask for."""
        names = sorted(
            path.name.removesuffix(".nii.gz")
            for path in (options.data / "imagesTr").glob("[!.]*.nii.gz")
        )
        if options.pool + options.test > len(names):
            raise SystemExit(f"{options.data} has {len(names)} scans")
        return cls(options.data, names[: options.pool], names[-options.test :])

    def link(self, role: str, names: Sequence[str], target: Path) -> Path:
        """Files of ``imagesTr`` or ``labelsTr`` in a folder of their own."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in names:
            (target / f"{name}.nii.gz").symlink_to(
                (self.folder / role / f"{name}.nii.gz").resolve()
            )
        return target


@dataclass(frozen=True)
class Arm:
    """One way to label, in a home of its own.

    Attributes:
        options: Flags of the script.
        scans: The scans.
        name: Of the way.
        seed: Of lists and trainings.
    """

    options: argparse.Namespace
    scans: Scans
    name: str
    seed: int

    @property
    def home(self) -> Path:
        """Folder of this way and seed."""
        return self.options.work / f"{self.name}_seed{self.seed}"

    @property
    def raw(self) -> Path:
        """Raw folder."""
        return self.home / "raw" / "Dataset501_Study"

    def use(self) -> None:
        """Work in the home from now on."""
        for kind in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{kind}"] = str(self.home / kind)

    def convert(self, labels: Path | None = None, **options: Any) -> None:
        """Make the raw data set where it is missing; the whole pool is in it."""
        from graphnn_unet import convert

        self.use()
        if self.raw.is_dir():
            return
        link = self.scans.link
        images = link("imagesTr", self.scans.pool, self.home / "in" / "images")
        test = link("imagesTr", self.scans.test, self.home / "in" / "test_images")
        test_labels = link("labelsTr", self.scans.test, self.home / "in" / "test_labels")
        convert(
            "nifti", images=images, labels=labels, test_images=test, test_labels=test_labels,
            dataset="Dataset501_Study", n_workers=0, **options,
        )  # fmt: skip

    def scored(self, trainer: str, name: str) -> float:
        """Mean Dice of a training on the test scans; done work is not done again."""
        from graphnn_unet import evaluate, plan_and_preprocess, predict, train
        from graphnn_unet.trainers.run import validation_means

        self.use()
        model, output = self.home / "models" / name, self.home / "predictions" / name
        summary = output / "summary.json"
        if not summary.is_file():
            overrides = [*SMALL, *self.options.overrides]
            plan_and_preprocess(
                "Study", configurations=["3d_fullres"], recipe=self.options.recipe,
                overrides=overrides, n_workers=0,
            )  # fmt: skip
            fold = model / "fold_all"
            if not (fold / "validation" / "summary.json").is_file():
                begun = any(fold.glob("checkpoint_*.pth"))
                train(
                    "Study", "3d_fullres", trainer, "all", seed=self.seed, output=model,
                    device=self.options.device, mode="continue" if begun else "new",
                    n_loader_workers=0,
                )  # fmt: skip
            predict(
                self.raw / "imagesTs", output, model=model, mirroring=False,
                device=self.options.device, continue_prediction=True, n_workers=0,
            )  # fmt: skip
            evaluate(output, self.raw / "labelsTs", output, n_workers=0, overwrite=True)
        return float(validation_means(summary)["Dice"])


class Results:
    """Rows of a JSON file, each written as soon as it is known."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = (
            json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        )

    def has(self, **key: Any) -> bool:
        """Whether there is a row with these values."""
        return bool(self.dice(**key))

    def dice(self, **key: Any) -> list[float]:
        """Dice of the rows with these values."""
        rows = (row for row in self.rows if all(row.get(k) == v for k, v in key.items()))
        return [row["dice"] for row in rows]

    def cell(self, **key: Any) -> str:
        """Mean and range of these rows; empty without one."""
        dice = self.dice(**key)
        return f"{mean(dice):.4f} ({min(dice):.4f}-{max(dice):.4f})" if dice else ""

    def add(self, **row: Any) -> None:
        """Add a row."""
        from graphnn_unet.storage.atomic import write_json

        self.rows.append(row)
        write_json(self.path, self.rows)
        print("  ".join(f"{k} {v:.4f}" if k == "dice" else f"{k} {v}" for k, v in row.items()
                        if k != "cases"), flush=True)  # fmt: skip
