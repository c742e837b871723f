"""Workers may fail, die or be left behind; the other jobs go on and nothing stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import worker_jobs as jobs

from graphnn_unet.errors import NoSpaceError
from graphnn_unet.storage.processes import default_workers, run_jobs, shared_workers

HERE = Path(__file__).parent


@pytest.mark.parametrize("n_workers", [0, 2])
def test_every_job_has_its_own_result(n_workers):
    outcomes = list(run_jobs(jobs.square, range(7), n_workers=n_workers))
    assert sorted((o.job, o.value) for o in outcomes) == [(n, n * n) for n in range(7)]
    assert all(o.ok for o in outcomes)


def test_results_come_when_they_are_ready():
    order = [o.value for o in run_jobs(jobs.slow_first, range(4), n_workers=2)]
    assert sorted(order) == [0, 1, 2, 3]
    assert order[0] != 0


def test_no_jobs_give_no_results():
    assert list(run_jobs(jobs.square, [], n_workers=2)) == []


def test_jobs_are_drawn_only_when_a_worker_is_free():
    drawn = []

    def source():
        for number in range(20):
            drawn.append(number)
            yield number

    results = run_jobs(jobs.square, source(), n_workers=2)
    next(results)
    assert len(drawn) <= 4
    results.close()


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_failing_job_is_isolated_and_says_why(n_workers):
    outcomes = {o.job: o for o in run_jobs(jobs.fail_on_two, range(5), n_workers=n_workers)}
    assert [n for n in range(5) if outcomes[n].ok] == [0, 1, 4]
    assert outcomes[2].error == "ValueError: two"
    assert "is not one" in outcomes[2].details
    assert not outcomes[2].expected
    assert outcomes[3].error == "three: it is odd. Give four"
    assert outcomes[3].expected


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_full_disk_ends_all_jobs_and_accuses_none(n_workers):
    with pytest.raises(NoSpaceError, match=r"no space left while writing x\.b2nd"):
        list(run_jobs(jobs.full_at_three, range(9), n_workers=n_workers))


def test_a_job_that_kills_its_worker_is_tried_again_and_then_reported():
    began = time.monotonic()
    outcomes = {o.job: o for o in run_jobs(jobs.kill_self_on_one, range(6), n_workers=2)}
    assert time.monotonic() - began < 20
    assert [n for n in range(6) if outcomes[n].ok] == [0, 2, 3, 4, 5]
    assert "killed twice (SIGKILL; the system was probably out of memory)" in outcomes[1].error
    assert outcomes[1].expected


def test_a_job_whose_worker_was_killed_once_succeeds(tmp_path):
    work = [(n, str(tmp_path / "mark")) for n in range(3)]
    outcomes = list(run_jobs(jobs.kill_self_once, work, n_workers=2))
    assert (tmp_path / "mark").exists()
    assert sorted(o.value for o in outcomes) == [0, 1, 2]


def test_a_worker_that_leaves_is_reported_with_its_status():
    (outcome,) = run_jobs(jobs.leave_with_status, [7], n_workers=1, retries=0)
    assert outcome.error == "its worker process ended once with status 7; use fewer workers"


def test_workers_killed_between_two_results_cost_no_job():
    results = run_jobs(jobs.square, iter(range(12)), n_workers=2)
    values = [next(results).value]
    workers = [
        child
        for child in psutil.Process().children(recursive=True)
        if "forkserver" in " ".join(child.cmdline()) and not child.children()
    ]
    assert workers
    for worker in workers:
        worker.kill()
    values += [outcome.value for outcome in results]
    assert sorted(values) == [n * n for n in range(12)]


def test_shared_workers_take_other_functions_and_end_with_the_block():
    with shared_workers():
        squares = [o.value for o in run_jobs(jobs.square, range(5), n_workers=2)]
        first = {o.value for o in run_jobs(jobs.process_number, range(20), n_workers=2)}
        outcomes = {o.job: o for o in run_jobs(jobs.fail_on_two, range(4), n_workers=2)}
        again = {o.value for o in run_jobs(jobs.process_number, range(20), n_workers=2)}
        processes = [psutil.Process(number) for number in first]
    assert sorted(squares) == [n * n for n in range(5)]
    assert [outcomes[n].ok for n in range(4)] == [True, True, False, False]
    assert again <= first
    assert os.getpid() not in first
    psutil.wait_procs(processes, timeout=10)
    assert not any(process.is_running() for process in processes)


def test_shared_workers_that_died_meanwhile_cost_no_job():
    with shared_workers():
        numbers = {o.value for o in run_jobs(jobs.process_number, range(20), n_workers=2)}
        for number in numbers:
            os.kill(number, signal.SIGKILL)
        squares = [o.value for o in run_jobs(jobs.square, range(6), n_workers=2)]
    assert sorted(squares) == [n * n for n in range(6)]


def test_workers_with_jobs_left_are_not_shared():
    with shared_workers():
        results = run_jobs(jobs.square, range(100), n_workers=2)
        next(results)
        results.close()
        outcomes = run_jobs(jobs.square, [7, 8], n_workers=2)
        assert sorted(o.value for o in outcomes) == [49, 64]


def test_a_large_result_comes_through():
    outcomes = list(run_jobs(jobs.fifty_megabytes, [1, 2], n_workers=2))
    assert all(len(o.value) == 50_000_000 and o.value[-1] == o.job for o in outcomes)


def test_a_result_that_cannot_be_sent_is_an_error_of_its_job():
    (outcome,) = run_jobs(jobs.unsendable, [0], n_workers=1)
    assert "its result cannot be sent" in outcome.error


def test_workers_see_the_folders_of_this_process(monkeypatch):
    """A fork server keeps the environment of its start."""
    for value in ("/first", "/second"):
        monkeypatch.setenv("nnUNet_raw", value)
        (outcome,) = run_jobs(jobs.environment_value, ["nnUNet_raw"], n_workers=1)
        assert outcome.value == value


def test_workers_leave_interrupts_to_their_parent():
    assert next(run_jobs(jobs.interrupts_are_ignored, [0], n_workers=1)).value


def test_workers_are_bounded_by_jobs_and_one_is_none():
    assert default_workers(1) == 0
    assert default_workers(1000, memory_per_worker_gb=1e9) == 0
    assert default_workers(1000, memory_per_worker_gb=1e-9) in (0, *range(2, 4096))


def test_workers_are_counted_without_the_scheduler_of_linux(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert default_workers(3, memory_per_worker_gb=1e-9) == 3


PARENT = """
import sys
sys.path.insert(0, {here!r})
import worker_jobs
from graphnn_unet.storage.processes import run_jobs
if __name__ == "__main__":
    list(run_jobs(worker_jobs.note_and_wait, [sys.argv[1]] * 2, n_workers=2))
"""


def start_parent(folder: Path) -> tuple[subprocess.Popen, list[int]]:
    """A process with two busy workers, and their process ids."""
    script = folder / "parent.py"
    script.write_text(PARENT.format(here=str(HERE)))
    notes = folder / "notes"
    notes.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(notes)],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while len(list(notes.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return parent, [int(path.name) for path in notes.iterdir()]


def gone_within(process_ids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(process_id) for process_id in process_ids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("reap", [True, False], ids=["waited-for", "zombie"])
def test_workers_are_gone_soon_after_their_parent_was_killed(tmp_path, reap):
    parent, workers = start_parent(tmp_path)
    family = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    assert set(workers) <= set(family)
    parent.kill()
    if reap:
        parent.wait()
    assert gone_within(family, 5)
    parent.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="fork servers")
@pytest.mark.parametrize("preloads", [True, False], ids=["server", "worker"])
def test_what_still_imports_is_gone_soon_after_its_parent_was_killed(tmp_path, preloads):
    """The server looks for its parent, and a worker at its pipe, when their imports are done."""
    (tmp_path / "slow_module.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "def job(number): return number\n"
        f"if os.getpid() != int(os.environ['PARENT']):\n"
        f"    Path({str(tmp_path)!r}, 'importing').write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "if __name__ == '__main__':\n"
        "    os.environ['PARENT'] = str(os.getpid())\n"
        "    import slow_module\n"
        "    from graphnn_unet.storage import processes\n"
        f"    processes.HEAVY = ('slow_module',) if {preloads} else ()\n"
        "    list(processes.run_jobs(slow_module.job, range(4), n_workers=2))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path)
    note, deadline = tmp_path / "importing", time.monotonic() + 60
    while not (note.exists() and note.read_text(encoding="utf-8")) and time.monotonic() < deadline:
        time.sleep(0.02)
    family = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    parent.kill()
    parent.wait()
    assert int(note.read_text(encoding="utf-8")) in family
    assert gone_within(family, 5)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupt_leaves_no_orphans(tmp_path):
    parent, workers = start_parent(tmp_path)
    family = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    assert len(workers) == 2
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=15)
    assert b"KeyboardInterrupt" in errors
    assert gone_within(family, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal")
def test_the_thread_alone_ends_a_worker_too(tmp_path):
    """Systems without a signal at the parent's death rely on it."""
    code = (
        "import ctypes, os, sys, time; from graphnn_unet.storage import processes as p; "
        "p.sys = type('s', (), {'platform': 'other'}); p.leave_with_parent(int(sys.argv[1])); "
        "print('ready', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(["sleep", "60"])
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(parent.pid)],stdout=subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout.readline() == b"ready\n"
    parent.kill()
    assert worker.wait(timeout=5) == 1
    parent.wait()


def test_workers_do_not_take_the_current_folder_for_the_package(tmp_path):
    bare = tmp_path / "checkout" / "graphnn_unet"
    bare.mkdir(parents=True)
    (bare / "__init__.py").write_text("raise ImportError('the bare checkout was imported')\n")
    script = tmp_path / "script.py"
    script.write_text(
        "from graphnn_unet.data.check_files import check_case_images\n"
        "from graphnn_unet.storage.processes import run_jobs\n"
        "if __name__ == '__main__':\n"
        "    jobs = [['a.nii.gz'], ['b.nii.gz'], ['c.nii.gz']]\n"
        "    outcomes = list(run_jobs(check_case_images, jobs, n_workers=2))\n"
        "    assert len(outcomes) == 3, outcomes\n"
        "    assert all(o.ok or o.expected for o in outcomes), [o.error for o in outcomes]\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path / "checkout",
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
