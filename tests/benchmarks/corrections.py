"""Training steps of MLLCTrainer and of corrections against BCPTrainer's, in turn.

Both students see as many patches. On a CPU the process's CPU time counts, so that other programs on
the machine do not. The graphs cost the same for any network, so that with --quick, whose network is
tiny, they outweigh it: no goal is set there.

Run: python tests/benchmarks/corrections.py [--quick] [--json FILE] [--device cuda]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from _bench import Bench, arguments
from _study import study
from steps import CPU, GPU, QUICK, SPACING, our_step

SIDES = {
    "bcp": ("BCPTrainer",),
    "mean teacher": ("MLLCTrainer", "mllc.iterations=0"),
    "mllc": ("MLLCTrainer",),
    **{
        f"bcp, {name}": ("BCPTrainer", f"pseudo_label.correct=['{name}']")
        for name in ("blur", "diffusion", "mllc", "scan_graph")
    },
}
GOALS = {"mllc": 1.5, "bcp, scan_graph": 1.05}


def seconds(call: Callable[[], object], device: str) -> float:
    """Of one call: CPU time on a CPU, time with the device's work done elsewhere."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__)
    sizes = QUICK if options.quick else GPU if options.device.startswith("cuda") else CPU
    bench = Bench(options)
    with study([SPACING, *sizes]) as small_study:
        steps = {
            name: our_step(small_study, trainer, options.device, *overrides)
            for name, (trainer, *overrides) in SIDES.items()
        }
        times: dict[str, list[float]] = {name: [] for name in steps}
        for round_number in range(1 + (5 if options.quick else 11)):
            for name, step in steps.items():
                spent = seconds(step, options.device)
                if round_number:  # the first warms up
                    times[name].append(spent)
    median = {name: statistics.median(values) for name, values in times.items()}
    details = {name: round(value, 4) for name, value in median.items()} | {"sizes": sizes}
    for name in list(SIDES)[1:]:
        at_most = None if options.quick else GOALS.get(name)
        ratio = median[name] / median["bcp"]
        bench.add(f"step of {name} / step of BCPTrainer", ratio, "x", at_most=at_most, **details)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
