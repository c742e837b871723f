"""What the wheel holds: all data files of the package, and no tests."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_study import REPOSITORY

SOURCES = ("graphnn_unet", "plans", "dataset_conversion", "pyproject.toml", "setup.py",
           "README.md", "LICENSE")  # fmt: skip


@pytest.fixture(scope="module")
def files_of_wheel(tmp_path_factory) -> set[str]:
    """Names in a wheel that is built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, folder / name)
    subprocess.run(
        [sys.executable, "-c",
         "from setuptools import build_meta; print(build_meta.build_wheel('.'))"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def installed_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).parts
    return "/".join(parts if parts[0] == "graphnn_unet" else ("graphnn_unet", *parts))


def test_wheel_holds_every_file_of_the_package(files_of_wheel):
    wanted = {
        installed_name(path)
        for folder in ("graphnn_unet", "plans", "dataset_conversion")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }
    assert {"graphnn_unet/py.typed", "graphnn_unet/__init__.pyi"} <= wanted
    assert any(name.startswith("graphnn_unet/plans/recipes/") for name in wanted)
    assert wanted <= files_of_wheel


def test_wheel_holds_nothing_else(files_of_wheel):
    assert {name.split("/")[0].split("-")[0] for name in files_of_wheel} <= {
        "graphnn_unet",
    }
    assert not {name for name in files_of_wheel if "test" in name.split("/")[-1]}
