"""Peak memory of gnnunet_predict against nnUNetv2_predict_from_modelfolder for one large volume.

The same model with many classes (a tiny network: it is the export that takes the memory) and the
same image, one after the other. Peak is the largest sum of the resident memory of the command and
its children, looked at five times a second. Then ours runs with half of nnU-Net's peak as the
limit of its data (``ulimit -d``).
Run: python tests/benchmarks/predict_memory.py [--quick] [--size X Y Z] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk
from _bench import Bench, arguments

DATASET, N_CLASSES = "Dataset991_Classes", 25
SIZE, QUICK_SIZE = (400, 400, 300), (160, 160, 120)
IMAGE_SPACING, PLAN_SPACING = 0.8, 1.0
PLAN = [
    f"plan.spacing=[{PLAN_SPACING},{PLAN_SPACING},{PLAN_SPACING}]", "plan.patch_size=[64,64,64]",
    "network.base_features=4", "network.max_features=8", "network.max_stages=3",
]  # fmt: skip
STEPS = ["schedule.pretrain_steps=1", "schedule.selftrain_steps=1", "schedule.steps_per_epoch=1"]
OURS = "import sys; from graphnn_unet.commands.predict import main; sys.exit(main())"
STOCK = (
    "import sys; from nnunetv2.inference.predict_from_raw_data import "
    "predict_entry_point_modelfolder as main; sys.exit(main())"
)


def write(path: Path, array: np.ndarray, spacing: float) -> None:
    """Write ``(z, y, x)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((spacing,) * 3)
    sitk.WriteImage(image, str(path), True, compressionLevel=1)


def model_of_many_classes(home: Path) -> Path:
    """A plain model with random weights but for a step."""
    from graphnn_unet import export, plan_and_preprocess, train

    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(home / name)
    raw, rng = home / "raw" / DATASET, np.random.default_rng(0)
    label = np.zeros((70, 70, 70), np.uint8)
    for number in range(1, N_CLASSES):
        z, y, x = 14 * np.array(np.unravel_index(number, (5, 5, 5)))
        label[z : z + 12, y : y + 12, x : x + 12] = number
    for case in range(4):
        image = (20 * label + rng.normal(0, 20, label.shape)).astype(np.int16)
        write(raw / "imagesTr" / f"case_{case}_0000.nii.gz", image, PLAN_SPACING)
        write(raw / "labelsTr" / f"case_{case}.nii.gz", label, PLAN_SPACING)
    names = {"background": 0, **{f"class {n}": n for n in range(1, N_CLASSES)}}
    facts = {"channel_names": {"0": "MR"}, "labels": names, "numTraining": 4}
    (raw / "dataset.json").write_text(json.dumps({**facts, "file_ending": ".nii.gz"}))
    plan_and_preprocess(DATASET, configurations=["3d_fullres"], overrides=PLAN, n_workers=0)
    trained = train(DATASET, "3d_fullres", "SupervisedTrainer", device="cpu", overrides=STEPS,
                    n_loader_workers=0)  # fmt: skip
    return export(trained.model, home / "plain").target


def run(code: str, output: Path, *options: str, data_limit: int = 0) -> tuple[int, float, float]:
    """Exit status, peak of resident memory in GB of a command and its children, and seconds."""
    shutil.rmtree(output, ignore_errors=True)

    def limit() -> None:
        if data_limit:
            resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))

    began, peak = time.perf_counter(), 0
    command = [sys.executable, "-c", code, "-o", str(output), *options]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=limit)
    while process.poll() is None:
        peak = max(peak, resident(process))
        time.sleep(0.2)
    return process.returncode, peak / 1e9, time.perf_counter() - began


def resident(process: psutil.Process) -> int:
    """Resident bytes of a process and its children."""
    total = 0
    try:
        for member in (process, *process.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        return total
    return total


def same_share(first: Path, second: Path) -> float:
    """Share of voxels with the same label."""
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(p / "scan.nii.gz"))) for p in (first, second))
    return float((a == b).mean())


def add_size(parser: argparse.ArgumentParser) -> None:
    """The flag for another volume."""
    parser.add_argument("--size", nargs=3, type=int, metavar=("X", "Y", "Z"))


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__, add_size)
    bench = Bench(options)
    x, y, z = options.size or (QUICK_SIZE if options.quick else SIZE)
    what = f"{x} x {y} x {z}, {N_CLASSES} classes"
    with tempfile.TemporaryDirectory(prefix="gnnunet-memory-") as folder:
        home = Path(folder)
        model = model_of_many_classes(home)
        image = np.random.default_rng(1).integers(0, 500, (z, y, x), dtype=np.int16)
        write(home / "in" / "scan_0000.nii.gz", image, IMAGE_SPACING)
        del image
        common = ["-i", str(home / "in"), "-m", str(model), "-device", options.device,
                  "-step_size", "1", "--disable_tta"]  # fmt: skip
        ours = run(OURS, home / "a", *common)
        stock = run(STOCK, home / "b", *common, "-f", "all", "-npp", "1", "-nps", "1")
        if ours[0] or stock[0]:
            raise SystemExit(f"exit status of ours {ours[0]}, of nnU-Net {stock[0]}")
        bench.add(f"peak of gnnunet_predict / nnUNetv2_predict, {what}", ours[1] / stock[1], "x",
                  at_most=0.5, ours_gb=round(ours[1], 2), nnunet_gb=round(stock[1], 2),
                  ours_s=round(ours[2]), nnunet_s=round(stock[2]))  # fmt: skip
        print(
            f"ours {ours[1]:.2f} GB, {ours[2]:.0f} s; nnU-Net {stock[1]:.2f} GB, {stock[2]:.0f} s"
        )
        bench.add("voxels with the same label", same_share(home / "a", home / "b"), "", at_least=1)
        half = int(0.5e9 * stock[1])
        limited = run(OURS, home / "c", *common, data_limit=half)
        bench.add(f"exit status with {half / 1e9:.2f} GB of data", limited[0], "", at_most=0)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
