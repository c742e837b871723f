"""What the benchmark scripts share: timing in turn, peak memory, records, the printed table.

A script makes a :class:`Bench`, adds records, and ends with :meth:`Bench.finish`. Ratios come from
both sides measured one after the other in the same run; peak memory from a fresh process each.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

MB = 10**6
REPEATS = 5
# Flags whose value is a file to write: no part of how a number came about.
_WRITES = ("--json", "--plot", "--page")
# A sample shorter than this is repeated inside the clock, so that its resolution does not matter.
SHORTEST_SAMPLE_S = 0.02


@dataclass(frozen=True)
class Sample:
    """Times of one side.

    Attributes:
        median_s: Median seconds a call.
        spread_s: Largest minus smallest.
        n_samples: Number of samples.
    """

    median_s: float
    spread_s: float
    n_samples: int


@dataclass
class Record:
    """One line of the table and of the JSON file.

    Attributes:
        what: The quantity, and the alternative it is a ratio against.
        value: The number.
        unit: ``x`` for ratios.
        goal: What it should be, as text: ``>= 50``; empty if it is stated only.
        holds: Whether it is, or ``None`` without goal.
        command: How to measure it again.
        details: Median, spread, sizes, device and versions.
    """

    what: str
    value: float
    unit: str
    goal: str
    holds: bool | None
    command: str
    details: dict[str, Any] = field(default_factory=dict)


def arguments(description: str, add: Callable[[argparse.ArgumentParser], None] | None = None):
    """Parse the flags all benchmark scripts have, and those that ``add`` puts in."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    if add is not None:
        add(parser)
    options = parser.parse_args()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    return options


class Bench:
    """Collects records and prints them as they come.

    Args:
        options: What :func:`arguments` returned.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.records: list[Record] = []
        self._command = " ".join(["python", *_relative(sys.argv)])
        self._where = environment(options.device)
        print("  ".join(f"{key} {value}" for key, value in self._where.items()))

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        **details: Any,
    ) -> None:
        """Add one record; ``at_least`` or ``at_most`` make it a goal."""
        goal, holds = "", None
        if at_least is not None:
            goal, holds = f">= {at_least:g}", value >= at_least
        if at_most is not None:
            goal, holds = f"<= {at_most:g}", value <= at_most
        record = Record(what, value, unit, goal, holds, self._command, {**details, **self._where})
        self.records.append(record)
        verdict = {True: "holds", False: "MISSED", None: ""}[holds]
        print(f"{what:<78} {value:>10.4g} {unit:<4} {goal:<9} {verdict}", flush=True)

    def finish(self) -> int:
        """Write the JSON file; the exit status is 1 if a goal was missed."""
        if self.options.json:
            rows = [asdict(record) for record in self.records]
            text = json.dumps(rows, indent=1, allow_nan=False)
            part = self.options.json.with_name(self.options.json.name + ".part")
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(self.options.json)
        return int(any(record.holds is False for record in self.records))


def read_records(file: Path) -> list[Record]:
    """Records that :meth:`Bench.finish` wrote."""
    return [Record(**row) for row in json.loads(file.read_text(encoding="utf-8"))]


def replace_measured(page: Path, text: str) -> None:
    """Put ``text`` between the two lines ``<!-- measured -->`` of a page."""
    mark = "<!-- measured -->"
    parts = page.read_text(encoding="utf-8").split(mark)
    if len(parts) != 3:
        raise SystemExit(f"{page} needs two lines {mark}; it has {len(parts) - 1}")
    page.write_text(f"{parts[0]}{mark}\n{text}\n{mark}{parts[2]}", encoding="utf-8")


def in_turn(
    sides: Sequence[Callable[[], object]], *, repeats: int = REPEATS, device: str = "cpu"
) -> list[Sample]:
    """Time several calls one after the other, ``repeats`` rounds, after one warm-up each."""
    numbers = []
    for side in sides:
        first = _clock(side, 1, device)
        again = _clock(side, 1, device) if first < SHORTEST_SAMPLE_S else first
        numbers.append(max(1, round(SHORTEST_SAMPLE_S / max(again, 1e-7))))
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, number, side_times in zip(sides, numbers, times, strict=True):
            side_times.append(_clock(side, number, device))
    return [Sample(statistics.median(t), max(t) - min(t), len(t)) for t in times]


def peak_memory_mb(
    make: Callable[..., Any],
    call: Callable[..., object],
    *sizes: Any,
    device: str = "cpu",
    threads: int = 0,
) -> float:
    """Largest memory of a call above its inputs, in MB (10^6 bytes), in a process of its own.

    Args:
        make: Builds the inputs from ``sizes``; a function of the script.
        call: Takes what ``make`` returned; a function of the script.
        *sizes: Plain values.
        device: ``cpu``: resident memory by the kernel's high-water mark, reset before the call.
            ``cuda``: PyTorch's own peak.
        threads: CPU threads; 0 = PyTorch's choice.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure_memory, make, call, sizes, device, threads).result()


def environment(device: str) -> dict[str, Any]:
    """Commit, versions, device and threads, as they stand in every record."""
    import torch

    root = Path(__file__).resolve().parents[2]
    commit = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
        capture_output=True, encoding="utf-8", check=False,
    ).stdout.strip()  # fmt: skip
    facts = {"commit": commit or "unknown", "python": platform.python_version()}
    for package in ("torch", "torch-geometric", "numpy"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "absent"
    facts["device"] = torch.cuda.get_device_name() if device == "cuda" else _processor()
    facts["threads"] = torch.get_num_threads()
    facts["load"] = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return facts


def _clock(side: Callable[[], object], number: int, device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(number):
        side()
    _wait(device)
    return (time.perf_counter() - start) / number


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _measure_memory(
    make: Callable[..., Any], call: Callable[..., object], sizes: tuple[Any, ...], device: str,
    threads: int,
) -> float:  # fmt: skip
    import torch

    if threads:
        torch.set_num_threads(threads)
    inputs = make(*sizes)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call(inputs)
        peak = torch.cuda.max_memory_allocated() - before
        del kept
        return peak / MB
    gc.collect()
    # hand freed pages back first: the call would otherwise fill them unseen
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_kib("VmRSS")
    kept = call(inputs)
    peak = _status_kib("VmHWM") - before
    del kept
    return peak * 1024 / MB


def _status_kib(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}; peak memory is measured on Linux only")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({os.cpu_count()} cores)" if names else platform.machine()


def _relative(words: Sequence[str]) -> list[str]:
    """The command line seen from the repository, without the files it writes."""
    words = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word not in _WRITES and before not in _WRITES
    ]
    root = Path(__file__).resolve().parents[2]
    script = Path(words[0]).resolve()
    shown = script.relative_to(root) if script.is_relative_to(root) else script
    return [str(shown), *words[1:]]
