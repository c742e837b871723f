"""Growth with cases, workers, classes and voxels, beside nnU-Net, as a table and a picture.

Planning and preprocessing of a folder of scans as whole commands; network and export of one volume
as stages, as in ``predict_memory.py --stage``. One run of each, one after the other.

Run: python tests/benchmarks/growth.py --images FOLDER --labels FOLDER [--csv FILE] [--plot FILE]
     [--redraw]
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from plan_and_preprocess import SIDES, convert_some, plan
from predict_memory import our_stage, stock_stage

CASES, FEW_CASES = (10, 20, 40, 80), 40
WORKERS = (1, 2, 4)
CLASSES, FEW_CLASSES = (5, 25, 50, 100), 25
EDGES, EDGE = (100, 130, 160, 200), 120
SHOWN = {"ours": "GraphNN-UNet", "stock": "nnU-Net"}


def planned(images: Path, labels: Path, n_cases: int, n_workers: int) -> list[dict[str, Any]]:
    """Rows of both sides for one number of cases and workers."""
    with tempfile.TemporaryDirectory(prefix="gnnunet-bench-") as folder:
        home = Path(folder)
        convert_some(images, labels, n_cases, home)
        rows = []
        for side in SIDES:
            done = plan(home, side, n_workers)
            rows.append({"side": side, "cpu_s": done.cpu_s, "wall_s": done.wall_s,
                         "peak_gb": done.peak_gb})  # fmt: skip
    return rows


def predicted(edge: int, n_classes: int) -> list[dict[str, Any]]:
    """Rows of both sides for a cube of voxels, each in a process of its own."""
    rows = []
    for side, stage in zip(SIDES, (our_stage, stock_stage), strict=True):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peak_gb, cpu_s, _ = pool.submit(stage, (edge,) * 3, n_classes).result()
        rows.append({"side": side, "cpu_s": cpu_s, "peak_gb": peak_gb})
    return rows


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """Four panels: time over cases and workers, memory over classes and voxels."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(8, 6))
    for axes, (what, value, label) in zip(
        panels.flat,
        (
            ("cases", "cpu_s", "plan and preprocess, CPU s"),
            ("workers", "wall_s", f"plan and preprocess {FEW_CASES} cases, s"),
            ("classes", "peak_gb", f"predict {EDGE}³ voxels, peak GB"),
            ("million voxels", "peak_gb", f"predict {FEW_CLASSES} classes, peak GB"),
        ),
        strict=True,
    ):
        for side, marker in zip(SIDES, "os", strict=True):
            points = [r for r in rows if (r["what"], r["side"]) == (what, side)]
            axes.plot([float(r["n"]) for r in points], [float(r[value]) for r in points],
                      marker=marker, label=SHOWN[side])  # fmt: skip
        axes.set(xlabel=what, ylabel=label)
        if what == "workers":
            axes.set_xticks(WORKERS)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[0, 0].legend()
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)


def main() -> None:
    """All rows, then the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--csv", type=Path, default=Path("growth.csv"))
    parser.add_argument("--plot", type=Path, default=Path("growth.png"))
    parser.add_argument("--redraw", action="store_true", help="the picture alone, from the table")
    options = parser.parse_args()
    if options.redraw:
        with options.csv.open(newline="", encoding="utf-8") as file:
            draw(list(csv.DictReader(file)), options.plot)
        return
    jobs = [("cases", n, planned, (options.images, options.labels, n, 2)) for n in CASES]
    jobs += [
        ("workers", n, planned, (options.images, options.labels, FEW_CASES, n)) for n in WORKERS
    ]
    jobs += [("classes", n, predicted, (EDGE, n)) for n in CLASSES]
    jobs += [("million voxels", n**3 / 1e6, predicted, (n, FEW_CLASSES)) for n in EDGES]
    rows: list[dict[str, Any]] = []
    with options.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["what", "n", "side", "cpu_s", "wall_s", "peak_gb"])
        writer.writeheader()
        for what, n, measure, words in jobs:
            for row in measure(*words):
                shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}
                rows.append({"what": what, "n": round(n, 2), **shown})
                writer.writerow(rows[-1])
                file.flush()
                print(rows[-1], flush=True)
    draw(rows, options.plot)


if __name__ == "__main__":
    sys.exit(main())
