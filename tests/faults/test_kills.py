"""What is left when a process is killed: nothing that runs on, nothing half, nothing for ever."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import blosc2
import psutil
import pytest
import torch
from tiny_study import DATASET, TINY, model_of, train_in, use_home

from graphnn_unet import export, install_model
from graphnn_unet.data.preprocess import missing_files, read_manifest
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.locks import WORK_FOLDER
from graphnn_unet.storage.safe_load import load_checkpoint
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


@pytest.mark.parametrize("name", ["out.zip", pytest.param("out", marks=pytest.mark.slow)])
def test_a_killed_export_is_cleared_by_the_next(model: Path, tmp_path: Path, name: str):
    target = tmp_path / "exports" / name
    code = SLOW.format("export", "_notes" if name == "out" else "_write_zip")
    if name == "out":
        code = SLOW.format("export", "exchange_folder")
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


N_KILLS = int(os.environ.get("GNNUNET_TEST_KILLS", "3"))
"""Of each command; more in a long test of a release."""
SECONDS_A_COMMAND = 300
IDENTIFIER = "gnnunetPlans_3d_fullres"
NAMES_OF_WRITERS = (".partial", ".work-")


def start(*command: object) -> subprocess.Popen:
    """A command in this test's home."""
    return subprocess.Popen(
        [Path(sys.executable).parent / str(command[0]), *map(str, command[1:])],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(*command: object) -> tuple[int, str, float]:
    """Exit status, errors and seconds of a command that nobody disturbs."""
    began = time.monotonic()
    process = start(*command)
    _, errors = process.communicate(timeout=SECONDS_A_COMMAND)
    return process.returncode, errors, time.monotonic() - began


def kill_after(seconds: float, *command: object) -> bool:
    """Kill a command, not its children, which must go too; whether it was not done by then."""
    process = start(*command)
    time.sleep(seconds)
    family = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    until = time.monotonic() + ON_A_BUSY_MACHINE_S
    while (alive := [child for child in family if runs(child)]) and time.monotonic() < until:
        time.sleep(0.1)
    names = [" ".join(child.cmdline())[-90:] for child in alive]
    for child in alive:
        child.kill()
    assert not alive, names
    return process.returncode == -signal.SIGKILL


def contents(folder: Path, *endings: str) -> dict[str, str]:
    """Hash of the content of each file with one of these endings."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(bytes_of(path)).hexdigest()
        for path in folder.rglob("*")
        if path.name.endswith(endings) and path.is_file()
    }


def bytes_of(path: Path) -> bytes:
    """Bytes of a file; of voxels what they unpack to, as threads pack them in any order."""
    return blosc2.open(path)[:].tobytes() if path.suffix == ".b2nd" else path.read_bytes()


def leftovers(folder: Path) -> list[str]:
    """Files and folders of writers that were killed."""
    return [str(p) for p in folder.rglob("*") if any(x in p.name for x in NAMES_OF_WRITERS)]


def instants(whole_s: float) -> list[float]:
    """Random moments of a command that takes so long, the same in each run."""
    draw = random.Random(18)
    return [whole_s * draw.uniform(0.3, 1.0) for _ in range(N_KILLS)]


@pytest.mark.slow
def test_preprocessing_by_several_workers_is_killed_and_ends_the_same(tiny_copy: Path):
    command = ("gnnunet_plan_and_preprocess", "-d", DATASET, "-c", "3d_fullres", "-np", "3",
               "--set", *TINY)  # fmt: skip
    folder = tiny_copy / "preprocessed"
    shutil.rmtree(folder)
    status, errors, seconds = ended(*command)
    assert status == 0, errors
    wanted = contents(folder, ".b2nd", ".pkl", "Plans.json")
    assert len(wanted) == 7 + 4 + 7 + 1
    shutil.rmtree(folder)
    n_killed = sum(kill_after(moment, *command) for moment in instants(seconds))
    assert n_killed
    status, errors, _ = ended(*command)
    assert status == 0, errors
    assert contents(folder, ".b2nd", ".pkl", "Plans.json") == wanted
    missing = missing_files(
        folder / DATASET, IDENTIFIER, read_manifest(folder / DATASET, IDENTIFIER)
    )
    assert not missing
    assert not leftovers(folder)


@pytest.mark.slow
def test_prediction_by_several_processes_is_killed_and_ends_the_same(
    model: Path, tiny_copy: Path, tmp_path: Path
):
    command = ("gnnunet_predict", "-i", tiny_copy / "raw" / DATASET / "imagesTr", "-m", model,
               "-device", "cpu", "-np", "2", "-o")  # fmt: skip
    status, errors, seconds = ended(*command, tmp_path / "whole")
    assert status == 0, errors
    wanted = contents(tmp_path / "whole", ".nii.gz", "volumes.csv")
    assert len(wanted) == 5
    target = tmp_path / "killed"
    for moment in instants(seconds):
        assert kill_after(moment, *command, target, "--continue_prediction")
        there = contents(target, ".nii.gz") if target.is_dir() else {}
        assert {n: v for n, v in there.items() if ".partial" not in n}.items() <= wanted.items()
    status, errors, _ = ended(*command, target, "--continue_prediction")
    assert status == 0, errors
    assert contents(target, ".nii.gz", "volumes.csv") == wanted
    assert not leftovers(target)


def weights(fold: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(fold / FINAL)["network_weights"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["command", "rank"])
def test_training_in_two_processes_is_killed_and_goes_on_the_same(tiny_copy: Path, victim: str):
    command = ("gnnunet_train", DATASET, "3d_fullres", "SupervisedTrainer", "-device", "cpu",
               "-num_gpus", "2", "--set", "schedule.pretrain_steps=12",
               "schedule.selftrain_steps=12", "--output")  # fmt: skip
    status, errors, seconds = ended(*command, tiny_copy / "whole")
    assert status == 0, errors
    target = tiny_copy / "killed"
    fold = target / "fold_all"
    for moment in instants(seconds)[: max(1, N_KILLS - 1)]:
        more = ("--c",) if list(fold.glob("checkpoint_*.pth")) else ()
        if victim == "command":
            kill_after(moment, *command, target, *more)
            continue
        process = start(*command, target, *more)
        time.sleep(moment)
        ranks = [child for child in psutil.Process(process.pid).children()
                 if "spawn_main" in " ".join(child.cmdline())]  # fmt: skip
        for rank in ranks[-1:]:
            rank.kill()
        _, errors = process.communicate(timeout=SECONDS_A_COMMAND)
        if ranks:
            assert process.returncode in {1, 2}, errors
            (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
            assert "SIGKILL" in line
            assert "Traceback" not in errors
            assert not [rank for rank in ranks if runs(rank)]
    if not (fold / FINAL).is_file():
        more = ("--c",) if list(fold.glob("checkpoint_*.pth")) else ()
        status, errors, _ = ended(*command, target, *more)
        assert status == 0, errors
    first, second = weights(tiny_copy / "whole" / "fold_all"), weights(fold)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not leftovers(target)
