"""Two processes that share a batch are one: weights, heads, teacher, errors and stops."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from recording_trainers import decide_and_report
from tiny_study import DATASET, model_of, train_in, use_home

from graphnn_unet.errors import InputError
from graphnn_unet.storage.checkpoints import LATEST
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers import distributed
from graphnn_unet.trainers.run_spec import Execution

FILE = Path(__file__).with_name("recording_trainers.py")
TWENTY_STEPS = [
    "schedule.pretrain_steps=8", "schedule.selftrain_steps=12", "schedule.steps_per_epoch=10",
    "optimizer.name=sgd", "optimizer.lr=0.02", "optimizer.momentum=0.5",
]  # fmt: skip
# enough that alignment and head matter, too little to make twenty steps chaotic
GRAPH = ["graph.kappa=0.1", "optimizer.weight_decay=0.001"]
MLLC = [
    "batch.labeled=8", "batch.unlabeled=8", "mllc.max_nodes=512", "mllc.sigma=0.5",
    "mllc_training.embedding_size=16", "mllc_training.cutmix_probability=1.0",
    "schedule.pretrain_steps=1", "schedule.selftrain_steps=1",
]  # fmt: skip
"""Half of each kind of image makes a step: two pairs, one for each process. One such step: rounding
changes neighbors and labels of nodes from the second on."""


MEAN_TEACHER = [
    "batch.labeled=8", "batch.unlabeled=8", "mean_teacher.weight=10.0",
    "mean_teacher.rampup_share=0.5", "uncertainty.first_threshold=1.0",
    "schedule.pretrain_steps=2", "schedule.selftrain_steps=4",
]  # fmt: skip
"""The consistency dominates, over nearly all voxels: where few are certain, rounding that moves one
over the threshold shows."""

FILTER_MATCH = [
    "batch.labeled=8", "batch.unlabeled=8", "filter_match.threshold=1.0",
    "schedule.pretrain_steps=2", "schedule.selftrain_steps=4",
]  # fmt: skip
"""All voxels teach, and few steps: rounding that moves a voxel to another class shows."""


def train_recording(home, name, overrides, **keywords) -> list[dict]:
    """States of all processes at the end, in memory."""
    keywords.setdefault("output", home / "results" / f"{name}_{keywords.get('num_gpus', 1)}")
    result = train_in(home, f"{FILE}:{name}", overrides=overrides, **keywords)
    fold = result.model / "fold_all"
    return [torch.load(path) for path in sorted(fold.glob("process*.pt"))]


def largest_difference(a: dict, b: dict) -> float:
    """Over all tensors of two nested states."""
    assert a.keys() == b.keys()
    differences = [0.0]
    for key, value in a.items():
        if isinstance(value, dict):
            differences.append(largest_difference(value, b[key]))
        else:
            differences.append(float((value - b[key]).abs().max()))
    return max(differences)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        pytest.param("RecordingSupervised", [], marks=pytest.mark.slow),
        # later a voxel whose classes are equal but for the last digit gets another label
        pytest.param("RecordingBCP", ["schedule.selftrain_steps=4"], marks=pytest.mark.slow),
        ("RecordingGraphCL", GRAPH),
        pytest.param("RecordingMLLC", MLLC, marks=pytest.mark.slow),
        pytest.param("RecordingUncertaintyMeanTeacher", MEAN_TEACHER, marks=pytest.mark.slow),
        pytest.param("RecordingFilterMatch", FILTER_MATCH, marks=pytest.mark.slow),
    ],
)
def test_two_processes_end_alike_and_like_one_with_the_whole_batch(tiny_copy, name, overrides):
    overrides = [*TWENTY_STEPS, *overrides]
    (whole,) = train_recording(tiny_copy, name, overrides)
    first, second = train_recording(tiny_copy, name, overrides, num_gpus=2)
    assert largest_difference(first, second) == 0.0
    assert largest_difference(first, whole) < 1e-5
    if name == "RecordingGraphCL":
        assert first["heads"]["cluster_head"]
        assert abs(float(first["network"]["align.gate"])) > 1e-4  # the graph has had an effect
    if name == "RecordingMLLC":
        assert first["heads"]["mllc_prototypes"]["sightings"].max() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides", "folder", "ending"),
    [
        ("RecordingPseudoLabel", ["label_rounds.members=2", "label_rounds.rounds=1"],
         "frozen_labels", ".b2nd"),
        ("RecordingBCP", ["scan_labels.rounds=1"], "scan_labels", "_seg.b2nd"),
    ],
)  # fmt: skip
def test_two_processes_label_the_scans_together_and_end_alike(
    tiny_copy, name, overrides, folder, ending
):
    overrides = [*overrides, "schedule.pretrain_steps=2", "schedule.selftrain_steps=4"]
    first, second = train_recording(tiny_copy, name, overrides, num_gpus=2)
    assert largest_difference(first, second) == 0.0
    fold = tiny_copy / "results" / f"{name}_2" / "fold_all"
    labels = {path.name for path in (fold / folder / "round_1").iterdir()}
    assert labels == {"done", *(f"case_0{number}{ending}" for number in (4, 5, 6))}


@pytest.mark.slow
def test_stopped_and_continued_processes_end_alike(tiny_copy):
    overrides = [*TWENTY_STEPS, *GRAPH]
    whole = train_recording(tiny_copy, "RecordingGraphCL", overrides, num_gpus=2)
    model = tiny_copy / "results" / "again"
    keywords = {"num_gpus": 2, "output": model}
    (tiny_copy / "results" / "stop_after").write_text("13")
    with pytest.raises(KeyboardInterrupt, match="asked to stop"):
        train_recording(tiny_copy, "RecordingGraphCL", overrides, **keywords)
    assert load_checkpoint(model / "fold_all" / LATEST)["gnnunet"]["step"] == 13
    again = train_recording(tiny_copy, "RecordingGraphCL", overrides, mode="continue", **keywords)
    for ours, theirs in zip(again, whole, strict=True):
        assert largest_difference(ours, theirs) == 0.0


def test_error_of_one_process_reaches_the_user_as_it_was_raised(tiny_copy):
    with pytest.raises(InputError) as caught:
        train_in(tiny_copy, f"{FILE}:FailingBCP", num_gpus=2)
    assert caught.value.line == "case_00 is odd: it is so. Look at it."


@pytest.mark.parametrize("key", ["labeled", "unlabeled"])
def test_batch_that_cannot_be_shared_is_refused_before_a_process_starts(
    tiny_copy, monkeypatch, key
):
    monkeypatch.setattr(torch.multiprocessing, "start_processes", None)
    words = rf"batch\.{key} = 6 cannot be shared by 2 .*Use a multiple of 4"
    with pytest.raises(InputError, match=words):
        train_in(tiny_copy, "BCPTrainer", num_gpus=2, overrides=[f"batch.{key}=6"])


def command(home: Path, *arguments: str) -> subprocess.Popen:
    program = Path(sys.executable).parent / "gnnunet_train"
    call = [str(program), DATASET, "3d_fullres", "BCPTrainer", "-device", "cpu", *arguments]
    return subprocess.Popen(
        call, stderr=subprocess.PIPE, encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_command_ends_with_one_line_and_status_2(tiny_copy):
    process = command(tiny_copy, "-num_gpus", "2", "--set", "batch.labeled=6")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "Traceback" not in stderr
    assert [line for line in stderr.splitlines() if line.startswith("error: ")] == [
        "error: batch.labeled = 6 cannot be shared by 2 processes: each needs pairs of images. "
        "Use a multiple of 4 (--set batch.labeled=...)."
    ]


def test_sigterm_stops_all_processes_after_the_same_step(tiny_copy, monkeypatch):
    use_home(tiny_copy, monkeypatch)
    model = tiny_copy / "results" / "stopped"
    process = command(
        tiny_copy, "-num_gpus", "2", "--output", str(model), "--set",
        "schedule.pretrain_steps=100000", "schedule.steps_per_epoch=1",
    )  # fmt: skip
    metrics = model / "fold_all" / "metrics.csv"
    until = time.monotonic() + 240
    while not metrics.is_file() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Go on with the same command and --c" in stderr
    assert "Traceback" not in stderr
    step = load_checkpoint(model / "fold_all" / LATEST)["gnnunet"]["step"]
    assert step == pd.read_csv(metrics)["step"].iloc[-1]


@pytest.mark.slow
def test_two_processes_log_once(tiny_copy):
    result = train_in(tiny_copy, "GraphCLTrainer", num_gpus=2)
    assert result.model == model_of(tiny_copy, "GraphCLTrainer")
    rows = pd.read_csv(result.model / "fold_all" / "metrics.csv")
    assert rows["step"].tolist() == [2, 3, 4, 6]


def torchrun(home: Path, n_processes: int, trainer: str, *arguments: str):
    """Start gnnunet_train as it is with torchrun."""
    bin_folder = Path(sys.executable).parent
    call = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={n_processes}", str(bin_folder / "gnnunet_train"), DATASET, "3d_fullres",
        trainer, "-device", "cpu", "--workers", "0", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        call, capture_output=True, encoding="utf-8", env=environment, timeout=900, cwd=home
    )


@pytest.mark.slow
def test_torchrun_ends_as_own_processes_and_another_number_of_them_goes_on(tiny_copy, monkeypatch):
    use_home(tiny_copy, monkeypatch)
    trainer = f"{FILE}:RecordingGraphCL"
    overrides = [
        *TWENTY_STEPS, *GRAPH, "batch.labeled=12", "batch.unlabeled=12",
        "schedule.pretrain_steps=2", "schedule.selftrain_steps=4",
    ]  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun sets it: rounding depends on it
    expected = train_recording(tiny_copy, "RecordingGraphCL", overrides, num_gpus=2)

    model = tiny_copy / "results" / "launched"
    ended = torchrun(tiny_copy, 2, trainer, "--output", str(model), "--set", *overrides)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("model: ") == 1  # the first process speaks for all
    states = [torch.load(path) for path in sorted((model / "fold_all").glob("process*.pt"))]
    assert len(states) == 2
    for state, other in zip(states, expected, strict=True):
        assert largest_difference(state, other) == 0.0

    model = tiny_copy / "results" / "again"
    (tiny_copy / "results" / "stop_after").write_text("4")
    common = ("--output", str(model), "--set", *overrides)
    ended = torchrun(tiny_copy, 2, trainer, *common)
    assert "interrupted: asked to stop" in ended.stderr
    assert load_checkpoint(model / "fold_all" / LATEST)["gnnunet"]["step"] == 4
    ended = torchrun(tiny_copy, 3, trainer, *common, "--c")
    assert ended.returncode == 0, ended.stderr
    states = [torch.load(path) for path in sorted((model / "fold_all").glob("process*.pt"))]
    assert len(states) == 3
    assert largest_difference(states[0], states[2]) == 0.0
    assert largest_difference(states[0], expected[0]) < 1e-5


@pytest.mark.slow
def test_torchrun_shows_the_error_of_one_process_and_no_traceback(tiny_copy, monkeypatch):
    use_home(tiny_copy, monkeypatch)
    ended = torchrun(tiny_copy, 2, f"{FILE}:FailingBCP")
    assert ended.returncode == 1  # torchrun's own
    assert "error: case_00 is odd: it is so. Look at it." in ended.stderr
    assert "in batch_loss" not in ended.stderr
    ended = torchrun(tiny_copy, 3, "BCPTrainer", "--set", "batch.labeled=8")
    assert "error: batch.labeled = 8 cannot be shared by 3 processes" in ended.stderr


def test_launched_process_refuses_to_start_others(monkeypatch):
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert distributed.launched_processes() == 2
    assert not distributed.is_first()
    with (
        pytest.raises(InputError, match="-num_gpus 2 does not go with torchrun"),
        distributed.launched(Execution("cpu", num_gpus=2)),
    ):
        pass


def test_rank_of_another_program_starts_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.launched_processes() == 1
    assert distributed.is_first()


@pytest.mark.slow
def test_the_first_process_decides_for_all(tmp_path):
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    address = f"file://{tmp_path / 'rendezvous'}"
    torch.multiprocessing.start_processes(decide_and_report, (address, results), 2)
    told = sorted(results.get() for _ in range(2))
    assert told == [(0, ["mode", "no: it is so."], 2), (1, ["mode", "no: it is so."], 0)]
