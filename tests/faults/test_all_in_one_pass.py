"""All faults of a data set in one pass: each named, none twice, however many there are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_study import ball_case, write_image, write_raw_dataset

from graphnn_unet import convert
from graphnn_unet.commands.convert import main
from graphnn_unet.data.check import check_dataset
from graphnn_unet.errors import SHOWN, FaultsError


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Six scans with label maps, ``a`` to ``f``, below ``im`` and ``la``."""
    for number, name in enumerate("abcdef"):
        (image,), label = ball_case(number)
        write_image(tmp_path / "in" / "im" / f"{name}.nii.gz", image)
        write_image(tmp_path / "in" / "la" / f"{name}.nii.gz", label)
    return tmp_path / "in"


def arguments(scans: Path, *more: str) -> list[str]:
    return ["nifti", "--images", str(scans / "im"), "--labels", str(scans / "la"), "-d", "F", *more]


def spoil(scans: Path) -> dict[str, str]:
    """Another fault in each case but one; the code of each."""
    (copied,), label = ball_case(0)
    write_image(scans / "im" / "b.nii.gz", copied)
    write_image(scans / "im" / "c.nii.gz", ball_case(2)[0][0], (3000.0, 3000.0, 3000.0))
    write_image(scans / "la" / "c.nii.gz", label, (3000.0, 3000.0, 3000.0))
    cut = scans / "im" / "d.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-100])
    write_image(scans / "la" / "e.nii.gz", label * np.float32(0.5))
    write_image(scans / "la" / "stray.nii.gz", label)
    return {"b": "I31", "c": "I49", "d": "I01", "e": "I24", "stray": "I28"}


def report_of(home: Path) -> Path:
    return home / "preprocessed" / "Dataset501_F" / "dataset_report.json"


def test_a_stray_label_map_hides_nothing(scans: Path, tmp_path: Path, capsys):
    codes = spoil(scans)
    assert main(arguments(scans)) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line.split()[1].rstrip(":") for line in lines if line.startswith("error: ")]
    assert sorted(errors) == sorted(codes)
    report = report_of(tmp_path / "home")
    assert lines[-1] == f"note: all faults stand in {report}"
    content = json.loads(report.read_text(encoding="utf-8"))
    assert {fault["case"]: fault["code"] for fault in content["faults"]} == codes
    assert content["n_errors"] == len(codes)
    assert not list((tmp_path / "home" / "raw").glob("Dataset*"))


def test_what_is_left_out_brings_no_fault_and_the_report_goes(scans: Path, tmp_path: Path):
    codes = spoil(scans)
    assert main(arguments(scans)) == 2
    assert main(arguments(scans, "--exclude", *codes)) == 0
    assert not report_of(tmp_path / "home").exists()
    images = (tmp_path / "home" / "raw" / "Dataset501_F" / "imagesTr").iterdir()
    assert sorted(path.name for path in images) == ["a_0000.nii.gz", "f_0000.nii.gz"]


def test_a_dry_run_names_all_and_writes_nothing(scans: Path, tmp_path: Path):
    codes = spoil(scans)
    with pytest.raises(FaultsError) as caught:
        convert("nifti", images=scans / "im", labels=scans / "la", dataset="F", dry_run=True)
    assert {fault.case: fault.code for fault in caught.value.faults} == codes
    assert not (tmp_path / "home").exists()


def test_the_image_that_cannot_be_read_does_not_hide_its_label_map(scans: Path):
    spoil(scans)
    write_image(scans / "la" / "d.nii.gz", np.full((18, 20, 22), np.nan, np.float32))
    with pytest.raises(FaultsError) as caught:
        convert("nifti", images=scans / "im", labels=scans / "la", dataset="F")
    assert [f.code for f in caught.value.faults if f.case == "d"] == ["I01", "I12"]


def test_a_number_of_labeled_cases_that_faults_take_away_does_not_hide_them(scans: Path):
    codes = spoil(scans)
    with pytest.raises(FaultsError) as caught:
        convert("nifti", images=scans / "im", labels=scans / "la", dataset="F", labeled=7)
    assert {fault.case for fault in caught.value.faults} == set(codes)


def test_unusual_but_possible_spacings_are_a_note(scans: Path):
    for folder, array in (("im", ball_case(2)[0][0]), ("la", ball_case(2)[1])):
        write_image(scans / folder / "c.nii.gz", array, (10.0, 10.0, 10.0))
    result = convert("nifti", images=scans / "im", labels=scans / "la", dataset="F")
    assert any(note.startswith("c: its spacing is") for note in result.notes)


def test_the_report_names_everyone_where_the_terminal_does_not(tmp_path: Path, capsys):
    n_cases = SHOWN + 5
    for number in range(n_cases):
        path = tmp_path / "in" / "im" / f"s{number:03d}.nii.gz"
        write_image(path, np.zeros((4, 4, 4), np.uint8))
    assert main(["nifti", "--images", str(tmp_path / "in" / "im"), "-d", "F"]) == 2
    (line,) = (li for li in capsys.readouterr().err.splitlines() if li.startswith("error: "))
    assert "and 5 more" in line
    report = json.loads(report_of(tmp_path / "home").read_text(encoding="utf-8"))
    assert [f["case"] for f in report["faults"]] == [f"s{n:03d}" for n in range(n_cases)]


def test_a_refused_conversion_takes_no_id(scans: Path, tmp_path: Path):
    spoil(scans)
    assert main(arguments(scans)) == 2
    with pytest.raises(FaultsError):
        convert("nifti", images=scans / "im", labels=scans / "la", dataset="Dataset501_Other")


STRANGE = {
    "half": (np.float32(0.5), "I24"),
    "nan": (np.float32("nan"), "I12"),
    "negative": (np.int16(-1), "I26"),
    "wide": (np.int64(2**40), "I23"),
    "widest": (np.uint64(2**63), "I23"),
    "as float": (np.float64(2.0**63), "I23"),
}


@pytest.mark.parametrize(("value", "code"), STRANGE.values(), ids=STRANGE)
def test_a_strange_label_map_has_one_fault(tmp_path: Path, value: np.generic, code: str):
    """Neither is it all background, nor is that of all label maps."""
    raw = write_raw_dataset(tmp_path / "raw")
    label = np.zeros((18, 20, 22), value.dtype)
    label[4:9, 4:9, 4:9] = value
    write_image(raw / "labelsTr" / "case_01.nii.gz", label)
    for number in (0, 2, 3):
        write_image(raw / "labelsTr" / f"case_{number:02d}.nii.gz", np.zeros(label.shape, np.uint8))
    report = check_dataset(raw, n_workers=0)
    assert [(f.case, f.code) for f in report.errors] == [("case_01", code)]
    assert [f.case for f in report.warnings] == ["case_00", "case_02", "case_03"]
    for folder in ("imagesTr", "labelsTr"):
        for path in (raw / folder).iterdir():
            path.rename(path.with_name(path.name.replace("_0000", "")))
    with pytest.raises(FaultsError) as caught:
        convert("nifti", images=raw / "imagesTr", labels=raw / "labelsTr", dataset="S")
    assert [(f.case, f.code) for f in caught.value.faults] == [("case_01", code)]
