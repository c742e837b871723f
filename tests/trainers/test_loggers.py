"""Numbers of a training in TensorBoard, MLflow and W&B: read back, and never in the way."""

import csv
import json
import math
from pathlib import Path

import pytest
from PIL import Image
from tiny_study import model_of, train_in

from graphnn_unet.errors import InputError
from graphnn_unet.trainers import loggers as loggers_module
from graphnn_unet.trainers.loggers import LoggedRun, Loggers, require_loggers

ROWS = [
    {"epoch": 0, "phase": "pretrain", "step": 2, "loss": 1.5, "val_dice": None, "lr": 0.1},
    {"epoch": 1, "phase": "pretrain", "step": 4, "loss": 0.5, "val_dice_Läsion": 0.25, "lr": 0.1},
    {"epoch": 2, "phase": "selftrain", "step": 6, "loss": math.nan, "val_dice": 0.75, "lr": 0.01},
]


def logged_run(folder: Path, step: int = 0) -> LoggedRun:
    fold = folder / "Dataset801_Tiny" / "Model" / "fold_all"
    fold.mkdir(parents=True, exist_ok=True)
    recipe = {"batch": {"labeled": 2}, "optimizer": {"lr": 0.1}}
    text = "[batch]\nlabeled = 2"
    return LoggedRun(fold, folder, "Dataset801_Tiny", "Model fold all", recipe, text, step)


def picture_in(folder: Path) -> Path:
    path = folder / "progress.png"
    Image.new("RGB", (12, 7), (200, 10, 10)).save(path)
    return path


def log(folder: Path, name: str) -> LoggedRun:
    run, loggers = logged_run(folder), Loggers([name])
    loggers.begin(run)
    for row in ROWS:
        loggers.epoch(row)
    loggers.end(picture_in(folder))
    return run


def events_in(folder: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    return events.Reload()


def test_tensorboard_has_numbers_recipe_and_picture(tmp_path):
    events = events_in(log(tmp_path, "tensorboard").folder)
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(2, 1.5), (4, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("val_dice")] == [(6, 0.75)]
    assert [e.step for e in events.Scalars("epoch")] == [2, 4, 6]
    assert not {"phase", "step"} & set(events.Tags()["scalars"])
    (text,) = events.Tensors("recipe/text_summary")
    assert b"labeled = 2" in text.tensor_proto.string_val[0]
    (image,) = events.Images("progress")
    assert (image.width, image.height, image.step) == (12, 7, 6)


def test_mlflow_has_numbers_recipe_and_picture_and_takes_its_run_up(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = log(tmp_path, "mlflow")
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("Dataset801_Tiny")
    (stored,) = client.search_runs([experiment.experiment_id])
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "Model fold all")
    assert stored.data.params == {"batch.labeled": "2", "optimizer.lr": "0.1"}
    history = client.get_metric_history(stored.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(2, 1.5), (4, 0.5)]
    assert stored.data.metrics["val_dice_Läsion"] == 0.25
    names = {file.path for file in client.list_artifacts(stored.info.run_id)}
    assert names == {"recipe.toml", "progress.png"}
    again = Loggers(["mlflow"])
    again.begin(logged_run(tmp_path, step=6))
    again.epoch({"step": 8, "loss": 0.25})
    again.end()
    (stored,) = client.search_runs([experiment.experiment_id])
    assert (stored.info.status, stored.data.metrics["loss"]) == ("KILLED", 0.25)
    assert json.loads((run.folder / "loggers.json").read_text(encoding="utf-8")) == {
        "mlflow": stored.info.run_id
    }


def test_wandb_without_a_login_keeps_the_numbers_in_the_fold(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    run = log(tmp_path, "wandb")
    wandb.teardown()  # as the end of the process does: its service writes on its own
    (folder,) = (run.folder / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    content = file.read_bytes()
    for word in (b"val_dice_L", b"optimizer.lr", b"Dataset801_Tiny", b"Model fold all"):
        assert word in content
    assert list(folder.glob("files/media/images/progress*.png"))
    assert set(json.loads((run.folder / "loggers.json").read_text(encoding="utf-8"))) == {"wandb"}


class Failing:
    """Works for one epoch."""

    def begin(self, run, known_as):
        self.n_epochs = 0
        return ""

    def epoch(self, step, values):
        self.n_epochs += 1
        if self.n_epochs > 1:
            raise OSError(28, "No space left on device")

    def end(self, picture):
        raise AssertionError("it is left out by then")


def test_a_logger_that_fails_is_told_once_and_ends_nothing(tiny_copy, monkeypatch, capsys):
    """The other logger and metrics.csv have all epochs, number by number."""
    monkeypatch.setitem(loggers_module._LOGGERS, "wandb", Failing)
    monkeypatch.setattr("graphnn_unet.errors.find_spec", lambda name: name)
    train_in(tiny_copy, "SupervisedTrainer", loggers=["wandb", "tensorboard"])
    told = [line for line in capsys.readouterr().err.splitlines() if "--logger" in line]
    assert len(told) == 1
    assert "wandb gets nothing more: [Errno 28] No space left on device." in told[0]
    fold = model_of(tiny_copy, "SupervisedTrainer") / "fold_all"
    with (fold / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 2
    events = events_in(fold)
    for key in rows[0]:
        told_values = {int(r["step"]): float(r[key]) for r in rows if key != "phase" and r[key]}
        if key in ("step", "phase") or not told_values:
            continue
        written = {e.step: e.value for e in events.Scalars(key)}
        assert written == pytest.approx(told_values, rel=1e-4, abs=1e-4), key
    assert events.Images("progress")


def test_unknown_and_missing_loggers_are_refused(monkeypatch):
    with pytest.raises(InputError, match="no logger 'print'"):
        require_loggers(["print"])
    monkeypatch.setattr("graphnn_unet.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'graphnn-unet\[mlflow\]'"):
        require_loggers(["mlflow"])
    require_loggers([])
