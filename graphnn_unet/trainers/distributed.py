"""One training in several processes, and its end as if it had been one.

They are started here, on one machine, or by ``torchrun`` and its like on several: each then runs
the same command and learns from the environment who it is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar, cast

import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import ProcessContext, ProcessException

from graphnn_unet.errors import GraphnnError, InputError, from_system
from graphnn_unet.progress import is_quiet, set_quiet
from graphnn_unet.stopping import termination_signals
from graphnn_unet.streams import use_streams
from graphnn_unet.trainers.run_spec import Execution

Job = TypeVar("Job")
T = TypeVar("T")
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LONGEST_WAIT = timedelta(days=1)
"""The first process may validate, or register scans, for hours while the others wait."""
SECONDS_TO_SAVE = 2.0
"""A process whose parent was killed has this long to save what it has."""


def train_in_processes(
    work: Callable[[Job], None], job: Job, execution: Execution, *, quiet: bool
) -> None:
    """Call ``work(job)`` in one process a GPU (on a CPU: processes that share it over gloo).

    Raises:
        InputError: Fewer GPUs than wanted.
        GraphnnError: Whatever a process raised, as it was raised there.
        KeyboardInterrupt: Interrupted; the state is saved.
    """
    if execution.device.startswith("cuda") and torch.cuda.device_count() < execution.num_gpus:
        raise InputError(
            f"-num_gpus {execution.num_gpus} is not possible",
            f"{torch.cuda.device_count()} are here",
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = torch.multiprocessing.get_context("spawn").SimpleQueue()
    started = torch.multiprocessing.start_processes(  # pyright: ignore[reportPrivateImportUsage]  # public in docs
        _rank, (work, job, execution, port, quiet, errors), execution.num_gpus, join=False
    )
    context = cast(ProcessContext, started)  # which join=False returns
    with _signals_to(context.processes) as received:
        try:
            while not context.join():
                pass
        except ProcessException as error:
            if errors.empty() and not received:
                _tell_of_a_killed_process(context.processes, error)
                raise
    if not errors.empty():
        raise errors.get() from None
    if received:
        raise KeyboardInterrupt("stopped before the first step. Run the same command again")


def _rank(
    rank: int,
    work: Callable[[Any], None],
    job: Any,
    execution: Execution,
    port: int,
    quiet: bool,
    errors: SimpleQueue,
) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C of a terminal reaches the parent alone, which passes it on
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    use_streams()
    _leave_after_parent()
    set_quiet(quiet or rank > 0)
    _join(execution.device, rank, rank, execution.num_gpus)
    try:
        work(job)
        dist.barrier()
    except (GraphnnError, KeyboardInterrupt, OSError) as error:
        refused = from_system(error) if isinstance(error, OSError) else None
        if isinstance(error, (GraphnnError, KeyboardInterrupt)) or refused:
            errors.put(refused or error)
        if refused:
            raise refused from error
        if isinstance(error, GraphnnError):  # the others wait for this process: end them
            raise
    finally:
        dist.destroy_process_group()


def _join(device: str, rank: int, local_rank: int, n_processes: int) -> None:
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(local_rank)
    dist.init_process_group(backend, rank=rank, world_size=n_processes, timeout=LONGEST_WAIT)


def launched_processes() -> int:
    """Processes of this training that a launcher has started, on all machines; 1 without one."""
    if not all(os.environ.get(name) for name in _LAUNCHED):
        return 1
    return int(os.environ["WORLD_SIZE"])


def processes_here() -> int:
    """Processes of this training on this machine."""
    everywhere = dist.get_world_size() if dist.is_initialized() else 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", everywhere)) if everywhere > 1 else 1


def is_first() -> bool:
    """Whether this process speaks and writes for all that share a training."""
    rank = dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK") or 0)
    return rank == 0 or (launched_processes() == 1 and not dist.is_initialized())


@contextmanager
def launched(execution: Execution) -> Iterator[None]:
    """Join the processes that a launcher has started for the block; nothing without a launcher.

    Raises:
        InputError: The command is to start processes itself, or this machine has too few GPUs.
        GraphnnError: Another process ended early.
    """
    n_processes = launched_processes()
    if n_processes == 1:
        yield
        return
    if execution.num_gpus > 1:
        raise InputError(
            f"-num_gpus {execution.num_gpus} does not go with torchrun",
            f"it has started {n_processes} processes",
            "Leave -num_gpus out",
        )
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if execution.device.startswith("cuda") and local_rank >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank} of this machine has no GPU",
            f"{torch.cuda.device_count()} are here",
            "Start as many processes as there are GPUs (torchrun --nproc-per-node)",
        )
    set_quiet(is_quiet() or rank > 0)
    _join(execution.device, rank, local_rank, n_processes)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, GraphnnError) or not _is_of_network(error):
            raise
        raise GraphnnError(
            f"process {rank} of the training lost the others",
            "one of them ended early and says why, or the network between machines failed",
            "Go on with the same command and --c",
        ) from error
    finally:
        dist.destroy_process_group()


def _is_of_network(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def decided_by_first(decide: Callable[[], T]) -> T:
    """What the first process decides, or its error, in all that share a training.

    The others ask at the same moment, and call nothing.
    """
    if not dist.is_initialized():
        return decide()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = decide()
        except GraphnnError as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


def _tell_of_a_killed_process(processes: list[Any], error: ProcessException) -> None:
    """Raise one line where a signal ended a process: the others then fail for want of it."""
    ends = {-(process.exitcode or 0) for process in processes}
    # torch terminates the processes that are left
    kills = [end for end in ends if end > 0 and end != signal.SIGTERM]
    if kills:
        raise GraphnnError(
            f"one of the training processes was ended by {signal.Signals(kills[0]).name}",
            "the system does so where memory runs out",
            "Go on with the same command and --c",
        ) from error


def _leave_after_parent() -> None:
    """End this process a few seconds after its parent, which was killed.

    torch lets the kernel interrupt it then; it finishes its step and saves, where that is quick.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        time.sleep(SECONDS_TO_SAVE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _signals_to(processes: list[Any]) -> Iterator[list[int]]:
    """Pass Ctrl-C and terminations on to the processes, which finish their step and save.

    Yields:
        The signals that came.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def forward(number: int, _frame: Any) -> None:
        again = received and number == signal.SIGINT  # a second Ctrl-C stops at once
        received.append(number)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT if again else signal.SIGTERM)

    numbers = (signal.SIGINT, *termination_signals())
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopAgreement:
    """Lets all processes of a training stop after the same step.

    A signal reaches them at different moments; one that stopped a step earlier would leave the
    others waiting for its gradients.
    """

    def __init__(self) -> None:
        # on the CPU whatever the backend: nothing waits for a GPU
        self._group = dist.new_group(backend="gloo")

    def __call__(self, wants_to_stop: bool) -> bool:
        """Whether any process wants to stop."""
        flag = torch.tensor([int(wants_to_stop)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)
