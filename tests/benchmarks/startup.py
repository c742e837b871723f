"""How fast every command answers --help, beside nnU-Net's training command, in CPU time.

Run: python tests/benchmarks/startup.py [--quick] [--json FILE]
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from importlib.metadata import entry_points

from _bench import Bench, arguments

STOCK = "from nnunetv2.run.run_training import run_training_entry as main"


def seconds(statement: str) -> float:
    """CPU time of a fresh process that asks for help."""
    code = f"import sys; {statement}; sys.argv = ['x', '--help']; main()"
    began = _cpu_of_children()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return _cpu_of_children() - began


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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
        bench.add(f"{name} --help", median, "s", at_most=0.3, nnunetv2_train_s=reference)
        bench.add(f"{name} --help / nnUNetv2_train --help", median / reference, "x", at_most=1.0)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
