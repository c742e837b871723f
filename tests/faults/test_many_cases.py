"""Many cases in a row: no memory, file or process stays with each, and none takes longer."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tiny_study import ball_case, model_of, train_in, write_image

N_CASES = 200
GROWTH_MB = 60
"""Of the second half: the allocators of 200 cases of this size stay within it, 200 results not."""


@dataclass(frozen=True)
class Look:
    """One look at a command at work."""

    n_done: int
    seconds: float
    memory_mb: float
    n_files: int
    n_children: int


def looks_at(process: subprocess.Popen, target: Path) -> list[Look]:
    """Look at a command and its children until it ends."""
    began, looks = time.monotonic(), []
    command = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(0.3)
        try:
            children = command.children(recursive=True)
            family = [command, *children]
            looks.append(Look(
                len(list(target.glob("case_*.nii.gz"))), time.monotonic() - began,
                sum(member.memory_info().rss for member in family) / 2**20,
                sum(member.num_fds() for member in family), len(children),
            ))  # fmt: skip
        except psutil.Error:
            continue
    return looks


def halves(looks: list[Look]) -> tuple[list[Look], list[Look]]:
    """The looks at the second and at the last quarter of the cases."""
    quarter = N_CASES // 4
    second = [look for look in looks if quarter <= look.n_done < 2 * quarter]
    last = [look for look in looks if 3 * quarter <= look.n_done < N_CASES]
    return second, last


def seconds_a_case(looks: list[Look]) -> float:
    return (looks[-1].seconds - looks[0].seconds) / max(1, looks[-1].n_done - looks[0].n_done)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts open files")
@pytest.mark.parametrize("n_workers", [0, 2])
def test_two_hundred_cases_leave_nothing_behind(tiny_copy: Path, tmp_path: Path, n_workers: int):
    train_in(tiny_copy, "SupervisedTrainer")
    source, target, temporary = tmp_path / "in", tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    (channels, _), (others, _) = ball_case(0), ball_case(1)
    write_image(source / "case_000_0000.nii.gz", channels[0])
    for number in range(1, N_CASES):
        path = source / f"case_{number:03d}_0000.nii.gz"
        if number == 1:
            write_image(path, others[0])
        else:
            shutil.copyfile(source / f"case_{number % 2:03d}_0000.nii.gz", path)
    process = subprocess.Popen(
        [Path(sys.executable).parent / "gnnunet_predict", "-i", source, "-o", target, "-m",
         model_of(tiny_copy, "SupervisedTrainer"), "-device", "cpu", "-np", str(n_workers)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
    )  # fmt: skip
    looks = looks_at(process, target)
    assert process.wait() == 0, process.stderr.read()
    second, last = halves(looks)
    assert len(second) > 3
    assert len(last) > 3
    for quantity, allowed in (("memory_mb", GROWTH_MB), ("n_files", 8), ("n_children", 0)):
        before, after = (statistics.median(getattr(x, quantity) for x in q) for q in (second, last))
        print(f"{quantity}: {before:.0f} then {after:.0f}")
        assert after - before <= allowed, quantity
    times = seconds_a_case(second), seconds_a_case(last)
    print(f"seconds a case: {times[0]:.3f} then {times[1]:.3f}")
    assert times[1] < 2 * times[0]
    assert len(list(target.glob("case_*.nii.gz"))) == N_CASES
    assert not [path for path in target.iterdir() if ".partial" in path.name]
    assert list(temporary.iterdir()) == []
