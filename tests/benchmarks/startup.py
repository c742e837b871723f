"""How fast every command answers --help, beside nnU-Net's training command.

Run: python tests/benchmarks/startup.py [--quick] [--json FILE]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib.metadata import entry_points

from _bench import Bench, arguments

STOCK = "from nnunetv2.run.run_training import run_training_entry as main"


def seconds(statement: str) -> float:
    """Wall time of a fresh process that asks for help."""
    code = f"import sys; {statement}; sys.argv = ['x', '--help']; main()"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__)
    bench = Bench(options)
    commands = sorted(
        (p for p in entry_points(group="console_scripts") if p.name.startswith("gnnunet_")),
        key=lambda point: point.name,
    )
    if not commands:
        raise SystemExit("error: the package is not installed, so it has no commands")
    repeats = 5
    times: dict[str, list[float]] = {point.name: [] for point in commands}
    stock = []
    for _ in range(repeats):
        stock.append(seconds(STOCK))
        for point in commands:
            times[point.name].append(seconds(f"from {point.module} import {point.attr} as main"))
    reference = statistics.median(stock)
    for name, values in times.items():
        median = statistics.median(values)
        bench.add(f"{name} --help", median, "s", at_most=1.0, nnunetv2_train_s=reference)
        bench.add(f"{name} --help / nnUNetv2_train --help", median / reference, "x", at_most=1.0)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
