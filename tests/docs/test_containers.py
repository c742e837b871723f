"""The Dockerfiles: where no daemon runs, their steps are run as they stand in a folder."""

import os
import shlex
import shutil
import string
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_study import REPOSITORY

FILES = {kind: REPOSITORY / "docs" / "docker" / f"Dockerfile.{kind}" for kind in ("cpu", "cuda")}
ROOTS = ("/opt", "/data")
"""Folders of the image; each becomes one below a temporary folder."""


def steps(kind: str) -> list[tuple[str, str]]:
    """Instructions and what stands behind them, in order."""
    text = FILES[kind].read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [
        (line.partition(" ")[0], line.partition(" ")[2].strip())
        for line in lines
        if line and not line.startswith("#")
    ]


@pytest.mark.parametrize("kind", FILES)
def test_every_step_is_one_that_the_shell_test_runs(kind):
    words = [word for word, _ in steps(kind)]
    assert words[0] == "FROM"
    assert set(words) == {"FROM", "ARG", "ENV", "WORKDIR", "RUN", "COPY", "CMD"}


def test_both_images_differ_in_where_torch_comes_from_alone():
    cpu, cuda = (steps(kind) for kind in ("cpu", "cuda"))
    differing = [pair for pair in zip(cpu, cuda, strict=True) if pair[0] != pair[1]]
    assert [pair[0][1].partition("=")[0] for pair in differing] == ["TORCH_INDEX"]


@pytest.mark.parametrize("kind", FILES)
def test_everything_that_is_copied_is_there_and_what_the_package_needs(kind):
    copied = [
        source for word, rest in steps(kind) if word == "COPY" for source in rest.split()[:-1]
    ]
    assert all((REPOSITORY / source).exists() for source in copied)
    assert {"setup.py", "pyproject.toml", "graphnn_unet", "dataset_conversion", "plans"} <= {
        *copied
    }


def run_in_folder(kind: str, root: Path, **arguments: str) -> str:
    """Run the steps of a Dockerfile below ``root``; return what its RUN lines print."""
    places = {name: str(root / name.strip("/")) for name in ROOTS}

    def moved(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    known = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "nnUNet_raw", "nnUNet_preprocessed"):
        known.pop(name, None)
    here, printed = root, []
    for word, rest in steps(kind):
        if word == "ARG":
            name, _, default = rest.partition("=")
            known[name] = arguments.get(name, default)
        elif word == "ENV":
            for pair in shlex.split(moved(rest)):
                name, _, value = pair.partition("=")
                known[name] = string.Template(value).substitute(known)
        elif word == "WORKDIR":
            here = Path(moved(rest))
            here.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                origin = REPOSITORY / source
                if origin.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(origin, here / target, ignore=ignored)
                else:
                    shutil.copy(origin, here / target)
        elif word == "RUN":
            done = subprocess.run(
                ["/bin/sh", "-c", moved(rest)], cwd=here, env=known, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-3000:]}"
            printed.append(done.stdout)
    return "\n".join(printed)


@pytest.mark.slow
def test_the_steps_of_the_cpu_image_install_a_program_that_runs(tmp_path):
    # the index of pip's own settings, which may hold the build for CPUs
    printed = run_in_folder("cpu", tmp_path, TORCH_INDEX="https://pypi.org/simple")
    assert "graphnn-unet" in printed
    assert "usage: gnnunet_predict" in printed
    assert str(tmp_path / "data" / "raw") in printed
