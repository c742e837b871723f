"""Jobs on Dask workers: found again, done elsewhere, failing alone; a lost scheduler is told."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import worker_jobs as jobs

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.storage import cluster as module
from graphnn_unet.storage.cluster import ClusterSpec, job_script, open_cluster
from graphnn_unet.storage.processes import jobs_run_by, run_elsewhere, run_jobs

HERE = Path(__file__).parent
LONG_S = 900


# ------------------------------------------------------------------------------ the seam


@pytest.mark.parametrize("n_workers", [0, 2])
def test_jobs_go_elsewhere_in_the_block_alone(n_workers):
    seen = []

    def runner(function, work):
        seen.append(function)
        return jobs.run_as_worker(function, work)

    with jobs_run_by(runner):
        assert run_elsewhere()
        outcomes = {o.job: o for o in run_jobs(jobs.fail_on_two, range(4), n_workers=n_workers)}
    assert seen == [jobs.fail_on_two]
    assert [n for n in range(4) if outcomes[n].ok] == [0, 1]
    assert outcomes[2].error == "ValueError: two"
    assert outcomes[3].error == "three: it is odd. Give four"
    assert outcomes[3].expected
    assert not run_elsewhere()
    assert [o.value for o in run_jobs(jobs.square, [3], n_workers=0)] == [9]
    assert len(seen) == 1


def test_a_full_disk_of_a_worker_ends_the_run():
    with jobs_run_by(jobs.run_as_worker), pytest.raises(OSError, match="no space left"):
        list(run_jobs(jobs.full_at_three, range(9), n_workers=0))


def test_without_cluster_the_same_call_uses_processes():
    with open_cluster(None, n_workers=0) as cluster:
        assert [o.value for o in cluster.run(jobs.square, iter(range(4)))] == [0, 1, 4, 9]
        assert not run_elsewhere()


def test_worker_keeps_a_function_and_what_it_has_loaded():
    function = jobs.Counting()
    assert [o.value for o in jobs.run_as_worker(function, range(3))] == [1, 2, 3]


def test_result_that_cannot_be_sent_fails_alone():
    (outcome,) = jobs.run_as_worker(jobs.unsendable, [0])
    assert outcome.error.startswith("its result cannot be sent")


def test_worker_works_in_the_folder_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = module._Command.here()
    monkeypatch.chdir("/")
    outcome = module._on_worker(module._Sent(jobs.working_folder, 0, command))
    assert outcome.value == str(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (module._Command("/nowhere/to/be", {}), "/nowhere/to/be is missing on "),
        (module._Command("/", {}, version="0.0"), "the command is of version 0.0"),
    ],
)
def test_worker_that_cannot_stand_in_says_why(command, words):
    outcome = module._on_worker(module._Sent(jobs.square, 3, command))
    assert words in outcome.error
    assert outcome.expected


# ------------------------------------------------------------------------------ what is given


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("local:3", ClusterSpec("local", 3)),
        ("slurm", ClusterSpec("slurm")),
        ("slurm:12", ClusterSpec("slurm", 12)),
        ("node7:8786", ClusterSpec("address", address="node7:8786")),
        ("tls://10.0.0.1:8786", ClusterSpec("address", address="tls://10.0.0.1:8786")),
        ("/shared/scheduler.json", ClusterSpec("address", address="/shared/scheduler.json")),
    ],
)
def test_place_is_read(text, spec):
    assert ClusterSpec.parse(text) == spec


@pytest.mark.parametrize(
    "text", ["local", "local:0", "local:x", "slurm:", "slurm:-1", "node7", "", "a b:1"]
)
def test_other_places_are_refused_in_one_line(text):
    with pytest.raises(InputError, match="Give local:N, slurm"):
        ClusterSpec.parse(text)


def test_settings_of_a_queue_are_read_from_a_file(tmp_path):
    path = tmp_path / "queue.toml"
    path.write_text('jobs = 4\ncores = 2\nmemory = "8GB"\n')
    assert ClusterSpec.parse(f"slurm:{path}") == ClusterSpec(
        "slurm", 4, options={"cores": 2, "memory": "8GB"}
    )
    path.write_text("jobs = [")
    with pytest.raises(InputError, match="is not TOML"):
        ClusterSpec.parse(f"slurm:{path}")
    path.write_text("jobs = 0")
    with pytest.raises(InputError, match="names no number of workers"):
        ClusterSpec.parse(f"slurm:{path}")
    with pytest.raises(MissingFileError):
        ClusterSpec.parse("slurm:nowhere.toml")


@pytest.mark.parametrize(("spec", "name"), [("local:2", "distributed"), ("slurm", "dask-jobqueue")])
def test_missing_library_is_named_with_the_way_to_get_it(spec, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", sys if name != "distributed" else None)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(InputError) as caught, open_cluster(spec):
        pass
    assert caught.value.line == (
        f"--cluster is not possible: {name} is missing. "
        "Install it with: pip install 'graphnn-unet[cluster]'."
    )


def test_only_a_queue_has_a_script():
    with pytest.raises(InputError, match="local:2 has no queue script"):
        job_script("local:2")


# ------------------------------------------------------------------------------ real workers


@pytest.mark.slow
def test_queue_script_has_the_settings(tmp_path):
    pytest.importorskip("dask_jobqueue")
    path = tmp_path / "queue.toml"
    path.write_text(
        'cores = 2\nprocesses = 2\nmemory = "8GB"\nqueue = "gpu"\nwalltime = "02:00:00"\n'
        'job_extra_directives = ["--gres=gpu:1"]\nscheduler_options = {host = "127.0.0.1"}\n'
    )
    lines = job_script(f"slurm:{path}").splitlines()
    for line in ("-p gpu", "--gres=gpu:1", "-t 02:00:00", "--cpus-per-task=2"):
        assert f"#SBATCH {line}" in lines
    assert "distributed.cli.dask_worker" in lines[-1]
    path.write_text('cores = 2\nmemory = "8GB"\ncolour = "red"\n')
    with pytest.raises(InputError, match="the settings of the queue cannot be used"):
        job_script(f"slurm:{path}")


@pytest.fixture(scope="module")
def two_workers():
    pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        with open_cluster("local:2") as cluster:
            yield cluster


@pytest.mark.slow
def test_every_job_has_its_own_result_and_equal_jobs_are_done_once(two_workers):
    outcomes = list(two_workers.run(jobs.square, [*range(70), 3, 3]))
    assert sorted(o.value for o in outcomes) == sorted(n * n for n in [*range(70), 3, 3])
    outcomes = {o.job: o for o in run_jobs(jobs.fail_on_two, range(5), n_workers=0)}
    assert [n for n in range(5) if outcomes[n].ok] == [0, 1, 4]
    assert "is not one" in outcomes[2].details


@pytest.mark.slow
def test_jobs_are_drawn_in_a_window(two_workers):
    drawn = []

    def source():
        for number in range(500):
            drawn.append(number)
            yield number

    results = two_workers.run(jobs.square, source())
    next(results)
    assert len(drawn) <= 2 * module.WINDOW_JOBS
    results.close()
    large = [bytes(40 * 2**20), bytes(41 * 2**20), bytes(42 * 2**20)]
    drawn.clear()

    def large_source():
        for blob in large:
            drawn.append(1)
            yield blob

    results = two_workers.run(len, large_source())
    assert next(results).ok
    assert len(drawn) == 2
    assert len(list(results)) == 2


@pytest.mark.slow
def test_task_of_a_killed_worker_is_done_elsewhere(two_workers, tmp_path):
    def kill_when_it_works():
        until = time.monotonic() + LONG_S
        while time.monotonic() < until:
            for note in tmp_path.glob("1_*"):
                os.kill(int(note.name.split("_")[1]), signal.SIGKILL)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill_when_it_works)
    thread.start()
    work = [(str(tmp_path), number) for number in range(4)]
    outcomes = list(two_workers.run(jobs.note_worker_and_finish, work))
    thread.join()
    assert sorted(o.value for o in outcomes) == [0, 1, 2, 3]
    assert len(list(tmp_path.glob("1_*"))) == 2


@pytest.mark.slow
def test_job_that_kills_its_workers_fails_alone_with_its_reason(two_workers):
    outcomes = {o.job: o for o in two_workers.run(jobs.kill_self_on_one, range(6))}
    assert [n for n in range(6) if outcomes[n].ok] == [0, 2, 3, 4, 5]
    assert outcomes[1].error.startswith("each of 4 workers it was given to died, the last one at ")
    assert outcomes[1].expected


class Started:
    """A scheduler with two workers, each a process of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen] = []

    def start(self) -> None:
        self._run("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port),
                  "--no-dashboard")  # fmt: skip
        for _ in range(2):
            self._run("dask_worker", self.address, "--nthreads", "1", "--no-dashboard",
                      "--local-directory", str(self.folder))  # fmt: skip

    def _run(self, name: str, *arguments: str) -> None:
        call = [sys.executable, "-m", f"distributed.cli.{name}", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(call, stdout=log, stderr=log, env=environment, cwd="/")
        self.processes.append(process)

    def kill_scheduler(self) -> None:
        self.processes[0].kill()
        self.processes[0].wait()

    def end(self) -> None:
        for process in self.processes:
            for child in psutil.Process(process.pid).children() if process.poll() is None else []:
                child.kill()
            process.kill()
            process.wait()
        self.processes.clear()


@pytest.fixture
def started(tmp_path):
    pytest.importorskip("distributed")
    place = Started(tmp_path)
    place.start()
    yield place
    place.end()


def pictures(folder: Path, count: int) -> Path:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        array = rng.integers(0, 80, (96, 96, 3), dtype=np.uint8)
        array[20:60, 30:70] += 120
        Image.fromarray(array).save(folder / f"picture_{number:02}.png")
    return folder


QUICK = ("--side", "56", "--cell", "4", "--steps", "20")


def cluster_command(source: Path, target: Path, *arguments: str) -> subprocess.Popen:
    program = Path(sys.executable).parent / "gnnunet_cluster"
    call = [str(program), "-i", str(source), "-o", str(target), *QUICK, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment
    )


def label_maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.mark.slow
def test_killed_scheduler_ends_the_command_which_goes_on_when_typed_again(started, tmp_path):
    source, target = pictures(tmp_path / "in", 12), tmp_path / "out"
    arguments = ("--cluster", started.address)
    process = cluster_command(source, target, *arguments)
    until = time.monotonic() + LONG_S
    while not label_maps(target) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    started.kill_scheduler()
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    assert "distributed" not in stderr
    assert [line for line in stderr.splitlines() if ": the scheduler" in line] == [
        f"error: the scheduler {started.address} has gone: it ended, or its network. What is done "
        "stays; run the same command again to go on."
    ]
    begun = label_maps(target)
    assert 1 <= len(begun) < 12
    started.end()
    started.start()
    process = cluster_command(source, target, *arguments)
    stdout, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == 0, stderr
    assert "were there already" in stdout
    alone = cluster_command(source, tmp_path / "alone", "-np", "1")
    alone.communicate(timeout=LONG_S)
    assert alone.returncode == 0
    assert label_maps(target) == label_maps(tmp_path / "alone")
    assert begun.items() <= label_maps(target).items()


@pytest.mark.slow
def test_interrupt_ends_workers_and_says_how_to_go_on(tmp_path):
    pytest.importorskip("distributed")
    source = pictures(tmp_path / "in", 60)
    process = cluster_command(source, tmp_path / "out", "--cluster", "local:2")
    until = time.monotonic() + LONG_S
    while not label_maps(tmp_path / "out") and time.monotonic() < until:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    for each in (*children, psutil.Process(process.pid)):  # as a terminal does
        each.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted: Run the same command again to go on" in stderr
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


@pytest.mark.slow
def test_scheduler_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    process = cluster_command(
        pictures(tmp_path / "in", 2), tmp_path / "out", "--cluster", "127.0.0.1:9"
    )
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == 2
    assert "Traceback" not in stderr
    (line,) = (line for line in stderr.splitlines() if line.startswith("error:"))
    assert line.startswith("error: no scheduler answers at 127.0.0.1:9")


SBATCH = """#!{python}
import json, pathlib, subprocess, sys
log = pathlib.Path({folder!r}) / "job.log"
with log.open("a") as out:
    process = subprocess.Popen(["bash", sys.argv[-1]], stdout=out, stderr=out)
print(f"Submitted batch job {{process.pid}}")
"""
SCANCEL = """#!{python}
import os, signal, sys
for number in sys.argv[1:]:
    try:
        os.kill(int(number), signal.SIGTERM)
    except ProcessLookupError:
        pass
"""


@pytest.mark.slow
def test_jobs_of_a_queue_work_and_end_with_the_command(tmp_path, monkeypatch):
    """``sbatch`` here runs the very script that SLURM would get."""
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        program = tmp_path / name
        program.write_text(text.format(python=sys.executable, folder=str(tmp_path)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    queue = tmp_path / "queue.toml"
    queue.write_text(
        f'jobs = 2\ncores = 1\nmemory = "1GB"\nlocal_directory = {json.dumps(str(tmp_path))}\n'
        'scheduler_options = {host = "127.0.0.1"}\n'
    )
    with open_cluster(f"slurm:{queue}") as cluster:
        outcomes = list(cluster.run(jobs.square, range(20)))
        assert sorted(o.value for o in outcomes) == [n * n for n in range(20)]
    assert "Start worker at" in (tmp_path / "job.log").read_text(encoding="utf-8")
