"""Commands of ours and of nnU-Net as whole processes: their time and the memory of their trees."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

OURS = "import sys; from graphnn_unet.commands.predict import main; sys.exit(main())"
STOCK = (
    "import sys; from nnunetv2.inference.predict_from_raw_data import "
    "predict_entry_point_modelfolder as main; sys.exit(main())"
)


@dataclass(frozen=True)
class Run:
    """How a command ended.

    Attributes:
        status: Exit status.
        peak_gb: Largest memory of the process and its children, looked at five times a second;
            pages that several share count once.
        wall_s: Seconds on the clock.
        cpu_s: Seconds of processors, children included: what a busy machine does not change much.
    """

    status: int
    peak_gb: float
    wall_s: float
    cpu_s: float


ORPHANS_S = 10.0
PLAN_OURS = (
    "import sys; from graphnn_unet.commands.plan_and_preprocess import main; sys.exit(main())"
)
PLAN_STOCK = (
    "import sys; from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import "
    "plan_and_preprocess_entry as main; sys.exit(main())"
)


def predict(code: str, output: Path, *options: str, data_limit: int = 0) -> Run:
    """Run a command that predicts into an empty folder.

    Args:
        code: What Python runs.
        output: Folder for ``-o``.
        options: Further options.
        data_limit: Bytes that its data may take (``ulimit -d``); 0 for no limit.
    """
    shutil.rmtree(output, ignore_errors=True)
    return run(code, "-o", str(output), *options, data_limit=data_limit)


def run(code: str, *options: str, data_limit: int = 0) -> Run:
    """Run a command.

    Args:
        code: What Python runs.
        options: Its options.
        data_limit: Bytes that its data may take (``ulimit -d``); 0 for no limit.
    """

    def limit() -> None:
        if data_limit:
            resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))

    _adopt_orphans()
    cpu, began, peak = _cpu_of_children(), time.perf_counter(), 0
    process = psutil.Popen(
        [sys.executable, "-c", code, *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=limit,
        env=os.environ | {"nnUNet_def_n_proc": "2"},
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while process.poll() is None:
            peak = max(peak, _resident(process))
            time.sleep(0.2)
    except BaseException:  # cut off: it would go on alone
        for member in (*process.children(recursive=True), process):
            member.kill()
        raise
    wall = time.perf_counter() - began
    _wait_for_orphans()
    return Run(process.returncode, peak / 1e9, wall, _cpu_of_children() - cpu)


def _adopt_orphans() -> None:
    """Become the parent of processes whose own one ends first: a fork server and its workers.

    The kernel counts the processor time of those that were waited for.
    """
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def _wait_for_orphans() -> None:
    """Wait for what the command left behind; loader workers of one that was cut off would stay."""
    deadline = time.monotonic() + ORPHANS_S
    while psutil.Process().children():
        if time.monotonic() > deadline:
            for orphan in psutil.Process().children():
                orphan.kill()
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.05)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _resident(process: psutil.Process) -> int:
    total = 0
    try:
        for member in (process, *process.children(recursive=True)):
            total += member.memory_full_info().pss
    except psutil.NoSuchProcess:
        return total
    return total
