"""``gnnunet_convert`` as it is called: exit status, messages, table."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.commands.convert import main

DATA = Path(
    os.environ.get("GNNUNET_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the repository")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    generator = np.random.default_rng(0)
    for i in range(3):
        for kind, array in (
            ("images", generator.normal(100, 20, (6, 8, 10)).astype(np.float32)),
            ("labels", (generator.random((6, 8, 10)) > 0.5).astype(np.uint8)),
        ):
            folder = tmp_path / "in" / kind
            folder.mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(array)
            sitk.WriteImage(image, str(folder / f"case{i}.nii.gz"))
    return tmp_path / "in"


def arguments(data: Path, *more: str) -> list[str]:
    folders = ["--images", str(data / "images"), "--labels", str(data / "labels")]
    return ["nifti", *folders, "-d", "My", *more]


def test_a_conversion_ends_with_0_and_one_line_on_stdout(
    data: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments(data, "--labeled", "1", "--test", "1", "--label-names", "1=organ")) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert out.startswith("Dataset501_My: 1 labeled, 1 unlabeled, 1 test cases, 1 channel")
    assert "organ=1" in out
    assert err.startswith("folders: raw=")
    assert (data.parent / "nnUNet_raw" / "Dataset501_My" / "dataset.json").is_file()


def test_a_dry_run_shows_a_table_and_writes_nothing(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(data, "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["case", "role", "patient", "channels", "shape", "zyx", "spacing",
                                "mm", "axes", "labels"]  # fmt: skip
    assert lines[1].split() == [
        "case0", "labeled", "case0", "1", "6x8x10", "1x1x1", "LPS", "0,1",
    ]  # fmt: skip
    assert len(lines) == 5
    assert not (data.parent / "nnUNet_raw").exists()


def test_an_existing_folder_ends_with_2_and_overwrite_replaces_it(
    data: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments(data)) == 0
    assert main(arguments(data)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "Dataset501_My exists" in error
    assert "--overwrite" in error
    assert main(arguments(data, "--overwrite")) == 0


def test_every_faulty_case_is_one_error_line(data: Path, capsys: pytest.CaptureFixture[str]):
    for i in (0, 2):
        path = data / "images" / f"case{i}.nii.gz"
        path.write_bytes(path.read_bytes()[:-60])
    assert main(arguments(data)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [line.split(":")[1].strip() for line in errors] == ["case0", "case2"]
    assert all("truncated" in line and "--exclude" in line for line in errors)
    assert main(arguments(data, "--exclude", "case0", "case2")) == 0


@pytest.mark.parametrize("text", ["1:organ", "organ", "1=", "0=organ"])
def test_label_names_that_cannot_be_read_end_with_2(data: Path, text: str):
    assert main(arguments(data, "--label-names", text)) == 2


def test_channel_names_may_be_separated_by_commas(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(arguments(data, "--channels", "T1,T2")) == 2
    assert "no file name ends in one of the channel names T1, T2" in capsys.readouterr().err


def test_help_is_quick_and_names_every_form():
    started = time.monotonic()
    code = "from graphnn_unet.commands.convert import main; main(['--help'])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=30
    )
    assert time.monotonic() - started < 2  # a start-up with torch or SimpleITK takes longer
    for form in ("LA", "ACDC", "Pancreas", "MSD", "nifti", "dicom"):
        assert f"\n  {form}" in result.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom graphnn_unet.commands.convert import _parser\n_parser().format_help()\n"
        "heavy = {'numpy', 'torch', 'SimpleITK', 'h5py', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=30
    )
    assert result.returncode == 0, result.stderr


@needs_data
def test_the_published_left_atrium_files_convert(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["LA", str(DATA / "LA_h5"), "--labeled", "2", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "06SR5RBREL16DQ6M8LWS  labeled" in out
    assert "88x140x183" in out
    assert "2 labeled, 2 unlabeled, 0 test" in out


@needs_data
def test_a_real_decathlon_task_converts(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["MSD", str(DATA / "Hippocampus"), "--labeled", "5", "--test", "150"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Dataset004_Hippocampus: 5 labeled, 45 unlabeled, 150 test cases")
    assert "hippocampus_003: its label map was stored as float32" in err


def test_without_label_maps_the_end_says_what_is_left_to_do(data: Path, capsys):
    assert main(["nifti", "--images", str(data / "images"), "-d", "My"]) == 0
    err = capsys.readouterr().err
    assert "next: gnnunet_suggest -d My --count 5" in err
    assert "--labels and --overwrite" in err
    assert "gnnunet_plan" not in err


def test_a_report_of_a_refused_conversion_leaves_its_id_to_the_next(data: Path):
    broken = data / "labels" / "case0.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    assert main(arguments(data)) == 2
    reports = data.parent / "nnUNet_preprocessed"
    assert [path.name for path in reports.iterdir()] == ["Dataset501_My"]
    broken.write_bytes(whole)
    other = [word if word != "My" else "Other" for word in arguments(data)]
    assert main(other) == 0
    assert (data.parent / "nnUNet_raw" / "Dataset501_Other").is_dir()
    assert not (reports / "Dataset501_My").exists()
