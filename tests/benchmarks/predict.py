"""Cases a second of gnnunet_predict against nnUNetv2_predict_from_modelfolder, whole processes.

The same model (exported to a plain one) and the same images, one after the other.
Run: python tests/benchmarks/predict.py [--quick] [--json FILE] [--device cuda]
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _bench import Bench, arguments
from _study import DATASET, study

PLAN = ["plan.spacing=[1.5,1.0,1.0]", "plan.patch_size=[32,40,40]", "network.max_stages=4"]
OURS = "import sys; from graphnn_unet.commands.predict import main; sys.exit(main())"
STOCK = (
    "import sys; from nnunetv2.inference.predict_from_raw_data import "
    "predict_entry_point_modelfolder as main; sys.exit(main())"
)


def seconds(code: str, output: Path, *options: str) -> float:
    """Wall time of one command that writes into an empty folder."""
    shutil.rmtree(output, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, "-o", str(output), *options],
        check=True, capture_output=True, env=os.environ | {"nnUNet_def_n_proc": "2"},
    )  # fmt: skip
    return time.perf_counter() - began


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__)
    bench = Bench(options)
    rounds, n_cases = (5, 3) if options.quick else (5, 20)
    width = 8 if options.quick else 16
    with study([*PLAN, f"network.base_features={width}"], n_test=n_cases) as small_study:
        from graphnn_unet import export, train

        trained = train(
            DATASET, "3d_fullres", "GraphCLTrainer", device=options.device,
            overrides=["schedule.pretrain_steps=2", "schedule.selftrain_steps=2"],
        )  # fmt: skip
        plain = export(trained.model, small_study.home / "plain").target
        common = ["-i", str(small_study.test_images), "-device", options.device]
        sides = {
            "ours": lambda: seconds(OURS, small_study.home / "a", *common, "-m", str(plain)),
            "nnU-Net": lambda: seconds(
                STOCK, small_study.home / "b", *common, "-m", str(plain), "-f", "all",
                "-npp", "2", "-nps", "2",
            ),
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                times[name].append(side())
    medians = {name: statistics.median(values) for name, values in times.items()}
    bench.add(
        f"throughput of gnnunet_predict / nnUNetv2_predict, {n_cases} cases",
        medians["nnU-Net"] / medians["ours"],
        "x",
        at_least=1.0,
        ours_s=round(medians["ours"], 2),
        nnunet_s=round(medians["nnU-Net"], 2),
    )
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
