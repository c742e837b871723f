import os
from pathlib import Path

import pytest

from graphnn_unet.errors import FaultsError, MissingFileError
from graphnn_unet.images.find import (
    HIDDEN,
    NO_IMAGE,
    VOLUMES,
    file_ending,
    image_files,
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
