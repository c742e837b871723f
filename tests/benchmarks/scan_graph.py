"""Hippocampus with four labels: does correcting pseudo-labels, or the graph of scans, help?

The first hundred cases train, four of them labeled by draw; the next sixty are the development
cases on which everything is chosen. The last forty are converted with ``--final`` alone, into a
data set of their own, for what was chosen. Done runs are kept: the same command goes on.

Run: python tests/benchmarks/scan_graph.py --data DATA --home HOME [--draws 1 2] [--rows NAME ...]
     [--steps 600] [--final] [-device cpu]

DATA holds Hippocampus in the form of the Medical Segmentation Decathlon. Rows go to
docs/results/scan_graph_development.csv, or scan_graph_test.csv.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _grid import ROOT, Run, score_run, train_run

N_TRAINING, N_DEVELOPMENT = 100, 60
CORRECT = "pseudo_label.correct"
ROWS: dict[str, tuple[str, list[str]]] = {
    "SupervisedTrainer": ("SupervisedTrainer", []),
    "BCPTrainer": ("BCPTrainer", []),
    "BCPTrainer, scan_graph": ("BCPTrainer", [f"{CORRECT}=['scan_graph']"]),
    "SupervisedTrainer, pairs": ("SupervisedTrainer", ["scan_graph.pairs=0.5"]),
    "GraphCLTrainer, scan_graph": ("GraphCLTrainer", [f"{CORRECT}=['scan_graph']"]),
    "GraphCLTrainer, scan_graph and pairs": (
        "GraphCLTrainer", [f"{CORRECT}=['scan_graph']", "scan_graph.pairs=0.5"],
    ),
    "BCPTrainer, blur": ("BCPTrainer", [f"{CORRECT}=['blur']"]),
    "BCPTrainer, diffusion": ("BCPTrainer", [f"{CORRECT}=['diffusion']"]),
    "BCPTrainer, mllc": ("BCPTrainer", [f"{CORRECT}=['mllc']"]),
    "MLLCTrainer": ("MLLCTrainer", []),
    "MLLCTrainer, no graphs": ("MLLCTrainer", ["mllc.iterations=0"]),
    "SupervisedTrainer, no copy-paste": ("SupervisedTrainer", ["copy_paste.supervised=false"]),
}  # fmt: skip
"""Row of the table to trainer and what differs from the recipe; the most telling first."""
VOTE = " + vote"


def prepare(data: Path, home: Path, dataset: str, first: int, count: int) -> None:
    """Convert the training cases and ``count`` scored ones from ``first`` on, and plan."""
    from graphnn_unet import convert, plan_and_preprocess

    if list((home / "preprocessed").glob(f"Dataset*_{dataset}/*.manifest.json")):
        return
    source = data / "Hippocampus"
    cases = sorted(path.name.split(".")[0] for path in (source / "labelsTr").glob("*.nii.gz"))
    scored = cases[first : first + count]
    chosen = {*cases[:N_TRAINING], *scored}
    listed = home / f"{dataset}.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(scored))
    others = [case for case in cases if case not in chosen]
    convert("MSD", source, dataset=dataset, test=listed, exclude=others, overwrite=True)
    plan_and_preprocess(dataset, recipe="hippocampus")


def remember_votes(folder: Path) -> None:
    """Keep the votes on scored scans: they hang on the labeled scans alone, not on the network."""
    from graphnn_unet.scan_graph.panel import NewVote, Panel

    vote = Panel.vote_on

    def vote_on(panel: Panel, image: np.ndarray, **options: Any) -> NewVote:
        scan = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]
        path = folder / f"{panel.blending(0.5).digest()}_{scan}.npy"
        if path.is_file():
            return NewVote(np.load(path), len(panel.labeled), [])
        new = vote(panel, image, **options)
        if new.share is not None and not new.failures:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, new.share)
        return new

    Panel.vote_on = vote_on


def main() -> None:
    """The grid, row by row within a draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--draws", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--final", action="store_true", help="score the test cases, once")
    parser.add_argument("-device", default="auto")
    arguments = parser.parse_args()
    home = arguments.home.absolute()
    for folder in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{folder}"] = str(home / folder)
    dataset, table, scored = "HippDev", "scan_graph_development.csv", (N_TRAINING, N_DEVELOPMENT)
    if arguments.final:
        first = N_TRAINING + N_DEVELOPMENT
        dataset, table, scored = "HippTest", "scan_graph_test.csv", (first, 10**6)
    prepare(arguments.data, home, dataset, *scored)
    remember_votes(home / "votes")
    half = arguments.steps // 2
    schedule = [f"schedule.pretrain_steps={half}", f"schedule.selftrain_steps={half}",
                "batch.labeled=2", "batch.unlabeled=2"]  # fmt: skip
    for draw in arguments.draws:
        for row in arguments.rows:
            trainer, overrides = ROWS[row]
            run = Run(dataset, "3d_fullres", trainer, 4, draw, 0, row, [*schedule, *overrides])
            model = train_run(run, home, arguments.device)
            for scored, with_vote in ((run, False), (replace(run, row=row + VOTE), True)):
                # without mirrored copies, which are seven eighths of a prediction's time
                score_run(
                    scored, model, home, arguments.device, arguments.results / table,
                    mirroring=False, scan_graph=with_vote,
                )  # fmt: skip


if __name__ == "__main__":
    main()
