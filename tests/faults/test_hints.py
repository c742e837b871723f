"""Every hint that is printed works: its commands and flags exist, and the way on is one."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from tiny_study import DATASET, ball_case, model_of, use_home, write_image

import graphnn_unet
from graphnn_unet.classification import learner
from graphnn_unet.dataset_conversion import write_raw
from graphnn_unet.models import predict_cases as prediction
from graphnn_unet.progress import set_quiet
from graphnn_unet.trainers import semi
from graphnn_unet.trainers.optimization import NON_FINITE_LIMIT

COMMANDS = {
    script.name: script.value.partition(":")[0]
    for script in entry_points(group="console_scripts")
    if script.name.startswith("gnnunet_")
}
OTHERS_FLAGS = {"--index-url", "--version", "--help"}
OTHERS_FLAGS |= {"--nproc-per-node", "--nthreads", "--nworkers"}  # of torchrun and dask worker
OTHERS_FLAGS |= {"--bundle_root", "--config_file", "--dataset_dir", "--output_dir"}  # of MONAI


# ------------------------------------------------------------------- what hints name exists


def strings() -> Iterator[tuple[str, str]]:
    """All texts in the package but docstrings, with the file's name."""
    package = Path(graphnn_unet.__file__).parent
    roots = {package, *map(Path, graphnn_unet.__path__)}
    for name in ("plans", "dataset_conversion"):
        roots.update(map(Path, importlib.import_module(f"graphnn_unet.{name}").__path__))
    for path in sorted({path for root in roots for path in root.rglob("*.py")}):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(node.value) for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }  # fmt: skip
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and id(node) not in docs:
                yield path.name, node.value


def flags_of(module: str) -> set[str]:
    """The flags of a command."""
    parser = importlib.import_module(module)._parser
    built = parser(()) if parser.__code__.co_argcount else parser()
    assert isinstance(built, argparse.ArgumentParser)
    return {flag for action in built._actions for flag in action.option_strings}


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    return {name: flags_of(module) for name, module in COMMANDS.items()}


def test_every_flag_in_a_message_is_one_of_ours(flags: dict[str, set[str]]):
    known = set().union(*flags.values(), OTHERS_FLAGS)
    named = {
        (file, flag)
        for file, text in strings()
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z_-]*", text)
    }
    assert len(named) > 100
    assert {(file, flag) for file, flag in named if flag.rstrip("-") not in known} == set()


def test_every_command_in_a_message_is_one_of_ours(flags: dict[str, set[str]]):
    """And has the flags that stand behind it."""
    wrong = []
    for file, text in strings():
        for match in re.finditer(r"\bgnnunet_[a-z_]+\b(?P<rest>[^.;,()]*)", text):
            name = match[0].split()[0]
            if name not in COMMANDS:
                continue
            behind = re.findall(r"(?<!\S)(-{1,2}[a-z][a-z_-]*)", match["rest"])
            wrong += [(file, name, flag) for flag in behind if flag not in flags[name]]
    assert wrong == []


# ------------------------------------------------------------------- the way on is one


def run(name: str, *words: object) -> int:
    main = importlib.import_module(f"graphnn_unet.commands.{name}").main
    try:
        return main([str(word) for word in words])
    finally:
        set_quiet(False)


def hint_of(capsys: pytest.CaptureFixture[str], start: str = "error: ") -> str:
    """The only line of that beginning that was printed since the last look."""
    (line,) = (li for li in capsys.readouterr().err.splitlines() if li.startswith(start))
    return line


class Interrupt:
    """Raises Ctrl-C in the n-th call of a function, and leaves it alone from then on."""

    def __init__(self, original, at: int = 1):
        self.original, self.left = original, at

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.original(*arguments, **options)


@pytest.fixture
def home(trained_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "h"
    shutil.copytree(trained_home, copy)
    return use_home(copy, monkeypatch)


TRAIN = (DATASET, "3d_fullres", "SupervisedTrainer", "-device", "cpu", "--workers", "0")


@pytest.mark.parametrize("before", [(), ("--restart",)], ids=["new", "restart"])
def test_a_training_that_was_stopped_goes_on_with_c(tiny_copy, monkeypatch, capsys, before):
    steps = []

    class InStepFour(threading.Event):
        def is_set(self) -> bool:
            steps.append(1)
            return len(steps) == 4

    monkeypatch.setattr(semi, "stop_requests", lambda: nullcontext(InStepFour()))
    assert run("train", *TRAIN, *before) == 130
    line = hint_of(capsys, "interrupted: ")
    assert "--c" in line
    assert ("instead of --restart" in line) == ("--restart" in before)
    assert run("train", *TRAIN, "--c") == 0


def test_what_is_finished_or_begun_names_ways_that_work(home: Path, capsys):
    assert run("train", *TRAIN) == 2
    line = hint_of(capsys)
    assert "--restart" in line
    assert "--val" in line
    assert run("train", *TRAIN, "--val") == 0
    assert run("train", *TRAIN, "--c") == 2
    assert "--val" in hint_of(capsys)
    assert run("train", *TRAIN, "--restart") == 0


def test_a_training_that_diverged_goes_on_with_c_or_anew_with_a_lower_rate(tiny_copy, capsys):
    file = tiny_copy / "method.py"
    source = (
        "import dataclasses\n"
        "from graphnn_unet.trainers.supervised import SupervisedTrainer\n"
        "class Diverging(SupervisedTrainer):\n"
        "    def batch_loss(self, batch, phase):\n"
        "        loss = super().batch_loss(batch, phase)\n"
        "        return dataclasses.replace(loss, total=loss.total * float('nan'))\n"
    )
    file.write_text(source.replace("float('nan')", "(float('nan') if self.step > 1 else 1)"))
    longer = f"schedule.pretrain_steps={NON_FINITE_LIMIT * 4}"
    words = [DATASET, "3d_fullres", f"{file}:Diverging", *TRAIN[3:], "--set", longer]
    assert run("train", *words) == 2
    assert "--set optimizer.lr=" in hint_of(capsys)
    file.write_text(source.replace("float('nan')", "1"))  # the cases are mended
    assert run("train", *words, "--c") == 0
    assert run("train", *words, "optimizer.lr=0.001") == 0


def test_a_prediction_that_was_stopped_goes_on(home: Path, tmp_path, monkeypatch, capsys):
    words = ("-i", home / "raw" / DATASET / "imagesTs", "-o", tmp_path / "out", "-m",
             model_of(home, "SupervisedTrainer"), "-device", "cpu")  # fmt: skip
    original = prediction.CaseByCase._run

    def stopped(self, cases):
        original(self, dict(list(cases.items())[:1]))
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction.CaseByCase, "_run", stopped)
    assert run("predict", *words) == 130
    assert "--continue_prediction" in hint_of(capsys, "interrupted: ")
    monkeypatch.setattr(prediction.CaseByCase, "_run", original)
    assert run("predict", *words, "--continue_prediction") == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_an_image_that_was_mended_is_predicted_with_continue(home: Path, tmp_path, capsys):
    source = tmp_path / "in"
    shutil.copytree(home / "raw" / DATASET / "imagesTs", source)
    broken = sorted(source.iterdir())[0]
    content = broken.read_bytes()
    broken.write_bytes(content[:-60])
    words = ("-i", source, "-o", tmp_path / "out", "-device", "cpu", "-m")
    assert run("predict", *words, model_of(home, "SupervisedTrainer")) == 3
    assert "Copy or export the file again" in hint_of(capsys)
    broken.write_bytes(content)
    again = (*words, model_of(home, "SupervisedTrainer"), "--continue_prediction")
    assert run("predict", *again) == 0
    capsys.readouterr()
    assert run("predict", *words, model_of(home, "BCPTrainer"), "--continue_prediction") == 0
    assert "of another model or other options" in capsys.readouterr().err


def test_several_models_that_fit_are_told_apart_by_the_flags_named(home: Path, tmp_path, capsys):
    words = ("-i", home / "raw" / DATASET / "imagesTs", "-o", tmp_path / "out", "-d", DATASET,
             "-device", "cpu")  # fmt: skip
    assert run("predict", *words) == 2
    assert "Choose with -tr or -m " in hint_of(capsys)  # they differ in nothing else
    assert run("predict", *words, "-tr", "BCPTrainer") == 0


def test_export_and_install_replace_when_told_to(home: Path, tmp_path, capsys):
    model, target = model_of(home, "SupervisedTrainer"), tmp_path / "model.zip"
    assert run("export", model, "-o", target) == 0
    assert run("export", model, "-o", target) == 2
    assert "--overwrite" in hint_of(capsys)
    assert run("export", model, "-o", target, "--overwrite") == 0
    assert run("install_model", target) == 0
    words = shlex.split(capsys.readouterr().err.splitlines()[-1].partition("next: ")[2])
    values = {"NEW_SCANS": str(home / "raw" / DATASET / "imagesTs"), "OUT": str(tmp_path / "out")}
    assert run("predict", *(values.get(word, word) for word in words[1:]), "-device", "cpu") == 0
    assert run("install_model", target) == 2
    assert "--overwrite" in hint_of(capsys)
    assert run("install_model", target, "--overwrite") == 0


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "my scans"
    for number in range(4):
        (image,), label = ball_case(number)
        write_image(folder / "im" / f"c{number}.nii.gz", image)
        write_image(folder / "la" / f"c{number}.nii.gz", label)
    return folder


def convert_words(scans: Path) -> tuple[object, ...]:
    return ("nifti", "--images", scans / "im", "--labels", scans / "la", "-d", "Mine")


def test_a_conversion_that_was_stopped_is_run_again(scans: Path, monkeypatch, capsys):
    stop = Interrupt(write_raw.prepare_case, at=3)
    monkeypatch.setattr(write_raw, "prepare_case", stop)
    assert run("convert", *convert_words(scans)) == 130
    assert "Run the same command again" in hint_of(capsys, "interrupted: ")
    assert run("convert", *convert_words(scans)) == 0
    assert run("convert", *convert_words(scans)) == 2
    line = hint_of(capsys)
    assert "another name with -d, or --overwrite" in line
    assert run("convert", *convert_words(scans), "--overwrite") == 0
    assert run("convert", *convert_words(scans)[:-1], "Other") == 0


@pytest.mark.parametrize("way", ["header", "resample", "exclude"])
def test_a_label_map_off_the_grid_has_three_ways(scans: Path, capsys, way: str):
    label = ball_case(0)[1]
    write_image(scans / "la" / "c0.nii.gz", label, (1.0, 1.0, 1.5))
    assert run("convert", *convert_words(scans)) == 2
    line = hint_of(capsys)
    assert "--fix-geometry header" in line
    flag = ("--exclude", "c0") if way == "exclude" else ("--fix-geometry", way)
    assert run("convert", *convert_words(scans), *flag) == 0


def test_folders_named_otherwise_say_what_to_type(scans: Path, tmp_path, monkeypatch, capsys):
    """Planning is asked for a folder of the Decathlon; what it says to type converts it."""
    raw = tmp_path / "home of mine" / "raw" / "Dataset004_Task"
    shutil.copytree(scans / "im", raw / "imagesTr")
    shutil.copytree(scans / "la", raw / "labelsTr")
    table = {
        "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "shell", "2": "core"},
        "training": [{"image": f"./imagesTr/c{n}.nii.gz", "label": f"./labelsTr/c{n}.nii.gz"}
                     for n in range(4)],
    }  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(table))
    monkeypatch.setenv("GNNUNET_HOME", str(tmp_path / "home of mine"))
    assert run("plan_and_preprocess", "-d", "4") == 2
    typed = re.search(r"Type (gnnunet_convert .* -d NAME)", hint_of(capsys))
    assert typed is not None
    assert run("convert", *shlex.split(typed[1].replace("NAME", "Mine"))[1:]) == 0


def test_a_number_of_labeled_cases_that_parts_a_patient_names_those_that_do_not(
    tiny_copy: Path, capsys
):
    path = tiny_copy / "preprocessed" / DATASET / "gnnunet.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["patients"] |= {"case_01": "both", "case_02": "both"}
    path.write_text(json.dumps(content))
    assert run("train", *TRAIN, "--labeled", "2") == 2
    numbers = re.search(r"--labeled ([0-9]+)(?: or ([0-9]+))?", hint_of(capsys).partition("Use")[2])
    assert numbers is not None
    assert run("train", *TRAIN, "--labeled", numbers[1]) == 0


def test_a_planning_that_is_missing_or_refused_names_its_command(tiny_copy: Path, capsys):
    assert run("train", *TRAIN, "--set", "plan.spacing=[2,2,2]") == 2
    assert "Plan again with gnnunet_plan_and_preprocess" in hint_of(capsys)
    shutil.rmtree(tiny_copy / "preprocessed")
    assert run("train", *TRAIN) == 2
    line = hint_of(capsys)
    typed = re.search(r"gnnunet_plan_and_preprocess -d (\S+?),", line)
    assert typed is not None, line
    assert run("plan_and_preprocess", "-d", typed[1], "-c", "2d", "-np", "1") == 0


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[object, ...]:
    from PIL import Image

    rows = ["case,class"]
    for number in range(12):
        array = np.random.default_rng(number).integers(0, 60, (20, 20)).astype(np.uint8)
        array[slice(10) if number % 2 else slice(10, 20)] += 150
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "images" / f"p{number:02d}.png")
        rows.append(f"p{number:02d},{['below', 'above'][number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows[:7]))
    quick = [
        "--epochs",
        "2",
        "--rounds",
        "1",
        "--image-size",
        "16",
        "--batch-size",
        "4",
        "-device",
        "cpu",
    ]
    labels, images = tmp_path / "labels.csv", tmp_path / "images"
    return ("-i", images, "--labels", labels, "-o", tmp_path / "out", *quick)


@pytest.mark.parametrize("at", [1, 8], ids=["before a checkpoint", "after one"])
def test_a_classification_that_was_stopped_goes_on_as_it_says(pictures, monkeypatch, capsys, at):
    stop = Interrupt(learner.Learner._judge, at)
    monkeypatch.setattr(learner.Learner, "_judge", lambda self, *rest: stop(self, *rest))
    status = run("classify", *pictures)
    line = hint_of(capsys, "interrupted: ") if status == 130 else ""
    assert status == 130 or at > 1
    assert run("classify", *pictures, *(("--c",) if "--c" in line else ())) == (0 if line else 2)


def test_results_of_a_classification_are_replaced_when_told_to(pictures, capsys):
    assert run("classify", *pictures) == 0
    assert run("classify", *pictures) == 2
    assert "--overwrite" in hint_of(capsys)
    assert run("classify", *pictures, "--overwrite") == 0


def test_clusters_made_otherwise_are_replaced_when_told_to(scans: Path, tmp_path, capsys):
    words = ("-i", scans / "im", "-o", tmp_path / "out", "-device", "cpu", "--slices", "-np", "1",
             "--steps", "5", "--side", "56")  # fmt: skip
    assert run("cluster", *words, "--clusters", "2") == 0
    assert run("cluster", *words, "--clusters", "3") == 2
    assert "another folder with -o, or --overwrite" in hint_of(capsys)
    assert run("cluster", *words, "--clusters", "3", "--overwrite") == 0


def test_a_demonstration_that_was_stopped_is_made_anew(tmp_path, monkeypatch, capsys):
    from graphnn_unet.report import demo

    steps: list[str] = []
    monkeypatch.setattr(demo, "_one_trainer", lambda name, *_: steps.append(name))
    monkeypatch.setattr(demo, "_draw", lambda folder, _: folder / "comparison.png")
    monkeypatch.setattr(demo, "plan_and_preprocess", Interrupt(lambda *_, **__: None))
    target = tmp_path / "demo"
    with pytest.raises(KeyboardInterrupt, match=r"remove .*demo and run the same command"):
        demo.demo(target, "cpu")
    shutil.rmtree(target)
    demo.demo(target, "cpu")
    assert steps == list(demo.TRAINERS)
