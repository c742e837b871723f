"""A folder of images predicted case by case: what is kept, redone, refused and told."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from models import dying_workers
from models.small_models import (
    GOOD,
    change_checkpoint,
    label_maps,
    read,
    same_maps,
    write_good_images,
)  # fmt: skip
from tiny_study import DATASET, imported_by, model_of, use_home, write_image

from graphnn_unet import predict as predict_function
from graphnn_unet import progress
from graphnn_unet.errors import (
    CasesFailedError,
    FaultsError,
    InputError,
    LockedError,
    MissingFileError,
    NoSpaceError,
    RefusedError,
)  # fmt: skip
from graphnn_unet.models.find import available_folds, find_model
from graphnn_unet.models.load import load_predictor
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.storage.atomic import TEMPORARY_MARK
from graphnn_unet.storage.checkpoints import FINAL, LATEST
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.safe_load import read_json

cases_module = import_module("graphnn_unet.models.predict_cases")


@pytest.fixture(scope="module")
def expected(model, images, tmp_path_factory) -> Path:
    """Their label maps, probabilities and entropies. Read only."""
    target = tmp_path_factory.mktemp("expected")
    run(images, target, model, save_probabilities=True, uncertainty=True)
    return target


def run(images, target, model, **options):
    return predict_function(images, target, model=model, device="cpu", **options)


def as_trained(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Array and spacing of a file along the axes of the training scans."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]


def failures_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "failures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def add_bad_images(folder: Path) -> dict[str, str]:
    """Six broken cases; the word that must stand in the cause of each."""
    good = (folder / "b_0000.nii.gz").read_bytes()
    array = read(folder / "b_0000.nii.gz")
    (folder / "cut_0000.nii.gz").write_bytes(good[: len(good) // 2])
    (folder / "empty_0000.nii.gz").touch()
    write_image(folder / "flat_0000.nii.gz", array[5], spacing=(1.0, 1.0))
    with_nan = array.copy()
    with_nan[3, 4, 5] = np.nan
    write_image(folder / "nan_0000.nii.gz", with_nan)
    write_image(folder / "two_0000.nii.gz", array)
    write_image(folder / "two_0001.nii.gz", array)
    (folder / "pipe_0000.nii.gz").mkdir()
    (folder / "notes.txt").touch()
    return {"cut": "truncated", "empty": "empty", "flat": "2 dimensions", "nan": "1 NaN",
            "two": "channel 0001", "pipe": "a folder"}  # fmt: skip


def test_bad_images_cost_no_other(model, images, expected, tmp_path):
    folder, target = shutil.copytree(images, tmp_path / "in"), tmp_path / "out"
    words = add_bad_images(folder)
    with pytest.raises(CasesFailedError) as caught:
        run(folder, target, model)
    assert caught.value.exit_status == 3
    assert same_maps(label_maps(target), label_maps(expected))
    rows = failures_in(target)
    assert {row["case"] for row in rows} == set(words)
    for row in rows:
        assert words[row["case"]] in row["cause"]
        assert row["stage"] == "check"
        assert row["remedy"]
    assert len(caught.value.lines) == len(rows)
    assert not list(target.glob(f"*{TEMPORARY_MARK}*"))
    for name in words:  # fixed: nothing is left to tell
        for path in folder.glob(f"{name}_*"):
            path.rmdir() if path.is_dir() else path.unlink()
    assert run(folder, target, model).skipped == ["in/notes.txt"]
    assert not (target / "failures.csv").exists()


def test_when_all_images_are_bad_nothing_is_done(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x_0000.nii.gz").touch()
    with pytest.raises(FaultsError) as caught:
        run(tmp_path / "in", tmp_path / "out", model)
    assert caught.value.exit_status == 2
    assert [row["case"] for row in failures_in(tmp_path / "out")] == ["x"]


def test_full_disk_is_told_before_a_folder_is_made(model, images, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000))
    with pytest.raises(NoSpaceError, match=r"too little room for label maps in .*out"):
        run(images, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_image_of_zeros_is_predicted_with_a_warning(model, tmp_path, capsys):
    write_image(tmp_path / "in" / "zero_0000.nii.gz", np.zeros((17, 18, 19), np.float32))
    assert run(tmp_path / "in", tmp_path / "out", model).predicted == ["zero"]
    assert "warning: zero: zero_0000.nii.gz: all voxels are 0" in capsys.readouterr().err


def test_scan_in_another_unit_and_label_map_are_predicted_with_warnings(model, tmp_path, capsys):
    image = read(write_good_images(tmp_path / "good", ["a"]) / "a_0000.nii.gz")
    write_image(tmp_path / "in" / "cm_0000.nii.gz", image, spacing=(0.1, 0.1, 0.1))
    write_image(tmp_path / "in" / "map_0000.nii.gz", (image > image.mean()).astype(np.float32))
    assert run(tmp_path / "in", tmp_path / "out", model).predicted == ["cm", "map"]
    warnings = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert [x.split(": ")[1] for x in warnings] == ["cm", "map"]
    assert "spacing is (0.1, 0.1, 0.1) mm" in warnings[0]
    assert "the values 0, 1 alone" in warnings[1]


def test_plain_names_are_cases_of_a_model_with_one_channel(model, images, expected, tmp_path):
    (tmp_path / "in").mkdir()
    for path in images.iterdir():
        shutil.copy(path, tmp_path / "in" / path.name.replace("_0000", ""))
    run(tmp_path / "in", tmp_path / "out", model)
    assert same_maps(label_maps(tmp_path / "out"), label_maps(expected))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda f: None, InputError, "found: nothing"),
        (lambda f: (f / "x.png").touch(), InputError, r"found: x\.png"),
        (lambda f: (f / "._a_0000.nii.gz").touch(), InputError, "no input images"),
        (lambda f: f.rmdir(), MissingFileError, "is missing"),
    ],
)
def test_folder_without_images_is_refused(model, tmp_path, make, error, words):
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder)
    with pytest.raises(error, match=words):
        run(folder, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_output_may_not_be_the_input_or_a_file(model, images, tmp_path):
    before = sorted(p.name for p in images.iterdir())
    (tmp_path / "link").symlink_to(images)
    for target in (images, tmp_path / "link"):
        with pytest.raises(RefusedError, match="input and output are both"):
            run(images, target, model)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        run(images, tmp_path / "file", model)
    assert sorted(p.name for p in images.iterdir()) == before


@pytest.mark.parametrize(
    "options", [{"num_parts": 2, "part_id": 2}, {"part_id": -1}, {"step_size": 0.0}]
)
def test_numbers_out_of_range_are_refused(model, images, tmp_path, options):
    with pytest.raises(InputError):
        run(images, tmp_path, model, **options)


def test_continuing_keeps_whole_label_maps_and_redoes_the_rest(model, images, expected, tmp_path):
    folder = tmp_path / "in"
    write_good_images(folder, (*GOOD, "d", "e"))
    target = tmp_path / "out"
    run(folder, target, model)
    wanted = label_maps(target)
    kept = target / "a_1.nii.gz"
    before = kept.stat().st_mtime_ns
    half = target / "b.nii.gz"
    half.write_bytes(half.read_bytes()[:-40])
    (target / "c.2.nii.gz").write_bytes(b"")
    write_image(target / "d.nii.gz", np.zeros((4, 4, 4), np.uint8))  # of another image
    (target / "e.nii.gz").unlink()
    (target / f".{TEMPORARY_MARK}xyz.nii.gz").touch()
    result = run(folder, target, model, continue_prediction=True)
    assert result.kept == ["a_1"]
    assert result.predicted == ["b", "c.2", "d", "e"]
    assert kept.stat().st_mtime_ns == before
    assert same_maps(label_maps(target), wanted)
    assert not list(target.glob(f".{TEMPORARY_MARK}*"))
    run(folder, target, model)  # without the option everything is done again
    assert kept.stat().st_mtime_ns > before


def test_continuing_redoes_cases_whose_other_files_are_missing(model, images, expected, tmp_path):
    target = shutil.copytree(expected, tmp_path / "out")
    options = {"continue_prediction": True, "save_probabilities": True, "uncertainty": True}
    assert run(images, target, model, **options).kept == list(GOOD)
    (target / "a_1.npz").write_bytes((target / "a_1.npz").read_bytes()[:-30])
    (target / "b.pkl").unlink()
    (target / "c.2_uncertainty.nii.gz").write_bytes(b"")
    result = run(images, target, model, **options)
    assert result.predicted == list(GOOD)
    assert same_maps(label_maps(target), label_maps(expected))


_SLOW = """
import sys, time
from graphnn_unet.commands.predict import main
from graphnn_unet.models.one_case import NetworkStage
answer = NetworkStage._answer
def slow(*arguments):
    time.sleep(1)
    return answer(*arguments)
NetworkStage._answer = slow
sys.exit(main())
"""


@pytest.mark.parametrize("n_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT]
)
def test_stopped_prediction_is_continued(model, tmp_path, number, n_workers):
    folder, target = tmp_path / "in", tmp_path / "out"
    names = [f"case{i}" for i in range(6)]
    write_good_images(folder, names)
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, "-i", str(folder), "-o", str(target), "-m", str(model),
         "-device", "cpu", "-np", str(n_workers)],
        stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (target / "case1.nii.gz").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # the network is at work on case3
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert process.returncode == 130, stderr
        assert "interrupted: the label maps in" in stderr
        assert "--continue_prediction" in stderr
    there = label_maps(target)  # all that have a final name are whole
    assert 1 <= len(there) < len(names)
    result = run(folder, target, model, continue_prediction=True)
    assert result.kept == list(there)
    assert sorted([*result.kept, *result.predicted]) == names
    clean = tmp_path / "clean"
    run(folder, clean, model)
    assert same_maps(label_maps(target), label_maps(clean))


def test_killed_workers_cost_at_most_their_case(model, images, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(cases_module, "prepare_case", dying_workers.prepare)
    monkeypatch.setattr(cases_module, "export_case", dying_workers.export)
    target = tmp_path / "out"
    with pytest.raises(CasesFailedError):
        run(images, target, model, n_workers=2)
    (row,) = failures_in(target)
    assert row["case"] == "b"
    assert row["stage"] == "preprocess"
    assert "killed twice (SIGKILL" in row["cause"]
    assert (tmp_path / "died").exists()  # the other one was given to a new worker
    wanted = label_maps(expected)
    del wanted["b"]
    assert same_maps(label_maps(target), wanted)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_cases_behind_the_network_tell_how_fast_it_is(
    model, images, tmp_path, monkeypatch, n_workers
):
    told = []
    update = progress.Progress.update

    def noted(self, note="", *, ahead=0):
        told.append(ahead)
        update(self, note, ahead=ahead)

    monkeypatch.setattr(progress.Progress, "update", noted)
    run(images, tmp_path, model, n_workers=n_workers)
    assert (len(told), told[0], told[-1]) == (3, 1, 0)  # the second was through as well


@pytest.mark.parametrize("mirroring", [True, False])
def test_a_long_prediction_on_a_cpu_names_the_faster_way(
    model, images, tmp_path, monkeypatch, capsys, mirroring
):
    monkeypatch.setattr(progress, "MEASURED_S", 0)
    monkeypatch.setattr(progress, "LONG_S", 0)
    run(images, tmp_path, model, mirroring=mirroring)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "on this machine; it takes" in x]
    hint = "; gnnunet_predict --fast leaves 1 of 2 mirrored copies out"
    assert line.endswith(hint) == mirroring


def test_parts_share_the_cases(model, images, expected, tmp_path):
    parts = [run(images, tmp_path, model, num_parts=2, part_id=i).predicted for i in (1, 0)]
    assert parts == [["b"], ["a_1", "c.2"]]
    assert same_maps(label_maps(tmp_path), label_maps(expected))


def test_failures_of_a_part_have_their_own_file(model, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "in")
    (folder / "aa_0000.nii.gz").touch()
    with pytest.raises(CasesFailedError, match="aa"):  # b is of this part and written
        run(folder, tmp_path / "out", model, num_parts=2, part_id=1)
    run(folder, tmp_path / "out", model, num_parts=2, part_id=0)
    (path,) = (tmp_path / "out").glob("failures*.csv")
    assert path.name == "failures_part1.csv"
    shutil.copy(folder / "b_0000.nii.gz", folder / "b_0001.nii.gz")  # of no part
    with pytest.raises(FaultsError, match=r"^aa: [^\n]+$"):
        run(folder, tmp_path / "out", model, num_parts=2, part_id=1)
    with pytest.raises(CasesFailedError, match=r"^b: "):
        run(folder, tmp_path / "out", model, num_parts=2, part_id=0)


def test_folder_in_use_is_refused(model, images, tmp_path):
    with folder_lock(tmp_path, "another prediction"), pytest.raises(LockedError, match="another"):
        run(images, tmp_path, model)


def test_probabilities_and_entropy_fit_the_label_map(expected):
    for case, labels in label_maps(expected).items():
        probabilities = np.load(expected / f"{case}.npz")["probabilities"]
        assert probabilities.dtype == np.float32
        assert probabilities.shape == (3, *labels.shape)
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(probabilities.argmax(0), labels)
        entropy = read(expected / f"{case}_uncertainty.nii.gz")
        p = probabilities.astype(np.float64)
        direct = -np.sum(p * np.log(np.maximum(p, 1e-300)), 0) / np.log(3)
        np.testing.assert_allclose(entropy, direct, atol=1e-4)


def test_label_map_and_entropy_lie_where_the_image_lies(images, expected):
    for case in GOOD:
        image = sitk.ReadImage(str(images / f"{case}_0000.nii.gz"))
        for name in (case, f"{case}_uncertainty"):
            label_map = sitk.ReadImage(str(expected / f"{name}.nii.gz"))
            assert label_map.GetSize() == image.GetSize()
            for key in ("GetSpacing", "GetOrigin", "GetDirection"):
                np.testing.assert_allclose(
                    getattr(label_map, key)(), getattr(image, key)(), atol=1e-5
                )


def test_nnunets_ensemble_reads_the_probabilities(expected, tmp_path):
    from nnunetv2.ensembling.ensemble import merge_files
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(read_json(expected / "plans.json"))
    manager = plans.get_label_manager(read_json(expected / "dataset.json"))
    writer = plans.image_reader_writer_class()
    files = [str(expected / "b.npz")] * 2
    merge_files(files, str(tmp_path / "b"), ".nii.gz", writer, manager)
    np.testing.assert_array_equal(read(tmp_path / "b.nii.gz"), label_maps(expected)["b"])
    assert pickle.loads((expected / "b.pkl").read_bytes())["spacing"]


def test_without_a_model_the_last_finished_training_is_used(
    trained_home, images, tmp_path, monkeypatch, capsys
):
    home = use_home(shutil.copytree(trained_home, tmp_path / "home"), monkeypatch)
    for place, trainer in enumerate(("BCPTrainer", "GraphCLTrainer", "SupervisedTrainer")):
        path = model_of(home, trainer) / "fold_all" / FINAL
        os.utime(path, (1_000_000 + place, 1_000_000 + place))
    newest = model_of(home, "SupervisedTrainer")
    # a fold that was set aside is no finished training, however new
    aside = model_of(home, "BCPTrainer") / "fold_all.old1"
    shutil.copytree(model_of(home, "BCPTrainer") / "fold_all", aside)
    os.utime(aside / FINAL)
    result = predict_function(images, tmp_path / "out", device="cpu")
    assert result.model == newest
    assert capsys.readouterr().err.splitlines()[0] == f"model: {newest}  device: cpu"
    assert read_json(tmp_path / "out" / "prediction.json")["trainer"] == "SupervisedTrainer"
    result = predict_function(images, tmp_path / "b", trainer="BCPTrainer", device="cpu")
    assert result.model == model_of(home, "BCPTrainer")  # the last one of this trainer
    with pytest.raises(MissingFileError, match="looked for BCPTrainer 2d"):
        predict_function(images, tmp_path / "c", trainer="BCPTrainer", configuration="2d")


def test_where_several_data_sets_are_trained_none_is_taken_unasked(
    trained_home, images, tmp_path, monkeypatch
):
    home = use_home(tmp_path / "home", monkeypatch)
    names = {DATASET: "BCPTrainer", "Dataset802_Other": "SupervisedTrainer"}
    for name, trainer in names.items():
        model = model_of(trained_home, trainer)
        shutil.copytree(model, home / "results" / name / model.name)
    words = r"finished trainings of 2 data sets: Dataset801_Tiny, Dataset802_Other\. .*-d .* or -m "
    with pytest.raises(InputError, match=words):
        predict_function(images, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    # one data set alone has what is asked for
    options = {"device": "cpu", "mirroring": False}
    result = predict_function(images, tmp_path / "a", trainer="BCPTrainer", **options)
    assert result.model == model_of(home, "BCPTrainer")
    result = predict_function(images, tmp_path / "b", dataset="Other", **options)
    assert result.model.parent.name == "Dataset802_Other"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("fold_all", r"fold_all is no model folder: it is one fold of a model\. Give its parent /"),
        ("..", r"is no model folder: it holds the models BCPTrainer__.*, GraphCL.*\. Give one "),
        (
            "../..",
            r"holds the models Dataset801_Tiny/BCPTrainer__\S+, .*Give one of them, as \S+__",
        ),
        ("fold_all/none", "model folder .* is missing"),
    ],
)
def test_folders_around_and_inside_a_model_are_told(trained_home, images, tmp_path, place, words):
    folder = (model_of(trained_home, "BCPTrainer") / place).resolve()
    with pytest.raises((InputError, MissingFileError), match=words):
        run(images, tmp_path / "out", folder)


def test_model_of_a_data_set_is_found_by_its_parts(trained_home, images, tmp_path, monkeypatch):
    use_home(trained_home, monkeypatch)
    options = {"dataset": "Tiny", "device": "cpu"}
    folder = model_of(trained_home, "BCPTrainer")
    with pytest.raises(InputError, match=rf"several models of .*Choose with -tr or -m .*{folder}"):
        predict_function(images, tmp_path, **options)
    result = predict_function(images, tmp_path, **options, trainer="BCPTrainer")
    assert result.model == model_of(trained_home, "BCPTrainer")
    with pytest.raises(MissingFileError, match=r"no finished model .*there are: BCPTrainer__"):
        predict_function(images, tmp_path, **options, configuration="2d")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "none"))
    with pytest.raises(MissingFileError, match=r"no trained model"):
        predict_function(images, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("names", "trainer", "choices"),
    [
        (["A__p__2d", "B__p__3d"], None, "-tr, -c or -m FOLDER"),
        (["A__p__2d", "A__q__2d"], None, "-p or -m FOLDER"),
        (["A__p__2d", "A__p__2d__seed1", "B__p__2d"], None, "-tr or -m FOLDER"),
        (["A__p__2d", "A__p__2d__seed1", "B__p__2d"], "A", "-m FOLDER"),
        (["A__p__2d", "A__p__2d__seed1", "B__p__2d__seed1", "B__p__2d"], None, "-m FOLDER"),
    ],
)
def test_what_can_choose_among_models_is_named_alone(
    tmp_path, monkeypatch, names, trainer, choices
):
    home = use_home(tmp_path, monkeypatch)
    (home / "raw" / DATASET).mkdir(parents=True)
    for name in names:
        fold = home / "results" / DATASET / name / "fold_all"
        fold.mkdir(parents=True)
        (fold / FINAL).touch()
    with pytest.raises(InputError) as caught:
        find_model("Tiny", trainer, None, None)
    first = home / "results" / DATASET / names[0]
    assert caught.value.remedy == f"Choose with {choices}, as {first}"


def test_a_training_that_has_not_finished_is_named_with_what_to_do(
    trained_home, images, tmp_path, monkeypatch
):
    home = use_home(tmp_path / "home", monkeypatch)
    model = home / "results" / DATASET / model_of(trained_home, "BCPTrainer").name
    shutil.copytree(model_of(trained_home, "BCPTrainer"), model)
    (model / "fold_all" / FINAL).rename(model / "fold_all" / LATEST)
    words = rf"fold_all has not finished.*--c, or predict as it is with -m {model} -chk {LATEST}"
    shutil.copytree(trained_home / "raw", home / "raw")
    for dataset in (None, "Tiny"):
        with pytest.raises(MissingFileError, match=words):
            predict_function(images, tmp_path / "out", dataset=dataset, device="cpu")
    result = predict_function(images, tmp_path / "o", model=model, checkpoint=LATEST, device="cpu")
    assert len(result.predicted) == 3


def test_folds_that_were_set_aside_do_not_predict(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    shutil.copytree(copy / "fold_all", copy / "fold_all.old1")
    assert available_folds(copy, FINAL, None) == ["all"]
    shutil.copytree(copy / "fold_all", copy / "fold_0")
    shutil.copytree(copy / "fold_all", copy / "fold_0.old2")
    assert available_folds(copy, FINAL, None) == [0]


def test_missing_fold_lists_those_that_exist(model, images, tmp_path):
    with pytest.raises(MissingFileError, match=r"fold 3 of .* folds that have it: all"):
        run(images, tmp_path, model, folds=[3])
    with pytest.raises(MissingFileError, match=r"checkpoint_best.pth: folds that have it: none"):
        run(images, tmp_path, model, checkpoint="checkpoint_best.pth")


def test_folds_are_averaged(model, images, expected, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / "fold_all").rename(copy / "fold_0")
    shutil.copytree(copy / "fold_0", copy / "fold_1")

    def other(content):
        for value in content["network_weights"].values():
            value *= 1.1

    change_checkpoint(copy / "fold_1" / FINAL, other)
    image = sitk.ReadImage(str(images / "b_0000.nii.gz"))
    array, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    both = load_predictor(copy, device=torch.device("cpu"))
    data, _ = both.preprocess(array[None], spacing)
    parts = [
        load_predictor(copy, folds=[fold], device=torch.device("cpu")).logits(data)
        for fold in (0, 1)
    ]
    mean = (parts[0] + parts[1]) / 2
    assert torch.equal(both.logits(data), mean)
    assert not torch.equal(parts[0], mean)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(model, images, tmp_path, value):
    copy = shutil.copytree(model, tmp_path / "model")

    def spoil(content):
        content["network_weights"]["decoder.seg_layers.0.bias"][0] = value

    change_checkpoint(copy / "fold_all" / FINAL, spoil)
    with pytest.raises(InputError, match=r"are not finite: first in decoder\.seg_layers\.0\.bias"):
        run(images, tmp_path / "out", copy)
    assert not (tmp_path / "out").exists()


def _drop_name(content):
    del content["trainer_name"]


def _drop_weight(content):
    del content["network_weights"]["align.gate"]


def _other_configuration(content):
    content["init_args"]["configuration"] = "3d_lowres"


def _other_program(content):
    content["trainer_name"] = "MyOwn"
    del content["gnnunet"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop_name, "does not say which trainer"),
        (_drop_weight, r"do not fit the network of GraphCLTrainer: .*align\.gate"),
        (_other_configuration, "no configuration '3d_lowres'"),
        (_other_program, r"'MyOwn' is unknown.*Give its file with -tr FILE\.py:MyOwn"),
    ],
)
def test_checkpoint_that_does_not_fit_its_folder_is_refused(model, images, tmp_path, change, words):
    copy = shutil.copytree(model, tmp_path / "model")
    change_checkpoint(copy / "fold_all" / FINAL, change)
    with pytest.raises(InputError, match=words):
        run(images, tmp_path / "out", copy)


def test_model_folder_whose_description_is_cut_short_is_refused(model, images, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / "dataset.json").write_text('{"labels": {"background": 0}}')
    with pytest.raises(InputError, match=r"dataset\.json lacks channel_names, file_ending"):
        run(images, tmp_path / "out", copy)
    (copy / "dataset.json").unlink()
    with pytest.raises(MissingFileError, match=r"dataset\.json is missing"):
        run(images, tmp_path / "out", copy)


def test_model_of_a_users_own_trainer_predicts_with_its_file(model, images, expected, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    change_checkpoint(copy / "fold_all" / FINAL, lambda c: c.update(trainer_name="OwnTrainer"))
    file = tmp_path / "own.py"
    file.write_text(
        "from graphnn_unet.trainers import GraphCLTrainer\n"
        "class OwnTrainer(GraphCLTrainer):\n    pass\n"
    )
    run(images, tmp_path / "out", copy, trainer=f"{file}:OwnTrainer")
    assert same_maps(label_maps(tmp_path / "out"), label_maps(expected))


def test_users_file_that_cannot_be_imported_is_named(model, images, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(InputError, match=r"broken\.py cannot be imported: ModuleNotFoundError"):
        run(images, tmp_path / "out", model, trainer=f"{file}:X")


def test_case_beyond_the_memory_budget_fails_with_its_size(model, images, tmp_path):
    with pytest.raises(FaultsError) as caught:
        run(images, tmp_path, model, memory_budget_gb=1e-5, save_probabilities=True)
    assert [fault.case for fault in caught.value.faults] == list(GOOD)
    assert "GB of memory, the budget is 1e-05 GB" in caught.value.lines[0]
    assert "--memory-budget, or leave --save_probabilities out" in caught.value.lines[0]


def test_network_output_that_is_not_finite_fails_the_case(model, images, tmp_path, monkeypatch):
    original = Predictor.labels
    calls = []

    def spoiled(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("device ran out of memory\nlong account")
        return original(self, *arguments)

    monkeypatch.setattr(Predictor, "labels", spoiled)
    with pytest.raises(CasesFailedError):
        run(images, tmp_path, model)
    (row,) = failures_in(tmp_path)
    assert (row["case"], row["stage"]) == ("b", "predict")
    assert row["cause"] == "device ran out of memory"


def test_network_with_overflowing_weights_is_told(model, images, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")

    def blow_up(content):
        content["network_weights"]["decoder.seg_layers.1.weight"] *= 1e30

    change_checkpoint(copy / "fold_all" / FINAL, blow_up)
    with pytest.raises(FaultsError, match=r"output is not finite|inf"):
        run(images, tmp_path / "out", copy)
    assert not label_maps(tmp_path / "out")


def test_array_gives_the_label_map_of_the_file(model, images, expected):
    predictor = load_predictor(model, device=torch.device("cpu"))
    for case in GOOD:
        array, spacing = as_trained(images / f"{case}_0000.nii.gz")
        before = array.copy()
        wanted, _ = as_trained(expected / f"{case}.nii.gz")
        np.testing.assert_array_equal(predictor.predict(array, spacing), wanted)
        np.testing.assert_array_equal(predictor.predict(array[None], spacing), wanted)
        np.testing.assert_array_equal(array, before)
    for wrong in (array[0], np.stack([array, array])):
        with pytest.raises(InputError, match="the model takes 1 channels"):
            predictor.predict(wrong, spacing)
    with pytest.raises(InputError, match="does not fit"):
        predictor.predict(array, spacing[:2])


def test_without_mirroring_and_with_larger_steps_less_is_computed(model, images, monkeypatch):
    image = read(images / "b_0000.nii.gz")
    counts = []
    for options in ({}, {"mirroring": False}, {"mirroring": False, "step_size": 1.0}):
        predictor = load_predictor(model, device=torch.device("cpu"), **options)
        calls = []
        network = predictor.window.network
        network.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        predictor.predict(image, (1.0, 1.0, 1.0))
        counts.append(len(calls))
    assert counts[0] == 2 * counts[1]  # one axis is mirrored
    assert counts[2] <= counts[1]


def test_kinds_of_models_that_are_not_served_are_named(model, images, tmp_path):
    def changed(name, change, file="plans.json"):
        copy = shutil.copytree(model, tmp_path / name)
        content = read_json(copy / file)
        change(content)
        (copy / file).write_text(json.dumps(content))
        return copy

    cascade = changed(
        "cascade",
        lambda p: p["configurations"]["3d_fullres"].update(previous_stage="3d_lowres"),
    )
    with pytest.raises((InputError, KeyError), match=r"cascade|3d_lowres"):
        run(images, tmp_path / "out", cascade)
    stacks = changed("stacks", lambda d: d.update(file_ending=".tif"), "dataset.json")
    with pytest.raises(InputError, match=r"reads \*\.tif files.*nnUNetv2_predict"):
        run(images, tmp_path / "out", stacks)
    nibabel = changed("nibabel", lambda p: p.update(image_reader_writer="NibabelIO"))
    with pytest.raises(InputError, match=r"--uncertainty is not possible .*NibabelIO"):
        run(images, tmp_path / "out", nibabel, uncertainty=True)


def test_2d_model_predicts_volumes(tiny_home, images, tmp_path):
    from tiny_study import train_in

    home = shutil.copytree(tiny_home, tmp_path / "home")
    trained = train_in(home, "SupervisedTrainer", configuration="2d").model
    run(images, tmp_path / "out", trained)
    maps = label_maps(tmp_path / "out")
    assert list(maps) == list(GOOD)
    predictor = load_predictor(trained, device=torch.device("cpu"))
    prediction = predictor.predict(*as_trained(images / "b_0000.nii.gz"))
    np.testing.assert_array_equal(prediction, as_trained(tmp_path / "out" / "b.nii.gz")[0])


def test_facts_beside_the_label_maps_name_the_model(model, expected):
    facts = read_json(expected / "prediction.json")
    assert facts["dataset"] == DATASET
    assert facts["model"] == model.name
    assert facts["folds"] == ["all"]
    assert read_json(expected / "dataset.json")["labels"] == {
        "background": 0,
        "shell": 1,
        "core": 2,
    }


def test_images_with_two_places_need_a_choice_and_their_maps_get_both(model, images, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    image = nib.load(sorted(images.glob("*_0000.nii.gz"))[0])
    moved = image.affine.copy()
    moved[:3, 3] += 30
    image.set_qform(image.affine, 1)
    image.set_sform(moved, 2)
    nib.save(image, folder / "a_0000.nii.gz")
    with pytest.raises(FaultsError, match="says twice where it lies"):
        run(folder, tmp_path / "refused", model)
    run(folder, tmp_path / "out", model, nifti_form="qform")
    written = nib.load(tmp_path / "out" / "a.nii.gz").header
    np.testing.assert_allclose(written.get_sform(), moved, atol=1e-4)
    np.testing.assert_allclose(written.get_qform(), image.header.get_qform(), atol=1e-4)
    assert read_json(tmp_path / "out" / "prediction.json")["nifti_form"] == "qform"
    kept = run(folder, tmp_path / "out", model, nifti_form="qform", continue_prediction=True).kept
    assert kept == ["a"]
    with pytest.raises(InputError, match="nifti_form 'form' is unknown"):
        run(folder, tmp_path / "other", model, nifti_form="form")


def test_a_prediction_imports_no_trainer(model, images, tmp_path):
    script = (
        "from graphnn_unet import predict\n"
        f"predict({str(images)!r}, {str(tmp_path / 'out')!r}, model={str(model)!r}, device='cpu',"
        " n_workers=0)\n"
    )
    assert imported_by(script, "graphnn_unet.trainers.semi") == []
