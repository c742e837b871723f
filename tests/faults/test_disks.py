"""Full disks, disks without locks, folders that may not be written, files that cannot be read.

Each is one line with status 2.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_study import DATASET, model_of, train_in, use_home

from graphnn_unet import evaluate, export, predict
from graphnn_unet.errors import GraphnnError, NoSpaceError
from graphnn_unet.models.prediction_record import PredictionRecord
from graphnn_unet.storage import atomic
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.trainers import run as training

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's limits and /sys")

FORBIDDEN = Path("/sys/kernel/gnnunet")
"""Nobody may make a folder there, root not either."""
UNREADABLE = "/proc/self/mem"
"""Reading its beginning is an input/output error, as of a broken disk."""


@pytest.fixture(scope="module")
def model_home(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny home with one finished training, its export and predictions. Read only."""
    home = tmp_path_factory.mktemp("disks") / "home"
    shutil.copytree(tiny_home, home)
    train_in(home, "SupervisedTrainer")
    model = model_of(home, "SupervisedTrainer")
    export(model, home / "model.zip")
    predict(home / "raw" / DATASET / "imagesTs", home / "predicted", model=model, device="cpu")
    return home


@pytest.fixture
def home(model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which is this test's home."""
    copy = tmp_path / "h"
    shutil.copytree(model_home, copy)
    return use_home(copy, monkeypatch)


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond a size, as where a quota is used up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def command(name: str, home: Path) -> list[str]:
    """A command line of each command that writes; what it writes is new."""
    raw, model = home / "raw" / DATASET, model_of(home, "SupervisedTrainer")
    return {
        "convert": ["nifti", "--images", str(raw / "imagesTs"), "--channels", "MR", "-d", "New"],
        "plan_and_preprocess": ["-d", DATASET, "-c", "3d_fullres", "-np", "1", "--set",
                                "plan.spacing=[0.8,0.8,0.8]"],
        "train": [DATASET, "3d_fullres", "SupervisedTrainer", "-device", "cpu", "--workers", "0",
                  "--seed", "7"],
        "predict": ["-i", str(raw / "imagesTs"), "-o", str(home / "new"), "-m", str(model),
                    "-device", "cpu"],
        "evaluate": ["-p", str(home / "predicted"), "-g", str(raw / "labelsTs"), "-o",
                     str(home / "new")],
        "export": [str(model), "-o", str(home / "new.zip")],
        "export folder": [str(model), "-o", str(home / "new")],
        "install_model": [str(home / "model.zip")],
        "cluster": ["-i", str(raw / "imagesTs"), "-o", str(home / "new"), "-device", "cpu"],
    }[name]  # fmt: skip


def run(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of error of a command that ends with 2."""
    capsys.readouterr()
    main = importlib.import_module(f"graphnn_unet.commands.{name.split()[0]}").main
    assert main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = (line for line in captured.err.splitlines() if line.startswith("error: "))
    assert "Traceback" not in captured.err
    return line


def files_of(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".gnnunet.lock")
    }


@pytest.mark.parametrize(
    ("name", "n_bytes"),
    [
        ("convert", 5000), ("plan_and_preprocess", 9000), ("predict", 100), ("evaluate", 100),
        ("train", 9000), ("export", 9000), ("export folder", 9000), ("install_model", 9000),
    ],
)  # fmt: skip
def test_a_full_disk_is_one_line_and_nothing_half(home: Path, name: str, n_bytes: int, capsys):
    if name == "install_model":
        shutil.rmtree(home / "results")
    before = files_of(home)
    with files_up_to(n_bytes):
        line = run(name, command(name, home), capsys)
    assert "no space left while writing" in line
    new = files_of(home) - before
    assert not [path for path in new if ".partial" in path]
    assert not [path for path in new if path.endswith((".pth", ".zip", ".nii.gz", ".b2nd"))]


FOLDERS = {
    "convert": "nnUNet_raw",
    "plan_and_preprocess": "nnUNet_preprocessed",
    "train": "nnUNet_results",
    "install_model": "nnUNet_results",
}


@pytest.mark.parametrize(
    "name",
    [*FOLDERS, "predict", "evaluate", "export", "export folder", "cluster"],
)
def test_a_folder_that_may_not_be_written_is_named(home: Path, name: str, capsys, monkeypatch):
    arguments = command(name, home)
    if name in FOLDERS:
        monkeypatch.setenv(FOLDERS[name], str(FORBIDDEN))
    else:
        arguments = [word.replace(str(home / "new"), str(FORBIDDEN / "new")) for word in arguments]
    line = run(name, arguments, capsys)
    assert str(FORBIDDEN) in line
    assert "Choose" in line


def unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to(UNREADABLE)


@pytest.mark.parametrize("name", ["predict", "export", "train"])
def test_a_plan_that_cannot_be_read_is_named(home: Path, name: str, capsys):
    plans = model_of(home, "SupervisedTrainer") / "plans.json"
    if name == "train":
        plans = home / "preprocessed" / DATASET / "gnnunetPlans.json"
    unreadable(plans)
    assert str(plans) in run(name, command(name, home), capsys)


@pytest.mark.parametrize("name", ["checkpoint_final.pth", "dataset.json"])
def test_a_file_of_a_model_that_cannot_be_read_is_named(home: Path, name: str, capsys):
    model = model_of(home, "SupervisedTrainer")
    path = model / "fold_all" / name if name.endswith(".pth") else model / name
    unreadable(path)
    assert str(path) in run("predict", command("predict", home), capsys)


def test_python_calls_raise_the_same(home: Path):
    model = model_of(home, "SupervisedTrainer")
    with files_up_to(9000), pytest.raises(NoSpaceError, match=r"new\.zip"):
        export(model, home / "new.zip")
    with pytest.raises(GraphnnError, match=str(FORBIDDEN)):
        export(model, FORBIDDEN / "new.zip")
    with pytest.raises(GraphnnError, match=str(FORBIDDEN)):
        evaluate(home / "predicted", home / "raw" / DATASET / "labelsTs", FORBIDDEN / "new")


@pytest.mark.parametrize(
    "name", ["convert", "plan_and_preprocess", "train", "predict", "export", "cluster"]
)
def test_a_disk_without_locks_is_one_line(home: Path, name: str, capsys, monkeypatch):
    """As network drives that are mounted without a lock service."""

    def flock(_file: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = files_of(home)
    monkeypatch.setattr(fcntl, "flock", flock)
    line = run(name, command(name, home), capsys)
    assert "cannot be locked: its file system has no locks" in line
    assert not [path for path in files_of(home) - before if ".partial" in path]


@pytest.fixture
def small_disk(model_home: Path, tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A home on a disk of its own, which is full but for a few kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        shutil.copytree(model_home, disk / "h")
        with (disk / "ballast").open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(disk).free - 12 * 1024)))
        yield use_home(disk / "h", monkeypatch)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    "name",
    ["convert", "plan_and_preprocess", "train", "predict", "export", "export folder",
     "install_model"],
)  # fmt: skip
def test_a_disk_that_is_really_full_is_one_line_and_nothing_half(
    small_disk: Path, name: str, capsys
):
    if name == "install_model":
        shutil.rmtree(small_disk / "results")
        with (small_disk.parent / "ballast").open("ab") as file:
            file.write(bytes(max(0, shutil.disk_usage(small_disk).free - 12 * 1024)))
    before = files_of(small_disk)
    line = run(name, command(name, small_disk), capsys)
    assert "no space left while writing" in line or "too little room" in line
    new = files_of(small_disk) - before
    assert name != "predict" or not (small_disk / "new").exists()
    assert not [path for path in new if ".partial" in path]
    assert not [path for path in new if path.endswith((".pth", ".zip", ".nii.gz", ".b2nd"))]


@pytest.fixture
def failing_once(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A disk of a network that fails once for each name; the names for which it did."""
    failed: set[str] = set()

    def once(inner):
        def move(path: Path, target: Path) -> Path:
            if Path(target).name in failed:
                return inner(path, target)
            failed.add(Path(target).name)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path), None, str(target))

        return move

    monkeypatch.setattr(atomic, "PAUSES_S", (0.01,))
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, once(getattr(Path, name)))
    return failed


def test_an_old_fold_is_set_aside_where_renames_fail_once(tmp_path: Path, failing_once: set[str]):
    fold = tmp_path / "fold_all"
    (fold / "validation").mkdir(parents=True)
    (fold / FINAL).write_bytes(b"old")
    assert training._possible_mode(fold, "restart") == "restart"
    assert list(fold.iterdir()) == []
    assert (tmp_path / "fold_all.old1" / FINAL).read_bytes() == b"old"
    assert failing_once == {FINAL, "validation"}


def test_an_old_label_map_is_set_aside_where_renames_fail_once(
    tmp_path: Path, failing_once: set[str]
):
    (tmp_path / "a.nii.gz").write_bytes(b"old")
    record = PredictionRecord(tmp_path, {}, {}, None)
    assert record.set_aside(["a"], [".nii.gz"]) == (1, tmp_path / "set_aside")
    assert (tmp_path / "set_aside" / "a.nii.gz").read_bytes() == b"old"
    assert failing_once == {"a.nii.gz"}
