"""Training steps: ours against nnU-Net's, BCP against supervised, GraphCL against BCP.

Batches are made beforehand, so that only the step is timed. All networks, patches and batch sizes
are equal. ``--profile`` prints what the time of a step goes into, by PyTorch's operations.

Run: python tests/benchmarks/steps.py [--quick] [--json FILE] [--device cuda] [--profile]
"""

from __future__ import annotations

import itertools
import sys

from _bench import Bench, arguments, in_turn
from _study import Study, our_trainer, stock_trainer, study

QUICK = ["plan.patch_size=[32,32,32]", "network.base_features=8", "network.max_stages=3"]
CPU = ["plan.patch_size=[32,40,40]", "network.base_features=16", "network.max_stages=4"]
GPU = ["plan.patch_size=[96,128,128]"]
SPACING = "plan.spacing=[1.5,1.0,1.0]"
SGD = ["optimizer.name=sgd", "optimizer.lr=0.0001"]
"""nnU-Net's optimizer on both sides; a small rate keeps the losses of many repeats finite."""


def batches_of(trainer, n: int = 4):
    """Endless repetition of a few loaded batches."""
    return itertools.cycle(list(itertools.islice(iter(trainer.loader(trainer.phase)), n)))


def our_step(small_study: Study, name: str, device: str, *overrides: str):
    """A call that does one optimizer step, with a teacher where the method can have one."""
    schedule = [
        "schedule.pretrain_steps=1", "schedule.selftrain_steps=100000", "scan_labels.rounds=0"
    ]  # fmt: skip
    trainer = our_trainer(small_study, name, device, *SGD, *schedule, *overrides)
    if trainer.makes_pseudo_labels:
        trainer.step = 1
        trainer.pseudo_labels.prepare(trainer.cases.labeled, trainer.cases.unlabeled)
    batches = batches_of(trainer)

    def step() -> None:
        trainer.train_step(next(batches))
        trainer.step += 1

    return step


def stock_step(small_study: Study, device: str, patches: int | None = None):
    """The same with nnU-Net's trainer: its targets come downsampled from its loader.

    ``patches`` of a batch are taken, all by default.
    """
    from graphnn_unet.trainers.losses import downsample

    trainer = stock_trainer(small_study, device)
    trainer.network.train()
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0001
    ours = our_trainer(small_study, "SupervisedTrainer", device)
    scales = trainer._get_deep_supervision_scales()
    ready = []
    for raw in itertools.islice(iter(ours.loader(ours.phase)), 4):
        target = raw["target"][:patches]
        size = target.shape[2:]
        targets = [
            downsample(target, [round(e * f) for e, f in zip(size, scale, strict=True)])
            for scale in scales
        ]
        ready.append({"data": raw["data"][:patches], "target": targets})
    batches = itertools.cycle(ready)
    return lambda: trainer.train_step(next(batches))


def profile(name: str, step, n_steps: int = 6, n_rows: int = 10) -> None:
    """Print the operations that take the most of a step's CPU time."""
    from torch import profiler

    step()
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(n_steps):
            step()
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"{name}: {total / n_steps / 1000:.0f} ms")
    for row in rows[:n_rows]:
        print(f"  {row.self_cpu_time_total / total:6.1%}  {row.key}")


def main() -> int:
    """Measure and print."""
    options = arguments(
        __doc__,
        lambda parser: parser.add_argument("--profile", action="store_true", help="by operation"),
    )
    sizes = QUICK if options.quick else GPU if options.device.startswith("cuda") else CPU
    bench = Bench(options)
    with study([SPACING, *sizes]) as small_study:
        stock = stock_step(small_study, options.device)
        plain = our_step(
            small_study, "SupervisedTrainer", options.device, "copy_paste.supervised=false"
        )
        mixed = our_step(small_study, "SupervisedTrainer", options.device)
        bcp = our_step(small_study, "BCPTrainer", options.device)
        graphcl = our_step(small_study, "GraphCLTrainer", options.device)
        repeats = 7 if options.quick else 15
        names = ("stock", "plain", "mixed", "bcp", "graphcl")
        if options.profile:
            for name, step in zip(names, (stock, plain, mixed, bcp, graphcl), strict=True):
                profile(name, step)
        samples = dict(
            zip(
                names,
                in_turn([stock, plain, mixed, bcp, graphcl], repeats=repeats,
                        device=options.device),
                strict=True,
            )
        )  # fmt: skip
    details = {name: round(sample.median_s, 4) for name, sample in samples.items()}
    details |= {"sizes": sizes, "batch": 4}

    def ratio(what: str, side: str, against: str, at_most: float) -> None:
        value = samples[side].median_s / samples[against].median_s
        bench.add(what, value, "x", at_most=at_most, **details)

    ratio("step of SupervisedTrainer / step of nnUNetTrainer", "plain", "stock", 0.95)
    ratio("step of SupervisedTrainer with copy-paste / nnUNetTrainer", "mixed", "stock", 0.95)
    ratio("step of BCPTrainer / SupervisedTrainer, as many patches", "bcp", "mixed", 1.40)
    ratio("step of GraphCLTrainer / BCPTrainer", "graphcl", "bcp", 1.05)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
