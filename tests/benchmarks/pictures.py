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
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _grid import ROOT, Run, score_run, train_run

TRAINERS = ("SupervisedTrainer", "BCPTrainer", "GraphCLTrainer")
COPIES = {"EMDS5": ("EMDS5-g20-15",), "WBC": ("139",)}
"""Pictures that are in the set twice."""
LABEL_NAMES = {
    "EMDS5": {255: "microorganism"},
    "WBC": {128: "cytoplasm", 255: "nucleus"},
}
TEST_EVERY = 3


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
                run = Run(
                    name, "2d", trainer, arguments.labeled, draw, arguments.seed, trainer,
                    ["scan_labels.rounds=0", *arguments.overrides],
                )  # fmt: skip
                model = train_run(run, home, arguments.device)
                table = arguments.results / f"pictures_{name}.csv"
                score_run(run, model, home, arguments.device, table)


if __name__ == "__main__":
    main()
