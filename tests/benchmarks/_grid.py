"""One run of a grid: train, predict, evaluate, note the rows; what is done is kept."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """One training of a grid.

    Attributes:
        row: Its name in tables.
        overrides: What differs from the recipe of the plan.
    """

    dataset: str
    configuration: str
    trainer: str
    labeled: int
    draw: int
    seed: int
    row: str
    overrides: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of its folders."""
        facts = (self.dataset, self.row.replace(" ", "-"), self.labeled, self.draw, self.seed)
        return "_".join(map(str, facts))


def train_run(run: Run, home: Path, device: str) -> Path:
    """Train, or go on; returns the model folder."""
    from graphnn_unet import train

    model = home / "models" / run.name
    if not (model / "fold_all" / "checkpoint_final.pth").is_file():
        begun = (model / "fold_all" / "checkpoint_latest.pth").is_file()
        train(
            run.dataset, run.configuration, run.trainer, "all", n_labeled=run.labeled,
            draw=run.draw, seed=run.seed, overrides=list(run.overrides), device=device,
            output=model, mode="continue" if begun else "restart",
        )  # fmt: skip
    return model


def score_run(run: Run, model: Path, home: Path, device: str, table: Path, **options: bool) -> None:
    """Predict and evaluate the scans of ``imagesTs``, and put the rows into a table."""
    from graphnn_unet import evaluate, predict

    target = home / "predictions" / run.name
    if (target / "metrics.csv").is_file():
        return
    began = time.perf_counter()
    (raw,) = (home / "raw").glob(f"Dataset*_{run.dataset}")
    predict(raw / "imagesTs", target, model=model, device=device, **options)
    result = evaluate(target, raw / "labelsTs", is_estimate=True)
    print(
        f"{run.name}: Dice {result.mean['dice'].value:.4f}, 95HD {result.mean['hd95'].value:.2f} "
        f"{result.distance_unit}, {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    collect = [sys.executable, ROOT / "docs" / "collect_results.py", table, target / "metrics.csv"]
    facts = {"run": run.row, "trainer": run.trainer, "labeled": run.labeled, "draw": run.draw,
             "seed": run.seed}  # fmt: skip
    flags = [part for name, value in facts.items() for part in (f"--{name}", str(value))]
    subprocess.run([*map(str, collect), *flags], check=True)
