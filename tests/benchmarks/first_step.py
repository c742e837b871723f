"""Time until the first optimizer step is done, beside nnU-Net: fresh processes in turn.

Both sides train ``3d_fullres`` of the same small data set and plan, on the same device, and end
after their first step: imports, plans, network, loaders and that step are in it.

Run: python tests/benchmarks/first_step.py [--repeats N] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys

from _bench import Bench, arguments
from _commands import Run, run
from _study import DATASET, study

PLAN = ["plan.spacing=[1.5,1.0,1.0]", "plan.patch_size=[32,40,40]", "network.max_stages=4"]
STOP = """
import os, sys
from {module} import {name} as Trainer
step = Trainer.train_step
def first(self, batch):
    step(self, batch)
    os._exit(0)
Trainer.train_step = first
"""
OURS = (
    STOP.format(module="graphnn_unet.trainers.semi", name="SemiTrainer")
    + "from graphnn_unet.commands.train import main; sys.exit(main())"
)
STOCK = (
    STOP.format(module="nnunetv2.training.nnUNetTrainer.nnUNetTrainer", name="nnUNetTrainer")
    + "from nnunetv2.run.run_training import run_training_entry as main; sys.exit(main())"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this script."""
    parser.add_argument("--repeats", type=int, default=5)


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__.splitlines()[0], add_flags)
    bench = Bench(options)
    with study(PLAN):
        words = {
            "ours": (OURS, [DATASET, "3d_fullres", "SupervisedTrainer", "-device", options.device,
                            "--restart"]),
            "stock": (STOCK, ["990", "3d_fullres", "all", "-p", "gnnunetPlans", "-device",
                              options.device]),
        }  # fmt: skip
        runs: dict[str, list[Run]] = {side: [] for side in words}
        for _ in range(options.repeats):
            for side, (code, flags) in words.items():
                runs[side].append(run(code, *flags))
                if runs[side][-1].status:
                    raise SystemExit(f"{side} ended with status {runs[side][-1].status}")
    for key, what in (("wall_s", "wall time"), ("cpu_s", "CPU time")):
        ours, stock = (statistics.median(getattr(r, key) for r in runs[s]) for s in words)
        bench.add(f"first step done: {what} against nnU-Net", ours / stock, "x", at_most=1.2,
                  ours_s=ours, nnunet_s=stock)  # fmt: skip
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
