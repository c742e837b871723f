"""Jobs on the workers of a Dask cluster, with the interface of ``run_jobs``.

A job is known to the scheduler by a hash of its function and itself: given again, by the same
command typed again as well, it is the same task and is not done twice at a time. A task whose
worker is lost is done again elsewhere. Only a window of jobs is with the scheduler, so neither its
memory nor that of this process grows with their number. Workers see the files of this process by
the same paths.

Dask is an extra (``pip install 'graphnn-unet[cluster]'``), imported when a cluster is opened.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import pickle
import queue
import re
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from graphnn_unet._version import __version__
from graphnn_unet.errors import ClusterError, InputError, MissingFileError
from graphnn_unet.progress import say
from graphnn_unet.ranges import MAX_WORKERS
from graphnn_unet.storage.processes import (
    Outcome,
    attempt,
    default_workers,
    jobs_run_by,
    run_jobs,
)
from graphnn_unet.storage.text import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WINDOW_JOBS, WINDOW_JOBS_PER_WORKER, WINDOW_BYTES = 32, 4, 64 * 2**20
"""So many jobs, and bytes of jobs, are with the scheduler at a time."""
PATIENCE_S = 20.0
"""Time to reach a scheduler, and between notes that no worker is there."""
_LOOK_S = 1.0
_INSTALL = "Install it with: pip install 'graphnn-unet[cluster]'"
_FORMS = "local:N, slurm, slurm:N, slurm:FILE.toml, HOST:PORT or a scheduler's .json file"
_GO_ON = "What is done stays; run the same command again to go on"


@dataclass(frozen=True)
class ClusterSpec:
    """Where workers are.

    Attributes:
        kind: ``local`` processes started here, jobs of ``slurm``, or the ``address`` of a
            scheduler that runs.
        n_workers: Workers to start; of SLURM, jobs in the queue.
        address: Of the scheduler, or its file.
        options: Keywords of ``dask_jobqueue.SLURMCluster``; those of Dask's own file
            (``jobqueue.slurm``) where they are not given.
    """

    kind: Literal["local", "slurm", "address"]
    n_workers: int = 1
    address: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def parse(cls, text: str) -> ClusterSpec:
        """Read ``local:N``, ``slurm``, ``slurm:N``, ``slurm:FILE.toml`` or an address.

        Raises:
            InputError: It is none of these, or the file cannot be used.
            MissingFileError: There is no such file.
        """
        kind, _, rest = text.partition(":")
        if kind == "local":
            return cls("local", _count(text, rest))
        if kind == "slurm" and rest.endswith(".toml"):
            options = _read_options(Path(rest))
            n_jobs = options.pop("jobs", 1)
            return cls("slurm", _count(f"jobs = {n_jobs} in {rest}", str(n_jobs)), "", options)
        if kind == "slurm":
            return cls("slurm", _count(text, rest) if ":" in text else 1)
        if not (text.endswith(".json") or re.fullmatch(r"([a-z]+://)?[^\s/:]+:\d{1,5}", text)):
            raise InputError(f"cluster {text[:60]!r} is unknown", "", f"Give {_FORMS}")
        return cls("address", address=text)


def _read_options(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"{path} is missing", "", "Give the settings of the queue in it")
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not TOML", str(error).splitlines()[0]) from error


def _count(what: str, text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text[:9]) <= MAX_WORKERS):
        raise InputError(f"{what[:60]!r} names no number of workers", "", f"Give {_FORMS}")
    return int(text)


class Cluster(Protocol):
    """A place where jobs are done."""

    def run(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Outcome]:
        """Apply ``function`` to every job; yield outcomes as they come, as ``run_jobs`` does."""
        ...


@contextmanager
def open_cluster(spec: str | None, *, n_workers: int | None = None) -> Generator[Cluster]:
    """Workers for the block, to which ``run_jobs`` and so all functions of the package send cases.

    They are started or reached when the first job is given.

    Args:
        spec: ``local:N`` (worker processes), ``slurm``, ``slurm:N`` (queue jobs with the settings
            of Dask's ``jobqueue.slurm``), ``slurm:FILE.toml`` (``jobs = N`` and keywords of
            ``dask_jobqueue.SLURMCluster``), ``HOST:PORT`` or the file of a scheduler that runs;
            ``None`` for the process pool of ``run_jobs``.
        n_workers: Processes of that pool; default by cores and memory.

    Raises:
        InputError: ``spec`` cannot be used, or Dask is not installed.
        ClusterError: In the block: the scheduler cannot be reached, or has gone.
    """
    if spec is None:
        yield _Processes(n_workers)
        return
    cluster = _DaskCluster(ClusterSpec.parse(spec))
    with cluster, jobs_run_by(cluster.run):
        yield cluster


def job_script(spec: str) -> str:
    """The script that ``slurm`` would hand to the queue for each job.

    Raises:
        InputError: ``spec`` is not of a queue, settings lack, or Dask is not installed.
    """
    parsed = ClusterSpec.parse(spec)
    if parsed.kind != "slurm":
        raise InputError(f"{spec} has no queue script", "", "Give --cluster slurm")
    with _DaskCluster(parsed) as cluster:
        return str(cluster.queue().job_script())


@dataclass(frozen=True)
class _Processes:
    n_workers: int | None

    def run(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Outcome]:
        if self.n_workers is not None:
            return run_jobs(function, jobs, n_workers=self.n_workers)
        jobs = list(jobs)
        return run_jobs(function, jobs, n_workers=default_workers(len(jobs)))


class _DaskCluster:
    """Starts or reaches workers at the first job, and leaves with the block."""

    def __init__(self, spec: ClusterSpec):
        self.spec = spec
        self._distributed = _library("distributed")
        self._jobqueue = _library("dask_jobqueue") if spec.kind == "slurm" else None
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> _DaskCluster:
        settings = _SETTINGS | (_LOCAL_SETTINGS if self.spec.kind == "local" else {})
        self._stack.enter_context(import_module("dask").config.set(settings))
        for name in ("distributed", "distributed.client"):
            log = logging.getLogger(name)
            self._stack.callback(log.setLevel, log.level)
            # what it has to say is said in one line of ours
            log.setLevel(logging.WARNING if _is_verbose() else _SILENT)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Outcome]:
        """Apply ``function`` to every job; yield outcomes as they come.

        Raises:
            ClusterError: The scheduler cannot be reached, or has gone.
        """
        if self._client is None:
            self._client = self._connected()
        flight = _Flight(self._client, function, self._name)
        try:
            yield from flight.run(iter(jobs))
        finally:
            flight.cancel()

    @property
    def _name(self) -> str:
        return self.spec.address or f"of this command ({self.spec.kind})"

    def _connected(self) -> Any:
        spec = self.spec
        if spec.kind == "address":
            where = {"scheduler_file": spec.address} if spec.address.endswith(".json") else {}
            where = where or {"address": spec.address}
        else:
            where = {"address": self.queue() if spec.kind == "slurm" else self._processes()}
        try:
            client = self._distributed.Client(**where, timeout=PATIENCE_S, set_as_default=False)
        except (OSError, ValueError) as error:
            why = (str(error).splitlines() or [""])[0]
            remedy = "Look whether it runs and can be reached from here"
            raise ClusterError(
                f"no scheduler answers at {spec.address}", why.rstrip("."), remedy
            ) from error
        self._stack.callback(_closed, client)
        if spec.kind == "address":
            _require_one_thread(client)
        return client

    def _processes(self) -> Any:
        with _threads_without_interrupts():
            cluster = self._distributed.LocalCluster(
                n_workers=0, threads_per_worker=1, processes=True, dashboard_address=_PAGES,
                memory_limit=0, silence_logs=_SILENT,
            )  # fmt: skip
        self._stack.enter_context(cluster)
        cluster.scale(self.spec.n_workers)
        return cluster

    def queue(self) -> Any:
        """The SLURM cluster, with its scheduler in this process."""
        assert self._jobqueue is not None  # noqa: S101  # it was loaded for this kind
        options = dict(self.spec.options)
        wanted = options.pop("scheduler_options", {})
        options["scheduler_options"] = {"dashboard_address": _PAGES, **wanted}
        try:
            cluster = self._jobqueue.SLURMCluster(silence_logs=_SILENT, **options)
        except (TypeError, ValueError) as error:
            why = " ".join(str(error).split()).rstrip(".")
            remedy = "Give cores and memory in slurm:FILE.toml or in ~/.config/dask/jobqueue.yaml"
            raise InputError("the settings of the queue cannot be used", why, remedy) from error
        self._stack.enter_context(cluster)
        # a job that the queue ends, at its time limit too, is followed by another
        n_jobs = self.spec.n_workers
        cluster.adapt(minimum_jobs=n_jobs, maximum_jobs=n_jobs)
        return cluster


_SILENT = logging.CRITICAL + 1
_PAGES = "127.0.0.1:0"
"""Where Dask shows its pages: to this machine, at any free port."""
_SETTINGS = {
    # a task whose worker is lost gets a second one; then it is tried apart from all others
    "distributed.scheduler.allowed-failures": 1,
    # none waits behind another on a worker, where it would be taken for the one that killed it
    "distributed.scheduler.worker-saturation": 1.0,
    # a job may start processes, as the loaders of a training
    "distributed.worker.daemon": False,
    "distributed.worker.profile.enabled": False,
    "distributed.comm.timeouts.connect": "10s",
    "distributed.comm.timeouts.tcp": "30s",
    "distributed.admin.large-graph-warning-threshold": "1GiB",
}
# on a busy machine a worker takes longer than the usual 15 s to start again
_LOCAL_SETTINGS = {"distributed.deploy.lost-worker-timeout": "1h"}


@contextmanager
def _threads_without_interrupts() -> Generator[None]:
    """Keep Ctrl-C from threads started in the block, and so from the processes they start.

    This process decides what it means; workers would each tell of it at length.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # its start lets Ctrl-C through in the thread that needs it first
    import_module("multiprocessing.resource_tracker").ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.replace("_", "-")
        raise InputError("--cluster is not possible", f"{package} is missing", _INSTALL) from error


def _is_verbose() -> bool:
    return logging.getLogger("graphnn_unet").isEnabledFor(logging.DEBUG)


def _closed(client: Any) -> None:
    """Leave; a scheduler that has gone is not waited for."""
    try:
        client.close(timeout=5)
    except Exception as error:  # noqa: BLE001  # the block has ended, in one way or the other
        logging.getLogger(__name__).debug("the client was not closed: %s", error)


def _require_one_thread(client: Any) -> None:
    many = {worker: count for worker, count in client.nthreads().items() if count > 1}
    if many:
        worker, count = next(iter(many.items()))
        raise InputError(
            f"worker {worker} has {count} threads",
            "cases share libraries that are not made for threads",
            "Start workers with --nthreads 1, several a machine with --nworkers",
        )


@dataclass(frozen=True)
class _Command:
    """What a worker takes over from the process that gives jobs."""

    folder: str
    environment: Mapping[str, str]
    version: str = __version__

    @classmethod
    def here(cls) -> _Command:
        named = {k: v for k, v in os.environ.items() if k.startswith(("nnUNet", "GNNUNET"))}
        return cls(str(Path.cwd()), named)

    def take_over(self) -> None:
        """Work in its folder, with its data folders.

        Raises:
            InputError: This machine cannot stand in for the one of the command.
        """
        if self.version != __version__:
            raise InputError(
                f"{socket.gethostname()} has version {__version__} of this program",
                f"the command is of version {self.version}",
                "Install the same one",
            )
        if not Path(self.folder).is_dir():
            raise InputError(
                f"{self.folder} is missing on {socket.gethostname()}",
                "workers use the files of the command by the same paths",
                "Work in a folder that all machines share",
            )
        os.chdir(self.folder)
        os.environ.update(self.environment)


_KEPT: dict[str, Callable[[Any], Any]] = {}
_N_KEPT = 2


def _kept(digest: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function of many jobs: what it loads for the first, it has for the others."""
    if digest not in _KEPT:
        while len(_KEPT) >= _N_KEPT:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[digest] = function
    return _KEPT[digest]


@dataclass(frozen=True)
class _Shared:
    """A function on its way; it arrives as the one of its digest that the worker has."""

    digest: str
    function: Callable[[Any], Any]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _kept, (self.digest, self.function)


@dataclass(frozen=True)
class _Sent:
    """A job on its way; one object, into which Dask does not look."""

    function: Any
    job: Any
    command: _Command


def _on_worker(sent: _Sent) -> Outcome:
    """The outcome of a job, without the job."""

    def work(_: None) -> Any:
        sent.command.take_over()
        return sent.function(sent.job)

    outcome = attempt(work, None)
    try:
        pickle.dumps(outcome)
    except (TypeError, ValueError, AttributeError, pickle.PicklingError) as error:
        return Outcome(None, error=f"its result cannot be sent: {error}")
    return outcome


@dataclass
class _Task:
    """A job on its way, and others that are equal to it."""

    jobs: list[Any]
    digest: str
    n_bytes: int
    future: Any = None
    is_alone: bool = False


class _Flight:
    """The jobs of one call: a window of them is with the scheduler."""

    def __init__(self, client: Any, function: Callable[[Any], Any], scheduler: str):
        self._client, self._scheduler = client, scheduler
        self._function = _Shared(hashlib.sha256(pickle.dumps(function)).hexdigest(), function)
        self._name = _name_of(function)
        self._command = _Command.here()
        self._tasks: dict[str, _Task] = {}
        self._suspects: deque[_Task] = deque()
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._n_bytes = 0
        self._window, self._looked, self._met = WINDOW_JOBS, float("-inf"), time.monotonic()

    def run(self, jobs: Iterator[Any]) -> Iterator[Outcome]:
        """Yield the outcomes of all jobs; those that lost their workers come last, one by one."""
        while True:
            self._look_at_workers()
            while self._has_room() and (job := next(jobs, self)) is not self:
                self._give(job)
            if not self._tasks:
                if not self._suspects:
                    return
                self._submit(self._suspects.popleft())
            yield from self._collected()

    def cancel(self) -> None:
        """Take back what no worker has begun."""
        if self._tasks and self._client.status == "running":
            try:
                self._client.cancel([task.future for task in self._tasks.values()])
            except Exception as error:  # noqa: BLE001  # the scheduler goes at this very moment
                logging.getLogger(__name__).debug("not taken back: %s", error)
        self._tasks.clear()

    def _has_room(self) -> bool:
        return len(self._tasks) < self._window and self._n_bytes < WINDOW_BYTES

    def _give(self, job: Any) -> None:
        pickled = pickle.dumps(job)
        task = _Task([job], hashlib.sha256(pickled).hexdigest(), len(pickled))
        key = self._key(task)
        if key in self._tasks:
            self._tasks[key].jobs.append(job)
        else:
            self._submit(task)

    def _key(self, task: _Task) -> str:
        facts = (self._function.digest, task.digest, self._command)
        digest = hashlib.sha256(repr(facts).encode())
        # Dask takes what stands before the hash for the kind of task
        return f"{self._name}{'_alone' * task.is_alone}-{digest.hexdigest()[:32]}"

    def _submit(self, task: _Task) -> None:
        key = self._key(task)
        sent = _Sent(self._function, task.jobs[0], self._command)
        task.future = self._client.submit(_on_worker, sent, key=key)
        self._tasks[key] = task
        self._n_bytes += task.n_bytes
        task.future.add_done_callback(self._done.put)

    def _collected(self) -> Iterator[Outcome]:
        """Outcomes of the tasks that are done, once there are some or it is time to look."""
        futures = self._next_futures()
        results = self._results([f for f in futures if f.status == "finished"])
        for future in futures:
            task = self._tasks.pop(future.key)
            self._n_bytes -= task.n_bytes
            task.future = None
            outcome = results.get(future.key)
            if outcome is None:
                outcome = self._failed(task, future)
            future.release()
            if outcome is not None:
                yield from (_for_job(outcome, job) for job in task.jobs)

    def _next_futures(self) -> list[Any]:
        futures: list[Any] = []
        try:
            futures.append(self._done.get(timeout=_LOOK_S))
            while True:
                futures.append(self._done.get_nowait())
        except queue.Empty:
            pass
        is_whole = all(future.status in ("finished", "error") for future in futures)
        if not is_whole or self._client.status != "running":
            raise self._gone()
        return futures

    def _results(self, futures: list[Any]) -> dict[str, Outcome]:
        if not futures:
            return {}
        keys = [future.key for future in futures]
        try:
            values = self._client.gather(futures)
        except Exception as error:
            if self._client.status == "running" and not isinstance(error, OSError):
                raise
            raise self._gone() from error
        return dict(zip(keys, values, strict=True))

    def _failed(self, task: _Task, future: Any) -> Outcome | None:
        """Why a task has no result; ``None`` where it gets another chance, without neighbors."""
        error = future.exception()
        if type(error).__name__ != "KilledWorker":
            return Outcome(None, error=_line_of(error))
        if not task.is_alone:
            task.is_alone = True
            self._suspects.append(task)
            return None
        worker = getattr(getattr(error, "last_worker", None), "address", "")
        last = f", the last one at {worker}" if worker else ""
        times = 2 * (int(getattr(error, "allowed_failures", 1)) + 1)
        hint = "mostly for want of memory; use fewer workers a machine"
        return Outcome(
            None, error=f"each of {times} workers it was given to died{last}, {hint}", expected=True
        )

    def _look_at_workers(self) -> None:
        """Fit the window to the workers; say where none is there."""
        now = time.monotonic()
        if now - self._looked < PATIENCE_S / 4:
            return
        try:
            n_workers = len(self._client.nthreads())
        except Exception as error:
            raise self._gone() from error
        self._looked = now
        self._window = max(WINDOW_JOBS, WINDOW_JOBS_PER_WORKER * n_workers)
        if n_workers:
            self._met = now
        elif now - self._met >= PATIENCE_S:
            self._met = now
            say(f"waiting for a worker of the scheduler {self._scheduler}")

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"the scheduler {self._scheduler} has gone", "it ended, or its network", _GO_ON
        )


def _name_of(function: Callable[[Any], Any]) -> str:
    """What Dask's own pages call the tasks."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__).strip("_")


def _for_job(outcome: Outcome, job: Any) -> Outcome:
    return Outcome(job, outcome.value, outcome.error, outcome.expected, outcome.details)


def _line_of(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("graphnn_unet"):
        return f"the worker lacks this program ({error}): install it there"
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"
