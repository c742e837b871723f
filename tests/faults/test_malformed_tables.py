"""Damaged JSON and TOML files end every command with status 2 and a line a fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from models.small_models import opened_model, write_good_images
from tiny_study import DATASET, use_home, write_raw_dataset

from graphnn_unet.commands import convert as convert_command
from graphnn_unet.commands import plan_and_preprocess as plan_command
from graphnn_unet.commands import predict as predict_command
from graphnn_unet.commands import train as train_command
from graphnn_unet.data.preprocess import manifest_path, read_manifest, require_preprocessed
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.storage.schemas import description_faults, read_summary

DEEP = "[" * 100_000
LABELS = {"background": 0, "shell": 1, "core": 2}


@pytest.fixture(scope="module")
def model(trained_home, tmp_path_factory) -> Path:
    """Read only."""
    return opened_model(trained_home, tmp_path_factory.mktemp("model"))


def errors(main: Callable[..., int], capsys, *arguments: object) -> list[str]:
    """The error lines of a command that ends with 2."""
    assert main([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return [line for line in err.splitlines() if line.startswith("error: ")]


def changed(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"labels": [0, 1]}, "labels is no table"),
        ({"labels": {"background": 0, "a": [[1]]}}, "labels.a = [[1]] is no label id"),
        ({"labels": {"background": 0, "a": "one"}}, "labels.a = 'one' is no label id"),
        ({"labels": {"background": 0, "a": 1.7}}, "labels.a = 1.7 is no label id"),
        ({"labels": {"background": 0, "a": 2}}, "not consecutive"),
        ({"labels": {"a": 0}}, "no 'background'"),
        ({"channel_names": {"0": 5}}, "channel_names.0 = 5"),
        ({"channel_names": {"1": "CT"}}, "channel_names are not numbered"),
        ({"file_ending": "/../x"}, "file_ending = '/../x'"),
        ({"overwrite_image_reader_writer": "Evil"}, "not one of nnU-Net's own"),
        (
            {"labels": {"background": 0, "all": [1, 2], "core": 2}, "regions_class_order": [1]},
            "regions_class_order = [1] is no list of 2 values",
        ),
        (
            {"labels": {"background": 0, "all": [1, 2], "core": 2}, "regions_class_order": [1, 9]},
            "regions_class_order has 9, which is no label",
        ),
        ({"original_labels": {"background": 0}}, "original_labels.shell does not fit"),
    ],
)
def test_a_description_that_is_wrong_is_named_entry_by_entry(
    model, tmp_path, capsys, values, words
):
    base = json.loads((model / "dataset.json").read_text(encoding="utf-8"))
    faults = description_faults({**base, **values})
    assert any(words in text for text, _ in faults)
    assert not description_faults(base)


def test_all_faults_of_a_models_description_are_told_together(model, tmp_path, capsys):
    copy, images = shutil.copytree(model, tmp_path / "model"), write_good_images(tmp_path, ("a",))
    path = copy / "dataset.json"
    changed(path, labels={"background": 0, "a": "x", "b": None}, channel_names={"0": 5})
    call = ("-i", images, "-o", tmp_path / "out", "-m", copy, "-device", "cpu")
    lines = errors(predict_command.main, capsys, *call)
    assert len(lines) == 3
    assert all(str(path) in line for line in lines)
    for text in (DEEP, "[]", "1", '"x"', "{", "\ufeff{}", '{"a": ' + "9" * 5000 + "}"):
        path.write_text(text, encoding="utf-8")
        assert len(errors(predict_command.main, capsys, *call)) == 1


def test_damaged_plans_of_a_model_end_with_2(model, tmp_path, capsys):
    copy, images = shutil.copytree(model, tmp_path / "model"), write_good_images(tmp_path, ("a",))
    path = copy / "plans.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    call = ("-i", images, "-o", tmp_path / "out", "-m", copy, "-device", "cpu")
    for values in ({"configurations": []}, {"plans_name": 3, "dataset_name": "../x"}):
        path.write_text(json.dumps(plans | values))
        assert len(errors(predict_command.main, capsys, *call)) == len(values)
    path.write_text(DEEP)
    assert len(errors(predict_command.main, capsys, *call)) == 1


def test_the_record_of_a_prediction_must_be_a_table(model, tmp_path, capsys):
    images = write_good_images(tmp_path / "in", ("a",))
    call = ("-i", images, "-o", tmp_path / "out", "-m", model, "-device", "cpu")
    assert predict_command.main([str(a) for a in call]) == 0
    (tmp_path / "out" / "prediction.json").write_text("[1]")
    lines = errors(predict_command.main, capsys, *call, "--continue_prediction")
    assert "prediction.json holds no table" in lines[0]


@pytest.mark.parametrize(
    ("content", "n_lines"),
    [
        ({"patients": ["p0"], "label_order": {"a": 1}}, 2),
        ({"patients": {"case_00": 3, "case_01": None}}, 2),
        ([], 1),
    ],
)
def test_faults_of_gnnunet_json_come_with_those_of_the_data(
    tmp_path, monkeypatch, capsys, content, n_lines
):
    home = use_home(tmp_path / "home", monkeypatch)
    raw = write_raw_dataset(home / "raw")
    (raw / "gnnunet.json").write_text(json.dumps(content))
    changed(raw / "dataset.json", channel_names={"0": 5}, labels={**LABELS, "core": 2.5})
    lines = errors(plan_command.main, capsys, "-d", "801")
    assert len([line for line in lines if "gnnunet.json" in line]) == n_lines
    assert any("channel_names.0 = 5" in line for line in lines)
    assert any("labels in" in line for line in lines)
    written = {path.name for path in (home / "preprocessed").rglob("*.json")}
    assert written == {"dataset_report.json"}


def test_training_names_damaged_descriptions(tiny_copy, capsys):
    folder = tiny_copy / "preprocessed" / DATASET
    call = (DATASET, "3d_fullres", "SupervisedTrainer", "0", "-device", "cpu")
    (folder / "gnnunet.json").write_text('{"patients": []}')
    assert "patients is no table" in errors(train_command.main, capsys, *call)[0]
    changed(folder / "dataset.json", labels=[1])
    assert "labels is no table" in errors(train_command.main, capsys, *call)[0]
    (folder / "gnnunetPlans.json").write_text('{"configurations": {"3d_fullres": 1}}')
    lines = errors(train_command.main, capsys, *call)
    assert any("configurations.3d_fullres is no table" in line for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(cases=[]),
        lambda m: m.pop("settings"),
        lambda m: m["cases"]["case_00"].pop("files"),
        lambda m: m["cases"]["case_00"].update(role="both"),
        lambda m: m["cases"]["case_00"].update(files={"../../x": 1}),
        lambda m: m["cases"].update({"../x": m["cases"]["case_00"]}),
    ],
)
def test_a_damaged_manifest_is_none(tiny_copy, change, capsys):
    folder, name = tiny_copy / "preprocessed" / DATASET, "gnnunetPlans_3d_fullres"
    manifest = read_manifest(folder, name)
    assert manifest is not None
    change(manifest)
    manifest_path(folder, name).write_text(json.dumps(manifest))
    assert read_manifest(folder, name) is None
    assert "is damaged" in capsys.readouterr().err
    with pytest.raises(MissingFileError, match="is not preprocessed"):
        require_preprocessed(folder, name)


def test_what_planning_left_may_be_damaged_and_is_made_again(tiny_copy, capsys):
    """Fingerprint, plan and marks are caches: the command that writes them must not need them."""
    folder = tiny_copy / "preprocessed" / DATASET
    fingerprint = folder / "dataset_fingerprint.json"
    content = json.loads(fingerprint.read_text(encoding="utf-8"))
    content["gnnunet"]["cases"] = {"case_00": 1, "case_01": {"sha256": "x"}}
    fingerprint.write_text(json.dumps(content))
    (folder / "gnnunetPlans.json").write_text(DEEP)
    assert plan_command.main(["-d", "801", "-np", "0", "-c", "2d"]) == 0
    assert json.loads((folder / "gnnunetPlans.json").read_text(encoding="utf-8"))["configurations"]
    assert "the older plan is replaced" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "\x00", "[batch]\nlabeled = nan", "a = 1"])
def test_a_malformed_recipe_ends_with_2(tiny_copy, tmp_path, capsys, text):
    (tmp_path / "r.toml").write_text(text)
    lines = errors(plan_command.main, capsys, "-d", "801", "--recipe", tmp_path / "r.toml")
    assert "r.toml" in lines[0]
    assert errors(plan_command.main, capsys, "-d", "801", "--set", f"batch.labeled={'[' * 5000}")


TASK = {
    "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"},
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modality": ["MRI"]}, ["modality"]),
        ({"modality": {"zero": "MRI"}, "labels": {"0": 1}, "training": {}},
         ["modality", "labels", "training"]),
        ({"modality": {}, "name": 3, "test": "x"}, ["modality", "test", "name"]),
        ({"labels": {"-1": "organ"}}, ["labels"]),
        ({"reference": ["x"], "licence": None}, ["reference", "licence"]),
    ],
)  # fmt: skip
def test_all_faults_of_a_task_of_the_decathlon_come_together(tmp_path, capsys, change, words):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "dataset.json").write_text(json.dumps(TASK | change))
    lines = errors(convert_command.main, capsys, "MSD", tmp_path / "t")
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert f"is not in the Decathlon's form: {word} " in line
        assert "gnnunet_convert nifti --images" in line


@pytest.mark.parametrize("content", [[], {}, {"foreground_mean": {"Dice": "x"}, "is_estimate": 3}])
def test_a_summary_that_lacks_its_means_is_named(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"summary\.json is damaged.*Score again"):
        read_summary(path)
    path.write_text(json.dumps({"foreground_mean": {"Dice": None, "NSD": 1}, "is_estimate": None}))
    assert read_summary(path)["foreground_mean"]["Dice"] is None
