import os
import unicodedata
from pathlib import Path

import pytest

from graphnn_unet.errors import FaultsError, MissingFileError
from graphnn_unet.images.find import (
    HIDDEN,
    NO_IMAGE,
    RAW_VOLUMES,
    SUBFOLDER,
    VOLUMES,
    existing,
    file_ending,
    files_below,
    image_files,
    left_out_line,
    safe_id,
    some,
    split_channel,
    split_ending,
)


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_images_are_taken_whatever_the_case_of_their_ending_and_the_rest_is_named(tmp_path: Path):
    folder = touch(tmp_path / "in", "b.nii.gz", "a.NII.GZ", "c.PNG", "._b.nii.gz", "notes.txt")
    (folder / "d.nii").mkdir()
    os.mkfifo(folder / "e.mha")
    files = image_files(folder)
    assert [path.name for path in files.paths] == ["a.NII.GZ", "b.nii.gz", "c.PNG"]
    assert files.skipped == {
        "._b.nii.gz": HIDDEN,
        "d.nii": "a folder",
        "e.mha": "a pipe or device, not a file",
        "notes.txt": NO_IMAGE,
    }
    assert list(files.unusable()) == ["d.nii", "e.mha"]
    assert [path.name for path in image_files(folder, (".nii.gz",)).paths] == [
        "a.NII.GZ",
        "b.nii.gz",
    ]


def test_links_are_followed_and_those_that_lead_nowhere_are_named(tmp_path: Path):
    store = touch(tmp_path / "store", "x.nii.gz")
    folder = touch(tmp_path / "in")
    (folder / "a.nii.gz").symlink_to(store / "x.nii.gz")
    (folder / "b.nii.gz").symlink_to(store / "none.nii.gz")
    (tmp_path / "link").symlink_to(folder)
    files = image_files(tmp_path / "link")
    assert [path.name for path in files.paths] == ["a.nii.gz"]
    assert files.skipped == {"b.nii.gz": "a link that leads nowhere"}


def test_two_files_of_one_case_are_a_fault_and_neither_is_taken(tmp_path: Path):
    folder = touch(tmp_path / "in", "a.nii", "a.nii.gz", "b.mha")
    cases, faults = image_files(folder, VOLUMES).by_case("evaluate")
    assert cases == {"b": folder / "b.mha"}
    assert [(fault.case, fault.stage) for fault in faults] == [("a", "evaluate")]
    assert faults[0].cause.endswith("holds it twice, as a.nii and a.nii.gz")
    with pytest.raises(FaultsError, match=r"as a\.nii and a\.nii\.gz"):
        image_files(folder).one_per_case()
    (folder / "a.nii").unlink()
    assert list(image_files(folder).one_per_case()) == ["a", "b"]


def test_a_missing_folder_is_told_and_an_empty_one_is_empty(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"input folder .*none is missing"):
        image_files(tmp_path / "none", what="input folder")
    assert image_files(touch(tmp_path / "in")).paths == ()


@pytest.mark.parametrize(
    ("name", "stem", "ending"),
    [
        ("a.b.nii.gz", "a.b", ".nii.gz"),
        ("a.NII", "a", ".nii"),
        ("x/y.JPEG", "y", ".jpeg"),
        ("a.gz", "a.gz", ""),
        (".nii.gz", "", ".nii.gz"),
    ],
)
def test_names_lose_their_ending(name: str, stem: str, ending: str):
    assert split_ending(name) == (stem, ending)
    assert file_ending(name) == (ending if ending in VOLUMES else "")


@pytest.mark.parametrize(
    ("stem", "case", "channel"),
    [
        ("a_0000", "a", 0),
        ("a_1_0012", "a_1", 12),
        ("a_001", "a_001", None),
        ("_0000", "_0000", None),
    ],
)
def test_four_digits_are_a_channel(stem: str, case: str, channel: int | None):
    assert split_channel(stem) == (case, channel)


def test_long_lists_are_cut():
    assert some("abc") == "a, b, c"
    assert some("abcdefg") == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("name", "case_id"),
    [
        ("scan 1", "scan_1"),
        ("../../x", "x"),
        ("a..b", "a.b"),
        ("$(rm)", "rm"),
        ("é", "e"),
        ("Größe Ärger", "Groesse_Aerger"),
        ("Łódź_smørrebrød", "Lodz_smoerrebroed"),
        ("李", "u674e"),
        ("!?", "case"),
    ],
)
def test_any_name_becomes_a_safe_case_id(name: str, case_id: str):
    assert safe_id(name) == case_id
    assert safe_id(unicodedata.normalize("NFD", name)) == case_id


def test_names_of_other_scripts_stay_apart():
    assert len({safe_id(name) for name in ("王", "李", "Иван", "Пётр")}) == 4


def test_names_are_compared_in_composed_unicode(tmp_path: Path):
    stored = unicodedata.normalize("NFD", "Müller.nii.gz")
    folder = touch(tmp_path / "in", stored)
    assert list(image_files(folder).one_per_case()) == [unicodedata.normalize("NFC", "Müller")]
    asked = folder / unicodedata.normalize("NFC", "Müller.nii.gz")
    assert existing(asked).name == stored
    assert existing(folder / "Muller.nii.gz") == folder / "Muller.nii.gz"


def test_the_two_files_of_an_image_count_as_one(tmp_path: Path):
    folder = touch(tmp_path / "in", "a.img", "a.HDR", "b.img", "c.hdr", "d.raw", "e.raw")
    (folder / "d.mhd").write_text("NDims = 3\nElementDataFile = d.raw\n")
    (folder / "f.mhd").write_text("NDims = 3\nElementDataFile = ../x.raw\n")
    files = image_files(folder, VOLUMES)
    assert [path.name for path in files.paths] == ["a.img", "d.mhd", "f.mhd"]
    assert sorted(files.skipped) == ["b.img", "c.hdr", "e.raw"]


def test_whatever_is_left_out_is_named_with_a_reason(tmp_path: Path, capsys):
    folder = touch(tmp_path / "in", "a.nii", "notes.txt", ".DS_Store", "._a.nii", "x.gipl")
    touch(folder, "s.dcm", "dataset.json", "failures_part2.csv")
    touch(folder / "more", "b.nii")
    (folder / "IM01").write_bytes(bytes(128) + b"DICM")
    left_out = image_files(folder, VOLUMES).left_out()
    assert sorted(left_out) == ["._a.nii", "IM01", "more", "notes.txt", "s.dcm", "x.gipl"]
    assert left_out["more"] == SUBFOLDER
    assert "DICOM" in left_out["IM01"]
    image_files(folder, VOLUMES).say_left_out()
    (line,) = capsys.readouterr().err.splitlines()
    assert all(name in line for name in left_out)
    image_files(touch(tmp_path / "whole", "a.nii"), VOLUMES).say_left_out()
    assert capsys.readouterr().err == ""


def test_many_files_left_out_for_one_reason_are_counted():
    names = [(f"data/patient{n:03d}_frame01.h5", "no case uses it") for n in range(16)]
    line = left_out_line("the data set", [*names, ("notes.txt", "no image file")])
    listed = ", ".join(name for name, _ in names[:5])
    assert line == (
        f"left out of the data set: {listed} and 11 more (no case uses it); "
        "notes.txt (no image file)"
    )


def test_folders_behind_links_are_walked_and_circles_end(tmp_path: Path):
    store = touch(tmp_path / "store" / "p1", "x.h5")
    folder = touch(tmp_path / "in" / "p0", "x.h5").parent
    (folder / "p1").symlink_to(store)
    (folder / "p2").symlink_to(store)
    (folder / "p0" / "up").symlink_to(folder)
    names = [path.relative_to(folder).as_posix() for path in files_below(folder, "*.h5")]
    assert names == ["p0/x.h5", "p1/x.h5", "p2/x.h5"]


def test_raw_folders_hold_what_nnunet_reads():
    assert set(RAW_VOLUMES) < set(VOLUMES)
