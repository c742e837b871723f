"""Trainings that meet what other programs, disks and people do."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
from tiny_study import DATASET, plan_in, train_in, write_raw_dataset

from graphnn_unet.commands import _command
from graphnn_unet.errors import (
    DivergedError,
    InputError,
    LockedError,
    MissingFileError,
    RefusedError,
)
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.locks import READERS, reading
from graphnn_unet.trainers import semi

SETTINGS = "gnnunetPlans"
SHORT = ("schedule.pretrain_steps=1", "schedule.selftrain_steps=1")


def preprocessed(home: Path) -> Path:
    return home / "preprocessed" / DATASET


def test_voxels_of_another_plan_do_not_train(tiny_copy: Path):
    """Planning again was stopped after the plan and before the voxels."""
    path = preprocessed(tiny_copy) / f"{SETTINGS}.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]
    path.write_text(json.dumps(plans))
    with pytest.raises(InputError, match=r"not made for this plan.*gnnunet_plan_and_preprocess"):
        train_in(tiny_copy, "SupervisedTrainer")
    assert not list((tiny_copy / "results").rglob(FINAL))


def test_voxels_and_plan_of_an_earlier_version_train(tiny_copy: Path):
    """Without orientation and checksums, which they did not have."""
    folder = preprocessed(tiny_copy)
    plans = json.loads((folder / f"{SETTINGS}.json").read_text(encoding="utf-8"))
    del plans["orientation"]
    (folder / f"{SETTINGS}.json").write_text(json.dumps(plans))
    from graphnn_unet.data.preprocess import manifest_path, settings_hash

    path = manifest_path(folder, f"{SETTINGS}_3d_fullres")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    manifest["settings"] = settings_hash(plans, "3d_fullres", description)
    for entry in manifest["cases"].values():
        del entry["checksums"]
    path.write_text(json.dumps(manifest))
    train_in(tiny_copy, "SupervisedTrainer")


def test_a_flipped_bit_in_a_preprocessed_file_names_its_case(tiny_copy: Path):
    path = preprocessed(tiny_copy) / f"{SETTINGS}_3d_fullres" / "case_02.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"files of case_02 are damaged.*Remove .*manifest\.json"):
        train_in(tiny_copy, "SupervisedTrainer")
    (preprocessed(tiny_copy) / f"{SETTINGS}_3d_fullres.manifest.json").unlink()
    plan_in(tiny_copy)  # the way that the message names
    train_in(tiny_copy, "SupervisedTrainer")


def test_planning_again_is_refused_while_a_training_reads(tiny_copy: Path):
    before = (preprocessed(tiny_copy) / f"{SETTINGS}.json").read_bytes()
    with (
        reading(preprocessed(tiny_copy), "gnnunet_train SupervisedTrainer"),
        pytest.raises(LockedError, match=r"in use.*gnnunet_train SupervisedTrainer"),
    ):
        plan_in(tiny_copy, "plan.spacing=[2.0,2.0,2.0]")
    assert (preprocessed(tiny_copy) / f"{SETTINGS}.json").read_bytes() == before
    # a training that was killed leaves its note, which stops nobody
    (preprocessed(tiny_copy) / READERS / "elsewhere-1").mkdir()
    plan_in(tiny_copy)
    assert not list((preprocessed(tiny_copy) / READERS).iterdir())


@pytest.fixture
def stopped_validation(monkeypatch):
    """Ctrl-C in the first validation."""
    original, calls = semi.validate_cases, []

    def validate(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(semi, "validate_cases", validate)


def test_a_validation_that_was_stopped_goes_on_with_c(tiny_copy: Path, stopped_validation):
    with pytest.raises(KeyboardInterrupt, match=r"validation.*Go on with --c"):
        train_in(tiny_copy, "SupervisedTrainer", 0)
    (final,) = (tiny_copy / "results").rglob(FINAL)
    before = final.read_bytes()
    with pytest.raises(RefusedError, match=r"is finished.* or --c to go on"):
        train_in(tiny_copy, "SupervisedTrainer", 0)
    (summary,) = train_in(tiny_copy, "SupervisedTrainer", 0, mode="continue").summaries
    assert summary.is_file()
    assert final.read_bytes() == before
    with pytest.raises(RefusedError, match="nothing to continue"):
        train_in(tiny_copy, "SupervisedTrainer", 0, mode="continue")


@pytest.mark.parametrize("mode", [pytest.param("new", marks=pytest.mark.slow), "continue"])
def test_a_cross_validation_that_was_stopped_goes_on(tiny_copy, stopped_validation, mode):
    with pytest.raises(KeyboardInterrupt):
        train_in(tiny_copy, "SupervisedTrainer", "cv", overrides=SHORT)
    result = train_in(tiny_copy, "SupervisedTrainer", "cv", overrides=SHORT, mode=mode)
    assert len(result.summaries) == 1 + len(result.folds)


def test_steps_without_a_finite_loss_are_counted_and_told(tiny_copy, capsys):
    file = tiny_copy / "often.py"
    file.write_text(
        "from graphnn_unet.trainers.supervised import SupervisedTrainer\n"
        "import dataclasses\n"
        "class OftenNotFinite(SupervisedTrainer):\n"
        "    def batch_loss(self, batch, phase):\n"
        "        loss = super().batch_loss(batch, phase)\n"
        "        factor = float('nan') if self.step % 3 else 1.0\n"
        "        return dataclasses.replace(loss, total=loss.total * factor)\n"
    )
    result = train_in(tiny_copy, f"{file}:OftenNotFinite")
    with (result.model / "fold_all" / "metrics.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [int(row["steps_left_out"]) for row in rows] == [1, 1, 2]  # of steps 0-1, 2, 3-5
    assert "in 4 of 6 steps the loss or its gradients were not finite" in capsys.readouterr().err


def test_gradients_that_are_not_finite_count_as_well(tiny_copy, capsys):
    file = tiny_copy / "root.py"
    file.write_text(
        "from graphnn_unet.trainers.supervised import SupervisedTrainer\n"
        "import dataclasses\n"
        "class RootOfNothing(SupervisedTrainer):\n"
        "    def batch_loss(self, batch, phase):\n"
        "        loss = super().batch_loss(batch, phase)\n"
        "        nothing = 0 * next(self.network.parameters()).sum()\n"
        "        return dataclasses.replace(loss, total=loss.total + nothing.sqrt())\n",
        encoding="utf-8",
    )
    with pytest.raises(DivergedError, match=r"gradients were not finite in 20 steps in a row"):
        train_in(tiny_copy, f"{file}:RootOfNothing", overrides=["schedule.selftrain_steps=30"])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_termination_ends_like_an_interrupt(name, capsys):
    number = getattr(signal, name)
    outside = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup

    def work(_arguments):
        os.kill(os.getpid(), number)
        time.sleep(5)

    try:
        status = _command.main(work, _command.parser("gnnunet_test", ""), [])
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, outside)
    assert status == _command.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_a_hangup_that_nohup_ignores_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        status = _command.main(
            lambda _: os.kill(os.getpid(), signal.SIGHUP), _command.parser("gnnunet_test", ""), []
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert status == 0


@pytest.mark.parametrize(
    ("trainer", "options"),
    [
        ("GraphCLTrainer", {"fold": 7}),
        ("GraphCLTrainer", {"n_labeled": 9}),
        ("GraphCLTrainer", {"mode": "continue"}),
        ("SupervisedTrainer", {"mode": "validate", "fold": 1}),
        ("GraphCLTrainer", {"configuration": "3d_lowres"}),
        ("GraphCLTrainer", {"num_gpus": 4}),
    ],
)
def test_a_refused_training_leaves_no_folder(tiny_copy: Path, trainer, options):
    with pytest.raises((InputError, MissingFileError)):
        train_in(tiny_copy, trainer, **options)
    assert not (tiny_copy / "results").exists()


def test_a_method_without_unlabeled_cases_leaves_no_folder(tmp_path: Path):
    """It is refused only when the batches are built."""
    write_raw_dataset(tmp_path / "raw", n_unlabeled=0)
    plan_in(tmp_path)
    with pytest.raises(InputError, match="needs unlabeled cases"):
        train_in(tmp_path, "GraphCLTrainer", output=tmp_path / "mine" / "model")
    assert not (tmp_path / "mine").exists()


def test_a_refused_training_leaves_what_was_there(tiny_copy: Path):
    fold = tiny_copy / "mine" / "fold_all"
    fold.mkdir(parents=True)
    with pytest.raises(MissingFileError):
        train_in(tiny_copy, "GraphCLTrainer", mode="continue", output=fold.parent)
    assert fold.is_dir()
    other = tiny_copy / "mine" / "fold_0"
    with pytest.raises(MissingFileError):
        train_in(tiny_copy, "GraphCLTrainer", 0, mode="continue", output=fold.parent)
    assert fold.is_dir()
    assert not other.exists()
