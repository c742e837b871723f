"""``gnnunet_train`` as it is called: messages, exit status, signals."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_study import DATASET, model_of, use_home

from graphnn_unet.commands.train import main
from graphnn_unet.storage.checkpoints import FINAL, LATEST
from graphnn_unet.storage.safe_load import load_checkpoint

LONGER = [
    "--set",
    "schedule.pretrain_steps=8",
    "schedule.selftrain_steps=16",
    "schedule.steps_per_epoch=4",
]
"""Long enough that a signal meets it on the way."""


def errors(capsys) -> list[str]:
    return [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]


def arguments(trainer: str, *more: str) -> list[str]:
    return ["Tiny", "3d_fullres", trainer, *more, "-device", "cpu", "--workers", "0"]


def test_says_where_the_model_is_and_that_training_cases_are_no_estimate(tiny_copy, capsys):
    assert main(arguments("SupervisedTrainer")) == 0
    out = capsys.readouterr()
    assert out.err.splitlines()[0].startswith(f"folders: raw={tiny_copy / 'raw'}")
    first, *rest = out.out.splitlines()
    assert first == f"model: {model_of(tiny_copy, 'SupervisedTrainer')}"
    assert any("no estimate of quality" in line for line in rest)
    before = (model_of(tiny_copy, "SupervisedTrainer") / "fold_all" / FINAL).read_bytes()
    assert main(arguments("SupervisedTrainer", "--val", "--quiet")) == 0
    out = capsys.readouterr()
    assert out.err == ""
    assert "model: " in out.out
    assert main(arguments("SupervisedTrainer")) == 2
    (line,) = errors(capsys)
    assert "is finished" in line
    assert "--restart" in line
    assert (model_of(tiny_copy, "SupervisedTrainer") / "fold_all" / FINAL).read_bytes() == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["Tny", "3d_fullres", "BCPTrainer"], "near names: Tiny"),
        (["Tiny", "3d_lowres", "BCPTrainer"], "it has 2d, 3d_fullres"),
        (["Tiny", "BCPTrainer", "3d_fullres"], "The order is DATASET CONFIGURATION TRAINER"),
        (["Tiny", "3d_fullres", "BCP"], "near names: BCPTrainer"),
        (["Tiny", "3d_fullres", "BCPTrainer", "5x"], "fold '5x' is unknown"),
        (["Tiny", "3d_fullres", "BCPTrainer", "9"], "fold 9"),
        (["Tiny", "3d_fullres", "BCPTrainer", "--c"], "nothing to continue"),
        (["Tiny", "3d_fullres", "BCPTrainer", "--val"], "only a finished fold"),
        (["Tiny", "3d_fullres", "BCPTrainer", "--set", "loss.alpha=1"], "loss.unlabeled_weight"),
        (["Tiny", "3d_fullres", "BCPTrainer", "--set", "teacher.ema=2"], "teacher.ema"),
        (["Tiny", "3d_fullres", "BCPTrainer", "--recipe", "nothing"], "was not found"),
        (["Tiny", "3d_fullres", "BCPTrainer", "-p", "nnUNetPlans"], "gnnunetPlans"),
        (["Tiny", "3d_fullres", "BCPTrainer", "--labeled", "99"], "99"),
        (["Tiny", "3d_fullres", "BCPTrainer", "-device", "cuda:99"], "is not available"),
        (["Tiny", "3d_fullres", "nnUNetTrainer"], "nnUNetv2_train"),
    ],
)
def test_what_the_user_can_mend_ends_with_2(tiny_home, tmp_path, monkeypatch, capsys, given, words):
    use_home(tiny_home, monkeypatch)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    device = [] if "-device" in given else ["-device", "cpu"]
    assert main([*given, *device]) == 2
    lines = errors(capsys)
    assert lines
    assert words in lines[0]
    assert not list(tmp_path.rglob("*.pth"))


def test_an_option_given_twice_keeps_both_values(tiny_copy, capsys):
    wrong = ["--set", "loss.first=1", "--set", "loss.second=2"]
    assert main(arguments("SupervisedTrainer", *wrong)) == 2
    text = " ".join(errors(capsys))
    assert "loss.first" in text
    assert "loss.second" in text


def test_modes_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments("BCPTrainer", "--c", "--restart"))
    assert ended.value.code == 2


@pytest.fixture(scope="module")
def uninterrupted(tiny_home, tmp_path_factory) -> Path:
    """The longer training without a stop. Read only."""
    home = tmp_path_factory.mktemp("long") / "home"
    shutil.copytree(tiny_home, home)
    with pytest.MonkeyPatch.context() as patch:
        use_home(home, patch)
        patch.setenv("nnUNet_n_proc_DA", "0")
        assert main(arguments("GraphCLTrainer", "--quiet", *LONGER)) == 0
    (model,) = (home / "results" / DATASET).glob("GraphCLTrainer__*")
    return model


def _final(model: Path) -> dict:
    return load_checkpoint(model / "fold_all" / FINAL)


@pytest.mark.parametrize(
    ("number", "whole_group", "workers"),
    [
        pytest.param(signal.SIGTERM, False, 0, marks=pytest.mark.slow),
        (signal.SIGINT, True, 1),
    ],
    ids=["terminated", "ctrl-c with loader workers"],
)
def test_stopped_training_saves_its_state_and_continues_to_the_same_weights(
    tiny_copy, uninterrupted, capsys, number, whole_group, workers
):
    fold = tiny_copy / "results" / DATASET / uninterrupted.name / "fold_all"
    code = "import sys; from graphnn_unet.commands.train import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, DATASET, "3d_fullres", "GraphCLTrainer", "-device", "cpu",
         "--workers", str(workers), *LONGER],
        stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not (fold / LATEST).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if whole_group:  # a terminal sends Ctrl-C to the loader workers as well
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    (line,) = [x for x in stderr.splitlines() if x.startswith("interrupted: ")]
    step = load_checkpoint(fold / LATEST)["gnnunet"]["step"]
    assert f"stopped after step {step} of 24; state saved in {fold / LATEST}" in line
    assert line.endswith("--c")
    assert "Traceback" not in stderr
    assert not (fold / FINAL).exists()
    assert main(arguments("GraphCLTrainer", "--c", *LONGER)) == 0
    assert f"continuing {fold / LATEST} at step {step} of 24" in capsys.readouterr().err
    ours, theirs = _final(fold.parent), _final(uninterrupted)
    for key in theirs["network_weights"]:
        assert torch.equal(ours["network_weights"][key], theirs["network_weights"][key]), key


def test_time_limit_ends_with_the_state_saved(tiny_copy, capsys):
    long = ["--set", "schedule.pretrain_steps=1000000", "schedule.steps_per_epoch=4"]
    given = arguments("SupervisedTrainer", *long, "--time-limit", "4s")
    assert main([*given, "--restart"]) == 130
    *_, line, again = capsys.readouterr().err.splitlines()
    assert line.startswith("interrupted: ")
    assert "--c" in line
    assert again == f"next: gnnunet_train {shlex.join(given)} --c"
    (state,) = (tiny_copy / "results" / DATASET).glob(f"*/fold_all/{LATEST}")
    assert load_checkpoint(state)["gnnunet"]["step"] > 0


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "1h2", "2 h", "9" * 40 + "h"])
def test_times_that_are_none_are_refused(text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments("SupervisedTrainer", "--time-limit", text))
    assert stop.value.code == 2
    assert "90m, 2h or 1d12h" in capsys.readouterr().err
