"""What each correction makes of one teacher's labels, on the unlabeled scans of Hippocampus.

The teacher is that of the row ``BCPTrainer`` of ``hippocampus.sh`` at its last step, the same for
all; whole scans are labeled as in training, and compared with the label maps that it never saw.

Run: python tests/benchmarks/pseudo_labels.py OUT [--draws 1 2] [--rows NAME ...] [--scans 48]

OUT is that of ``hippocampus.sh``, whose rows ``BCPTrainer`` are trained. Rows go to
docs/results/pseudo_labels.csv; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("row", "draw", "case", "teacher", "dice", "seconds")
ROWS: dict[str, tuple[str, list[str]]] = {
    "blur 0.7 mm": ("blur", ["blur.sigma_mm=0.7"]),
    "blur 1.2 mm": ("blur", ["blur.sigma_mm=1.2"]),
    "blur 2.0 mm": ("blur", ["blur.sigma_mm=2.0"]),
    "diffusion": ("diffusion", []),
    "mllc": ("mllc", []),
    "scan_graph, blend 0.5": ("scan_graph", ["scan_graph.blend=0.5"]),
    "scan_graph, blend 0.65": ("scan_graph", ["scan_graph.blend=0.65"]),
    "scan_graph, blend 1": ("scan_graph", ["scan_graph.blend=1"]),
    "scan_graph, blend 0.65, then blur 0.6 mm": (
        "scan_graph blur", ["scan_graph.blend=0.65", "blur.sigma_mm=0.6"],
    ),
    "scan_graph, blend 0.65, ends of links alone": (
        "scan_graph", ["scan_graph.blend=0.65", "scan_graph.search=0"],
    ),
    "scan_graph, blend 0.65, whole solve": (
        "scan_graph", ["scan_graph.blend=0.65", "scan_graph.rounds=1", "scan_graph.neighbors=4"],
    ),
}  # fmt: skip
"""Row to corrections and settings."""


def load_trainer(out: Path, draw: int, corrections: str, overrides: list[str]):
    """The trainer of the finished row ``BCPTrainer``, its teacher with one correction."""
    from graphnn_unet.plans.planner import run_recipe
    from graphnn_unet.plans.recipe import parse_overrides
    from graphnn_unet.storage.csv_cells import read_csv
    from graphnn_unet.storage.safe_load import load_checkpoint, read_json
    from graphnn_unet.trainers.registry import trainer_class
    from graphnn_unet.trainers.run_spec import Execution, RunSpec

    runs = read_csv(out / "comparison" / "runs.csv")
    names = {run["draw"]: run["name"] for run in runs if run["row"] == "BCPTrainer"}
    model = out / "comparison" / "models" / names[str(draw)]
    plans = read_json(model / "plans.json")
    layer = parse_overrides([f"pseudo_label.correct={corrections.split()}", *overrides])
    recipe = run_recipe(plans, "3d_fullres", layer)
    run = RunSpec(plans["dataset_name"], "3d_fullres", "BCPTrainer", n_labeled=4, draw=draw,
                  recipe=recipe, development=60)  # fmt: skip
    trainer = trainer_class("BCPTrainer")(
        plans, "3d_fullres", "all", read_json(model / "dataset.json"), torch.device("cpu"), run,
        Execution("cpu", n_loader_workers=0, model_folder=model),
    )  # fmt: skip
    trainer.initialize()
    trainer.prepare_data()
    state = load_checkpoint(model / "fold_all" / "checkpoint_final.pth")
    state["gnnunet"]["recipe"] = trainer.recipe.as_dict()  # its corrections are others
    trainer.load_state(state, str(model))
    return trainer


def score(trainer, hidden: Path, round_folder: Path, n_scans: int) -> list[dict[str, str]]:
    """Dice of whole scans before and after the correction, with the largest component kept."""
    from graphnn_unet.data.hidden_labels import HiddenLabels
    from graphnn_unet.networks.hook import one_output
    from graphnn_unet.trainers.diagnostics import TAUGHT, dice_of, whole_maps
    from graphnn_unet.trainers.patch_scores import label_counts

    reader = HiddenLabels(
        trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
    )
    labels = trainer.pseudo_labels
    labels.prepare(trainer.cases.labeled, trainer.cases.unlabeled)
    network = trainer.teacher.network
    if labels.n_rounds:
        with one_output(network), torch.no_grad():
            predictor = trainer.predictor_of(network, mirroring=False)

            def answer(scan):
                image = torch.from_numpy(np.asarray(scan.image()[:], dtype=np.float32))
                return predictor.logits(image).float().softmax(0).numpy()

            labels.begin_round(round_folder, answer)
    rows = []
    cases = trainer.cases.unlabeled
    for case in cases[:: max(1, len(cases) // n_scans)]:
        target = torch.from_numpy(reader.on_grid(hidden / f"{case.case_id}.nii.gz", case))
        maps = whole_maps(trainer, case)
        dice = {
            stage: float(np.nanmean(dice_of(
                label_counts(maps[stage], target[None, None], trainer.label_manager)
            )))
            for stage in ("teacher", TAUGHT)
        }  # fmt: skip
        rows.append({"case": case.case_id, "teacher": f"{dice['teacher']:.5f}",
                     "dice": f"{dice[TAUGHT]:.5f}"})  # fmt: skip
    return rows


def report(rows: list[dict[str, str]]) -> None:
    """Means, and paired differences with their 95 % intervals."""
    from graphnn_unet.metrics.intervals import mean_interval

    for draw in sorted({row["draw"] for row in rows}):
        of: dict[str, np.ndarray] = {}
        for name in dict.fromkeys(row["row"] for row in rows if row["draw"] == draw):
            part = sorted((r for r in rows if (r["row"], r["draw"]) == (name, draw)),
                          key=lambda r: r["case"])  # fmt: skip
            of[name] = np.array([float(r["dice"]) for r in part])
            teacher = np.array([float(r["teacher"]) for r in part])
        blurred = max((n for n in of if n.startswith("blur")), key=lambda n: of[n].mean())
        print(f"draw {draw}: teacher {100 * teacher.mean():.1f}; best blur: {blurred}")
        for name, values in of.items():
            cells = [f"{name:50s} {100 * values.mean():.1f}"]
            for other in (teacher, of[blurred]):
                low, high = mean_interval(values - other)
                gain = (values - other).mean()
                cells.append(f"{100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
            print("  ".join(cells), flush=True)


def main() -> None:
    """Score the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--draws", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--scans", type=int, default=48, help="so many, evenly spread")
    arguments = parser.parse_args()
    home = arguments.out.absolute() / "home"
    for folder in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{folder}"] = str(home / folder)
    from graphnn_unet.storage.atomic import write_csv
    from graphnn_unet.storage.csv_cells import read_csv

    table = arguments.results / "pseudo_labels.csv"
    (raw,) = (home / "raw").glob("Dataset*_Hippocampus")
    rows = read_csv(table) if table.is_file() else []
    for draw in arguments.draws:
        for name in arguments.rows:
            if any((row["row"], row["draw"]) == (name, str(draw)) for row in rows):
                continue
            began = time.process_time()
            trainer = load_trainer(arguments.out, draw, *ROWS[name])
            settings = "_".join(
                o.replace("scan_graph.", "") for o in ROWS[name][1] if "blend" not in o
            )
            rounds = home / "rounds" / f"{draw}_{settings}"
            done = score(trainer, raw / "labelsTr", rounds, arguments.scans)
            seconds = f"{time.process_time() - began:.0f}"
            rows += [{"row": name, "draw": str(draw), **row, "seconds": seconds} for row in done]
            write_csv(table, rows, COLUMNS)
    report(rows)


if __name__ == "__main__":
    main()
