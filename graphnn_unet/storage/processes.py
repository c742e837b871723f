"""Worker processes that may die without taking the others or the results with them.

``multiprocessing.Pool`` hangs when a worker is killed while it holds a queue's lock, and gives up
all finished work when one case fails. Here every worker has one pipe of its own: a dead worker is
seen at once, its job is tried once more and then reported, and everything else goes on. Workers
and the server that forks them leave when their parent is gone, also while they import.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from graphnn_unet.errors import GraphnnError, NoSpaceError

PARENT_CHECK_INTERVAL_S = 1.0
HEAVY = (
    "numpy",
    "scipy.ndimage",
    "SimpleITK",
    "nibabel",
    "cc3d",
    "pydantic.functional_validators",
    "pydantic.main",
    "torch",
    "nnunetv2.preprocessing.preprocessors.default_preprocessor",
)
"""Slow imports that a fork server makes once for all workers, where the parent has made them."""
_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""A fork server starts clean and fast; fork would copy our threads, spawn imports torch anew."""
_STARTING = threading.Lock()
Runner = Callable[[Callable[[Any], Any], Iterable[Any]], "Iterator[Outcome]"]
"""Takes a function and jobs as ``run_jobs`` does, and yields their outcomes."""
_elsewhere: list[Runner] = []
_shared: list[dict[int, _Workers]] = []
_OPEN_WHILE_WE_LIVE: list[int] = []


@dataclass
class Outcome:
    """What became of one job.

    Attributes:
        value: What the function returned; ``None`` when it failed.
        error: One line without full stop that says why it failed; empty when it did not.
        expected: The failure was an error that the user can fix (a ``GraphnnError``).
        details: Traceback of an unexpected failure, for ``--verbose``.
    """

    job: Any
    value: Any = None
    error: str = ""
    expected: bool = False
    details: str = ""

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return not self.error


def default_workers(n_jobs: int, memory_per_worker_gb: float = 2.0) -> int:
    """Workers for ``n_jobs`` on this machine: bounded by cores, free memory and jobs.

    One core or one job is done in this process (0 workers): starting one costs seconds.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    by_memory = int(psutil.virtual_memory().available / 2**30 / memory_per_worker_gb)
    workers = min(cores, by_memory, n_jobs)
    return workers if workers > 1 else 0


@contextmanager
def jobs_run_by(runner: Runner) -> Generator[None]:
    """In the block ``run_jobs`` hands its jobs to ``runner``, in whichever thread it is called."""
    _elsewhere.append(runner)
    try:
        yield
    finally:
        _elsewhere.remove(runner)


def run_elsewhere() -> bool:
    """Whether jobs leave this machine's own processes: arrays are then better left on disk."""
    return bool(_elsewhere)


def run_jobs(
    function: Callable[[Any], Any], jobs: Iterable[Any], *, n_workers: int, retries: int = 1
) -> Iterator[Outcome]:
    """Apply ``function`` to every job; yield outcomes as they come, in any order.

    Jobs are drawn from ``jobs`` only when a worker is free, so an iterator of large inputs is
    never ahead by more than the number of workers. Inside ``jobs_run_by`` another place does them.

    Args:
        function: Importable (not a lambda) when ``n_workers > 0``.
        jobs: Picklable when ``n_workers > 0``.
        n_workers: 0 does all work in this process; another place has workers of its own.
        retries: How often a job whose worker died is given to a new one.

    Yields:
        One ``Outcome`` a job; a failing job does not stop the others.

    Raises:
        NoSpaceError: A job found the disk full.
    """
    if _elsewhere:
        for outcome in _elsewhere[-1](function, jobs):
            yield _unless_full(outcome)
        return
    if n_workers == 0:
        for job in jobs:
            yield _unless_full(attempt(function, job))
        return
    pool = (_shared[-1].pop(n_workers, None) if _shared else None) or _Workers(n_workers)
    is_idle = False
    try:
        for outcome in pool.run(function, iter(jobs), retries):
            yield _unless_full(outcome)
        is_idle = True
    finally:
        if is_idle and _shared:
            _shared[-1][n_workers] = pool
        else:
            pool.close()


@contextmanager
def shared_workers() -> Generator[None]:
    """In the block ``run_jobs`` takes workers of earlier calls, which have imported their code."""
    pools: dict[int, _Workers] = {}
    _shared.append(pools)
    try:
        yield
    finally:
        _shared.remove(pools)
        for pool in pools.values():
            pool.close()


def _unless_full(outcome: Outcome) -> Outcome:
    """The outcome, unless the disk is full: no other job would find room."""
    if isinstance(outcome.value, NoSpaceError):
        raise outcome.value
    return outcome


def attempt(function: Callable[[Any], Any], job: Any) -> Outcome:
    """What becomes of a job in this process; a full disk is the value, for the caller to raise."""
    try:
        return Outcome(job, value=function(job))
    except NoSpaceError as error:
        return Outcome(job, value=error)
    except GraphnnError as error:
        return Outcome(job, error=" ".join(error.lines).rstrip("."), expected=True)
    except MemoryError as error:
        return Outcome(job, error=f"out of memory ({error})", details=traceback.format_exc())
    except Exception as error:  # noqa: BLE001  # one case must not stop the others
        text = (str(error).strip().splitlines() or [""])[0]
        return Outcome(job, error=f"{type(error).__name__}: {text}", details=traceback.format_exc())


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: tuple[Any, int] | None = None  # a job, and how often it was tried before
    function: Callable[[Any], Any] | None = None  # what it was told to apply


class _Workers:
    def __init__(self, n_workers: int):
        self._context = multiprocessing.get_context(_METHOD)
        if _METHOD == "forkserver":
            # The server looks modules up from the current folder first, which may hold a checkout
            # of this repository: it loads what is heavy, never modules of ours.
            self._context.set_forkserver_preload([m for m in HEAVY if m in sys.modules])
        self._function: Callable[[Any], Any] | None = None
        self._workers = [self._start() for _ in range(n_workers)]

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        # a fork server keeps the environment it was started with
        environment = {k: v for k, v in os.environ.items() if k.startswith(("nnUNet", "GNNUNET"))}
        process = self._context.Process(
            target=_serve, args=(theirs, os.getpid(), environment), daemon=True
        )
        if self._context.get_start_method() == "forkserver":
            _start_fork_server()
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def run(
        self, function: Callable[[Any], Any], jobs: Iterator[Any], retries: int
    ) -> Iterator[Outcome]:
        """Outcomes of ``function``; no other run may be under way."""
        self._function = function
        fresh = ((job, 0) for job in jobs)
        again: deque[tuple[Any, int]] = deque()
        while True:
            for worker in self._workers:
                if worker.task is None:
                    worker.task = again.popleft() if again else next(fresh, None)
                    if worker.task is not None:
                        with contextlib.suppress(OSError):  # died idle: found by _collect
                            self._send(worker)
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                return
            wait([w.pipe for w in busy] + [w.process.sentinel for w in busy])
            for worker in busy:
                outcome = self._collect(worker, again, retries)
                if outcome is not None:
                    yield outcome

    def _send(self, worker: _Worker) -> None:
        assert worker.task is not None  # noqa: S101  # it has just got one
        if worker.function is not self._function:
            worker.pipe.send((True, self._function))
            worker.function = self._function
        worker.pipe.send((False, worker.task[0]))

    def _collect(
        self, worker: _Worker, again: deque[tuple[Any, int]], retries: int
    ) -> Outcome | None:
        assert worker.task is not None  # noqa: S101  # it is busy
        job, attempt = worker.task
        with contextlib.suppress(EOFError, OSError):
            if worker.pipe.poll():
                outcome = worker.pipe.recv()
                outcome.job, worker.task = job, None
                return outcome
        dead = worker.process
        if dead.is_alive():
            return None
        dead.join()
        self._workers[self._workers.index(worker)] = self._start()
        if attempt < retries:
            again.append((job, attempt + 1))
            return None
        return Outcome(job, error=_cause_of_death(dead.exitcode, attempt + 1), expected=True)

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
        deadline = time.monotonic() + 2
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _cause_of_death(exit_code: int | None, attempts: int) -> str:
    times = {1: "once", 2: "twice"}.get(attempts, f"{attempts} times")
    if exit_code is not None and exit_code < 0:
        known = {value.value: value.name for value in signal.Signals}
        name = known.get(-exit_code, f"signal {-exit_code}")
        hint = "; the system was probably out of memory" if name == "SIGKILL" else ""
        return f"its worker process was killed {times} ({name}{hint}); use fewer workers"
    return f"its worker process ended {times} with status {exit_code}; use fewer workers"


def _serve(pipe: Connection, parent: int, environment: dict[str, str]) -> None:
    """Answer jobs until the pipe closes; a function for the next ones comes before them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    os.environ.update(environment)
    leave_with_parent(parent)
    with contextlib.suppress(EOFError, OSError):
        function: Any = None
        while True:
            is_function, content = pipe.recv()  # only now: what it imports may be slow
            if is_function:
                function = content
                if "torch" in sys.modules:
                    sys.modules["torch"].set_num_threads(1)
                continue
            outcome = attempt(function, content)
            outcome.job = None  # the parent has it
            try:
                pipe.send(outcome)
            except (TypeError, ValueError, AttributeError, pickle.PicklingError) as error:
                pipe.send(Outcome(None, error=f"its result cannot be sent: {error}"))


def leave_with_parent(parent: int) -> None:
    """End this worker soon after the process ``parent`` has ended, however that happened.

    A thread looks every second. On Linux the kernel does it at once, even while C code holds the
    interpreter's lock: it is asked to send SIGKILL when the pipe from the parent, which nobody ever
    writes to, is closed.
    """
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    starter = multiprocessing.parent_process()
    if sys.platform == "linux" and starter is not None:
        _kill_when_closed(starter.sentinel, os.getpid())
        if wait([starter.sentinel], timeout=0):  # it was closed before we asked
            os._exit(1)


def _kill_when_closed(pipe: int, process: int) -> None:
    """Ask Linux to kill a process when the other end of a pipe it reads from is closed."""
    import fcntl

    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, process)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def import_for_workers(n_workers: int | None) -> None:
    """Let the fork server make its slow imports while this process makes its own.

    Args:
        n_workers: As the user gave it; nothing is done where there will be none.
    """
    wanted = default_workers(2) if n_workers is None else n_workers
    if _METHOD == "forkserver" and wanted > 0 and not _elsewhere:
        multiprocessing.get_context(_METHOD).set_forkserver_preload(list(HEAVY))
        _start_fork_server()


def _start_fork_server() -> None:
    """Start the fork server where none runs, so that it ends with this process.

    It looks whether its parent lives only when its imports are done, and at a pipe that waiting
    workers hold too. It inherits the end of one more, whose other end nobody else has.
    """
    from multiprocessing import forkserver, util  # of POSIX systems alone

    with _STARTING:
        start = util.spawnv_passfds

        def start_watched(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
            if "multiprocessing.forkserver" not in str(args[-1]):  # the tracker of resources
                return start(path, args, passfds)
            theirs, ours = os.pipe()
            _OPEN_WHILE_WE_LIVE.append(ours)
            try:
                process = start(path, args, [*passfds, theirs])
                _kill_when_closed(theirs, process)
            finally:
                os.close(theirs)
            return process

        util.spawnv_passfds = start_watched
        try:
            forkserver.ensure_running()
        finally:
            util.spawnv_passfds = start


def _leave_with(parent: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(parent)
        while _lives(process):
            time.sleep(PARENT_CHECK_INTERVAL_S)
    os._exit(1)


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs; a killed one that nobody has waited for still has its id."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
