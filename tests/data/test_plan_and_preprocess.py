"""From a raw folder to plans and preprocessed cases, and what is refused on the way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_study import (
    DATASET,
    TINY,
    ball_case,
    imported_by,
    train_in,
    use_home,
    write_image,
    write_raw_dataset,
)

from graphnn_unet import add_corrected, plan_and_preprocess
from graphnn_unet.data.plan_and_preprocess import class_table, patient_table
from graphnn_unet.data.preprocess import read_manifest
from graphnn_unet.errors import FaultsError, InputError, MissingFileError, RecipeError
from graphnn_unet.images import volume_bytes
from graphnn_unet.plans.planner import run_recipe

LABELED = [f"case_{n:02d}" for n in range(4)]


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    return write_raw_dataset(use_home(tmp_path / "home", monkeypatch) / "raw")


def target_of(raw: Path) -> Path:
    return raw.parent.parent / "preprocessed" / DATASET


def plan(*overrides: str, configurations=("3d_fullres",), tiny=TINY, **keywords):
    return plan_and_preprocess(
        DATASET, configurations=configurations, overrides=[*tiny, *overrides], n_workers=0,
        **keywords,
    )  # fmt: skip


def describe(raw: Path, **keys) -> None:
    path = raw / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **keys}))


# ------------------------------------------------------------------------------ what is made


def test_the_agreed_files_are_there(tiny_home):
    folder = tiny_home / "preprocessed" / DATASET
    assert {path.name for path in folder.iterdir()} >= {
        "gnnunetPlans.json", "dataset.json", "dataset_fingerprint.json", "splits_final.json",
        "gt_segmentations", "gnnunet.json", "dataset_report.json", "planning_log.txt",
        "gnnunetPlans_3d_fullres", "gnnunetPlans_3d_fullres__unlabeled",
        "gnnunetPlans_3d_fullres.manifest.json", "gnnunetPlans_2d", "gnnunetPlans_2d__unlabeled",
    }  # fmt: skip
    assert not [p.name for p in folder.iterdir() if "partial" in p.name or p.name == "failures.csv"]
    raw = tiny_home / "raw" / DATASET
    for name in ("dataset.json", "gnnunet.json"):
        assert json.loads((folder / name).read_text(encoding="utf-8")) == json.loads(
            (raw / name).read_text(encoding="utf-8")
        )
    for case in LABELED:
        reference = folder / "gt_segmentations" / f"{case}.nii.gz"
        assert reference.read_bytes() == (raw / "labelsTr" / f"{case}.nii.gz").read_bytes()
    assert len(list((folder / "gt_segmentations").iterdir())) == 4


def test_the_result_says_what_was_planned(raw):
    result = plan()
    assert result.dataset == DATASET
    assert result.plans_file == target_of(raw) / "gnnunetPlans.json"
    assert (result.n_labeled, result.n_unlabeled) == (4, 3)
    by_name = {c.name: c for c in result.configurations}
    assert by_name["3d_fullres"].preprocessed
    assert not by_name["2d"].preprocessed
    assert by_name["3d_fullres"].patch_size == [16, 16, 16]
    assert by_name["3d_fullres"].spacing == [1.0, 1.0, 1.0]
    assert by_name["3d_fullres"].n_stages == 3
    assert by_name["3d_fullres"].batch[0] == by_name["3d_fullres"].batch[1] >= 4
    assert 0 <= by_name["3d_fullres"].memory_gb < 1
    assert any("4-fold leave-one-out" in note for note in result.notes)


def test_copies_of_a_scan_stay_in_one_fold(raw):
    images, labels = raw / "imagesTr", raw / "labelsTr"
    for folder, ending in ((images, "_0000.nii.gz"), (labels, ".nii.gz")):
        image = sitk.ReadImage(str(folder / f"case_00{ending}"))
        image.SetOrigin((9.0, 0.0, 0.0))
        sitk.WriteImage(image, str(folder / f"case_02{ending}"))
    result = plan()
    assert any("3-fold" in note for note in result.notes)
    for split in json.loads((target_of(raw) / "splits_final.json").read_text(encoding="utf-8")):
        assert ("case_00" in split["val"]) == ("case_02" in split["val"])
    patients = json.loads((target_of(raw) / "gnnunet.json").read_text(encoding="utf-8"))["patients"]
    assert patients["case_02"] == patients["case_00"]


def test_planning_works_without_augmentation_workers(raw, monkeypatch):
    """Valid for training; nnU-Net's planner ends with a RuntimeError."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert plan().n_labeled == 4


def test_all_configurations_are_preprocessed_without_a_choice(raw):
    plan(configurations=None)
    folder = target_of(raw)
    for name in ("2d", "3d_fullres"):
        assert len(read_manifest(folder, f"gnnunetPlans_{name}")["cases"]) == 7


def test_each_file_is_unpacked_once_whatever_is_preprocessed(raw, monkeypatch):
    unpack, read = volume_bytes._unpack, SimpleITKIO.read_images
    unpacked, later = [], []
    monkeypatch.setattr(
        volume_bytes, "_unpack", lambda *given: unpacked.append(given[3]) or unpack(*given)
    )
    monkeypatch.setattr(
        SimpleITKIO, "read_images", lambda self, names: later.extend(names) or read(self, names)
    )
    plan(configurations=None)
    assert len(unpacked) == len(set(unpacked)) > 4
    assert len(later) > 2 * len(set(later))  # fingerprint and two configurations
    packed = [name for name in later if name.endswith(".nii.gz")]
    assert len(packed) <= 1  # nnU-Net's planner tries its readers on one
    folders = {Path(name).parent for name in later if name not in packed}
    assert [folder.parent for folder in folders] == [target_of(raw)]
    assert not next(iter(folders)).exists()


def test_a_recipe_for_one_configuration_preprocesses_that_one(raw):
    plan("plan.configuration=3d_fullres", configurations=None)
    assert read_manifest(target_of(raw), "gnnunetPlans_3d_fullres")
    assert read_manifest(target_of(raw), "gnnunetPlans_2d") is None


def test_a_configuration_of_the_user_is_preprocessed_on_request(raw):
    plan()
    path = target_of(raw) / "gnnunetPlans.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    plans["configurations"]["coarse"] = {
        "inherits_from": "3d_fullres", "spacing": [2.0, 2.0, 2.0],
        "patch_size": [8, 8, 8], "data_identifier": "gnnunetPlans_coarse",
    }  # fmt: skip
    path.write_text(json.dumps(plans))
    result = plan(configurations=["coarse"])
    assert {c.name: c.preprocessed for c in result.configurations}["coarse"]
    manifest = read_manifest(target_of(raw), "gnnunetPlans_coarse")
    assert manifest["cases"]["case_00"]["shape"] == [1, 9, 10, 11]
    assert len(read_manifest(target_of(raw), "gnnunetPlans_3d_fullres")["cases"]) == 7


def test_single_slices_are_planned_in_2d(raw):
    for path in raw.glob("*/*.nii.gz"):
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        write_image(path, array[9:10])
    result = plan_and_preprocess(
        DATASET, overrides=["plan.patch_size=[16,16]", "network.base_features=4"], n_workers=0
    )
    assert [c.name for c in result.configurations] == ["2d"]
    manifest = read_manifest(target_of(raw), "gnnunetPlans_2d")
    assert manifest["cases"]["case_05"]["shape"] == [1, 1, 20, 22]


def test_plans_of_several_planners_lie_side_by_side(raw):
    plan()
    plan(planner="resenc_m")
    folder = target_of(raw)
    for name in ("gnnunetPlans", "gnnunetResEncMPlans"):
        assert (folder / f"{name}.json").is_file()
        assert len(read_manifest(folder, f"{name}_3d_fullres")["cases"]) == 7
    network = PlansManager(str(folder / "gnnunetResEncMPlans.json")).get_configuration("3d_fullres")
    assert network.network_arch_class_name.endswith("ResidualEncoderUNet")


# --------------------------------------------------------------------- labels and patients


def test_a_class_in_two_pieces_keeps_all_its_components(raw):
    for number in range(4):
        label = ball_case(number)[1]
        label[0:4, 0:6, 0:4] = 1  # a second piece of class 1, more than 5 % of it
        write_image(raw / "labelsTr" / f"case_{number:02d}.nii.gz", label)
    result = plan()
    plans = json.loads(result.plans_file.read_text(encoding="utf-8"))
    table = run_recipe(plans, "3d_fullres").as_dict()["pseudo_label"]["largest_component"]
    assert table == {"1": False, "2": True}
    assert any("3d_fullres: shell often has several components" in note for note in result.notes)


def test_a_class_that_no_labeled_case_has_is_not_called_one_of_several_components(raw):
    labels = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["labels"]
    describe(raw, labels={**labels, "ghost": len(labels)})
    notes = plan().notes
    assert "no labeled case has ghost: nothing trains it" in notes
    assert not any("components" in note for note in notes)


def test_a_ring_is_one_piece_in_the_volume_and_in_slices(tiny_home):
    plans = json.loads(
        (tiny_home / "preprocessed" / DATASET / "gnnunetPlans.json").read_text(encoding="utf-8")
    )
    for configuration in ("3d_fullres", "2d"):
        table = run_recipe(plans, configuration).as_dict()["pseudo_label"]["largest_component"]
        assert table == {"1": True, "2": True}


def test_slices_are_measured_across_the_axis_of_the_plan(raw):
    """Two rods along x, joined at one end: one piece in 3D, two in slices across x."""
    for number in range(7):
        role = "Tr" if number < 4 else "Un"
        image = np.random.default_rng(number).normal(100, 5, (18, 20, 22)).astype(np.float32)
        write_image(raw / f"images{role}" / f"case_{number:02d}_0000.nii.gz", image, (1, 1, 3))
        if number < 4:
            label = np.zeros((18, 20, 22), np.uint8)
            label[4:8, 4:8, 2:20] = label[4:8, 12:16, 2:20] = label[4:8, 4:16, 2:4] = 1
            label[14:16, 14:16, 4:18] = 2
            write_image(raw / "labelsTr" / f"case_{number:02d}.nii.gz", label, (1, 1, 3))
    for path in (raw / "imagesTs").iterdir():
        path.unlink()
    shutil.rmtree(raw / "labelsTs")
    plans = json.loads(
        plan(tiny=["network.base_features=4"], configurations=["2d"]).plans_file.read_text(
            encoding="utf-8"
        )
    )
    assert plans["transpose_forward"] == [2, 0, 1]
    volume, slices = (
        run_recipe(plans, name).as_dict()["pseudo_label"]["largest_component"]
        for name in ("3d_fullres", "2d")
    )
    assert volume == {"1": True, "2": True}
    assert slices == {"1": False, "2": True}


def test_regions_are_measured_by_name(raw):
    describe(raw, labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])
    plans = json.loads(plan().plans_file.read_text(encoding="utf-8"))
    table = run_recipe(plans, "3d_fullres").as_dict()["pseudo_label"]["largest_component"]
    assert table == {"whole": True, "core": True}


@pytest.mark.parametrize(
    ("labels", "table"),
    [
        ({"background": 0, "b": 2, "a": 1}, {"1": (1,), "2": (2,)}),
        ({"background": 0, "a": "1", "ignore": 2}, {"1": (1,)}),
        ({"background": 0, "all": [1, 2], "b": 2}, {"all": (1, 2), "b": (2,)}),
    ],
)
def test_classes_have_their_id_as_key_and_regions_their_name(labels, table):
    assert class_table({"labels": labels}) == table


def test_splits_follow_patients(raw):
    path = raw / "gnnunet.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["patients"] = {"case_00": "p", "case_01": "p", "case_02": "q", "case_03": "r"}
    path.write_text(json.dumps(metadata))
    result = plan()
    splits = json.loads((target_of(raw) / "splits_final.json").read_text(encoding="utf-8"))
    assert len(splits) == 3
    assert {"case_00", "case_01"} in [set(fold["val"]) for fold in splits]
    assert any("4 labeled cases of 3 patients" in note for note in result.notes)


def test_a_case_without_entry_is_its_own_patient(raw):
    (raw / "gnnunet.json").write_text('{"patients": {"case_00": "p"}}')
    assert patient_table(raw, ["case_00", "case_01"]) == {"case_00": "p", "case_01": "case_01"}
    (raw / "gnnunet.json").unlink()
    assert patient_table(raw, ["case_00"]) == {"case_00": "case_00"}


def keep_labeled(raw: Path, n: int) -> None:
    for path in [*(raw / "imagesTr").iterdir(), *(raw / "labelsTr").iterdir()]:
        if int(path.name[5:7]) >= n:
            path.unlink()
    describe(raw, numTraining=n)


def test_one_labeled_case_is_planned_without_folds(raw):
    plan()
    assert (target_of(raw) / "splits_final.json").is_file()
    keep_labeled(raw, 1)
    result = plan()
    assert result.n_labeled == 1
    assert not (target_of(raw) / "splits_final.json").exists()
    assert any("nothing can be held out" in note for note in result.notes)
    assert len(list((target_of(raw) / "gt_segmentations").iterdir())) == 1


def test_splits_of_the_raw_folder_do_not_stop_the_second_planning(raw):
    """nnU-Net compares the two files and ends with an AssertionError when they differ."""
    (raw / "splits_final.json").write_text('[{"train": ["case_00"], "val": ["case_01"]}]')
    for _ in range(2):
        plan()
        splits = json.loads((target_of(raw) / "splits_final.json").read_text(encoding="utf-8"))
        assert len(splits) == 4


def test_nnunets_own_training_reads_splits_and_plan(tiny_copy):
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = tiny_copy / "preprocessed" / DATASET
    plans = {
        **json.loads((folder / "gnnunetPlans.json").read_text(encoding="utf-8")),
        "continue_training": True,
    }
    trainer = nnUNetTrainer(
        plans, "3d_fullres", 0, json.loads((folder / "dataset.json").read_text(encoding="utf-8")),
        torch.device("cpu"),
    )  # fmt: skip
    trainer.initialize()
    train, val = trainer.do_split()
    assert sorted([*train, *val]) == LABELED
    assert len(val) == 1
    dataset, _ = trainer.get_tr_and_val_datasets()
    assert sorted(dataset.identifiers) == sorted(train)


# ----------------------------------------------------------------------------- refused


def test_faults_are_reported_together_and_nothing_but_the_report_is_written(raw):
    content = (raw / "imagesTr" / "case_00_0000.nii.gz").read_bytes()
    (raw / "imagesTr" / "case_00_0000.nii.gz").write_bytes(content[: len(content) // 2])
    (raw / "labelsTr" / "case_02.nii.gz").unlink()
    with pytest.raises(FaultsError) as caught:
        plan()
    assert {fault.case for fault in caught.value.faults} == {"case_00", "case_02"}
    assert caught.value.exit_status == 2
    assert [path.name for path in target_of(raw).iterdir()] == ["dataset_report.json"]
    report = json.loads((target_of(raw) / "dataset_report.json").read_text(encoding="utf-8"))
    assert {(f["case"], f["code"]) for f in report["faults"]} == {
        ("case_00", "I01"), ("case_02", "I27"),
    }  # fmt: skip


def test_faulty_cases_are_left_out_on_request_and_listed(raw):
    content = (raw / "imagesUn" / "case_05_0000.nii.gz").read_bytes()
    (raw / "imagesUn" / "case_05_0000.nii.gz").write_bytes(content[: len(content) // 2])
    result = plan(skip_faulty=True)
    assert result.n_unlabeled == 2
    rows = (target_of(raw) / "failures.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "case,stage,cause,remedy"
    assert rows[1].startswith("case_05,check,")
    assert any("failures.csv" in note for note in result.notes)
    assert "case_05" not in read_manifest(target_of(raw), "gnnunetPlans_3d_fullres")["cases"]


def test_without_any_usable_label_planning_is_refused(raw):
    for path in (raw / "imagesTr").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no labeled case is left"):
        plan(skip_faulty=True)


def test_a_size_that_memory_cannot_hold_is_refused_before_work(raw):
    """A spacing of 1000 mm in the header would make 24 000 slices of 24."""
    image = sitk.ReadImage(str(raw / "imagesUn" / "case_04_0000.nii.gz"))
    image.SetSpacing((1000.0, 1000.0, 1000.0))
    sitk.WriteImage(image, str(raw / "imagesUn" / "case_04_0000.nii.gz"))
    with pytest.raises(FaultsError, match="case_04") as caught:
        plan()
    assert len(caught.value.faults) == 1
    assert "1000" in caught.value.lines[0]
    assert not list(target_of(raw).glob("*/*.b2nd"))


@pytest.mark.parametrize(
    ("keywords", "error", "match"),
    [
        ({"recipe": "nothing"}, MissingFileError, "recipe 'nothing' was not found"),
        ({"overrides": ["optimizer.rate=1"]}, RecipeError, "unknown recipe key"),
        ({"configurations": ["3d"]}, InputError, r"configuration 3d was not planned.*has 2d, 3d"),
        ({"planner": "best"}, RecipeError, "planner 'best' is unknown"),
        ({"dataset": "Other"}, MissingFileError, "data set 'Other' was not found"),
    ],
)
def test_bad_arguments_are_refused_before_any_voxel_is_written(raw, keywords, error, match):
    arguments = {"dataset": DATASET, "n_workers": 0, **keywords}
    with pytest.raises(error, match=match):
        plan_and_preprocess(arguments.pop("dataset"), **arguments)
    assert not list(target_of(raw).glob("*/*.b2nd"))


def test_a_data_set_without_raw_folder_says_so(tiny_copy):
    shutil.rmtree(tiny_copy / "raw" / DATASET)
    with pytest.raises(MissingFileError, match=rf"raw/{DATASET} is missing.*gnnunet_convert"):
        plan()


# ------------------------------------------------------------------------------ corrected cases


def correct(home: Path, *cases: str) -> None:
    for case in cases:
        write_image(home / "edited" / f"{case}.nii.gz", ball_case(int(case[-2:]))[1])
    add_corrected(DATASET, home / "edited")


def files_of(target: Path) -> dict[str, int]:
    """Preprocessed files of single cases, and which file on the disk each is."""
    folders = target.glob("gnnunetPlans_3d_fullres*/")
    return {path.name: path.stat().st_ino for folder in folders for path in folder.glob("case_*")}


def test_corrected_cases_keep_plan_and_splits_and_are_preprocessed_alone(tiny_copy):
    target = tiny_copy / "preprocessed" / DATASET
    files = ("gnnunetPlans.json", "dataset_fingerprint.json")
    before = {name: (target / name).read_bytes() for name in files}
    held_out = [
        fold["val"]
        for fold in json.loads((target / "splits_final.json").read_text(encoding="utf-8"))
    ]
    old = files_of(target)
    correct(tiny_copy, "case_04")
    result = plan_and_preprocess(DATASET, n_workers=0)
    assert {name: (target / name).read_bytes() for name in files} == before
    assert any("its plan was kept" in note for note in result.notes)
    assert any("1 corrected case never held out" in note for note in result.notes)
    assert (result.n_labeled, result.n_unlabeled) == (5, 2)
    manifest = read_manifest(target, "gnnunetPlans_3d_fullres")
    assert manifest["cases"]["case_04"]["role"] == "labeled"
    new = files_of(target)
    assert {name: inode for name, inode in new.items() if "case_04" not in name} == {
        name: inode for name, inode in old.items() if "case_04" not in name
    }
    splits = json.loads((target / "splits_final.json").read_text(encoding="utf-8"))
    assert [fold["val"] for fold in splits] == held_out
    assert all("case_04" in fold["train"] for fold in splits)
    assert json.loads((target / "dataset.json").read_text(encoding="utf-8"))["numTraining"] == 5


@pytest.mark.parametrize("how", ["replan", "another recipe"])
def test_another_plan_is_made_where_it_is_asked_for(tiny_copy, how):
    path = tiny_copy / "preprocessed" / DATASET / "gnnunetPlans.json"
    correct(tiny_copy, "case_04")
    before = json.loads(path.read_text(encoding="utf-8"))
    assert plan().notes[0].startswith("the data set has corrected cases")  # the recipe of the plan
    assert json.loads(path.read_text(encoding="utf-8")) == before
    changed = "network.max_features=16"
    plan(*([] if how == "replan" else [changed]), replan=how == "replan")
    record = json.loads(path.with_name("dataset_fingerprint.json").read_text(encoding="utf-8"))[
        "gnnunet"
    ]
    assert record["cases"]["case_04"].get("foreground")
    after = json.loads(path.read_text(encoding="utf-8"))["gnnunet"]["layers"]["--set"]["network"][
        "max_features"
    ]
    assert after == (8 if how == "replan" else 16)


def test_training_says_how_many_labels_were_corrected(tiny_copy, capsys):
    correct(tiny_copy, "case_04", "case_05")
    plan_and_preprocess(DATASET, n_workers=0, configurations=["3d_fullres"])
    train_in(tiny_copy, "SupervisedTrainer", 0, overrides=["schedule.pretrain_steps=1"])
    line = next(line for line in capsys.readouterr().err.splitlines() if "corrected" in line)
    assert line.startswith("6 labeled cases, 2 of them corrected")


def test_planning_imports_no_trainer(raw):
    script = (
        "from graphnn_unet import plan_and_preprocess\n"
        f"plan_and_preprocess({raw.name!r}, configurations=['3d_fullres'], recipe='quick',"
        " n_workers=0)\n"
    )
    assert imported_by(script, "graphnn_unet.trainers.") == []


def test_replacing_a_plan_of_other_options_is_told(raw):
    first = plan("optimizer.lr=0.5")
    assert not any("former plan" in note for note in first.notes)
    assert not any("former plan" in note for note in plan("optimizer.lr=0.5").notes)
    (note,) = [note for note in plan("batch.labeled=2").notes if "former plan" in note]
    assert "optimizer.lr=0.5, was replaced; trainings that were begun with it" in note
