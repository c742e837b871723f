"""Fixtures of all tests: their own home, and a tiny data set in it, made once.

Tests run against the installed package. Tests that change files work on a copy (``tiny_copy``).
"""

import importlib.util
import logging
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_study import plan_in, train_in, use_home, write_raw_dataset

from graphnn_unet.progress import set_quiet

if importlib.util.find_spec("graphnn_unet.plans") is None:
    pytest.exit(
        "python -m pytest takes the bare checkout for the package: call pytest, or install with "
        "pip install -e .",
        returncode=2,
    )


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _interrupts_reach_children():
    """A shell starts background jobs with SIGINT ignored, which child processes would inherit."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """No test reads or writes the user's folders, and none runs in the repository.

    A process started there with ``python -c`` takes the bare checkout for the package.
    """
    monkeypatch.chdir(tmp_path)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GNNUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


@pytest.fixture(autouse=True)
def _loud():
    """A command that was called with --quiet in this process silences none of the next tests."""
    yield
    set_quiet(False)
    logging.getLogger("graphnn_unet").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory) -> Path:
    """Home with the tiny data set, planned and preprocessed for 3d_fullres and 2d. Read only."""
    home = tmp_path_factory.mktemp("tiny")
    write_raw_dataset(home / "raw")
    plan_in(home, configurations=("3d_fullres", "2d"))
    return home


@pytest.fixture
def tiny_copy(tiny_home, tmp_path, monkeypatch) -> Path:
    """A copy of the tiny home that a test may change; it is this test's home."""
    home = tmp_path / "copy"
    shutil.copytree(tiny_home, home)
    return use_home(home, monkeypatch)


@pytest.fixture(scope="session")
def trained_home(tiny_home, tmp_path_factory) -> Path:
    """Tiny home with finished trainings of all methods (fold all). Read only."""
    home = tmp_path_factory.mktemp("trained") / "home"
    shutil.copytree(tiny_home, home)
    for trainer in ("SupervisedTrainer", "BCPTrainer", "GraphCLTrainer"):
        train_in(home, trainer)
    return home


@pytest.fixture
def write_map() -> Callable[..., Path]:
    """Write an array ``(z, y, x)`` with spacing in the same order."""

    def write(path: Path, array: np.ndarray, spacing=(3.0, 1.0, 0.5), **geometry) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(step) for step in spacing[::-1]])
        if "origin" in geometry:
            image.SetOrigin(geometry["origin"])
        if "direction" in geometry:
            image.SetDirection(geometry["direction"])
        sitk.WriteImage(image, str(path))
        return path

    return write
