"""A final name stands for a whole file, whatever happens to the writer."""

import errno
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.errors import InputError, NoSpaceError
from graphnn_unet.storage import atomic
from graphnn_unet.storage.atomic import (
    atomic_path,
    exchange_folder,
    naming_a_full_disk,
    remove_leftovers,
    replace_folder,
    require_free_space,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(target: Path, error: type[BaseException]) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error


def test_a_written_file_has_its_content_and_nothing_lies_beside_it(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "größer")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "größer"
    assert names_in(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_after_an_exception_the_old_state_is_there(tmp_path, error, old):
    target = tmp_path / "a.txt"
    if old:
        target.write_text(old)
    with pytest.raises(error):
        write_half(target, error)
    assert names_in(tmp_path) == (["a.txt"] if old else [])
    assert not old or target.read_text(encoding="utf-8") == old


def test_the_final_name_appears_only_when_the_writer_has_finished(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == tmp_path
    assert target.read_text(encoding="utf-8") == "half"


@pytest.mark.parametrize(
    ("name", "ending"), [("a.b_0000.nii.gz", ".nii.gz"), ("x.pth", ".pth"), ("bare", "")]
)
def test_the_temporary_name_keeps_the_ending_by_which_writers_choose_a_format(
    tmp_path, name, ending
):
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.name.endswith(ending)
        assert temporary.name.count(".nii") == ending.count(".nii")
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
        temporary.write_bytes((tmp_path / "a.nii.gz").read_bytes())


def test_two_writers_of_one_name_do_not_share_a_temporary_file(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "first"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, code):
    target = tmp_path / "a.json"
    write_json(target, {"a": 1})

    with pytest.raises(NoSpaceError) as caught, atomic_path(target):
        raise OSError(code, os.strerror(code))
    assert str(target) in caught.value.line
    assert "MB are free" in caught.value.line
    assert caught.value.exit_status == 2
    assert json.loads(target.read_text(encoding="utf-8")) == {"a": 1}
    assert names_in(tmp_path) == ["a.json"]


def test_a_flush_that_finds_no_room_counts_as_full_disk(tmp_path, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NoSpaceError):
        write_text(tmp_path / "a", "x")
    assert names_in(tmp_path) == []


def test_a_writer_that_does_not_say_why_it_failed_is_judged_by_the_room(tmp_path):
    """blosc2 raises RuntimeError; a quota or a limit leaves the disk itself with room."""
    with pytest.raises(RuntimeError, match="a defect"), naming_a_full_disk(tmp_path / "a", 10_000):
        raise RuntimeError("a defect")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, before[1]))
    try:
        with pytest.raises(NoSpaceError), naming_a_full_disk(tmp_path / "a", 10_000):
            raise RuntimeError("Error while creating the NDArray")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names_in(tmp_path) == []


def test_other_errors_of_the_system_are_not_called_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "nothing").read_text(encoding="utf-8")


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from graphnn_unet.errors import NoSpaceError
from graphnn_unet.storage.atomic import atomic_path, write_bytes
target, limit = Path(sys.argv[1]), 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if target.name.endswith((".nii", ".nii.gz")):
        import SimpleITK as sitk
        noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
        with atomic_path(target) as temporary:
            sitk.WriteImage(sitk.GetImageFromArray(noise), str(temporary))
    else:
        write_bytes(target, b"x" * (2 * limit))
except NoSpaceError as error:
    print(error.line)
    sys.exit(2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("name", ["a.bin", "a.nii", "a.nii.gz"])
def test_a_real_limit_leaves_the_old_file(tmp_path, name):
    """SimpleITK reports nothing in this case and leaves a short file."""
    target = tmp_path / name
    target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(target)],
        capture_output=True, encoding="utf-8", timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f"no space left while writing {target}" in done.stdout
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == [name]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_whole_images_of_every_kind_pass(tmp_path, kind, ending, dtype):
    image = kind(np.zeros((5, 4, 3), dtype), np.eye(4))
    with atomic_path(tmp_path / f"a{ending}") as temporary:
        nib.save(image, temporary)
    assert nib.load(tmp_path / f"a{ending}").shape == (5, 4, 3)


def test_an_image_packed_in_several_streams_passes(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)), tmp_path / "whole.nii")
    content = (tmp_path / "whole.nii").read_bytes()
    write_bytes(
        tmp_path / "a.nii.gz", gzip.compress(content[:1000]) + gzip.compress(content[1000:])
    )
    assert sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a.nii.gz")).all()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="permission denied"):
        write_text(tmp_path / "a", "x")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written.*Choose a folder"):
        write_text(tmp_path / "a" / "b", "x")


KILLED = """
import sys, time
from graphnn_unet.storage.atomic import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_only_what_remove_leftovers_finds(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    assert target.read_text(encoding="utf-8") == "old"
    assert len(names_in(tmp_path)) == 2
    assert remove_leftovers(tmp_path) == 1
    assert names_in(tmp_path) == ["a.txt"]


def test_json_takes_numpy_values_sets_and_paths(tmp_path):
    content = {
        "array": np.arange(3), "scalar": np.float32(0.5), "set": {1}, "path": Path("a"), "t": (1,),
    }  # fmt: skip
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "array": [0, 1, 2], "scalar": 0.5, "set": [1], "path": "a", "t": [1],
    }  # fmt: skip


def test_json_of_an_unknown_type_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        write_json(tmp_path / "a.json", object())
    assert names_in(tmp_path) == ["a.json"]


def test_csv_has_exactly_the_given_columns(tmp_path):
    write_csv(tmp_path / "a.csv", [{"a": 'x,"y', "b": 1}], ["b", "a"])
    assert (tmp_path / "a.csv").read_bytes() == b'b,a\n1,"x,""y"\n'
    with pytest.raises(ValueError, match="c"):
        write_csv(tmp_path / "a.csv", [{"a": 1, "b": 1, "c": 1}], ["b", "a"])


def make_folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


def test_a_replaced_folder_holds_the_new_files_alone(tmp_path):
    target = make_folder(tmp_path / "target", "old")
    (target / "only_old").write_text("x")
    replace_folder(make_folder(tmp_path / "new", "new"), target)
    assert names_in(tmp_path) == ["target"]
    assert names_in(target) == ["file"]
    assert (target / "file").read_text(encoding="utf-8") == "new"


def test_the_old_folder_returns_when_the_new_one_cannot_move(tmp_path):
    target = make_folder(tmp_path / "target", "old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", target)
    assert (target / "file").read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["target"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_crash_at_any_point_of_the_exchange_leaves_one_whole_folder(
    tmp_path, monkeypatch, renames
):
    """After no rename and after the first one the old folder is in force, after both the new."""
    target = make_folder(tmp_path / "target", "old")
    new = make_folder(tmp_path / "new", "new")
    done = []
    rename = Path.replace

    class Crash(BaseException):
        pass

    def counted(self, other):
        if len(done) == renames:
            raise Crash
        done.append(self)
        return rename(self, other)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        if renames < 2:
            with pytest.raises(Crash):
                replace_folder(new, target)
        else:
            replace_folder(new, target)  # ended before the old one was deleted
    remove_leftovers(tmp_path)
    assert (target / "file").read_text(encoding="utf-8") == ("new" if renames == 2 else "old")
    assert names_in(tmp_path) == (["target"] if renames == 2 else ["new", "target"])


def test_too_little_room_is_refused_before_work(tmp_path):
    require_free_space(tmp_path / "not" / "made", 1, "a test")
    with pytest.raises(
        NoSpaceError, match=r"too little room for a test.*it needs 1099511627776 MB"
    ):
        require_free_space(tmp_path / "not" / "made", 2**60, "a test")


def test_disk_that_tells_no_size_is_not_full(tmp_path, monkeypatch):
    usage, asked = shutil.disk_usage(tmp_path)._replace(free=0), []

    def told(path):
        asked.append(path)
        return usage

    monkeypatch.setattr(shutil, "disk_usage", told)
    with pytest.raises(NoSpaceError):
        require_free_space(tmp_path, 1, "a test")
    usage = usage._replace(total=0)
    assert require_free_space(tmp_path, 1, "a test") is None
    assert len(asked) == 2


def failing_renames(monkeypatch: pytest.MonkeyPatch, number: int, n_times: int, lost: bool) -> list:
    """Let the first renames fail, as a server does that is not there; ``lost``: they were done."""
    inner, tries = Path.replace, []
    monkeypatch.setattr(atomic, "PAUSES_S", (0.01, 0.01))

    def replace(path: Path, target: Path) -> Path:
        tries.append(target)
        if len(tries) <= n_times:
            if lost:
                inner(path, target)
            raise OSError(number, os.strerror(number), str(path), None, str(target))
        return inner(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    return tries


@pytest.mark.parametrize("lost", [False, True], ids=["not-done", "answer-lost"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EBUSY])
def test_a_rename_that_fails_once_is_tried_again(tmp_path, monkeypatch, number, lost):
    tries = failing_renames(monkeypatch, number, 1, lost)
    write_text(tmp_path / "a.txt", "new")
    assert len(tries) == (1 if lost else 2)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_rename_that_always_fails_is_one_line_and_the_old_file_is_there(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    tries = failing_renames(monkeypatch, errno.ESTALE, 9, lost=False)
    with pytest.raises(InputError, match=r"a\.txt cannot be used: stale .*Run it again") as caught:
        write_text(tmp_path / "a.txt", "new")
    assert len(tries) == 3
    assert len(caught.value.lines) == 1
    assert names_in(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


def test_a_rename_that_fails_for_good_is_not_tried_again(tmp_path, monkeypatch):
    tries = failing_renames(monkeypatch, errno.EACCES, 9, lost=False)
    with pytest.raises(InputError, match="permission denied"):
        write_text(tmp_path / "a.txt", "new")
    assert len(tries) == 1


@pytest.mark.parametrize("failing", [1, 2], ids=["aside", "into-place"])
def test_a_folder_is_replaced_though_a_rename_fails_once(tmp_path, monkeypatch, failing):
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    inner, tries = Path.replace, []

    def replace(path: Path, target: Path) -> Path:
        tries.append(target)
        if len(tries) == failing:
            raise OSError(errno.EBUSY, "busy", str(path), None, str(target))
        return inner(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    replace_folder(tmp_path / "new", tmp_path / "target")
    assert len(tries) == 3
    assert names_in(tmp_path) == ["target"]
    assert (tmp_path / "target" / "a.txt").read_text(encoding="utf-8") == "new"


def test_a_slow_rename_shows_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    target, inner = tmp_path / "a.txt", Path.replace
    write_text(target, "old")

    def slow(path: Path, name: Path) -> Path:
        time.sleep(0.3)
        return inner(path, name)

    monkeypatch.setattr(Path, "replace", slow)
    seen = set()
    writer = threading.Thread(target=write_text, args=(target, "new"))
    writer.start()
    while writer.is_alive():
        seen.add(target.read_text(encoding="utf-8"))
    assert seen <= {"old", "new"}
    assert "old" in seen
    assert target.read_text(encoding="utf-8") == "new"


def stale_listings(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """A folder lists files and folders that somebody has removed meanwhile."""
    inner = Path.glob
    gone = [folder / name for name in names]

    def glob(path: Path, pattern: str, **options):
        listed = list(inner(path, pattern, **options))
        return iter([*(p for p in gone if path == folder and p.match(pattern)), *listed])

    monkeypatch.setattr(Path, "glob", glob)


def test_leftovers_that_are_listed_and_gone_are_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "..partial-1").write_text("x")
    stale_listings(
        monkeypatch, tmp_path, "..partial-0", "..partial-folder-0", "..partial-old-set-77",
    )  # fmt: skip
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_exchanged_for_another(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchanged", lambda first, second: False)
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    exchange_folder(tmp_path / "new", tmp_path / "old")
    assert names_in(tmp_path) == ["old"]
    assert names_in(tmp_path / "old") == ["new"]


@pytest.mark.skipif(sys.platform != "linux", reason="by a call of Linux")
def test_a_kill_behind_the_exchange_leaves_the_new_folder_in_place(tmp_path, monkeypatch):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)

    def killed(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        exchange_folder(tmp_path / "new", tmp_path / "old")
    assert names_in(tmp_path / "old") == ["new"]
    assert names_in(tmp_path / "new") == ["old"]


def test_a_second_name_is_a_link_or_a_copy_and_replaces_nothing(tmp_path, monkeypatch):
    source = tmp_path / "a"
    source.write_text("one")
    atomic.link_or_copy(source, tmp_path / "b")
    assert (tmp_path / "b").samefile(source)
    (tmp_path / "c").write_text("mine")
    atomic.link_or_copy(source, tmp_path / "c")
    assert (tmp_path / "c").read_text(encoding="utf-8") == "mine"

    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    atomic.link_or_copy(source, tmp_path / "d", symbolic=True)
    assert (tmp_path / "d").is_symlink()
    atomic.link_or_copy(source, tmp_path / "e")
    assert not (tmp_path / "e").is_symlink()
    assert (tmp_path / "e").read_text(encoding="utf-8") == "one"
