"""Stock nnU-Net and this product, called alike: what a comparison of faults needs of both."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import _warm
from small_dataset import make_dataset

BIN = Path(sys.executable).parent
DATASET = "Dataset001_Small"
CASES = tuple(f"case_{number:03d}" for number in range(6))
FAULTY = "case_001"
PATIENCE_S = 900
"""A command that takes longer hangs: on an idle machine each takes less than a twentieth of it."""

PROGRESS = re.compile(r"(?i)\b(predict(ing|ion)|done with|perform\w*|sending|processed|shape)\b")
"""Lines that name a case because it is at work."""

STOCK_TRAINER = '''
import os
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class ShortTrainer(nnUNetTrainer):
    """Few steps; SHORT_NAN makes the loss not finite from the second epoch on."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ.get("SHORT_EPOCHS", "2"))
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 1
        self.save_every = 1

    def train_step(self, batch):
        if os.environ.get("SHORT_NAN") and self.current_epoch >= 1:
            batch["data"] = batch["data"] * float("nan")
        return super().train_step(batch)
'''
OUR_TRAINER = '''
import dataclasses
from graphnn_unet.trainers import SupervisedTrainer


class NotFiniteTrainer(SupervisedTrainer):
    """The loss is not finite from the second epoch on."""

    def batch_loss(self, batch, phase):
        loss = super().batch_loss(batch, phase)
        factor = float("nan") if self.step >= 2 else 1.0
        return dataclasses.replace(loss, total=loss.total * factor)
'''
RECIPE = (
    "plan.patch_size=[8,8,8]", "plan.spacing=[2.0,1.0,1.0]", "network.base_features=4",
    "network.max_features=8", "network.max_stages=2", "schedule.pretrain_steps=2",
    "schedule.selftrain_steps=2", "schedule.steps_per_epoch=2", "schedule.validation_steps=4",
    "schedule.checkpoint_every=1",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int | None
    """``None``: it hung and was killed."""
    text: str
    seconds: float

    def said(self, *words: str) -> bool:
        """Whether one of the words is in the output."""
        return any(word in self.text for word in words)

    def told(self, name: str = FAULTY) -> str:
        """Exit status, form of the message, and whether the case or file is named."""
        if self.status is None:
            return f"hangs (stopped after {self.seconds:.0f} s)"
        if self.status == 0:
            warned = any(name in x for x in self.text.splitlines() if not PROGRESS.search(x))
            return f"exit 0, {name} named" if warned else "exit 0, nothing said"
        named = "named" if self.said(name) else "not named"
        lines = [line for line in self.text.splitlines() if line.startswith("error:")]
        form = "traceback" if self.said("Traceback (most") else f"{max(1, len(lines))} line(s)"
        form = "1 line" if form == "1 line(s)" else form.replace("line(s)", "lines")
        return f"exit {self.status}, {form}, {name} {named}"


@dataclass(frozen=True)
class Program:
    """How one of the two is called. Homes hold raw, preprocessed and results."""

    name: str
    plan: Sequence[str]
    trainer: str
    train: Sequence[str]
    predict: Sequence[str]
    install: str
    plans: str

    @property
    def is_stock(self) -> bool:
        """Whether this is nnU-Net."""
        return self.name == "nnU-Net"

    def training(self, fold: str = "all", *flags: str, trainer: str = "") -> list[str]:
        """Command that trains a fold."""
        return [self.train[0], "1", "3d_fullres", fold, "-tr", trainer or self.trainer,
                *self.train[1:], *flags] if self.is_stock else [
            self.train[0], DATASET, "3d_fullres", trainer or self.trainer, fold,
            *self.train[1:], *flags]  # fmt: skip

    def predicting(self, home: Path, source: Path, target: Path, *flags: str) -> list[str]:
        """Command that predicts with the model of a home."""
        model = self.model(home)
        return [self.predict[0], "-i", str(source), "-o", str(target), "-m", str(model), "-f",
                "all", *self.predict[1:], *flags]  # fmt: skip

    def model(self, home: Path) -> Path:
        """Model folder of a home."""
        return home / "results" / DATASET / f"{self.trainer}__{self.plans}__3d_fullres"

    def fold(self, home: Path, fold: str = "all") -> Path:
        """Folder of a fold of a home."""
        return self.model(home) / f"fold_{fold}"

    def preprocessed(self, home: Path) -> Path:
        """Folder of voxels."""
        return home / "preprocessed" / DATASET / f"{self.plans}_3d_fullres"


STOCK = Program(
    "nnU-Net",
    ("nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "-np", "1", "-npfp", "1"),
    "ShortTrainer",
    ("nnUNetv2_train", "-device", "cpu"),
    ("nnUNetv2_predict_from_modelfolder", "-device", "cpu", "-npp", "1", "-nps", "1"),
    "nnUNetv2_install_pretrained_model_from_zip",
    "nnUNetPlans",
)
OURS = Program(
    "GraphNN-UNet",
    ("gnnunet_plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "-np", "1", "--set", *RECIPE),
    "SupervisedTrainer",
    ("gnnunet_train", "-device", "cpu", "--workers", "0"),
    ("gnnunet_predict", "-device", "cpu", "-np", "2"),
    "gnnunet_install_model",
    "gnnunetPlans",
)
VERIFY = "--verify_dataset_integrity"


@dataclass(frozen=True)
class Trial:
    """One fault on one program, in a folder that may be spoiled."""

    program: Program
    folder: Path
    bases: Path

    @property
    def home(self) -> Path:
        """Its raw, preprocessed and results."""
        return self.folder / "home"

    @property
    def raw(self) -> Path:
        """Raw data set."""
        return self.home / "raw" / DATASET

    def use(self, base: str) -> Trial:
        """Begin with a copy of a home: ``raw``, ``planned`` or ``trained``."""
        shutil.copytree(prepared(self.program, self.bases, base), self.home)
        return self

    def start(
        self, command: Sequence[str], *, limit: Callable[[], None] | None = None, **variables: str
    ) -> _warm.Process:
        """Start a command in a new process group, which can be killed as a whole."""
        script, environment = BIN / command[0], self.environment(variables)
        return _warm.start(
            script, command[1:], folder=self.folder, environment=environment, limit=limit
        )

    def start_cold(self, command: Sequence[str], **variables: str) -> _warm.Process:
        """Start a command in a new interpreter: its workers are what they are for a user."""
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=self.folder, env=self.environment(variables),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, errors="replace",
        )  # fmt: skip

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Variables of a command."""
        given = {f"nnUNet_{name}": str(self.home / name)
                 for name in ("raw", "preprocessed", "results")}  # fmt: skip
        (self.folder / "trainers").mkdir(exist_ok=True, parents=True)
        (self.folder / "trainers" / "short_trainer.py").write_text(STOCK_TRAINER)
        given["nnUNet_extTrainer"] = str(self.folder / "trainers")
        given |= {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
        given["OMP_NUM_THREADS"] = "1"
        return {**os.environ, **given, **variables}

    def run(
        self, command: Sequence[str], *, limit: Callable[[], None] | None = None, **variables: str
    ) -> Outcome:
        """Run a command to its end, or kill it with all its children."""
        return finish(self.start(command, limit=limit, **variables))

    def plan(self, *flags: str) -> Outcome:
        """Plan and preprocess."""
        return self.run([*self.program.plan, *flags])

    def train(self, fold: str = "all", *flags: str, trainer: str = "", **variables: str) -> Outcome:
        """Train a fold without loader processes."""
        command = self.program.training(fold, *flags, trainer=trainer)
        return self.run(command, **{"nnUNet_n_proc_DA": "0", **variables})

    def predict(self, source: Path, target: Path, *flags: str) -> Outcome:
        """Predict a folder with the trained model of this home."""
        return self.run(self.program.predicting(self.home, source, target, *flags))


def finish(process: _warm.Process, patience_s: float = PATIENCE_S) -> Outcome:
    """Wait for a command and everything it printed."""
    began = time.monotonic()
    try:
        text, _ = process.communicate(timeout=patience_s)
        return Outcome(process.returncode, text, time.monotonic() - began)
    except subprocess.TimeoutExpired:
        kill_all(process)
        text, _ = process.communicate()
        return Outcome(None, text, time.monotonic() - began)


def kill_all(process: _warm.Process) -> None:
    """Kill a command and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def limited_file_size(n_bytes: int) -> Callable[[], None]:
    """A disk that is full after so many bytes of one file."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return limit


def limited_memory(n_bytes: int) -> Callable[[], None]:
    """A machine with so much address space."""
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def prepared(program: Program, bases: Path, base: str) -> Path:
    """A home that is made once: ``raw``, ``planned`` or ``trained``."""
    target = bases / program.name / base
    if target.is_dir():
        return target
    partial = bases / program.name / f".{base}"
    shutil.rmtree(partial, ignore_errors=True)
    trial = Trial(program, partial, bases)
    if base == "raw":
        make_dataset(trial.raw, cases=CASES)
    elif base == "planned":
        trial.use("raw")
        require(trial.plan())
        if program.is_stock:
            make_smaller(trial.program.preprocessed(trial.home).parent / f"{program.plans}.json")
    else:
        trial.use("planned")
        require(trial.train())
    trial.home.rename(target)
    shutil.rmtree(partial)
    return target


def make_smaller(plans: Path) -> None:
    """A narrow network, so that nnU-Net's steps take no longer than ours."""
    content = json.loads(plans.read_text(encoding="utf-8"))
    arguments = content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [4 * 2**stage for stage in range(arguments["n_stages"])]
    plans.write_text(json.dumps(content))


def require(outcome: Outcome) -> None:
    """Stop if the data without a fault do not work."""
    if outcome.status != 0:
        raise SystemExit(f"without a fault: exit {outcome.status}\n{outcome.text[-3000:]}")
