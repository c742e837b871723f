"""Peak memory of gnnunet_predict against nnUNetv2_predict_from_modelfolder for one large volume.

The same model with many classes (a tiny network: it is the export that takes the memory) and the
same image, one after the other. Then ours runs with half of nnU-Net's peak as the limit of its data
(``ulimit -d``). With ``--stage`` only the network and the export of labels are measured, from a
normalized image of blocks and a network of one 1 x 1 x 1 convolution, each side in a fresh process.
``--alone`` leaves nnU-Net out, which needs several times the logits.
Run: python tests/benchmarks/predict_memory.py [--quick] [--size X Y Z] [--classes N]
     [--stage] [--alone] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from _bench import Bench, arguments
from _commands import OURS, STOCK, predict
from predict import same_share

DATASET = "Dataset991_Classes"
SIZE, QUICK_SIZE = (400, 400, 300), (160, 160, 120)
IMAGE_SPACING, PLAN_SPACING = 0.8, 1.0
PLAN = [
    f"plan.spacing=[{PLAN_SPACING},{PLAN_SPACING},{PLAN_SPACING}]", "plan.patch_size=[64,64,64]",
    "network.base_features=4", "network.max_features=8", "network.max_stages=3",
]  # fmt: skip
STEPS = ["schedule.pretrain_steps=1", "schedule.selftrain_steps=1", "schedule.steps_per_epoch=1"]


def write(path: Path, array: np.ndarray, spacing: float) -> None:
    """Write ``(z, y, x)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((spacing,) * 3)
    sitk.WriteImage(image, str(path), True, compressionLevel=1)


def model_of_many_classes(home: Path, n_classes: int) -> Path:
    """A plain model with random weights but for a step."""
    from graphnn_unet import export, plan_and_preprocess, train

    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(home / name)
    raw, rng = home / "raw" / DATASET, np.random.default_rng(0)
    label = np.zeros((70, 70, 70), np.uint8)
    for number in range(1, n_classes):
        z, y, x = 14 * np.array(np.unravel_index(number, (5, 5, 5)))
        label[z : z + 12, y : y + 12, x : x + 12] = number
    for case in range(4):
        image = (20 * label + rng.normal(0, 20, label.shape)).astype(np.int16)
        write(raw / "imagesTr" / f"case_{case}_0000.nii.gz", image, PLAN_SPACING)
        write(raw / "labelsTr" / f"case_{case}.nii.gz", label, PLAN_SPACING)
    names = {"background": 0, **{f"class {n}": n for n in range(1, n_classes)}}
    facts = {"channel_names": {"0": "MR"}, "labels": names, "numTraining": 4}
    (raw / "dataset.json").write_text(json.dumps({**facts, "file_ending": ".nii.gz"}))
    plan_and_preprocess(DATASET, configurations=["3d_fullres"], overrides=PLAN, n_workers=0)
    trained = train(DATASET, "3d_fullres", "SupervisedTrainer", device="cpu", overrides=STEPS,
                    n_loader_workers=0)  # fmt: skip
    return export(trained.model, home / "plain").target


def stage_model(n_classes: int) -> tuple[Any, Any, Any]:
    """A network that is done in no time, and plan and description of a model with many classes."""
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    plans = PlansManager({
        "dataset_name": DATASET, "plans_name": "p", "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager", "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "configurations": {"3d_fullres": {
            "spacing": [PLAN_SPACING] * 3, "patch_size": [64, 64, 64], "batch_size": 2,
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": resampling,
            "architecture": {"network_class_name": "x", "arch_kwargs": {},
                             "_kw_requires_import": []},
        }},
    })  # fmt: skip
    labels = {"background": 0, **{f"class {n}": n for n in range(1, n_classes)}}
    description = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz"}
    network = torch.nn.Conv3d(1, n_classes, 1)
    # class k is the largest where the image is k / 10
    values = torch.arange(n_classes) / 10
    network.weight.data = 2 * values.reshape(-1, 1, 1, 1, 1)
    network.bias.data = -(values**2)
    return network, plans, description


def stage_inputs(shape: Sequence[int], n_classes: int) -> tuple[Any, dict[str, Any]]:
    """Blocks of values on the network's grid, and what preprocessing would have noted."""
    import torch

    grid = [round(n * IMAGE_SPACING / PLAN_SPACING) for n in shape]
    data = torch.zeros((1, *grid))
    rng = np.random.default_rng(0)
    for corner in np.ndindex(*(-(-n // 60) for n in grid)):
        box = tuple(slice(60 * c, 60 * c + 60) for c in corner)
        data[0][box] = float(rng.integers(n_classes)) / 10
    return data, {
        "spacing": [IMAGE_SPACING] * 3,
        "shape_before_cropping": tuple(shape),
        "shape_after_cropping_and_before_resampling": tuple(shape),
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }


def our_stage(shape: Sequence[int], n_classes: int) -> tuple[float, float, np.ndarray]:
    """Peak memory in GB, CPU seconds and labels of our network stage and export."""
    import torch

    from graphnn_unet.prediction.predictor import Predictor

    network, plans, description = stage_model(n_classes)
    predictor = Predictor(
        network, plans, "3d_fullres", description, [network.state_dict()], None,
        trainer_name="x", device=torch.device("cpu"), step_size=1.0, mirroring=False,
    )  # fmt: skip
    data, properties = stage_inputs(shape, n_classes)
    began = time.process_time()
    labels = predictor.labels(data, properties).labels
    return _peak_gb(), time.process_time() - began, labels


def stock_stage(shape: Sequence[int], n_classes: int) -> tuple[float, float, np.ndarray]:
    """The same by nnU-Net's predictor and its conversion of logits."""
    import torch
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as labels_of,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    network, plans, description = stage_model(n_classes)
    configuration = plans.get_configuration("3d_fullres")
    engine = nnUNetPredictor(
        tile_step_size=1.0, use_mirroring=False, perform_everything_on_device=False,
        device=torch.device("cpu"), allow_tqdm=False,
    )  # fmt: skip
    engine.manual_initialization(
        network, plans, configuration, [network.state_dict()], description, "x", None
    )
    data, properties = stage_inputs(shape, n_classes)
    began = time.process_time()
    logits = engine.predict_logits_from_preprocessed_data(data).numpy()
    manager = plans.get_label_manager(description)
    labels = labels_of(logits, plans, configuration, manager, properties)
    return _peak_gb(), time.process_time() - began, labels


def _peak_gb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def compare_stages(bench: Bench, shape: Sequence[int], n_classes: int, *, alone: bool) -> None:
    """Measure network stage and export, each side in a process of its own."""
    sides = [our_stage] if alone else [our_stage, stock_stage]
    results = []
    for side in sides:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results.append(pool.submit(side, shape, n_classes).result())
    what = f"network and export, {' x '.join(map(str, shape[::-1]))}, {n_classes} classes"
    peak, cpu, labels = results[0]
    bench.add(f"peak of {what}", peak, "GB", at_most=8, cpu_s=round(cpu, 1))
    print(f"ours {peak:.2f} GB, {cpu:.1f} s of CPU")
    for their_peak, their_cpu, their_labels in results[1:]:
        print(f"nnU-Net {their_peak:.2f} GB, {their_cpu:.1f} s of CPU")
        bench.add(f"peak / nnU-Net's, {what}", peak / their_peak, "x", at_most=0.5,
                  nnunet_gb=round(their_peak, 2))  # fmt: skip
        bench.add(f"CPU time / nnU-Net's, {what}", cpu / their_cpu, "x", at_most=1,
                  nnunet_s=round(their_cpu, 1))  # fmt: skip
        same = float((labels == their_labels).mean())
        bench.add("voxels with the same label", same, "", at_least=1)


def add_size(parser: argparse.ArgumentParser) -> None:
    """The flags for another volume, more classes, and the stage alone."""
    parser.add_argument("--size", nargs=3, type=int, metavar=("X", "Y", "Z"))
    parser.add_argument("--classes", type=int, default=25, help="at most 125 (25)")
    parser.add_argument("--stage", action="store_true", help="network and export alone")
    parser.add_argument("--alone", action="store_true", help="without nnU-Net")


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__, add_size)
    bench = Bench(options)
    x, y, z = options.size or (QUICK_SIZE if options.quick else SIZE)
    n_classes = options.classes
    if options.stage:
        compare_stages(bench, (z, y, x), n_classes, alone=options.alone)
        return bench.finish()
    what = f"{x} x {y} x {z}, {n_classes} classes"
    with tempfile.TemporaryDirectory(prefix="gnnunet-memory-") as folder:
        home = Path(folder)
        model = model_of_many_classes(home, n_classes)
        image = np.random.default_rng(1).integers(0, 500, (z, y, x), dtype=np.int16)
        write(home / "in" / "scan_0000.nii.gz", image, IMAGE_SPACING)
        del image
        common = ["-i", str(home / "in"), "-m", str(model), "-device", options.device,
                  "-step_size", "1", "--disable_tta"]  # fmt: skip
        ours = predict(OURS, home / "a", *common)
        if options.alone:
            bench.add(f"peak of gnnunet_predict, {what}", ours.peak_gb, "GB", at_most=8,
                      cpu_s=round(ours.cpu_s))  # fmt: skip
            print(f"ours {ours}")
            return bench.finish() if ours.status == 0 else ours.status
        stock = predict(STOCK, home / "b", *common, "-f", "all", "-npp", "1", "-nps", "1")
        if ours.status or stock.status:
            raise SystemExit(f"exit status of ours {ours.status}, of nnU-Net {stock.status}")
        print(f"ours {ours}; nnU-Net {stock}")
        bench.add(f"peak of gnnunet_predict / nnUNetv2_predict, {what}",
                  ours.peak_gb / stock.peak_gb, "x", at_most=0.5,
                  ours_gb=round(ours.peak_gb, 2), nnunet_gb=round(stock.peak_gb, 2),
                  ours_cpu_s=round(ours.cpu_s), nnunet_cpu_s=round(stock.cpu_s))  # fmt: skip
        other = 1e6 * (1 - same_share(home / "a", home / "b"))
        # all classes of an untrained network are close to each other in noise
        bench.add("voxels with another label, in a million", other, "", at_most=10)
        half = int(0.5e9 * stock.peak_gb)
        limited = predict(OURS, home / "c", *common, data_limit=half)
        bench.add(f"exit status with {half / 1e9:.2f} GB of data", limited.status, "", at_most=0)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
