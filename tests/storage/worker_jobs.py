"""Jobs for worker processes; a module of its own, because workers import it."""

import os
import pickle
import re
import signal
import time
from pathlib import Path

from graphnn_unet.errors import InputError, NoSpaceError


def square(number):
    return number * number


def process_number(_number):
    time.sleep(0.02)  # so that no worker does them all
    return os.getpid()


def slow_first(number):
    """Later jobs end earlier."""
    time.sleep(0.4 if number == 0 else 0.0)
    return number


def fail_on_two(number):
    if number == 2:
        raise ValueError("two\nis not one")
    if number == 3:
        raise InputError("three", "it is odd", "Give four")
    return number


def kill_self_on_one(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_self_once(job):
    number, mark = job
    if number == 1 and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_with_status(number):
    os._exit(number)


def fifty_megabytes(number):
    return bytes([number]) * 50_000_000


def unsendable(_number):
    return square_of_nothing


square_of_nothing = type("Local", (), {})()
square_of_nothing.function = lambda: None


def environment_value(name):
    return os.environ.get(name)


def note_and_wait(folder):
    """Note the process id, then sleep (first worker) or compute without letting go of the GIL."""
    others = list(Path(folder).iterdir())
    (Path(folder) / str(os.getpid())).touch()
    if others:
        re.match(r"(a+)+$", "a" * 32 + "b")
    time.sleep(60)


def interrupts_are_ignored(_number):
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def full_at_three(number):
    if number == 3:
        raise NoSpaceError("no space left while writing x.b2nd")
    return number


def note_worker_and_finish(job):
    """Note who works on the job; the first one then waits to be killed, the next one ends."""
    folder, number = job
    notes = Path(folder)
    others = [path for path in notes.iterdir() if path.name.startswith(f"{number}_")]
    (notes / f"{number}_{os.getpid()}").touch()
    if number == 1 and not others:
        time.sleep(600)
    return number


def working_folder(_number):
    return str(Path.cwd())


class Counting:
    """Counts how often it was made ready in its process."""

    def __init__(self):
        self.calls = 0

    def __call__(self, number):
        self.calls += 1
        return self.calls


def run_as_worker(function, work):
    """A cluster of one worker, in this process: all goes through what is sent to workers."""
    from graphnn_unet.storage import cluster

    command = cluster._Command.here()
    digest = str(len(pickle.dumps(function))) + repr(function)
    shared = cluster._Shared(digest, function)
    for job in work:
        arrived = pickle.loads(pickle.dumps(cluster._Sent(shared, job, command)))
        yield cluster._for_job(pickle.loads(pickle.dumps(cluster._on_worker(arrived))), job)
