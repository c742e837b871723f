"""Crashes, kills and operation: rows C."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _data_rows import write_images
from _trial import (
    BIN,
    CASES,
    DATASET,
    FAULTY,
    OUR_TRAINER,
    VERIFY,
    Trial,
    finish,
    kill_all,
    limited_file_size,
)
from _warm import FORK_SERVER, Process
from small_dataset import cut, image_array, image_path, label_path, make_dataset, rewrite, save

LATEST, FINAL = "checkpoint_latest.pth", "checkpoint_final.pth"
SOON_S = 300
"""What a command does in this time; after a worker was killed, one that runs on hangs."""
LONG = {True: {"SHORT_EPOCHS": "20"}, False: {}}
MANY_STEPS = ("--set", "schedule.pretrain_steps=20", "schedule.selftrain_steps=20")


def digest(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def long_training(trial: Trial, *flags: str, **variables: str) -> Process:
    """A training of many checkpoints."""
    here = ("--output", str(trial.program.model(trial.home)))  # another recipe has another folder
    more = () if trial.program.is_stock else (*MANY_STEPS, *here)
    given = {"nnUNet_n_proc_DA": "0", **LONG[trial.program.is_stock], **variables}
    return trial.start(trial.program.training("all", *more, *flags), **given)


def wait_until(process: Process, there: Callable[[], bool], pause_s: float) -> bool:
    """Wait until something is there; whether it came while the process ran."""
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < SOON_S:
        if there():
            return True
        time.sleep(pause_s)
    return False


def killed_when(process: Process, there: Callable[[], bool], pause_s: float = 0.0) -> bool:
    """Kill a command with its children as soon as something is there."""
    came = wait_until(process, there, pause_s)
    kill_all(process)
    process.communicate()
    return came


def stat_of(pid: int) -> list[str]:
    """State, parent and more of a process; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return []


def parent(pid: int) -> int:
    """Parent of a process, 0 of one that is gone."""
    return int((stat_of(pid) or ["", "0"])[1])


def descendants(pid: int) -> list[int]:
    """Processes below one, oldest first."""
    parents = {
        int(folder.name): parent(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")
    }
    below, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        below += new
    return sorted(below)


def workers(pid: int) -> list[int]:
    """Processes below one that work: no resource tracker and no fork server."""

    def command(number: int) -> str:
        try:
            folder = Path(f"/proc/{number}")
            return (folder / "comm").read_text(encoding="utf-8") + (folder / "cmdline").read_text(
                encoding="utf-8"
            )
        except OSError:
            return ""

    def is_helper(number: int) -> bool:
        # what a fork server forks is called as it is
        is_server = FORK_SERVER in command(number) and FORK_SERVER not in command(parent(number))
        return is_server or "resource_tracker" in command(number)

    return [number for number in descendants(pid) if not is_helper(number)]


def trained_again(trial: Trial) -> str:
    """C01: the same command on a finished fold."""
    path = trial.use("trained").program.fold(trial.home) / FINAL
    before = digest(path)
    told = trial.train().told("fold_all")
    return f"{told}; the finished model is {'kept' if digest(path) == before else 'replaced'}"


def second_run_killed(trial: Trial) -> str:
    """C02: a second training is killed after its first checkpoint; then ``--c``."""
    fold = trial.use("trained").program.fold(trial.home)
    before = digest(fold / FINAL)
    (fold / LATEST).unlink(missing_ok=True)
    flags = () if trial.program.is_stock else ("--restart",)
    again = long_training(trial, *flags, SHORT_EPOCHS="2")  # as many as the first
    if not killed_when(again, (fold / LATEST).is_file):
        return "not reached"
    told = finish(long_training(trial, "--c", SHORT_EPOCHS="2")).told("--c")
    kept = any(digest(path) == before for path in (trial.home / "results").rglob(FINAL))
    ended = (fold / FINAL).is_file() and digest(fold / FINAL) != before
    begun = "goes on" if ended or (fold / LATEST).is_file() else "is lost"
    return f"--c: {told}; the first model is {'kept' if kept else 'lost'}, the second {begun}"


def two_trainings(trial: Trial) -> str:
    """C03: two trainings of one fold at once."""
    trial.use("planned")
    command = trial.program.training()
    return at_once([trial.start(command, nnUNet_n_proc_DA="0") for _ in range(2)])


def at_once(processes: list[Process]) -> str:
    """How many of them work to the end, and what the others say."""
    outcomes = [finish(process) for process in processes]
    others = [outcome.told("in use") for outcome in outcomes if outcome.status != 0]
    told = " / ".join(others) or "exit 0, nothing said"
    return f"{len(outcomes) - len(others)} of {len(outcomes)} went on; {told}"


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be loaded."""
    try:
        with zipfile.ZipFile(path) as opened:
            return opened.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def killed_while_writing(trial: Trial) -> str:
    """C04: killed while a checkpoint is written, not before there is one."""
    fold = trial.use("planned").program.fold(trial.home)
    process = long_training(trial)
    wait_until(process, (fold / LATEST).is_file, 0.01)
    time.sleep(1.0)

    def is_written() -> bool:
        full = 0.9 * (trial_size(trial))
        return any(0 <= size < full for size in sizes(fold))

    if not killed_when(process, is_written):
        return "the moment was not met"
    whole = [path.name for path in sorted(fold.glob("checkpoint*")) if is_whole(path)]
    told = finish(long_training(trial, "--c")).told("checkpoint")
    return f"whole: {', '.join(whole) or 'none'}; --c: {told}"


def trial_size(trial: Trial) -> int:
    """Size of a whole checkpoint."""
    home = trial.bases / trial.program.name / "trained"
    return (trial.program.fold(home) / FINAL).stat().st_size


def sizes(folder: Path) -> list[int]:
    """Sizes of files that are, or become, checkpoints."""
    seen = []
    for path in folder.glob("*.pth"):
        try:
            seen.append(path.stat().st_size)
        except OSError:
            continue
    return seen


def half_checkpoint(trial: Trial) -> str:
    """C05: half of the latest checkpoint, then ``--c``."""
    fold = trial.use("planned").program.fold(trial.home)
    older = fold / "checkpoint_previous.pth"
    process = long_training(trial)
    if trial.program.is_stock:
        killed_when(process, (fold / LATEST).is_file, 0.2)
    else:
        killed_when(process, lambda: (fold / LATEST).is_file() and older.is_file(), 0.2)
    cut(fold / LATEST, 0.5)
    return finish(long_training(trial, "--c")).told(LATEST)


def nothing_to_continue(trial: Trial) -> str:
    """C06: ``--c`` without a checkpoint."""
    outcome = trial.use("planned").train("all", "--c")
    made = list((trial.home / "results").rglob(FINAL))
    return f"{outcome.told('continue')}; {'a new training was run' if made else 'nothing was run'}"


def full_disk(trial: Trial) -> str:
    """C07: no room for the first checkpoint; then there is room."""
    fold = trial.use("planned").program.fold(trial.home)
    limit = limited_file_size(trial_size(trial) // 2)
    command = trial.program.training()
    first = trial.run(command, limit=limit, nnUNet_n_proc_DA="0").told("space")
    left = [p.name for p in fold.glob("checkpoint*") if not is_whole(p)]
    again = trial.train("all", *(["--c"] if list(fold.glob("checkpoint*")) else []))
    return f"{first}; left over: {', '.join(left) or 'nothing half'}; then: {again.told('all')}"


def small_disk(trial: Trial) -> str:
    """C08: a disk that holds one checkpoint and a half."""
    results = trial.use("planned").home / "results"
    results.mkdir(exist_ok=True)
    size = int(1.6 * trial_size(trial))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(results)]
    if subprocess.run(mount, capture_output=True).returncode:
        return "not run: needs the right to mount"
    try:
        told = trial.train().told("space")
        half = [p.name for p in results.rglob("checkpoint*.pth") if not is_whole(p)]
    finally:
        subprocess.run(["umount", str(results)], check=True)
    return f"{told}; half checkpoints: {', '.join(half) or 'none'}"


def n_preprocessed(trial: Trial) -> int:
    """Cases whose voxels are written."""
    return len([path for path in trial.program.preprocessed(trial.home).glob("case_*.b2nd")
                if not path.name.endswith("_seg.b2nd")])  # fmt: skip


def planned_in_part(trial: Trial, n_cases: int) -> bool:
    """Kill preprocessing when so many cases are there; what is beyond is removed."""
    trial.use("raw")
    process = trial.start(trial.program.plan)
    if not killed_when(process, lambda: n_preprocessed(trial) >= n_cases):
        return False
    folder = trial.program.preprocessed(trial.home)
    for case in CASES[n_cases:]:
        for path in folder.glob(f"{case}*"):
            path.unlink()
    return True


def half_preprocessed(trial: Trial) -> str:
    """C09: training on what a killed preprocessing left."""
    return trial.train().told("preprocess") if planned_in_part(trial, 3) else "not reached"


def split_of_a_part(trial: Trial) -> str:
    """C10: a split made while one case was missing."""
    if not planned_in_part(trial, 5):
        return "not reached"
    first = trial.train("0").told("preprocess")
    trial.plan()
    path = trial.home / "preprocessed" / DATASET / "splits_final.json"
    if not path.is_file():
        trial.train("0")
    splits = json.loads(path.read_text(encoding="utf-8"))
    held_out = {case for fold in splits for case in fold["val"] if case in CASES}
    return f"{first}; after all is there, {len(held_out)} of {len(CASES)} cases are in a fold"


def preprocessed_again(trial: Trial) -> str:
    """C11: preprocessing is started again after a kill."""
    if not planned_in_part(trial, 4):
        return "not reached"
    folder = trial.program.preprocessed(trial.home)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("case_00[0-2].b2nd")}
    told = trial.plan().told("case_000")
    kept = sum((folder / name).stat().st_mtime_ns == when for name, when in before.items())
    return f"{told.split(',')[0]}; {kept} of {len(before)} whole cases reused"


def damaged_voxels(trial: Trial) -> str:
    """C12: half a file of voxels; then a missing one."""
    folder = trial.use("planned").program.preprocessed(trial.home)
    cut(folder / f"{FAULTY}.b2nd", 0.5)
    half = trial.train().told(FAULTY)
    (folder / f"{FAULTY}_seg.b2nd").unlink()
    return f"half: {half}; missing: {trial.train().told(FAULTY)}"


def two_preprocessings(trial: Trial) -> str:
    """C13: two preprocessings of one data set at once."""
    trial.use("raw")
    return at_once([trial.start(trial.program.plan) for _ in range(2)])


def raw_data_replaced(trial: Trial) -> str:
    """C14: other scans under the same names, planned again."""
    trial.use("planned")
    for number, case in enumerate(CASES):
        for folder, array in (("imagesTr", 50 * image_array(number)), ("labelsTr", None)):
            name = f"{case}_0000.nii.gz" if folder == "imagesTr" else f"{case}.nii.gz"
            rewrite(trial.raw / folder / name, array, spacing=(2.0, 2.0, 4.0))
    told = trial.plan().told("case_")
    path = trial.home / "preprocessed" / DATASET / "dataset_fingerprint.json"
    spacing = json.loads(path.read_text(encoding="utf-8"))["spacings"][0]
    return f"{told.split(',')[0]}; planned with {'the new' if spacing[0] == 4 else 'the old'} scans"


def slow_scan(folder: Path) -> None:
    """A scan that keeps a worker busy."""
    array = np.random.default_rng(0).normal(100, 20, (160, 200, 160)).astype(np.float32)
    label = np.zeros(array.shape, np.uint8)
    label[60:90, 80:120, 60:90] = 1
    save(array, image_path(folder))
    save(label, label_path(folder))


def worker_killed(trial: Trial, *flags: str) -> str:
    """Kill the youngest worker of planning while it works on a large scan."""
    slow_scan(trial.use("raw").raw)
    more = () if trial.program.is_stock else ("-np", "2")  # one is no process of its own
    process = trial.start([*trial.program.plan, *more, *flags])
    if not wait_until(process, lambda: bool(workers(process.pid)), 0.05):
        return f"no worker to kill; {finish(process).told()}"
    time.sleep(4.0)
    for pid in workers(process.pid)[-1:]:
        os.kill(pid, signal.SIGKILL)
    return finish(process, SOON_S).told()


def verification_worker_killed(trial: Trial) -> str:
    """C15: while the scans are checked."""
    return worker_killed(trial, *([VERIFY] if trial.program.is_stock else []))


def predicting_worker_killed(trial: Trial, index: int) -> str:
    """Kill the oldest or youngest worker after the first label map."""
    trial.use("trained")
    source, target = write_images(trial.folder / "in"), trial.folder / "out"
    process = trial.start(trial.program.predicting(trial.home, source, target))
    if not wait_until(process, lambda: bool(list(target.glob("new_*.nii.gz"))), 0.0):
        return "not reached"
    if not (pids := workers(process.pid)[index : index + 1 or None]):
        return f"no worker to kill; {finish(process).told('new_')}"
    os.kill(pids[0], signal.SIGKILL)
    outcome = finish(process, SOON_S)
    n_maps = len(list(target.glob("new_*.nii.gz")))
    told = "exit 0" if outcome.status == 0 and n_maps == 6 else outcome.told("new_")
    return f"{told}; {n_maps} of 6 label maps"


WITH_WORKERS = {True: (), False: ("--workers", "2")}


def loader_killed(trial: Trial) -> str:
    """C19: a loader process is killed while a network trains."""
    fold = trial.use("planned").program.fold(trial.home)
    flags = WITH_WORKERS[trial.program.is_stock]
    process = long_training(trial, *flags, nnUNet_n_proc_DA="2")
    if not wait_until(process, (fold / LATEST).is_file, 0.1):
        return "not reached"
    for pid in workers(process.pid)[-1:]:
        os.kill(pid, signal.SIGKILL)
    return finish(process).told("worker")


def orphans(trial: Trial) -> str:
    """C20: the training is killed; its children should go."""
    fold = trial.use("planned").program.fold(trial.home)
    process = long_training(trial, *WITH_WORKERS[trial.program.is_stock], nnUNet_n_proc_DA="2")
    if not wait_until(process, (fold / LATEST).is_file, 0.1):
        return "not reached"
    children = workers(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    alive = {}
    for seconds in (5, 10):
        time.sleep(5)
        alive[seconds] = sum(is_running(pid) for pid in children)
    kill_all(process)
    for pid in children:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    return f"of {len(children)} children {alive[5]} run after 5 s, {alive[10]} after 10 s"


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return (stat_of(pid) or ["Z"])[0] != "Z"


def half_label_maps(trial: Trial) -> str:
    """C21: ``--continue_prediction`` with a half and an empty label map."""
    trial.use("trained")
    source, target = write_images(trial.folder / "in"), trial.folder / "out"
    trial.predict(source, target)
    whole = {path.name: digest(path) for path in target.glob("new_*.nii.gz")}
    cut(target / "new_1.nii.gz", 0.5)
    (target / "new_2.nii.gz").write_bytes(b"")
    told = trial.predict(source, target, "--continue_prediction").told("new_1")
    mended = sum(digest(target / name) == value for name, value in whole.items())
    return f"{told}; {mended} of {len(whole)} label maps are whole"


def not_finite(trial: Trial) -> str:
    """C22: the loss is NaN from the second epoch on."""
    trial.use("planned")
    if trial.program.is_stock:
        told = trial.train(SHORT_NAN="1", SHORT_EPOCHS="4").told("finite")
    else:
        file = trial.folder / "not_finite.py"
        file.write_text(OUR_TRAINER)
        flags = ("--set", "schedule.selftrain_steps=6")
        told = trial.train("all", *flags, trainer=f"{file}:NotFiniteTrainer").told("finite")
    finals = list((trial.home / "results").rglob(FINAL))
    if not finals:
        return f"{told}; no final model"
    weights = weights_of(finals[0])
    bad = sum(int((~torch.isfinite(value)).sum()) for value in weights.values())
    return f"{told}; {100 * bad / sum(v.numel() for v in weights.values()):.0f} % of weights NaN"


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Network weights of a checkpoint that this script made."""
    content = torch.load(path, map_location="cpu", weights_only=False)
    return {name: value.float() for name, value in content["network_weights"].items()}


def largest_difference(first: Path, second: Path) -> str:
    """Compare two checkpoints."""
    a, b = weights_of(first), weights_of(second)
    largest = max(float((a[name] - b[name]).abs().max()) for name in a)
    return "same weights" if largest == 0 else f"weights differ by {largest:.1e}"


def trained_twice(trial: Trial) -> str:
    """C23: the same command twice."""
    path = trial.use("planned").program.fold(trial.home) / FINAL
    trial.train()
    kept = shutil.copy(path, trial.folder / "first.pth")
    shutil.rmtree(trial.home / "results")
    trial.train()
    return largest_difference(Path(kept), path)


def with_workers(trial: Trial) -> str:
    """C24: without and with loader processes."""
    if trial.program.is_stock:
        return "no option for seeds"
    path = trial.use("planned").program.fold(trial.home) / FINAL
    trial.train()
    kept = shutil.copy(path, trial.folder / "first.pth")
    shutil.rmtree(trial.home / "results")
    trial.train("all", "--workers", "2")
    return largest_difference(Path(kept), path)


def resumed(trial: Trial) -> str:
    """C25: killed and continued, against not killed."""
    fold = trial.use("planned").program.fold(trial.home)
    finish(long_training(trial))
    kept = shutil.copy(fold / FINAL, trial.folder / "first.pth")
    shutil.rmtree(trial.home / "results")
    killed_when(long_training(trial), (fold / LATEST).is_file, 0.2)
    finish(long_training(trial, "--c"))
    return largest_difference(Path(kept), fold / FINAL)


def few_labels(trial: Trial) -> str:
    """C26: three labeled cases, fold 0."""
    make_dataset(trial.raw, cases=CASES[:3])
    planned = trial.plan().told("fold")
    return f"plan: {planned}; train fold 0: {trial.train('0').told('fold')}"


def strange_fold(trial: Trial) -> str:
    """C27: a fold that there is not."""
    return trial.use("planned").train("7").told("folds")


def peak_of(trial: Trial, command: list[str]) -> str:
    """Largest process of a command, MiB."""
    code = (
        "import resource, subprocess, sys; status = subprocess.run(sys.argv[1:]).returncode;"
        "print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"
    )
    program = [sys.executable, "-c", code, str(BIN / command[0]), *command[1:]]
    outcome = finish(trial.start_cold(program))  # forks share memory
    match = re.search(r"PEAK (\d+)", outcome.text)
    peak = f"largest process {int(match[1]) // 1024} MiB" if match else "no peak"
    return peak if outcome.status == 0 else f"exit {outcome.status}, {peak}"


def memory_of_export(trial: Trial) -> str:
    """C28: a volume of 200 x 256 x 256 voxels."""
    source = trial.use("trained").folder / "in"
    array = np.random.default_rng(0).normal(100, 20, (200, 256, 256)).astype(np.float32)
    save(array, source / "new_0_0000.nii.gz", spacing=(0.5, 0.5, 1.0))
    flags = ("-step_size", "1", "--disable_tta")
    command = trial.program.predicting(trial.home, source, trial.folder / "out", *flags)
    return peak_of(trial, command)


def memory_of_planning(trial: Trial) -> str:
    """C29: six small cases."""
    return peak_of(trial.use("raw"), list(trial.program.plan))


def operation_rows() -> dict[str, tuple[str, Callable[[Trial], str]]]:
    """Title and trial of each row."""
    return {
        "C01": ("training started again on a finished fold", trained_again),
        "C02": ("that second training killed, then `--c`", second_run_killed),
        "C03": ("two trainings of one fold at once", two_trainings),
        "C04": ("killed while a checkpoint is written, then `--c`", killed_while_writing),
        "C05": ("half of the latest checkpoint, then `--c`", half_checkpoint),
        "C06": ("`--c` with no checkpoint", nothing_to_continue),
        "C07": ("no room for the first checkpoint", full_disk),
        "C08": ("room for one checkpoint and a half", small_disk),
        "C09": ("preprocessing killed, then training", half_preprocessed),
        "C10": ("the split is made while a case is missing", split_of_a_part),
        "C11": ("preprocessing killed and started again", preprocessed_again),
        "C12": ("half and missing files of voxels", damaged_voxels),
        "C13": ("two preprocessings at once", two_preprocessings),
        "C14": ("scans replaced, planned again", raw_data_replaced),
        "C15": ("worker killed in the check", verification_worker_killed),
        "C16": ("worker killed in planning", worker_killed),
        "C17": (
            "oldest worker of a prediction killed",
            lambda trial: predicting_worker_killed(trial, 0),
        ),
        "C18": (
            "youngest worker of a prediction killed",
            lambda trial: predicting_worker_killed(trial, -1),
        ),
        "C19": ("loader process killed", loader_killed),
        "C20": ("training killed: its children", orphans),
        "C21": ("half and empty label maps, `--continue_prediction`", half_label_maps),
        "C22": ("NaN loss", not_finite),
        "C23": ("the same training twice", trained_twice),
        "C24": ("without and with loader processes", with_workers),
        "C25": ("killed and continued, against not killed", resumed),
        "C26": ("three labeled cases", few_labels),
        "C27": ("fold 7", strange_fold),
        "C28": ("memory: one volume of 200 x 256 x 256 predicted", memory_of_export),
        "C29": ("memory: planning of six small cases", memory_of_planning),
    }
