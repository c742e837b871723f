"""Batches a second: our loader against nnU-Net's, same patches, augmentation and workers.

Run: python tests/benchmarks/loader.py [--quick] [--json FILE]
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator

from _bench import Bench, arguments
from _study import Study, our_trainer, stock_trainer, study

PLAN = ["plan.spacing=[1.5,1.0,1.0]", "plan.patch_size=[32,40,40]", "network.base_features=8",
        "network.max_stages=3"]  # fmt: skip


def ours(small_study: Study, n_workers: int) -> Iterator[object]:
    """Endless batches of the supervised trainer."""
    trainer = our_trainer(small_study, "SupervisedTrainer", "cpu")
    loader = trainer.loader(trainer.phase)
    loader.n_workers = n_workers
    return iter(loader)


def stock(small_study: Study, n_workers: int) -> Iterator[object]:
    """Endless batches of nnU-Net's trainer."""
    os.environ["nnUNet_n_proc_DA"] = str(n_workers)
    trainer = stock_trainer(small_study, "cpu")
    with contextlib.redirect_stdout(io.StringIO()):
        training, validation = trainer.get_dataloaders()
    if hasattr(validation, "_finish"):
        validation._finish()
    return training


PREPARED = 14
"""Batches that workers may have made while the other side was measured; taken before the clock."""


def rate(batches: Iterator[object], n: int) -> float:
    """Batches a second over ``n`` batches that are made while the clock runs."""
    for _ in itertools.islice(batches, PREPARED):
        pass
    began = time.perf_counter()
    for _ in itertools.islice(batches, n):
        pass
    return n / (time.perf_counter() - began)


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__)
    bench = Bench(options)
    rounds, n = (5, 30) if options.quick else (7, 60)
    with study(PLAN) as small_study:
        for n_workers in (0, 1):
            sides = {"ours": ours(small_study, n_workers), "nnU-Net": stock(small_study, n_workers)}
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(rounds):
                for name, batches in sides.items():
                    rates[name].append(rate(batches, n))
            medians = {name: statistics.median(values) for name, values in rates.items()}
            bench.add(
                f"batches a second, {n_workers} workers: ours / nnU-Net's loader",
                medians["ours"] / medians["nnU-Net"],
                "x",
                at_least=0.95,
                ours_per_s=round(medians["ours"], 2),
                nnunet_per_s=round(medians["nnU-Net"], 2),
                batch="4 x 32 x 40 x 40",
            )
            if hasattr(sides["nnU-Net"], "_finish"):
                with contextlib.redirect_stdout(io.StringIO()):
                    sides["nnU-Net"]._finish()
            del sides
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
