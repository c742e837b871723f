"""Commands that start at once: forks of a process that has imported the slow libraries.

A command of either program spends ten seconds on ``import torch`` and its like, and so does each
worker that it spawns. Here a command is a fork that runs the same script, and a worker is a fork
that has dropped the two programs. They themselves, environment, folder, random numbers and the end
are as after a cold start.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import random
import runpy
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

SLOW = (
    "torch", "torch._dynamo", "torch.distributed", "torch.utils.data", "torch.nn.parallel",
    "torch.optim.swa_utils", "scipy.ndimage", "scipy.stats", "scipy.sparse.linalg", "SimpleITK",
    "nibabel", "pydicom", "pandas", "matplotlib.pyplot", "matplotlib.backends.backend_agg",
    "seaborn", "skimage.morphology", "skimage.measure", "skimage.transform", "skimage.filters",
    "skimage.graph", "skimage.color", "skimage.feature", "skimage.segmentation",
    "sklearn.model_selection", "sklearn.mixture", "PIL.Image", "tifffile", "blosc2", "cc3d",
    "pydantic.main", "h5py", "tqdm", "requests", "einops",
    "batchgenerators.dataloading.data_loader",
    "batchgenerators.dataloading.multi_threaded_augmenter",
    "batchgenerators.dataloading.nondet_multi_threaded_augmenter",
    "batchgeneratorsv2.transforms.spatial.spatial",
    "batchgeneratorsv2.transforms.nnunet.random_binary_operator",
    "acvl_utils.morphology.morphology_helper", "acvl_utils.cropping_and_padding.padding",
    "dynamic_network_architectures.architectures.unet",
    "dynamic_network_architectures.architectures.primus",
)  # fmt: skip
"""Libraries that both programs import; none reads a variable that a command is given."""
PROGRAMS = ("nnunetv2", "graphnn_unet")
FORK_SERVER = "forkserver"
"""What the command line of a fork server has, and here its name and that of its forks."""
KEPT: list[object] = []
"""What a fork must not free: it would close files that are others' now."""


class Process(Protocol):
    """What a row needs of a command that runs, cold or warm."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str | None]: ...


class Fork:
    """A command that was forked, with the methods of ``subprocess.Popen`` that rows use."""

    def __init__(self, pid: int, output: int) -> None:
        self.pid, self.returncode = pid, None
        self._output, self._text = output, bytearray()

    def poll(self) -> int | None:
        """Status, or ``None`` while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def communicate(self, *, timeout: float | None = None) -> tuple[str, None]:
        """All that it and its children printed, when all of them have ended."""
        end = None if timeout is None else time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while True:
                left = None if end is None else max(0.0, end - time.monotonic())
                if not selector.select(left):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
                if not (block := os.read(self._output, 2**16)):
                    break
                self._text += block
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.01)
        os.close(self._output)
        return self._text.decode(errors="replace").replace("\r\n", "\n"), None


def load() -> None:
    """Import what is slow; what is not installed stays out."""
    for name in SLOW:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"not loaded beforehand: {error}", file=sys.stderr)
    loaded = [name for name in sys.modules if name.split(".")[0] in PROGRAMS]
    assert not loaded, f"commands would not import these anew: {loaded}"


def start(
    script: Path, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str],
    limit: Callable[[], None] | None = None,
) -> Fork:  # fmt: skip
    """Run a Python script in a fork of this process, in a process group of its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    output, theirs = os.pipe()
    if pid := os.fork():
        os.close(theirs)
        return Fork(pid, output)

    def run() -> None:
        os.setsid()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, number in ((nothing, 0), (theirs, 1), (theirs, 2)):
            os.dup2(source, number)
        if limit is not None:
            limit()
        sys.argv = [str(script), *arguments]
        sys.path[:] = [str(script.parent), *_search_path(environment)]
        util.spawnv_passfds = _fork_worker
        runpy.run_path(str(script), run_name="__main__")

    _end_with(run, keep=())
    raise AssertionError


def _search_path(environment: Mapping[str, str]) -> list[str]:
    """Where a new interpreter would look."""
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    ours = set(map(str, (Path(__file__).parent, Path(__file__).parents[1] / "data")))
    return [*filter(None, given), *(path for path in sys.path if path not in ours)]


def _end_with(run: Callable[[], None], keep: Sequence[int]) -> None:
    """Run as the only thing this fork does, and end as an interpreter does."""
    status = 1
    try:
        _forget_files(keep)
        np.random.seed()  # noqa: NPY002  # the generator that both programs use
        random.seed()
        run()
        status = 0
    except SystemExit as error:
        status = _status(error.code)
    except BaseException:  # noqa: BLE001  # the interpreter prints all of them
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _status(code: object) -> int:
    """Exit status of a ``SystemExit``."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def _forget_files(keep: Sequence[int]) -> None:
    """Close the inherited files of which a new process would know nothing."""
    gc.freeze()
    if keep:
        numbers = sorted({0, 1, 2, *keep})
        for before, after in zip(numbers, [*numbers[1:], 2**16], strict=True):
            os.closerange(before + 1, after)


_spawn = util.spawnv_passfds


def _fork_worker(path: bytes, args: Sequence[str | bytes], passfds: Sequence[int]) -> int:
    """What multiprocessing does to start an interpreter for a worker or a fork server."""
    words = [os.fsdecode(word) for word in args]
    if "resource_tracker" in words[-1]:  # it is light
        return _spawn(path, args, passfds)
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid

    def run() -> None:
        for name in [x for x in sys.modules if x.split(".")[0] in PROGRAMS]:
            KEPT.append(sys.modules.pop(name))
        code = words.index("-c")
        sys.argv = ["-c", *words[code + 2 :]]
        atexit._clear()
        KEPT.append(sys.modules["__main__"])
        main = sys.modules["__main__"] = ModuleType("__main__")
        for number in (signal.SIGTERM, signal.SIGHUP):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if FORK_SERVER in words[-1]:
            Path("/proc/self/comm").write_text(FORK_SERVER)
        exec(words[code + 1], vars(main))

    _end_with(run, passfds)
    raise AssertionError
