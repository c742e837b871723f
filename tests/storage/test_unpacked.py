"""Unpacked copies of packed files: there while they are of use, and never in the way."""

import gzip
import os
from pathlib import Path

import pytest

from graphnn_unet.storage import unpacked
from graphnn_unet.storage.unpacked import (
    copy_or_file,
    folder_for_copies,
    keeping_copy,
    worth_keeping,
)


def packed(path: Path, n_bytes: int = 1000) -> Path:
    path.write_bytes(gzip.compress(bytes(n_bytes)))
    return path


def test_a_copy_is_found_while_its_folder_is_there(tmp_path):
    file, other = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    with folder_for_copies(tmp_path / "target") as folder:
        keep = keeping_copy(file, folder)
        assert keep is not None
        keep(b"voxels")
        copy = Path(copy_or_file(str(file), folder))
        assert (copy.read_bytes(), copy.suffix) == (b"voxels", ".nii")
        assert copy_or_file(str(other), folder) == str(other)
    assert copy_or_file(str(file), folder) == str(file)
    assert copy_or_file(str(file), None) == str(file)
    assert keeping_copy(file, None) is None


def test_the_target_stays_where_it_was_there_or_has_got_something(tmp_path):
    target = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt), folder_for_copies(target):
        raise KeyboardInterrupt
    assert not target.exists()
    with folder_for_copies(target):
        (target / "report.json").touch()
    assert [path.name for path in target.iterdir()] == ["report.json"]
    (target / "report.json").unlink()
    with folder_for_copies(target):
        pass
    assert target.is_dir()


def test_folders_of_killed_processes_are_cleared_and_those_of_living_ones_stay(tmp_path):
    with folder_for_copies(tmp_path) as folder:
        name = folder.name.removesuffix(str(os.getpid()))
    dead, living = tmp_path / f"{name}{2**22 + 1}", tmp_path / f"{name}{os.getppid()}"
    elsewhere = tmp_path / f"{name[:-1]}_other-{2**22 + 1}"
    for path in (dead, living, elsewhere):
        path.mkdir()
        (path / "copy.nii").touch()
    with folder_for_copies(tmp_path):
        assert not dead.exists()
    assert living.is_dir()
    assert elsewhere.is_dir()


def test_copies_are_kept_as_far_as_there_is_room(tmp_path, monkeypatch):
    files = [packed(tmp_path / f"{n}.nii.gz") for n in range(4)]
    plain = tmp_path / "plain.nii"
    plain.touch()
    assert worth_keeping([plain, *files], tmp_path) == {*files}
    free = unpacked.shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(unpacked, "_DISK_SHARE", 2500 / free)
    monkeypatch.setattr(
        unpacked.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free})()
    )
    assert worth_keeping(files, tmp_path) == {*files[:2]}
    assert worth_keeping([tmp_path / "missing.nii.gz", *files], tmp_path) == set()


def test_a_copy_that_cannot_be_written_is_none(tmp_path):
    file = tmp_path / "a.nii.gz"
    keep = keeping_copy(file, tmp_path / "gone")
    assert keep is not None
    keep(b"voxels")
    assert copy_or_file(str(file), tmp_path / "gone") == str(file)
