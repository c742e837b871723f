"""Standard streams that are closed, full or lack letters: the work goes on, results are not lost.

Each test is a process of its own, as a shell starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_study import DATASET, TINY, ball_case, write_image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses /dev/full and a shell")

CHINESE = "\u8111"


def shell(line: str, home: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell with this environment's commands."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        timeout=300,
        check=False,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")},
            "PATH": path, "GNNUNET_HOME": str(home), "OMP_NUM_THREADS": "1", **environment,
        },
    )  # fmt: skip


@pytest.mark.parametrize("line", ["gnnunet_info", "gnnunet_convert --help"])
def test_results_that_find_no_room_are_an_error(tmp_path: Path, line: str):
    full = shell(f"{line} > /dev/full", tmp_path)
    assert full.returncode == 2
    assert full.stderr.splitlines() == [
        b"error: standard output cannot be written: no space left on device. "
        b"Send it to a place with room."
    ]


@pytest.mark.parametrize("stream", ["2> /dev/full", "2>&-", "2>&1 | head -c 0", "2>&- >&- <&-"])
def test_messages_that_nobody_reads_stop_nothing(tmp_path: Path, stream: str):
    for number in range(2):
        write_image(tmp_path / "im" / f"s{number}.nii.gz", ball_case(number)[0][0])
    line = f"set -o pipefail; gnnunet_convert nifti --images {tmp_path}/im -d New {stream}"
    assert shell(line, tmp_path / "home").returncode == 0
    folder = tmp_path / "home" / "raw" / "Dataset501_New"
    # a closed stream's number went to no file
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json", "gnnunet.json", "imagesTr", "imagesUn", "labelsTr",
    ]  # fmt: skip
    assert (folder / "gnnunet.json").read_bytes().startswith(b"{")


@pytest.mark.slow
def test_planning_and_training_go_on_without_a_place_for_messages(tiny_copy: Path):
    lines = (
        f"gnnunet_plan_and_preprocess -d {DATASET} -c 3d_fullres -np 2 --set {' '.join(TINY)}",
        f"gnnunet_train {DATASET} 3d_fullres SupervisedTrainer -device cpu --workers 0",
    )
    for line in lines:
        done = shell(f"{line} 2> /dev/full", tiny_copy)
        assert (done.returncode, done.stderr) == (0, b"")
    (model,) = (tiny_copy / "results" / DATASET).iterdir()
    assert (model / "fold_all" / "checkpoint_final.pth").is_file()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_paths_whose_letters_the_terminal_lacks(tmp_path: Path, encoding: str):
    home = tmp_path / f"Stra\u00dfe {CHINESE}"
    for number in range(2):
        write_image(home / "im" / f"s{number}.nii.gz", ball_case(number)[0][0])
    line = f"gnnunet_convert nifti --images '{home}/im' -d New"
    done = shell(line, home, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"\\u8111" in done.stdout
    assert (home / "raw" / "Dataset501_New" / "dataset.json").is_file()
    again = shell(line, home, PYTHONIOENCODING=encoding)
    assert again.returncode == 2
    assert b"exists" in again.stderr
