"""Every label map of a folder knows its image, its model and its options."""

import csv
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from models.small_models import (
    GOOD,
    change_checkpoint,
    label_maps,
    same_maps,
    write_good_images,
)  # fmt: skip
from tiny_study import DATASET, model_of, use_home

from graphnn_unet import predict as predict_function
from graphnn_unet.dataset_conversion.corrected_masks import find_masks
from graphnn_unet.errors import (
    CasesFailedError,
    FaultsError,
    InputError,
    MissingFileError,
    RefusedError,
)
from graphnn_unet.models import one_case, predict_cases
from graphnn_unet.models.prediction_record import (
    PredictionRecord,
    note_case,
    weights_id,
)
from graphnn_unet.storage.atomic import checksum, fingerprint
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.safe_load import read_json


def run(images, target, model, **options):
    options = {"mirroring": False, "step_size": 1.0, **options}
    return predict_function(images, target, model=model, device="cpu", **options)


def again(images, target, model, **options):
    return run(images, target, model, continue_prediction=True, **options)


@pytest.fixture(scope="module")
def predicted(model, images, tmp_path_factory) -> Path:
    """Label maps of ``images`` by ``model``. Read only."""
    target = tmp_path_factory.mktemp("predicted")
    run(images, target, model)
    return target


@pytest.fixture
def there(predicted, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(predicted, tmp_path / "out")


@pytest.fixture
def scans(images, tmp_path) -> Path:
    """A copy of the images that a test may change."""
    return shutil.copytree(images, tmp_path / "in")


def replace_image(path: Path) -> None:
    """Other voxels on the same grid."""
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.Flip(image, [True, True, False]) * 1.5 + 3, str(path), True)
    copied = sitk.ReadImage(str(path))
    copied.CopyInformation(image)
    sitk.WriteImage(copied, str(path), True)


def test_replaced_image_is_predicted_again_and_no_other(model, scans, there, capsys):
    replace_image(scans / "b_0000.nii.gz")
    (scans / "a_1_0000.nii.gz").touch()  # younger, but the same bytes
    result = again(scans, there, model)
    assert (result.predicted, result.kept) == (["b"], ["a_1", "c.2"])
    told = "1 label maps are predicted again: 1 whose image has changed"
    assert told in capsys.readouterr().err.splitlines()
    run(scans, there.with_name("clean"), model)
    assert same_maps(label_maps(there), label_maps(there.with_name("clean")))
    assert again(scans, there, model).predicted == []


def test_map_of_a_channel_that_was_replaced_is_not_kept(tmp_path):
    for name, content in (("a_0000.nii", b"first"), ("a_0001.nii", b"other")):
        (tmp_path / name).write_bytes(content)
    paths = sorted(tmp_path.iterdir())
    before = fingerprint(paths)
    assert before["bytes"] == 10
    assert fingerprint(paths[::-1]) != before
    paths[1].write_bytes(b"othes")
    assert fingerprint(paths) != before


def test_other_options_redo_all(model, images, there, capsys):
    assert again(images, there, model, step_size=0.5).predicted == list(GOOD)
    told = "3 label maps are predicted again: 3 of another model or other options"
    assert told in capsys.readouterr().err.splitlines()
    assert read_json(there / "prediction.json")["step_size"] == 0.5
    assert again(images, there, model, step_size=0.5).kept == list(GOOD)


def test_another_model_redoes_all_and_a_moved_model_nothing(
    trained_home, model, images, there, tmp_path
):
    moved = shutil.copytree(model, tmp_path / "elsewhere" / "renamed")
    assert again(images, there, moved).kept == list(GOOD)

    def other_weights(content):
        content["network_weights"]["decoder.seg_layers.1.bias"][1] += 5

    change_checkpoint(moved / "fold_all" / FINAL, other_weights)
    assert again(images, there, moved).predicted == list(GOOD)
    run(images, tmp_path / "clean", moved)
    assert same_maps(label_maps(there), label_maps(tmp_path / "clean"))
    other = model_of(trained_home, "SupervisedTrainer")
    assert again(images, there, other).predicted == list(GOOD)
    record = read_json(there / "prediction.json")
    assert record["trainer"] == "SupervisedTrainer"
    makers = {record["made_by"][case["made_by"]]["trainer"] for case in record["cases"].values()}
    assert makers == {"SupervisedTrainer"}


def test_without_a_model_the_one_of_the_record_goes_on(
    trained_home, images, tmp_path, monkeypatch, capsys
):
    home = use_home(shutil.copytree(trained_home, tmp_path / "home"), monkeypatch)
    first, target = model_of(home, "BCPTrainer"), tmp_path / "out"
    run(images, target, None, trainer="BCPTrainer")
    (target / "b.nii.gz").unlink()
    os.utime(model_of(home, "SupervisedTrainer") / "fold_all" / FINAL)  # it has just finished
    capsys.readouterr()
    result = again(images, target, None)
    assert (result.model, result.predicted) == (first, ["b"])
    told = f"model: {first}  (that of the label maps in {target})  device: cpu"
    assert capsys.readouterr().err.splitlines()[0] == told
    assert again(images, target, None, trainer="SupervisedTrainer").predicted == list(GOOD)
    shutil.rmtree(model_of(home, "SupervisedTrainer"))
    with pytest.raises(MissingFileError, match=r"no .*/SupervisedTrainer__.* Name its folder.*-m"):
        again(images, target, None)
    assert again(images, target, None, dataset=DATASET, trainer="BCPTrainer").kept == []


def test_without_a_model_all_that_were_averaged_go_on(trained_home, images, tmp_path, monkeypatch):
    home = use_home(trained_home, monkeypatch)
    both = [model_of(home, name) for name in ("BCPTrainer", "GraphCLTrainer")]
    run(images, tmp_path, both)
    assert again(images, tmp_path, None).kept == list(GOOD)


def test_maps_without_a_record_are_predicted_again(model, images, there, capsys):
    record = read_json(there / "prediction.json")
    del record["cases"]["b"]
    (there / "prediction.json").write_text(json.dumps(record))
    assert again(images, there, model).predicted == ["b"]
    assert "1 of which the record does not tell" in capsys.readouterr().err
    facts = {key: value for key, value in record.items() if key not in ("cases", "made_by")}
    # as versions before wrote it
    (there / "prediction.json").write_text(json.dumps({**facts, "schema_version": 1}))
    assert again(images, there, model).predicted == list(GOOD)


def test_failed_case_leaves_no_older_map(model, scans, there, capsys):
    run(scans, there, model, save_probabilities=True)
    old = (there / "b.nii.gz").read_bytes()
    (scans / "b_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(CasesFailedError, match=r"^b: "):
        run(scans, there, model)
    assert list(label_maps(there)) == ["a_1", "c.2"]
    assert (there / "set_aside" / "b.nii.gz").read_bytes() == old
    assert sorted(p.name for p in there.glob("b.*")) == []
    err = capsys.readouterr().err
    assert "1 label maps of an earlier run, of cases that failed in this one, were moved to" in err
    assert str(there / "set_aside") in err
    assert list(read_json(there / "prediction.json")["cases"]) == ["a_1", "c.2"]


def test_case_without_its_channels_leaves_no_older_map(model, scans, there):
    shutil.copy(scans / "b_0000.nii.gz", scans / "b_0001.nii.gz")
    with pytest.raises(CasesFailedError, match="channel 0001"):
        again(scans, there, model)
    assert list(label_maps(there)) == ["a_1", "c.2"]
    for path in scans.iterdir():
        path.write_bytes(b"")
    with pytest.raises(FaultsError):
        run(scans, there, model)
    assert label_maps(there) == {}


@pytest.mark.parametrize("continue_prediction", [False, True])
def test_maps_of_another_model_do_not_stay_beside_new_ones(
    trained_home, model, images, scans, there, tmp_path, continue_prediction
):
    (scans / "b_0000.nii.gz").unlink()
    other = model_of(trained_home, "SupervisedTrainer")
    before = {path: path.read_bytes() for path in there.iterdir()}
    words = r"holds 1 label maps of another model .*\(b\).*trainer GraphCLTrainer there"
    with pytest.raises(RefusedError, match=words):
        run(scans, there, other, continue_prediction=continue_prediction)
    assert {path: path.read_bytes() for path in there.iterdir()} == before
    (there / "b.nii.gz").unlink()  # moved away: nothing of the old model stays
    run(scans, there, other, continue_prediction=continue_prediction)
    run(scans, tmp_path / "clean", other)
    assert same_maps(label_maps(there), label_maps(tmp_path / "clean"))


def test_maps_of_the_same_model_stay(model, scans, there):
    (scans / "b_0000.nii.gz").unlink()
    run(scans, there, model)
    assert list(label_maps(there)) == list(GOOD)
    assert list(read_json(there / "prediction.json")["cases"]) == list(GOOD)


def test_parts_keep_records_that_a_whole_run_takes_up(model, images, tmp_path):
    for part in (0, 1):
        run(images, tmp_path, model, num_parts=2, part_id=part)
    assert len(list(tmp_path.glob("prediction_part*.json"))) == 2
    kept = again(images, tmp_path, model, num_parts=3, part_id=1).kept
    assert kept == ["b"]
    assert again(images, tmp_path, model).kept == list(GOOD)
    assert not list(tmp_path.glob("prediction_part*.json"))
    assert list(read_json(tmp_path / "prediction.json")["cases"]) == list(GOOD)


def test_the_latest_part_counts(model, scans, tmp_path):
    run(scans, tmp_path / "out", model, num_parts=2, part_id=1)  # b
    replace_image(scans / "b_0000.nii.gz")
    run(scans, tmp_path / "out", model, num_parts=3, part_id=1)  # b again
    assert again(scans, tmp_path / "out", model).kept == ["b"]


@pytest.mark.parametrize("case", [{"made_by": 3}, {"made_by": "x", "input": [], "when": "y"}, 7])
def test_damaged_record_is_told(model, images, there, case):
    record = read_json(there / "prediction.json")
    record["cases"]["b"] = case
    (there / "prediction.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"prediction\.json is damaged.*cases\.b"):
        again(images, there, model)


def test_case_is_recorded_once_its_map_is_whole(model, tmp_path, monkeypatch):
    images, target = write_good_images(tmp_path / "in"), tmp_path / "out"
    original = PredictionRecord.add

    def interrupted(self, name, *details):
        if name == "b":
            raise KeyboardInterrupt
        original(self, name, *details)

    monkeypatch.setattr(PredictionRecord, "add", interrupted)
    with pytest.raises(KeyboardInterrupt, match="--continue_prediction"):
        run(images, target, model)
    monkeypatch.undo()
    there = sorted(label_maps(target))
    assert there[:2] == ["a_1", "b"]
    assert list(read_json(target / "prediction.json")["cases"]) == there
    assert again(images, target, model).kept == there
    assert not list(target.glob(".*.json"))


def test_note_of_any_name_comes_back(tmp_path):
    name = "ä" * 123 + "\udcff"  # as long as a file name with .nii.gz may be
    note_case(tmp_path, name, "x", {"bytes": 1, "crc32": 2}, {"organ": (3, None)}, [])
    record = PredictionRecord(tmp_path, {}, {}, None)
    assert record.cases[name]["volumes"] == {"organ": [3, None]}
    (path,) = tmp_path.iterdir()
    path.write_text("{}")
    with pytest.raises(InputError, match=r"noted-\w+\.json is damaged"):
        PredictionRecord(tmp_path, {}, {}, None)


def test_map_that_the_record_had_no_time_for_is_kept(model, images, there, tmp_path):
    whole = read_json(there / "prediction.json")
    known = whole["cases"].pop("b")
    (there / "prediction.json").write_text(json.dumps(whole))
    note_case(there, "b", known["made_by"], known["input"], known["volumes"], [".nii.gz"])
    assert again(images, there, model).kept == list(GOOD)
    assert read_json(there / "prediction.json")["cases"]["b"]["input"] == known["input"]
    assert not list(there.glob(".*.json"))


@pytest.mark.parametrize("goes_on", ["former", "new"])
def test_map_is_nobodys_while_it_is_replaced(
    trained_home, model, images, there, monkeypatch, goes_on
):
    models = {"former": model, "new": model_of(trained_home, "SupervisedTrainer")}
    export = predict_cases.export_case

    def stopped(job):
        export(job)
        if job.case == "b":
            raise KeyboardInterrupt

    monkeypatch.setattr(predict_cases, "export_case", lambda job: stopped(job) or export(job))
    with pytest.raises(KeyboardInterrupt):
        run(images, there, models["new"])
    monkeypatch.undo()
    kept = {"former": ["c.2"], "new": ["a_1"]}[goes_on]
    assert again(images, there, models[goes_on]).kept == kept


def test_weights_of_any_fold_count():
    one = {"a": torch.ones(2), "b": torch.zeros(1)}
    other = {"a": torch.ones(2), "b": torch.full((1,), 1e-7)}
    assert weights_id([one, other]) != weights_id([one, one])
    assert weights_id([dict(reversed(one.items()))]) == weights_id([one])
    half = {"scale": torch.tensor(1.5, dtype=torch.bfloat16)}
    assert weights_id([half]) != weights_id([{"scale": half["scale"] + 1}])


def edit(path: Path) -> bytes:
    """Change a voxel as a viewer does; returns the bytes of the file."""
    image = sitk.ReadImage(str(path))
    image[0, 0, 0] = 2 - min(image[0, 0, 0], 1)
    sitk.WriteImage(image, str(path), True)
    return path.read_bytes()


def edited_lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if "edited" in line]


def test_edited_maps_are_moved_aside_before_they_are_written_anew(model, images, there, capsys):
    clean = label_maps(there)
    edits = [edit(there / f"{case}.nii.gz") for case in ("b", "c.2")]
    run(images, there, model)
    aside = there / "set_aside"
    assert [(aside / f"{case}.nii.gz").read_bytes() for case in ("b", "c.2")] == edits
    assert same_maps(label_maps(there), clean)
    assert edited_lines(capsys.readouterr().err) == [
        f"2 label maps edited since the last prediction (b, c.2), moved to {aside}; "
        f"gnnunet_convert --add-corrected {aside} -d {DATASET} takes them"
    ]
    run(images, there, model)  # nothing was edited
    assert edited_lines(capsys.readouterr().err) == []
    third = edit(there / "b.nii.gz")
    run(images, there, model)
    assert (aside / "2" / "b.nii.gz").read_bytes() == third
    assert (aside / "b.nii.gz").read_bytes() == edits[0]
    assert f"moved to {aside / '2'};" in edited_lines(capsys.readouterr().err)[0]


def test_a_map_that_is_edited_while_the_call_runs_is_moved_aside(model, images, there, monkeypatch):
    contents = []
    prepare = predict_cases.prepare_case

    def prepared(job):
        if job.case == "c.2":
            contents.append(edit(there / "c.2.nii.gz"))
        return prepare(job)

    monkeypatch.setattr(predict_cases, "prepare_case", prepared)
    run(images, there, model)
    assert [(there / "set_aside" / "c.2.nii.gz").read_bytes()] == contents


def test_edited_maps_are_those_that_come_back(model, scans, there):
    assert sorted(find_masks(there, {}).as_predicted) == sorted(f"{case}.nii.gz" for case in GOOD)
    edit(there / "b.nii.gz")
    assert list(find_masks(there, {}).others) == ["b"]
    good = (scans / "c.2_0000.nii.gz").read_bytes()
    (scans / "c.2_0000.nii.gz").write_bytes(b"no image")  # its map is set aside, too
    with pytest.raises(CasesFailedError):
        run(scans, there, model)
    aside = find_masks(there / "set_aside", {})
    assert (list(aside.others), aside.as_predicted) == (["b"], ["c.2.nii.gz"])
    (scans / "c.2_0000.nii.gz").write_bytes(good)
    edit(there / "b.nii.gz")
    run(scans, there, model)
    assert list(find_masks(there / "set_aside" / "2", {}).others) == ["b"]


def test_an_edited_map_is_kept_by_a_call_that_goes_on(model, images, there, capsys):
    content = edit(there / "b.nii.gz")
    assert again(images, there, model, for_editing=True).kept == list(GOOD)
    assert (there / "b.nii.gz").read_bytes() == content
    assert edited_lines(capsys.readouterr().err) == []
    assert list(find_masks(there, {}).others) == ["b"]
    again(images, there, model, step_size=0.5)  # predicted again
    assert (there / "set_aside" / "b.nii.gz").read_bytes() == content


def test_an_edited_map_still_comes_back_after_a_call_for_editing(model, images, there):
    again(images, there, model, for_editing=True)
    edit(there / "b.nii.gz")
    again(images, there, model, for_editing=True)
    assert list(find_masks(there, {}).others) == ["b"]
    # a former version took an edited map for a predicted one where it was kept
    table = there / "for_editing" / "as_predicted.json"
    table.write_text(json.dumps({"b.nii.gz": checksum(there / "b.nii.gz")}))
    assert list(find_masks(there, {}).others) == ["b"]


def test_maps_of_a_record_without_checksums_are_replaced(model, images, there, capsys):
    record = read_json(there / "prediction.json")
    assert set(record.pop("written_crc32")) == {f"{case}.nii.gz" for case in GOOD}
    (there / "prediction.json").write_text(json.dumps(record))
    edit(there / "b.nii.gz")
    run(images, there, model)
    assert not (there / "set_aside").exists()
    assert edited_lines(capsys.readouterr().err) == []


def stopped(images, target, model, monkeypatch, module, name) -> None:
    """Predict as if killed where a function is called for the first time."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stop)
        patch.setattr(PredictionRecord, "take_up_notes", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            run(images, target, model, step_size=0.5)


def test_an_edited_map_of_a_killed_call_is_moved_aside(model, images, tmp_path, monkeypatch):
    stopped(images, tmp_path, model, monkeypatch, one_case, "note_case")
    content = edit(tmp_path / "a_1.nii.gz")
    run(images, tmp_path, model)
    assert (tmp_path / "set_aside" / "a_1.nii.gz").read_bytes() == content


@pytest.mark.parametrize("is_edited", [True, False])
def test_a_map_that_a_killed_call_did_not_reach_is_known(
    model, images, there, monkeypatch, is_edited
):
    stopped(images, there, model, monkeypatch, predict_cases, "export_case")
    content = edit(there / "a_1.nii.gz") if is_edited else b""
    run(images, there, model)
    aside = there / "set_aside" / "a_1.nii.gz"
    assert (aside.read_bytes() if aside.exists() else b"") == content


def test_parts_move_edited_maps_aside(model, images, tmp_path):
    for part in (0, 1):
        run(images, tmp_path, model, num_parts=2, part_id=part)
    content = edit(tmp_path / "b.nii.gz")
    assert list(find_masks(tmp_path, {}).others) == ["b"]
    run(images, tmp_path, model, num_parts=2, part_id=1)
    assert (tmp_path / "set_aside" / "b.nii.gz").read_bytes() == content


def volumes_in(path: Path) -> dict[tuple[str, str], tuple[int, float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["case"], row["class"]): (int(row["voxels"]), float(row["ml"])) for row in rows}


def test_volumes_are_those_of_the_label_maps(model, images, there):
    rows = volumes_in(there / "volumes.csv")
    assert len(rows) == 2 * len(GOOD)
    for case, labels in label_maps(there).items():
        voxel_ml = math.prod(sitk.ReadImage(str(there / f"{case}.nii.gz")).GetSpacing()) / 1000
        for name, ids in (("shell", 1), ("core", 2)):
            voxels, ml = rows[case, name]
            assert voxels == (labels == ids).sum()
            assert ml == pytest.approx(voxels * voxel_ml, rel=1e-5)
    assert sum(voxels for voxels, _ in rows.values()) > 0
    before = (there / "volumes.csv").read_text(encoding="utf-8")
    (there / "volumes.csv").unlink()
    result = again(images, there, model)  # kept cases have rows as well
    assert result.volumes_csv == there / "volumes.csv"
    assert result.volumes_csv.read_text(encoding="utf-8") == before
    assert [path.name for path in result.color_tables] == ["labels.ctbl", "labels_itksnap.txt"]
    assert "1 shell " in (there / "labels.ctbl").read_text(encoding="utf-8")


def test_volumes_have_no_row_of_a_map_that_is_gone(model, scans, there):
    (there / "a_1.nii.gz").unlink()
    (scans / "a_1_0000.nii.gz").unlink()
    again(scans, there, model)
    assert {case for case, _ in volumes_in(there / "volumes.csv")} == {"b", "c.2"}


def test_parts_write_volumes_of_their_own(model, images, tmp_path):
    for part in (0, 1):
        run(images, tmp_path, model, num_parts=2, part_id=part)
    cases = [
        {case for case, _ in volumes_in(path)}
        for path in sorted(tmp_path.glob("volumes_part*.csv"))
    ]
    assert cases == [{"a_1", "c.2"}, {"b"}]
    again(images, tmp_path, model)
    assert [path.name for path in tmp_path.glob("volumes*.csv")] == ["volumes.csv"]


def test_what_another_call_wrote_beside_its_maps_does_not_stay(model, images, tmp_path):
    run(images, tmp_path, model, save_probabilities=True, uncertainty=True)
    beside = {p.name for p in tmp_path.iterdir() if p.name.endswith((".npz", ".pkl"))}
    beside |= {p.name for p in tmp_path.glob("*_uncertainty.nii.gz")}
    assert len(beside) == 9
    run(images, tmp_path, model)
    assert all((tmp_path / name).is_file() for name in beside), "they are of the same model"
    run(images, tmp_path, model, step_size=0.5)
    assert {p.name for p in (tmp_path / "set_aside").iterdir()} == beside
    assert not any((tmp_path / name).exists() for name in beside)


def test_tables_of_parts_and_of_a_whole_run_do_not_stay_together(model, images, tmp_path):
    run(images, tmp_path, model)
    (tmp_path / "failures.csv").touch()
    run(images, tmp_path, model, num_parts=2, part_id=1)
    assert {p.name for p in tmp_path.glob("*.csv")} == {"names.csv", "volumes_part1.csv"}
    (tmp_path / "failures_part1.csv").touch()
    run(images, tmp_path, model)
    assert {p.name for p in tmp_path.glob("*.csv")} == {"names.csv", "volumes.csv"}


def test_names_of_earlier_calls_stay_with_their_maps(model, images, tmp_path):
    first, *others = sorted(images.glob("*_0000.nii.gz"))
    for path in (first, others[0]):
        run(path, tmp_path, model)
    stems = [path.name.removesuffix("_0000.nii.gz") for path in (first, others[0])]
    assert [row["output"] for row in read_csv(tmp_path / "names.csv")] == [
        f"{stem}.nii.gz" for stem in stems
    ]
    (tmp_path / f"{stems[0]}.nii.gz").unlink()
    run(others[0], tmp_path, model)
    assert [row["case"] for row in read_csv(tmp_path / "names.csv")] == [stems[1]]
