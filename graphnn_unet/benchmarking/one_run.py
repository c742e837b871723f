"""One run of a comparison in a process of its own: train, predict, score.

A process of its own is measured by itself, and may be killed without taking the others with it.
What it did is kept step by step, so the same call goes on where it was stopped. Label maps that
score are opened after the training has ended, and those of test cases only for a final score.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from graphnn_unet.errors import GraphnnError, LockedError, MissingFileError
from graphnn_unet.images.find import split_channel, split_ending
from graphnn_unet.progress import say
from graphnn_unet.stopping import terminated_as_interrupted
from graphnn_unet.storage.atomic import link_or_copy, write_json
from graphnn_unet.storage.checkpoints import FINAL, RESUME_ORDER
from graphnn_unet.storage.processes import leave_with_parent
from graphnn_unet.storage.safe_load import read_json

DEVELOPMENT, TEST, HELD_OUT, MEMBER = "development", "test", "held_out", "member"
METRICS = "metrics.csv"
DONE, REFUSED, STOPPED = 0, 2, 130
_GIB = 2**30
_CODE = f"import sys; from {__name__} import main; sys.exit(main(sys.argv[1]))"
_RUNNING: set[subprocess.Popen[bytes]] = set()
_LOOK_AGAIN_S = 10.0
_PATIENCE_S = 60.0
"""Time that a run which is asked to stop has for its checkpoint."""


@dataclass(frozen=True)
class Job:
    """A run, and where it is kept.

    Attributes:
        name: Of its folders.
        spec: ``RunSpec.as_dict``.
        folder: Folder of the comparison.
        environment: nnU-Net's folders.
        part: Cases to score: ``development``, ``test``, ``held_out`` by the run itself, or held
            out and predicted with probabilities, as a ``member`` of an ensemble.
        cases: Their ids; all that have a label map where it is empty.
        device: As ``-device``.
        predict: Options of the prediction.
        model_folder: Where the model lies; in the folder of the comparison where it is empty.
    """

    name: str
    spec: dict[str, Any]
    folder: str
    environment: dict[str, str]
    part: str = DEVELOPMENT
    cases: tuple[str, ...] = ()
    device: str = "auto"
    predict: dict[str, Any] = field(default_factory=dict)
    model_folder: str = ""

    @property
    def model(self) -> Path:
        """Model folder."""
        return Path(self.model_folder or Path(self.folder) / "models" / self.name)

    @property
    def fold(self) -> Path:
        """Folder of the fold."""
        return self.model / f"fold_{self.spec.get('fold', 'all')}"

    @property
    def predictions(self) -> Path:
        """Folder of label maps and scores."""
        if self.part == HELD_OUT:
            return self.fold / "validation"
        return Path(self.folder) / "predictions" / self.part / self.name

    @property
    def is_trained(self) -> bool:
        """Whether the training has ended."""
        return (self.fold / FINAL).is_file()

    @property
    def is_scored(self) -> bool:
        """Whether its cases are scored."""
        return (self.predictions / METRICS).is_file()


@dataclass(frozen=True)
class RunResult:
    """How a process ended.

    Attributes:
        status: 0 done, 130 stopped, another number failed.
        error: Its last line of error.
        minutes: Wall time.
        device: What it ran on.
        peak_memory_gb: Largest resident memory, and largest memory of a GPU.
        peak_gpu_memory_gb: 0 without a GPU.
    """

    status: int
    error: str = ""
    minutes: float = 0.0
    device: str = ""
    peak_memory_gb: float = 0.0
    peak_gpu_memory_gb: float = 0.0


def carry_out(job: Job) -> RunResult:
    """Carry a job out in a process of its own, and wait for it.

    It may be called in several threads; see :func:`stop_all`.
    """
    state = Path(job.folder) / "runs" / job.name
    state.mkdir(parents=True, exist_ok=True)
    path, facts, log = (state / f"{job.part}.{end}" for end in ("job.json", "facts.json", "log"))
    facts.unlink(missing_ok=True)
    write_json(path, asdict(job))
    began = time.monotonic()
    with log.open("ab") as stream:
        process = subprocess.Popen(  # this program
            [sys.executable, "-c", _CODE, str(path)], stdout=stream, stderr=stream,
            stdin=subprocess.DEVNULL, env={**os.environ, **job.environment}, cwd=state,
        )  # fmt: skip
        _RUNNING.add(process)
        try:
            status = process.wait()
        finally:
            _RUNNING.discard(process)
    minutes = (time.monotonic() - began) / 60
    known = read_json(facts) if facts.is_file() else {}
    error = "" if status == DONE else known.pop("error", "") or _last_words(log, status)
    known.pop("error", None)
    was_stopped = status in (-signal.SIGINT, -signal.SIGTERM)
    return RunResult(STOPPED if was_stopped else status, error, minutes, **known)


def stop_all() -> None:
    """Ask all runs of this process to save their state, and end those that do not."""
    processes = list(_RUNNING)
    for process in processes:
        process.terminate()  # an interrupt is ignored by what was begun in the background
    deadline = time.monotonic() + _PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _last_words(log: Path, status: int) -> str:
    """Why a process ended that could not say it in order."""
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}, see {log}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{lines[-1] if lines else 'it said nothing'} (status {status}, see {log})"


def work(job: Job) -> None:
    """Train, predict and score, what of it is missing."""
    from graphnn_unet.data.paths import use_folders
    from graphnn_unet.metrics.evaluate import evaluate
    from graphnn_unet.models.predict import predict
    from graphnn_unet.trainers.registry import trainer_class
    from graphnn_unet.trainers.run import train_run
    from graphnn_unet.trainers.run_spec import Execution, RunSpec

    trainer_class(job.spec["trainer"])  # declares its settings
    spec = RunSpec.from_dict(job.spec)
    raw = use_folders().raw / spec.dataset
    is_waiting = False
    while not job.is_trained or (job.part == HELD_OUT and not job.is_scored):
        begun = any((job.fold / name).is_file() for name in (FINAL, *RESUME_ORDER))
        execution = Execution(job.device, model_folder=job.model)
        try:
            train_run(spec, execution, mode="continue" if begun else "new")
            break
        except LockedError as locked:  # a row that predicts otherwise trains the same model
            if not is_waiting:
                say(f"waiting: {locked.what} ({locked.why})")
            is_waiting = True
            time.sleep(_LOOK_AGAIN_S)
    if job.part == HELD_OUT or job.is_scored:
        return
    images, labels = labeled_scans(raw, job.part)
    source = _gathered(images, job, Path(job.folder) / "images" / job.part)
    predict(source, job.predictions, model=job.model, device=job.device,
            continue_prediction=job.predictions.is_dir(), **job.predict)  # fmt: skip
    if not job.is_trained:  # a label map that scores is never opened before
        raise MissingFileError(f"{job.model} is not trained", "so nothing is scored")
    evaluate(job.predictions, labels, cases=job.cases or None, is_estimate=True, overwrite=True,
             n_workers=0)  # fmt: skip


def labeled_scans(raw: Path, part: str) -> tuple[Path, Path]:
    """Folders of images and label maps that the cases of a part lie in."""
    return (raw / "imagesTs", raw / "labelsTs") if part == TEST else (
        raw / "imagesTr", raw / "labelsTr")  # fmt: skip


def _gathered(images: Path, job: Job, target: Path) -> Path:
    """A folder with the images of the cases alone: links, or copies where there are none."""
    if not job.cases:
        return images
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.iterdir()):
        stem = split_ending(path)[0]
        if stem in job.cases or split_channel(stem)[0] in job.cases:
            link_or_copy(path, target / path.name, symbolic=True)
    return target


def _measured(device: str) -> dict[str, Any]:
    """Device and peak memory of this process."""
    import torch

    from graphnn_unet.device import resolve_device

    chosen = resolve_device(device)
    gpu = chosen.type == "cuda"
    name = torch.cuda.get_device_name(chosen) if gpu else str(chosen)
    on_gpu = torch.cuda.max_memory_allocated(chosen) / _GIB if gpu else 0.0
    return {"device": name, "peak_memory_gb": round(_peak_bytes() / _GIB, 3),
            "peak_gpu_memory_gb": round(on_gpu, 3)}  # fmt: skip


def _peak_bytes() -> int:
    """Largest memory of this process, and of the largest of its children that have ended."""
    try:
        import resource
    except ImportError:  # Windows
        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    unit = 1 if sys.platform == "darwin" else 1024
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return unit * sum(resource.getrusage(who).ru_maxrss for who in both)


def main(job_file: str) -> int:
    """Carry out the job of a file; what went wrong goes beside it. Returns an exit status."""
    path = Path(job_file)
    values = json.loads(path.read_text(encoding="utf-8"))
    job = Job(**{**values, "cases": tuple(values["cases"])})
    leave_with_parent(os.getppid())
    error, status = "", DONE
    try:
        with terminated_as_interrupted():
            work(job)
    except KeyboardInterrupt:
        status = STOPPED
    except GraphnnError as fault:
        error, status = " ".join(fault.lines), REFUSED
        say(f"error: {error}")
    facts = path.with_name(f"{job.part}.facts.json")
    write_json(facts, {**_measured(job.device), "error": error})
    return status
