"""What is left when a process is killed: nothing that runs on, nothing half, nothing for ever."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_study import DATASET, model_of, train_in, use_home

from graphnn_unet import export, install_model
from graphnn_unet.storage.locks import WORK_FOLDER
from graphnn_unet.trainers import distributed

LIMIT_S, ON_A_BUSY_MACHINE_S = 5.0, 20.0


@pytest.fixture
def model(tiny_copy: Path) -> Path:
    train_in(tiny_copy, "SupervisedTrainer")
    return model_of(tiny_copy, "SupervisedTrainer")


def runs(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def killed_in(code: str, *arguments: object, folder: Path) -> None:
    """Run Python that is killed as soon as it works in a folder beside ``folder``'s entries."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])
    until = time.monotonic() + 120
    try:
        while process.poll() is None and time.monotonic() < until:
            if any(path.is_file() for path in folder.glob(f"{WORK_FOLDER}*/model/**/*")):
                break
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


SLOW = "import graphnn_unet.models.{0} as m, time\n" \
       "inner = m.{1}\n" \
       "m.{1} = lambda *a, **k: (time.sleep(60), inner(*a, **k))[1]\n"  # fmt: skip


@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_a_killed_export_is_cleared_by_the_next(model: Path, tmp_path: Path, name: str):
    target = tmp_path / "exports" / name
    code = SLOW.format("export", "_notes" if name == "out" else "_write_zip")
    if name == "out":
        code = SLOW.format("export", "replace_folder")
    code += "import sys; m.export(sys.argv[1], sys.argv[2])"
    killed_in(code, model, target, folder=target.parent)
    assert not target.exists()
    assert len(list(target.parent.iterdir())) == 1
    export(model, target)
    assert [path.name for path in target.parent.iterdir()] == [name]


def test_a_killed_installation_is_cleared_by_the_next(model, tmp_path, monkeypatch):
    export(model, tmp_path / "model.zip")
    use_home(tmp_path / "other", monkeypatch)
    code = SLOW.format("install", "_check_model")
    code += "import sys; m.install_model(sys.argv[1])"
    results = tmp_path / "other" / "results"
    killed_in(code, tmp_path / "model.zip", folder=results)
    installed = install_model(tmp_path / "model.zip")
    assert [path.name for path in results.iterdir()] == [DATASET]
    assert (installed / "plans.json").is_file()


def test_ranks_are_gone_soon_after_their_parent_was_killed(tiny_copy: Path, monkeypatch):
    """Even where saving takes long: here a step never ends."""
    use_home(tiny_copy, monkeypatch)
    file = tiny_copy / "slow.py"
    file.write_text(
        "import time\n"
        "from graphnn_unet.trainers.supervised import SupervisedTrainer\n"
        "class Slow(SupervisedTrainer):\n"
        "    def end_epoch(self, *arguments):\n"
        "        super().end_epoch(*arguments)\n"
        "        until = time.monotonic() + 300\n"
        "        while time.monotonic() < until: time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        [Path(sys.executable).parent / "gnnunet_train", DATASET, "3d_fullres", f"{file}:Slow",
         "-device", "cpu", "-num_gpus", "2", "--output", tiny_copy / "slow"],
        stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        until = time.monotonic() + 240
        metrics = tiny_copy / "slow" / "fold_all" / "metrics.csv"
        while not metrics.is_file() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        names = {child.pid: " ".join(child.cmdline())[-90:] for child in children}
        assert len(children) >= 2
    finally:
        process.kill()
        process.wait()
    until = time.monotonic() + ON_A_BUSY_MACHINE_S
    while (alive := [child for child in children if runs(child)]) and time.monotonic() < until:
        time.sleep(0.1)
    for child in alive:
        child.kill()
    assert distributed.SECONDS_TO_SAVE < LIMIT_S
    assert not alive, [names[child.pid] for child in alive]


@pytest.mark.slow
def test_a_disk_that_a_rank_finds_full_is_one_line(tiny_copy: Path, monkeypatch):
    """Errors of the system inside a rank arrive like those of one process."""
    use_home(tiny_copy, monkeypatch)
    file = tiny_copy / "full.py"
    file.write_text(
        "import errno\n"
        "from graphnn_unet.trainers.supervised import SupervisedTrainer\n"
        "class Full(SupervisedTrainer):\n"
        "    def end_epoch(self, *arguments):\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device', 'metrics.csv')\n"
    )
    done = subprocess.run(
        [Path(sys.executable).parent / "gnnunet_train", DATASET, "3d_fullres", f"{file}:Full",
         "-device", "cpu", "-num_gpus", "2"],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: no space left while writing metrics.csv")
    assert "Traceback" not in done.stderr
    shutil.rmtree(tiny_copy / "results")
