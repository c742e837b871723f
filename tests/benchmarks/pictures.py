"""Supervised, BCP and GraphCL on pictures with ten labeled ones: EMDS5 and WBC.

Every third picture is a test picture; of the others ten are labeled, drawn at random, and the rest
train without their masks. What is done is kept: the same command goes on where it was stopped.

Run: python tests/benchmarks/pictures.py --data DATA --home HOME [--sets WBC] [--draws 1 2 3]
     [--trainers SupervisedTrainer ...] [--recipe quick] [--set key=value ...] [-device cpu]

DATA holds EMDS5 and WBC, each with images and masks. Rows go to docs/results/pictures_SET.csv.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAINERS = ("SupervisedTrainer", "BCPTrainer", "GraphCLTrainer")
COPIES = {"EMDS5": ("EMDS5-g20-15",), "WBC": ("139",)}
"""Pictures that are in the set twice."""
LABEL_NAMES = {
    "EMDS5": {255: "microorganism"},
    "WBC": {128: "cytoplasm", 255: "nucleus"},
}
TEST_EVERY = 3


@dataclass(frozen=True)
class Run:
    """One training of the grid."""

    dataset: str
    trainer: str
    labeled: int
    draw: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder of predictions."""
        facts = (self.dataset, self.trainer, self.labeled, self.draw, self.seed)
        return "_".join(map(str, facts))


def prepare(data: Path, home: Path, name: str, recipe: str) -> None:
    """Convert and plan a set, unless that is done."""
    from graphnn_unet import convert, plan_and_preprocess

    if list((home / "raw").glob(f"Dataset*_{name}")):
        done = (home / "preprocessed").glob(f"Dataset*_{name}/*.manifest.json")
        if not list(done):
            plan_and_preprocess(name, recipe=recipe)
        return
    cases = sorted(path.stem for path in (data / name / "images").iterdir())
    cases = [case for case in cases if case not in COPIES[name]]
    test = home / f"{name}_test.txt"
    test.parent.mkdir(parents=True, exist_ok=True)
    test.write_text("\n".join(cases[::TEST_EVERY]))
    convert(
        "pictures", images=data / name / "images", labels=data / name / "masks", dataset=name,
        test=test, exclude=COPIES[name], label_names=LABEL_NAMES[name],
    )  # fmt: skip
    plan_and_preprocess(name, recipe=recipe)


def do(run: Run, home: Path, device: str, overrides: list[str], table: Path) -> None:
    """Train, predict, evaluate and note the rows; a finished run is left alone."""
    from graphnn_unet import evaluate, predict, train

    target = home / "predictions" / run.name
    if (target / "metrics.csv").is_file():
        return
    began = time.perf_counter()
    model = home / "models" / run.name
    if not (model / "fold_all" / "checkpoint_final.pth").is_file():
        begun = (model / "fold_all" / "checkpoint_latest.pth").is_file()
        train(
            run.dataset, "2d", run.trainer, "all", n_labeled=run.labeled, draw=run.draw,
            seed=run.seed, overrides=overrides, device=device, output=model,
            mode="continue" if begun else "restart",
        )  # fmt: skip
    (raw,) = (home / "raw").glob(f"Dataset*_{run.dataset}")
    predict(raw / "imagesTs", target, model=model, device=device)
    result = evaluate(target, raw / "labelsTs", is_estimate=True)
    print(
        f"{run.name}: Dice {result.mean['dice'].value:.4f}, 95HD {result.mean['hd95'].value:.2f} "
        f"{result.distance_unit}, {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    collect = [sys.executable, ROOT / "docs" / "collect_results.py", table, target / "metrics.csv"]
    facts = {"run": run.trainer, "trainer": run.trainer, "labeled": run.labeled, "draw": run.draw,
             "seed": run.seed}  # fmt: skip
    flags = [part for name, value in facts.items() for part in (f"--{name}", str(value))]
    subprocess.run([*map(str, collect), *flags], check=True)


def main() -> None:
    """The grid, set by set and draw by draw, so that an early stop leaves whole comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--sets", nargs="+", default=list(COPIES), choices=list(COPIES))
    parser.add_argument("--trainers", nargs="+", default=list(TRAINERS))
    parser.add_argument("--labeled", type=int, default=10)
    parser.add_argument("--draws", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--set", nargs="+", default=[], dest="overrides")
    parser.add_argument("-device", default="auto")
    arguments = parser.parse_args()
    for folder in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{folder}"] = str(arguments.home.absolute() / folder)
    home = arguments.home.absolute()
    for name in arguments.sets:
        prepare(arguments.data, home, name, arguments.recipe)
    for draw in arguments.draws:
        for name in arguments.sets:
            for trainer in arguments.trainers:
                run = Run(name, trainer, arguments.labeled, draw, arguments.seed)
                table = arguments.results / f"pictures_{name}.csv"
                do(run, home, arguments.device, arguments.overrides, table)


if __name__ == "__main__":
    main()
