"""Dask workers: jobs a second of 1 and 2 workers, cost of a job, memory over many tiny ones.

Workers are processes of this machine; the scheduler is in the process that gives the jobs, whose
memory is therefore that of both. The curve is written as it grows: Ctrl-C keeps what there is.

Run: python tests/benchmarks/cluster.py [--quick] [--json FILE] [--curve FILE.csv] [--plot FILE.svg]
Draw again: python tests/benchmarks/cluster.py --drawn FILE.csv --plot FILE.svg
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from _bench import MB, Bench, arguments

from graphnn_unet.storage.cluster import open_cluster

os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # workers import the jobs below
JOB_S = 0.2
Point = tuple[int, float, float, float]
"""Jobs done, seconds, CPU seconds and MB of the process that gives them."""


def nothing(number: int) -> int:
    """A job that costs nothing."""
    return number


def wait(number: int) -> int:
    """A job of ``JOB_S`` that leaves the cores to others."""
    time.sleep(JOB_S)
    return number


def jobs_a_second(n_workers: int, n_jobs: int) -> float:
    """Rate of ``wait``, workers ready before the clock."""
    with open_cluster(f"local:{n_workers}") as cluster:
        list(cluster.run(wait, range(-2 * n_workers, 0)))
        began = time.perf_counter()
        n_done = sum(outcome.ok for outcome in cluster.run(wait, range(n_jobs)))
        return n_done / (time.perf_counter() - began)


def curve(n_jobs: int, file: Path | None) -> Iterator[Point]:
    """Points about every hundredth of the jobs; also to a file as they come."""
    process = psutil.Process()
    every = max(1, n_jobs // 100)
    with open_cluster("local:2") as cluster:
        list(cluster.run(nothing, range(-200, 0)))
        began, cpu = time.perf_counter(), time.process_time()
        for count, outcome in enumerate(cluster.run(nothing, range(n_jobs)), 1):
            if not outcome.ok:
                raise SystemExit(outcome.error)
            if count % every == 0 or count == n_jobs:
                times = time.perf_counter() - began, time.process_time() - cpu
                point = (count, *times, process.memory_info().rss / MB)
                if file:
                    with file.open("a", newline="", encoding="utf-8") as rows:
                        csv.writer(rows).writerow([count, *(f"{value:.2f}" for value in point[1:])])
                yield point


def plot(points: list[Point], file: Path) -> None:
    """Cost of a job and memory against jobs done."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "cluster", "svg.fonttype": "none"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    done, _, _, memory = zip(*points, strict=True)
    rates = [1000 * (b[2] - a[2]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
    left.plot(done[1:], rates)
    left.set(ylabel="ms a job", ylim=(0, None), title="CPU time of driver and scheduler")
    right.plot(done, memory)
    right.set(ylabel="MB", ylim=(0, None), title="memory of driver and scheduler")
    for axes in (left, right):
        axes.set_xlabel("jobs done")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def read_curve(file: Path) -> list[Point]:
    """What ``curve`` wrote."""
    with file.open(newline="", encoding="utf-8") as rows:
        return [(int(row[0]), *map(float, row[1:])) for row in csv.reader(rows)]


def main() -> int:
    """Measure, print and draw."""

    def add(parser) -> None:
        parser.add_argument("--tasks", type=int, default=100_000, help="tiny jobs (100000)")
        parser.add_argument("--curve", type=Path, metavar="FILE.csv", help="write the curve there")
        parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw it there")
        parser.add_argument("--drawn", type=Path, metavar="FILE.csv", help="draw this curve alone")

    options = arguments(__doc__, add)
    if options.drawn:
        plot(read_curve(options.drawn), options.plot)
        return 0
    bench = Bench(options)
    n_jobs = 20 if options.quick else 100
    rates = {workers: jobs_a_second(workers, workers * n_jobs) for workers in (1, 2)}
    for workers, rate in rates.items():
        bench.add(
            f"jobs of {JOB_S} s a second, {workers} worker{'s' * (workers > 1)}", rate, "/s",
            share_of_ideal=round(rate * JOB_S / workers, 3),
        )  # fmt: skip
    bench.add("jobs a second, 2 workers against 1", rates[2] / rates[1], "x", at_least=1.8)
    points: list[Point] = []
    try:
        for point in curve(2000 if options.quick else options.tasks, options.curve):
            points.append(point)
    except KeyboardInterrupt:
        print(f"stopped after {points[-1][0]} jobs")
    n_done, seconds, cpu, memory = points[-1]
    bench.add(f"time of a job, {n_done} that do nothing", 1000 * seconds / n_done, "ms")
    bench.add("of it CPU time of driver and scheduler", 1000 * cpu / n_done, "ms")
    start = points[min(len(points) - 1, math.ceil(len(points) / 10))]
    bench.add(
        f"memory after {n_done} jobs against {start[0]}", memory / start[3], "x", at_most=1.3,
        start_mb=round(start[3], 1), end_mb=round(memory, 1),
    )  # fmt: skip
    if options.plot:
        plot(points, options.plot)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
