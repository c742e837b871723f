"""One writer a folder; the next one learns who it is."""

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from filelock import FileLock

from graphnn_unet.errors import InputError, LockedError
from graphnn_unet.storage import locks
from graphnn_unet.storage.locks import WORK_FOLDER, folder_lock, part_lock, work_folder

HOLDER = """
import sys, time
from graphnn_unet.storage.locks import folder_lock
with folder_lock(sys.argv[1], "a long work"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "folder")],stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path, holder):
    with pytest.raises(LockedError) as caught, folder_lock(tmp_path / "folder", "another"):
        pytest.fail("two holders of one lock")
    line = caught.value.line
    assert f"a long work by process {holder.pid} on {socket.gethostname()} since " in line
    started = datetime.fromisoformat(line.partition(" since ")[2].partition(". Wait")[0])
    assert abs((datetime.now().astimezone() - started).total_seconds()) < 60
    assert caught.value.exit_status == 2


def test_a_refused_process_does_not_touch_the_note_of_the_holder(tmp_path, holder):
    for _ in range(2):
        with (
            pytest.raises(LockedError, match=str(holder.pid)),
            folder_lock(tmp_path / "folder", ""),
        ):
            pass


def test_the_lock_of_a_killed_process_is_taken_over_with_a_message(tmp_path, holder, caplog):
    holder.kill()
    holder.wait()
    with caplog.at_level(logging.INFO), folder_lock(tmp_path / "folder", "another"):
        note = json.loads((tmp_path / "folder" / ".gnnunet.lock.json").read_text(encoding="utf-8"))
        assert note["pid"] == os.getpid()
        assert note["purpose"] == "another"
    assert "took over the lock" in caplog.text
    assert f"process {holder.pid}" in caplog.text


def test_a_lock_is_free_after_its_block_and_after_an_error(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError), folder_lock(tmp_path, "a test"):
                raise ZeroDivisionError
        with folder_lock(tmp_path, "a test"):
            pass
    assert caplog.text == ""
    assert not (tmp_path / ".gnnunet.lock.json").exists()


def test_one_process_cannot_hold_a_lock_twice(tmp_path):
    with (
        folder_lock(tmp_path, "outer"),
        pytest.raises(LockedError, match="outer"),
        folder_lock(tmp_path, "inner"),
    ):
        pass


@pytest.mark.parametrize("note", ["", "{", "[]", '{"host": "a"}'])
def test_a_damaged_note_is_no_obstacle(tmp_path, note):
    (tmp_path / ".gnnunet.lock.json").write_text(note)
    with folder_lock(tmp_path, "a test"):
        assert "a test" in (tmp_path / ".gnnunet.lock.json").read_text(encoding="utf-8")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match="file cannot be written"),
        folder_lock(tmp_path / "file", "a test"),
    ):
        pass


def test_a_work_folder_goes_with_its_block(tmp_path: Path):
    target = tmp_path / "out" / "model"

    def stop_half_way() -> None:
        with work_folder(target) as work:
            assert work.parent == target.parent
            (work / "part").write_text("x")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop_half_way()
    assert not list(target.parent.iterdir())


def test_work_folders_of_killed_processes_are_removed_and_those_of_living_ones_kept(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from graphnn_unet.storage.locks import work_folder\n"
        "with work_folder(Path(sys.argv[1])) as work:\n"
        "    (work / 'part').write_text('x'); print(work.name, flush=True); time.sleep(60)\n"
    )
    target = tmp_path / "model.zip"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    try:
        with work_folder(target):
            assert (tmp_path / name / "part").exists()
    finally:
        other.kill()
        other.wait()
    with work_folder(target):
        assert not (tmp_path / name).exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_named(tmp_path, monkeypatch, number):
    """Network drives are mounted so that locks fail, as NFS is without its lock service."""

    def flock(_file: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    with (
        pytest.raises(InputError, match="has no locks, as some network drives") as caught,
        folder_lock(tmp_path / "folder", "a test"),
    ):
        pytest.fail("worked without a lock")
    assert str(tmp_path / "folder") in caught.value.line
    assert not (tmp_path / "folder" / ".gnnunet.lock.json").exists()
    monkeypatch.undo()
    with folder_lock(tmp_path / "folder", "a test"):
        pass


def test_a_work_folder_that_is_listed_and_gone_is_no_obstacle(tmp_path, monkeypatch):
    inner = Path.glob
    gone = tmp_path / f"{WORK_FOLDER}gone"
    monkeypatch.setattr(Path, "glob", lambda p, pattern: iter([gone, *inner(p, pattern)]))
    with work_folder(tmp_path / "target"):
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_whole_and_parts_exclude_each_other_and_parts_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_HAS_NOTE_S", 0.1)
    with part_lock(tmp_path, 0, "first part"), part_lock(tmp_path, 1, "second part"):
        with pytest.raises(LockedError, match="first part"), part_lock(tmp_path, None, "all"):
            pytest.fail("a part is at work")
        with pytest.raises(LockedError), part_lock(tmp_path, 1, "second part again"):
            pytest.fail("this part is at work")
    with (
        part_lock(tmp_path, None, "all"),
        pytest.raises(LockedError, match="all by process"),
        part_lock(tmp_path, 0, "first part"),
    ):
        pytest.fail("the whole is at work")
    with part_lock(tmp_path, 0, "first part"):
        pass


def test_a_part_waits_for_another_that_only_looks(tmp_path, monkeypatch):
    ready, over = threading.Event(), threading.Event()

    def look():
        with FileLock(tmp_path / ".gnnunet.lock"):
            ready.set()
            time.sleep(0.5)  # longer than one look of the other
            over.set()

    thread = threading.Thread(target=look)
    thread.start()
    assert ready.wait(20)
    with part_lock(tmp_path, 0, "a part"):
        assert over.is_set(), "it did not wait"
    thread.join()
    monkeypatch.setattr(locks, "_LOOKS_FOR_S", 0.1)
    with (
        FileLock(tmp_path / ".gnnunet.lock"),
        pytest.raises(LockedError),
        part_lock(tmp_path, 0, "a part"),
    ):
        pytest.fail("somebody holds the whole for longer than a look takes")
