"""Pseudo-labels as if they were true: a data set whose unlabeled scans carry labels of a model.

The model labels the scans that trained it without labels, together with the vote of its labeled
scans; a copy of the data set has these label maps in place of the true ones, and SupervisedTrainer
trains on all of it. Development cases keep their true labels and their role.

Run: python tests/benchmarks/frozen_labels.py MODEL OUT [--blend 0.65] [--device cpu]
with the folders of OUT of hippocampus.sh in nnUNet_raw, nnUNet_preprocessed and nnUNet_results.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from graphnn_unet import plan_and_preprocess, predict
from graphnn_unet.data.paths import folders, resolve_dataset
from graphnn_unet.storage.safe_load import read_json

COMMAND = """gnnunet_benchmark -d {name} -o {out}/comparison -c 3d_fullres --labeled all \\
    --development {development} --disable_tta --trainers SupervisedTrainer --set \\
    schedule.pretrain_steps=300 schedule.selftrain_steps=300 batch.labeled=2 batch.unlabeled=2 \\
    augmentation.mirror=false"""


def frozen_copy(model: Path, out: Path, blend: float, device: str) -> str:
    """Make the data set; returns its name."""
    plans, run = read_json(model / "plans.json"), read_json(model / "fold_all" / "environment.json")
    source = folders().raw / resolve_dataset(plans["dataset_name"])
    ending = read_json(source / "dataset.json")["file_ending"]
    scans, labels = out / "scans", out / "labels"
    scans.mkdir(parents=True, exist_ok=True)
    for case in run["unlabeled"]:
        for image in (source / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}"):
            shutil.copy(image, scans)
    predict(
        scans, labels, model=model, device=device, mirroring=False, scan_graph=True,
        scan_graph_blend=blend, continue_prediction=True,
    )  # fmt: skip
    name = f"{plans['dataset_name'].partition('_')[2]}{out.name.title().replace('_', '')}"
    number = 1 + max(int(path.name[7:10]) for path in folders().raw.glob("Dataset[0-9]*"))
    target = folders().raw / f"Dataset{number:03d}_{name}"
    shutil.copytree(source, target)
    for case in run["unlabeled"]:
        shutil.copy(labels / f"{case}{ending}", target / "labelsTr")
    return name


def main() -> None:
    """Make the data set, plan it, and say how to train on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--blend", type=float, default=0.65)
    parser.add_argument("--development", type=int, default=60)
    parser.add_argument("--recipe", default="hippocampus")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    name = frozen_copy(arguments.model, arguments.out, arguments.blend, arguments.device)
    plan_and_preprocess(name, recipe=arguments.recipe)
    print(COMMAND.format(name=name, out=arguments.out, development=arguments.development))


if __name__ == "__main__":
    main()
