"""A comparison from its first run to its tables: kept, resumed, honest about what failed."""

import csv
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import SimpleITK as sitk
from tiny_study import DATASET

from graphnn_unet.benchmarking import one_run
from graphnn_unet.benchmarking.grid import Row
from graphnn_unet.benchmarking.one_run import Job, RunResult
from graphnn_unet.benchmarking.run import benchmark
from graphnn_unet.errors import (
    CasesFailedError,
    InputError,
    LockedError,
    MissingFileError,
    RefusedError,
)
from graphnn_unet.report.comparison import report_comparison
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.trainers import run as run_module

SUPERVISED = Row("SupervisedTrainer", "SupervisedTrainer")
PLAIN = Row("plain", "SupervisedTrainer", ("copy_paste.supervised=false",))
DEVELOPMENT = ["case_02", "case_03"]


def compare(folder, rows=(SUPERVISED,), **options):
    values = {"labeled": [1], "draws": 1, "development": 2, "device": "cpu", "mirroring": False}
    return benchmark(DATASET, folder, rows=rows, **{**values, **options})


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def jobs(monkeypatch) -> list[Job]:
    """Runs are carried out in this process; the jobs that were."""
    done: list[Job] = []

    def carry_out(job: Job) -> RunResult:
        done.append(job)
        one_run.work(job)
        return RunResult(0, minutes=1.0, device="cpu", peak_memory_gb=0.5)

    monkeypatch.setattr("graphnn_unet.benchmarking.run.carry_out", carry_out)
    return done


def pretend(monkeypatch, results: list[RunResult]) -> list[str]:
    """Runs that do nothing but end as told; names of those that began."""
    began: list[str] = []

    def carry_out(job: Job) -> RunResult:
        began.append(job.name)
        result = results.pop(0)
        if result.status == 0:
            job.predictions.mkdir(parents=True)
            header = "case,class,dice,jaccard,hd95,asd,distance_unit,missed,invented,protocol"
            text = f"{header}\ncase_02,core,0.5,0.4,1,1,mm,0,0,honest\n"
            (job.predictions / "metrics.csv").write_text(text)
        return result

    monkeypatch.setattr("graphnn_unet.benchmarking.run.carry_out", carry_out)
    return began


def test_rows_that_predict_otherwise_share_their_training(tiny_copy, tmp_path, jobs, monkeypatch):
    locked = [True]
    train_run = run_module.train_run

    def busy(*arguments, **options):
        if locked.pop() if locked else False:
            raise LockedError("the folder is in use", "by another row")
        trained.append(1)
        return train_run(*arguments, **options)

    trained: list[int] = []
    monkeypatch.setattr(run_module, "train_run", busy)
    monkeypatch.setattr(one_run, "_LOOK_AGAIN_S", 0.0)
    rows = (SUPERVISED, Row("voted", "SupervisedTrainer", (), {"scan_graph": True}))
    compare(tmp_path / "out", rows)
    assert len(trained) == 1, "after the lock was free"
    assert len(list((tmp_path / "out" / "models").iterdir())) == 1
    assert jobs[1].predict["scan_graph"]
    assert list((tmp_path / "out" / "votes").iterdir()), "other methods need not vote again"
    record = read_json(jobs[1].predictions / "prediction.json")
    assert record["scan_graph"]["labeled_scans"] == 1
    assert {row["row"] for row in table(tmp_path / "out" / "benchmark.csv")} == {
        "SupervisedTrainer", "voted",
    }  # fmt: skip


def test_no_run_waits_for_the_training_of_another(tiny_copy, tmp_path, monkeypatch):
    began, hold = [], threading.Event()

    def carry_out(job: Job) -> RunResult:
        began.append(job.name)
        if len(began) == 1:
            assert hold.wait(20), "the third run is free to begin"
        if len(began) == 2:
            hold.set()
        return RunResult(2, "pretended")

    monkeypatch.setattr("graphnn_unet.benchmarking.run.carry_out", carry_out)
    rows = (SUPERVISED, Row("voted", "SupervisedTrainer", (), {"scan_graph": True}), PLAIN)
    with pytest.raises(CasesFailedError):
        compare(tmp_path / "out", rows, n_jobs=2)
    assert "scan_graph" not in began[1]
    assert len(began) == 6


def test_what_is_done_is_kept_and_another_call_adds_to_it(tiny_copy, tmp_path, jobs):
    folder = tmp_path / "out"
    result = compare(folder)
    assert (result.n_done, result.n_runs) == (1, 1)
    rows = table(folder / "benchmark.csv")
    assert {(r["row"], r["labeled"], r["draw"], r["part"]) for r in rows} == {
        ("SupervisedTrainer", "1", "1", "development")
    }
    assert [(r["case"], r["class"]) for r in rows] == [
        (case, name) for case in DEVELOPMENT for name in ("shell", "core")
    ]
    before = (folder / "benchmark.csv").read_bytes()
    assert compare(folder).n_done == 1
    assert len(jobs) == 1, "what is done is not done again"
    assert (folder / "benchmark.csv").read_bytes() == before
    compare(folder, [PLAIN], final=True)
    assert len(jobs) == 3
    after = table(folder / "benchmark.csv")
    assert after[: len(rows)] == rows
    assert {(r["row"], r["part"]) for r in after} == {
        ("SupervisedTrainer", "development"), ("plain", "development"), ("plain", "test"),
    }  # fmt: skip
    models = sorted(path.name for path in (folder / "models").iterdir())
    assert len(models) == 2, "a test score trains nothing again"
    page = report_comparison(folder).read_text(encoding="utf-8")
    assert page.count("<img") == 1
    assert "2 of 2 done" not in page
    assert "3 of 3 done" in page
    commands = (folder / "commands.sh").read_text(encoding="utf-8")
    assert commands.count("gnnunet_train") == 2
    assert "--set copy_paste.supervised=false" in commands


def test_a_folder_that_was_moved_keeps_its_runs(tiny_copy, tmp_path, jobs):
    compare(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    before = table(tmp_path / "there" / "benchmark.csv")
    compare(tmp_path / "there", [SUPERVISED, PLAIN])
    assert len(jobs) == 2
    rows = table(tmp_path / "there" / "benchmark.csv")
    assert [row for row in rows if row["row"] == SUPERVISED.name] == before
    assert {row["status"] for row in table(tmp_path / "there" / "runs.csv")} == {"done"}


def test_no_label_map_that_scores_is_opened_before_its_run_is_over(
    tiny_copy, tmp_path, jobs, monkeypatch
):
    """Training and prediction do without: files are away, or zeros which nothing could read."""
    from graphnn_unet.metrics import evaluate as module

    raw, away = tiny_copy / "raw" / DATASET, tmp_path / "away"
    preprocessed = tiny_copy / "preprocessed" / DATASET
    for case in DEVELOPMENT:
        (preprocessed / "gt_segmentations" / f"{case}.nii.gz").unlink()
        for ending in ("_seg.b2nd", ".pkl"):
            path = preprocessed / "gnnunetPlans_3d_fullres" / f"{case}{ending}"
            path.write_bytes(bytes(path.stat().st_size))
    shutil.copytree(raw / "labelsTr", away)
    for case in DEVELOPMENT:
        (raw / "labelsTr" / f"{case}.nii.gz").unlink()
    shutil.rmtree(raw / "labelsTs")
    scored: list[str] = []
    evaluate = module.evaluate

    def evaluate_when_over(predictions, labels, **options):
        (model,) = [job.model for job in jobs if job.predictions == predictions]
        assert (model / "fold_all" / "checkpoint_final.pth").is_file()
        scored.append(Path(predictions).parent.name)
        shutil.copytree(away, raw / "labelsTr", dirs_exist_ok=True)
        return evaluate(predictions, labels, **options)

    monkeypatch.setattr(module, "evaluate", evaluate_when_over)
    compare(tmp_path / "out", [Row("BCPTrainer", "BCPTrainer")])
    assert scored == ["development"]
    with pytest.raises(MissingFileError, match="no label maps of test cases"):
        compare(tmp_path / "out", final=True)


def test_test_labels_are_opened_with_final_alone_and_it_is_noted(tiny_copy, tmp_path, jobs):
    folder = tmp_path / "out"
    shutil.move(tiny_copy / "raw" / DATASET / "labelsTs", tmp_path / "away")
    compare(folder)
    assert '"opened_test": []' in (folder / "benchmark.json").read_text(encoding="utf-8")
    shutil.move(tmp_path / "away", tiny_copy / "raw" / DATASET / "labelsTs")
    compare(folder, final=True)
    assert '"when"' in (folder / "benchmark.json").read_text(encoding="utf-8")
    assert {row["part"] for row in table(folder / "benchmark.csv")} == {"development", "test"}


def test_a_run_that_fails_is_tried_once_more_and_then_told(tiny_copy, tmp_path, monkeypatch):
    began = pretend(monkeypatch, [RunResult(2, "the disk is full"), RunResult(0), RunResult(0)])
    assert compare(tmp_path / "a", [SUPERVISED, PLAIN]).n_done == 2
    assert len(began) == 3
    assert began[0] == began[2], "the others come first"
    failing = [RunResult(-9, "killed"), RunResult(0), RunResult(-9, "killed again")]
    pretend(monkeypatch, failing)
    with pytest.raises(CasesFailedError, match="killed again") as caught:
        compare(tmp_path / "b", [SUPERVISED, PLAIN])
    assert "1 of 2 runs failed" in caught.value.what
    rows = {row["row"]: row for row in table(tmp_path / "b" / "runs.csv")}
    assert (rows["SupervisedTrainer"]["status"], rows["SupervisedTrainer"]["attempts"]) == (
        "failed", "2",
    )  # fmt: skip
    assert rows["SupervisedTrainer"]["error"] == "killed again"
    assert rows["plain"]["status"] == "done"
    assert "1 failed" in report_comparison(tmp_path / "b").read_text(encoding="utf-8")
    began = pretend(monkeypatch, [RunResult(0)])
    compare(tmp_path / "b", [SUPERVISED, PLAIN])
    assert len(began) == 1
    assert {row["status"] for row in table(tmp_path / "b" / "runs.csv")} == {"done"}


def test_budget_begins_no_run_that_would_end_later(tiny_copy, tmp_path, monkeypatch, capsys):
    began = pretend(monkeypatch, [RunResult(0, minutes=6.0), RunResult(0)])
    result = compare(tmp_path / "out", [SUPERVISED, PLAIN], budget_minutes=5)
    assert (result.n_done, result.n_runs, len(began)) == (1, 2, 1)
    assert "1 runs are left for another call" in capsys.readouterr().err
    compare(tmp_path / "out", [SUPERVISED, PLAIN], budget_minutes=5)
    assert len(began) == 2


def test_interrupt_keeps_what_is_done(tiny_copy, tmp_path, monkeypatch):
    pretend(monkeypatch, [RunResult(0), RunResult(130)])
    with pytest.raises(KeyboardInterrupt, match="Type the same command"):
        compare(tmp_path / "out", [SUPERVISED, PLAIN])
    statuses = {row["row"]: row["status"] for row in table(tmp_path / "out" / "runs.csv")}
    assert statuses == {"SupervisedTrainer": "done", "plain": "not done"}


def test_what_cannot_be_compared_is_refused(tiny_copy, tmp_path, monkeypatch):
    pretend(monkeypatch, [RunResult(0)])
    with pytest.raises(InputError, match="there is nothing to score"):
        compare(tmp_path / "out", development=0)
    compare(tmp_path / "out")
    with pytest.raises(RefusedError, match="development 2"):
        compare(tmp_path / "out", development=1)
    state = tmp_path / "out" / "benchmark.json"
    told = read_json(state)
    write_json(state, {**told, "data": "of other scans"})
    with pytest.raises(RefusedError, match="a comparison of other data"):
        compare(tmp_path / "out")
    write_json(state, {key: value for key, value in told.items() if key != "data"})
    compare(tmp_path / "out")  # begun by a version that did not tell
    assert read_json(state)["data"] == told["data"]
    other = Row("SupervisedTrainer", "SupervisedTrainer", ("copy_paste.supervised=false",))
    for words in ({"rows": [other], "draws": 2}, {"mirroring": True}):
        with pytest.raises(RefusedError, match=r"row 'SupervisedTrainer' .* other settings"):
            compare(tmp_path / "out", **words)
    with pytest.raises(InputError, match="--development 4 is not possible"):
        compare(tmp_path / "other", development=4)
    with pytest.raises(MissingFileError, match=r"has no benchmark\.csv"):
        report_comparison(tmp_path)


def test_a_process_of_its_own_says_why_it_failed(tiny_copy, tmp_path):
    """And its peak memory and device are known."""
    spec = {"trainer": "NoTrainer"}
    job = Job("name", spec, str(tmp_path), {"GNNUNET_HOME": str(tiny_copy)}, device="cpu")
    result = one_run.carry_out(job)
    assert result.status == 2
    assert "trainer 'NoTrainer' is unknown" in result.error
    assert result.device == "cpu"
    assert result.peak_memory_gb > 0.1


def test_runs_that_began_in_the_background_end_at_once(tiny_copy, tmp_path):
    """A shell's ``&`` lets a process and its children ignore interrupts."""
    spec = {"trainer": "SupervisedTrainer", "dataset": DATASET}
    job = Job("name", spec, str(tmp_path), {"GNNUNET_HOME": str(tiny_copy)}, device="cpu")
    results: list[RunResult] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = threading.Thread(target=lambda: results.append(one_run.carry_out(job)))
        run.start()
        while not one_run._RUNNING:
            time.sleep(0.01)
        time.sleep(0.3)
        began = time.monotonic()
        one_run.stop_all()
        run.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert results[0].status == one_run.STOPPED
    assert time.monotonic() - began < one_run._PATIENCE_S / 2


@pytest.mark.slow
def test_killed_again_and_again_it_ends_in_the_same_table(tiny_copy, tmp_path):
    words = [
        "-d", "Tiny", "--labeled", "1", "--trainers", "SupervisedTrainer", "BCPTrainer",
        "--draws", "1", "--development", "2", "--disable_tta", "-device", "cpu", "-o", "out",
    ]  # fmt: skip
    command = "from graphnn_unet.commands.benchmark import main"
    code = f"import sys; {command}; sys.exit(main({words!r}))"
    whole = code.replace("'out'", "'whole'")
    subprocess.run([sys.executable, "-c", whole], cwd=tmp_path, check=True)
    for delay in (3, 8, 12, 16, 9, 14):
        number = signal.SIGTERM if delay % 3 == 0 else signal.SIGKILL
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
        time.sleep(delay)
        process.send_signal(number)
        process.wait(40)
        time.sleep(3)  # its runs leave with it
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "out" / "benchmark.csv").read_bytes() == (
        tmp_path / "whole" / "benchmark.csv"
    ).read_bytes()


@pytest.mark.parametrize("cases", [("study.01",), ("study",), ("study_0000",)])
def test_images_of_the_cases_alone_are_gathered(tmp_path, cases):
    images = tmp_path / "images"
    images.mkdir()
    names = {"study": "study_0000", "study.01": "study.01_0000", "study.02": "study.02_0000",
             "study_0000": "study_0000_0000"}  # fmt: skip
    for name in names.values():
        (images / f"{name}.nii.gz").touch()
    job = Job("a", {}, str(tmp_path), {}, cases=cases)
    target = one_run._gathered(images, job, tmp_path / "gathered")
    expected = {f"{names[case]}.nii.gz" for case in cases}
    if cases == ("study_0000",):
        expected.add("study_0000.nii.gz")  # a case of one channel may end in four digits
    assert {path.name for path in target.iterdir()} == expected


def test_label_maps_that_changed_between_rows_are_told(tiny_copy, tmp_path, jobs):
    folder = tmp_path / "out"
    compare(folder, final=True)
    labels = sorted((tiny_copy / "raw" / DATASET / "labelsTs").iterdir())
    before = labels[0].read_bytes()
    image = sitk.ReadImage(str(labels[0]))
    sitk.WriteImage(image * 0, str(labels[0]))
    for _ in range(2):  # the scores are taken back, so the next call tells it again
        with pytest.raises(RefusedError, match=f"1 label map of test.*{labels[0].name}"):
            compare(folder, [PLAIN], final=True)
    labels[0].write_bytes(before)
    assert compare(folder, [PLAIN], final=True).n_done == 2


def test_a_row_keeps_the_recipe_of_the_plan(tiny_copy, tmp_path, monkeypatch):
    pretend(monkeypatch, [RunResult(0, minutes=1.0)])
    compare(tmp_path / "out")
    path = tiny_copy / "preprocessed" / DATASET / "gnnunetPlans.json"
    plans = read_json(path)
    plans["gnnunet"]["derived"]["3d_fullres"]["scan_labels"] = {"rounds": 1}
    write_json(path, plans)
    with pytest.raises(RefusedError, match=r"'SupervisedTrainer' of .* made with other settings"):
        compare(tmp_path / "out", draws=2)
    state = read_json(tmp_path / "out" / "benchmark.json")  # an earlier version did not tell it
    state["settings"] = {
        "SupervisedTrainer": "SupervisedTrainer recipe of the plan mirroring=False"
    }
    write_json(tmp_path / "out" / "benchmark.json", state)
    pretend(monkeypatch, [RunResult(0, minutes=1.0)])
    assert compare(tmp_path / "out", draws=2).n_done == 2


def test_votes_on_slices_are_refused_before_a_training(tiny_copy, tmp_path, jobs):
    row = Row("voted", "SupervisedTrainer", (), {"scan_graph": True})
    with pytest.raises(InputError, match=r"'voted' cannot predict with prediction.scan_graph"):
        compare(tmp_path / "out", [SUPERVISED, row], configuration="2d")
    assert not jobs
