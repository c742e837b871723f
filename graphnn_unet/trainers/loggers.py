"""The numbers of a training for TensorBoard, MLflow and W&B, beside ``metrics.csv``.

A logger that fails, because a server cannot be reached or a disk is full, is told once and left out
from then on; the training does not notice.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from graphnn_unet.errors import GraphnnError, InputError, require_installed
from graphnn_unet.progress import say
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.safe_load import read_json

LoggerName = Literal["tensorboard", "mlflow", "wandb"]
IDS = "loggers.json"
"""File of a fold that keeps under which ids its runs are known, for a training that goes on."""

TENSORBOARD_FOLDER, MLFLOW_FOLDER = "tensorboard", "mlruns"
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""A server that does not answer holds a training up once, for about a minute instead of many."""


@dataclass(frozen=True)
class LoggedRun:
    """What loggers are told when a training begins or goes on.

    Attributes:
        folder: Folder of the fold.
        results: Folder of all models.
        dataset: Under whose name runs are gathered.
        name: Of the run.
        recipe: Section to key to value.
        recipe_toml: The same as text.
        step: Steps that are done.
    """

    folder: Path
    results: Path
    dataset: str
    name: str
    recipe: Mapping[str, Any]
    recipe_toml: str
    step: int = 0

    def settings(self) -> dict[str, Any]:
        """``section.key`` to value."""
        flat: dict[str, Any] = {}
        for section, values in self.recipe.items():
            if isinstance(values, Mapping):
                flat |= {f"{section}.{key}": value for key, value in values.items()}
            else:
                flat[section] = values
        return flat


class Logger(Protocol):
    """One place that numbers go to."""

    def begin(self, run: LoggedRun, known_as: str) -> str:
        """Start a run, or take up the one of an id; return its id, empty where it has none."""
        ...

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an epoch."""
        ...

    def end(self, picture: Path | None) -> None:
        """Close the run; without a picture it was interrupted."""
        ...


def require_loggers(names: Sequence[str]) -> None:
    """Refuse unknown loggers, and those whose library is missing.

    Raises:
        InputError: Says what to install.
    """
    for name in names:
        if name not in _LOGGERS:
            raise InputError(f"there is no logger {name!r}", f"they are {', '.join(_LOGGERS)}")
        require_installed([name], name, f"--logger {name} is not possible")


class Loggers:
    """All loggers of a training.

    Args:
        names: Of the loggers.
    """

    def __init__(self, names: Sequence[str] = ()):
        self._active: dict[str, Logger] = {name: _LOGGERS[name]() for name in names}

    def begin(self, run: LoggedRun) -> None:
        """Start or take up a run everywhere."""
        if not self._active:
            return
        path = run.folder / IDS
        try:
            ids = read_json(path) if path.is_file() else {}
        except GraphnnError:  # its runs are begun anew
            ids = {}
        for name, logger in list(self._active.items()):
            known = str(ids.get(name, ""))

            def begin(name: str = name, logger: Logger = logger, known: str = known) -> None:
                ids[name] = logger.begin(run, known)

            self._without_harm(name, begin)
        if any(ids.values()):
            with suppress(GraphnnError, OSError):  # a training that goes on begins new runs
                write_json(path, {name: known for name, known in ids.items() if known})

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Hand on the row of an epoch: its numbers, those that are none left out."""
        values = {
            key: float(value)
            for key, value in row.items()
            if isinstance(value, (int, float)) and key != "step" and math.isfinite(value)
        }
        for name, logger in list(self._active.items()):
            self._without_harm(name, lambda to=logger: to.epoch(int(row["step"]), values))

    def end(self, picture: Path | None = None) -> None:
        """Close all runs; a second call does nothing."""
        for name, logger in list(self._active.items()):
            self._without_harm(name, lambda to=logger: to.end(picture))
        self._active = {}

    def _without_harm(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  # whatever fails there, the training goes on
            self._active.pop(name, None)
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            say(
                f"warning: --logger {name} gets nothing more: {cause}. The training goes on; "
                "metrics.csv has all numbers"
            )


class TensorBoard:
    """Event files in the folder of the fold."""

    def begin(self, run: LoggedRun, known_as: str) -> str:
        """Open an event file; steps that were lost with an interruption are hidden."""
        del known_as
        from torch.utils.tensorboard import SummaryWriter

        purge = run.step + 1 if run.step else None
        self._writer = SummaryWriter(str(run.folder / TENSORBOARD_FOLDER), purge_step=purge)
        self._writer.add_text("recipe", f"```\n{run.recipe_toml}\n```", run.step)
        self._step = run.step
        return ""

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers."""
        self._step = step
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def end(self, picture: Path | None) -> None:
        """Write the picture and close the file."""
        if picture is not None:
            import numpy as np
            from PIL import Image

            with Image.open(picture) as drawn:
                pixels = np.asarray(drawn.convert("RGB"))
            self._writer.add_image("progress", pixels, self._step, dataformats="HWC")
        self._writer.close()


class MLflow:
    """A run at the server that ``MLFLOW_TRACKING_URI`` names, else in ``mlruns`` of the results."""

    def begin(self, run: LoggedRun, known_as: str) -> str:
        """Start a run with the recipe as its parameters, or take one up."""
        for key, value in _PATIENCE.items():
            os.environ.setdefault(key, value)
        # without a server the numbers lie in plain files beside the models, which MLflow calls old
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        store = (run.results / MLFLOW_FOLDER).absolute().as_uri()
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or store)
        if known_as:
            self._run = known_as
            self._client.update_run(known_as, status="RUNNING")
            return known_as
        experiment = self._client.get_experiment_by_name(run.dataset)
        number = experiment.experiment_id if experiment else None
        number = number or self._client.create_experiment(run.dataset)
        self._run = self._client.create_run(number, run_name=run.name).info.run_id
        parameters = [Param(key, str(value)[:500]) for key, value in run.settings().items()]
        for start in range(0, len(parameters), 100):  # so many a request
            self._client.log_batch(self._run, params=parameters[start : start + 100])
        self._client.log_text(self._run, run.recipe_toml, "recipe.toml")
        return self._run

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers in one request."""
        from time import time

        from mlflow.entities import Metric

        now = int(1000 * time())
        metrics = [Metric(_plain(key), value, now, step) for key, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def end(self, picture: Path | None) -> None:
        """Send the picture and close the run."""
        if picture is not None:
            self._client.log_artifact(self._run, str(picture))
        self._client.set_terminated(self._run, "KILLED" if picture is None else "FINISHED")


class WandB:
    """A run of W&B; without a login it is kept in the folder of the fold, for ``wandb sync``."""

    def begin(self, run: LoggedRun, known_as: str) -> str:
        """Start a run with the recipe as its configuration, or take one up."""
        import wandb

        is_decided = "WANDB_MODE" in os.environ or wandb.api.api_key
        if not is_decided:
            say(
                f"wandb: no login here; send the numbers later with wandb sync {run.folder}/wandb/*"
            )
        logging.getLogger("wandb").setLevel(logging.ERROR)
        self._run = wandb.init(
            project=run.dataset,
            name=run.name,
            dir=str(run.folder),
            config=run.settings(),
            id=known_as or None,
            resume="allow" if known_as else None,
            mode=None if is_decided else "offline",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        return str(self._run.id)

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Hand on the numbers."""
        self._run.log(dict(values), step=step)

    def end(self, picture: Path | None) -> None:
        """Hand on the picture and wait until all is sent."""
        if picture is not None:
            import wandb

            self._run.log({"progress": wandb.Image(str(picture))})
        self._run.finish(exit_code=int(picture is None))


def _plain(key: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w./: -]", "_", key)


_LOGGERS: dict[str, Callable[[], Logger]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
