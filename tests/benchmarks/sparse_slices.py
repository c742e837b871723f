"""A quarter of the slices of many scans against a few whole scans: the same drawing effort.

Run: python tests/benchmarks/sparse_slices.py --data Hippocampus --work runs/sparse

``whole`` labels ``--whole`` scans, ``sparse`` every fourth slice of four times as many, at equal
distances across the axis with the largest spacing (``--sparse`` of gnnunet_convert). Both have the
same pool of unlabeled scans besides, and are scored on the same test scans. Stopped and started
again, it goes on. Writes results.json and prints a table.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from _rounds import Arm, Results, Scans, add_flags

WAYS = ("whole", "sparse")
SHARE = 4
"""Of so many slices one is drawn."""


def drawn_masks(arm: Arm, names: list[str]) -> tuple[Path, Path]:
    """Masks with a quarter of their slices, and the table of the slices that are drawn."""
    from graphnn_unet.images.orientation import equal_distances, slice_axis
    from graphnn_unet.storage.atomic import write_csv

    folder = arm.home / "in" / "labels"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = []
    for name in names:
        image = sitk.ReadImage(str(arm.scans.folder / "labelsTr" / f"{name}.nii.gz"))
        array = sitk.GetArrayFromImage(image)
        axis = slice_axis(image.GetSpacing()[::-1])
        n_slices = array.shape[axis]
        kept = equal_distances(n_slices, round(n_slices / SHARE))
        slices = np.moveaxis(array, axis, 0)
        slices[[number for number in range(n_slices) if number not in kept]] = 0
        drawn = sitk.GetImageFromArray(array)
        drawn.CopyInformation(image)
        sitk.WriteImage(drawn, str(folder / f"{name}.nii.gz"))
        rows.append({"case": name, "slices": " ".join(map(str, kept))})
    write_csv(arm.home / "drawn.csv", rows, ("case", "slices"))
    return folder, arm.home / "drawn.csv"


def prepare(arm: Arm) -> int:
    """Make the data set of a way; both draw from the same random order of the pool."""
    order = np.random.default_rng(arm.seed).permutation(arm.scans.pool).tolist()
    if arm.name == "whole":
        names = order[: arm.options.whole]
        arm.convert(arm.scans.link("labelsTr", names, arm.home / "in" / "labels"))
    else:
        names = order[: SHARE * arm.options.whole]
        labels, table = drawn_masks(arm, names)
        arm.convert(labels, sparse="auto", sparse_slices=table)
    return len(names)


def table(results: Results, trainers: list[str]) -> str:
    """Mean and range over seeds."""
    lines = ["| trainer | whole scans | sparse slices |", "|---|---|---|"]
    for trainer in trainers:
        cells = [results.cell(way=way, trainer=trainer) for way in WAYS]
        lines.append(f"| {trainer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Both ways with each trainer and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_flags(parser)
    parser.add_argument("--whole", type=int, default=4, help="scans that are labeled wholly")
    parser.add_argument("--trainers", nargs="+", default=["SupervisedTrainer", "BCPTrainer"])
    options = parser.parse_args()
    scans = Scans.find(options)
    results = Results(options.work / "results.json")
    for seed in options.seeds:
        for way in WAYS:
            arm = Arm(options, scans, way, seed)
            todo = [t for t in options.trainers if not results.has(way=way, seed=seed, trainer=t)]
            if not todo:
                continue
            n_labeled = prepare(arm)
            for trainer in todo:
                dice = arm.scored(trainer, trainer)
                results.add(way=way, seed=seed, trainer=trainer, labeled=n_labeled, dice=dice)
    print(table(results, options.trainers))


if __name__ == "__main__":
    main()
