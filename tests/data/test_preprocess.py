"""Preprocessed files are nnU-Net's, and a set is whole or not there."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_study import DATASET, REPOSITORY, TINY, ball_case, plan_in, write_image, write_raw_dataset

from graphnn_unet import plan_and_preprocess
from graphnn_unet.commands.plan_and_preprocess import main as command
from graphnn_unet.data import preprocess as module
from graphnn_unet.data.preprocess import missing_files, read_manifest, require_preprocessed
from graphnn_unet.errors import CasesFailedError, InputError, MissingFileError, NoSpaceError
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.safe_load import load_properties, read_json

LABELED = [f"case_{n:02d}" for n in range(4)]
UNLABELED = [f"case_{n:02d}" for n in range(4, 7)]
IDENTIFIER = "gnnunetPlans_3d_fullres"


def folder_in(home: Path) -> Path:
    return home / "preprocessed" / DATASET


def plan_again(home: Path, *overrides: str, configurations=("3d_fullres",), n_workers=0):
    return plan_and_preprocess(
        DATASET, configurations=configurations, overrides=[*TINY, *overrides], n_workers=n_workers
    )


@pytest.fixture
def worked(monkeypatch) -> list[str]:
    """Cases that were preprocessed, in order."""
    seen: list[str] = []
    work = module._preprocess_case

    def noted(job):
        seen.append(job.case)
        return work(job)

    monkeypatch.setattr(module, "_preprocess_case", noted)
    return seen


def change_image(home: Path, name: str) -> None:
    write_image(home / "raw" / DATASET / name, ball_case(zlib.crc32(name.encode()))[0][0] * 3)


# ------------------------------------------------------------------------- as in nnU-Net


def assert_as_nnunet_writes_them(home: Path, configuration: str, tmp_path: Path) -> None:
    folder, raw = folder_in(home), home / "raw" / DATASET
    plans = PlansManager(str(folder / "gnnunetPlans.json"))
    settings = plans.get_configuration(configuration)
    ours = nnUNetDatasetBlosc2(str(folder / settings.data_identifier))
    assert sorted(ours.identifiers) == LABELED
    for case in LABELED:
        images = sorted(str(path) for path in (raw / "imagesTr").glob(f"{case}_*"))
        DefaultPreprocessor(verbose=False).run_case_save(
            str(tmp_path / case), images, str(raw / "labelsTr" / f"{case}.nii.gz"),
            plans, settings, str(raw / "dataset.json"),
        )  # fmt: skip
        theirs = nnUNetDatasetBlosc2(str(tmp_path), [case]).load_case(case)
        data, seg, _, properties = ours.load_case(case)
        for mine, stock in ((data, theirs[0]), (seg, theirs[1])):
            assert mine.dtype == stock.dtype
            assert (mine.chunks, mine.blocks) == (stock.chunks, stock.blocks)
            assert np.array_equal(mine[:], stock[:])
        assert properties.keys() == theirs[3].keys()
        for key, voxels in theirs[3]["class_locations"].items():
            assert np.array_equal(properties["class_locations"][key], voxels)
        assert properties["spacing"] == theirs[3]["spacing"]


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_labeled_files_equal_those_of_nnunets_own_preprocessor(tiny_home, tmp_path, configuration):
    assert_as_nnunet_writes_them(tiny_home, configuration, tmp_path)


def test_regions_ignore_label_two_channels_and_resampling_equal_nnunets_too(tmp_path):
    home = tmp_path / "home"
    write_raw_dataset(
        home / "raw",
        n_channels=2,
        labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        transform_label=lambda label: np.where(np.arange(label.shape[2]) < 3, 3, label).astype(
            np.uint8
        ),
    )
    for path in (home / "raw" / DATASET).glob("images*/*.nii.gz"):
        case = path.name.rpartition("_")[0]
        channel = ball_case(int(case[-2:]), n_channels=2)[0][int(path.name[-11:-7])]
        channel[:4] = 0  # nnU-Net crops to what is not 0
        write_image(path, channel)
    plan_in(home, "plan.spacing=[1.3,0.9,1.1]")
    assert_as_nnunet_writes_them(home, "3d_fullres", tmp_path)
    folder = folder_in(home) / IDENTIFIER
    locations = load_properties(folder / "case_00.pkl")["class_locations"]
    assert {(1, 2), (2,), (-1, 0, 1, 2)} <= {k if isinstance(k, tuple) else (k,) for k in locations}


def test_nnunets_training_takes_the_folder_for_its_own(tiny_home):
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    folder = folder_in(tiny_home) / IDENTIFIER
    assert infer_dataset_class(str(folder)) is nnUNetDatasetBlosc2
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(
        name for case in LABELED for name in (f"{case}.b2nd", f"{case}_seg.b2nd", f"{case}.pkl")
    )


def test_unlabeled_cases_have_no_label_map_and_no_positions(tiny_home):
    folder = folder_in(tiny_home) / f"{IDENTIFIER}__unlabeled"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(name for case in UNLABELED for name in (f"{case}.b2nd", f"{case}.pkl"))
    for case in UNLABELED:
        assert "class_locations" not in load_properties(folder / f"{case}.pkl")


def test_an_unlabeled_image_is_normalized_like_a_labeled_one(tiny_copy, tmp_path):
    """The same scan in both roles gives the same voxels."""
    raw = tiny_copy / "raw" / DATASET
    shutil.copy(raw / "imagesTr" / "case_00_0000.nii.gz", raw / "imagesUn" / "case_04_0000.nii.gz")
    (raw / "imagesTr" / "case_00_0000.nii.gz").write_bytes(
        (raw / "imagesUn" / "case_05_0000.nii.gz").read_bytes()
    )
    change_image(tiny_copy, "imagesUn/case_05_0000.nii.gz")
    before = blosc2.open(str(folder_in(tiny_copy) / IDENTIFIER / "case_00.b2nd"))[:]
    plan_again(tiny_copy)
    after = blosc2.open(str(folder_in(tiny_copy) / f"{IDENTIFIER}__unlabeled" / "case_04.b2nd"))[:]
    assert np.array_equal(after, before)


# --------------------------------------------------------------- what is done again, and when


def test_an_unchanged_run_does_nothing(tiny_copy, worked, capsys):
    folder = folder_in(tiny_copy)
    times = {p: p.stat().st_mtime_ns for p in folder.glob(f"{IDENTIFIER}*/*")}
    plan_again(tiny_copy)
    assert worked == []
    assert {p: p.stat().st_mtime_ns for p in folder.glob(f"{IDENTIFIER}*/*")} == times
    assert "7 cases are preprocessed and up to date" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "case"),
    [("imagesUn/case_05_0000.nii.gz", "case_05"), ("imagesTr/case_02_0000.nii.gz", "case_02")],
)
def test_a_changed_image_is_done_again_alone(tiny_copy, worked, name, case):
    change_image(tiny_copy, name)
    plan_again(tiny_copy)
    assert worked == [case]
    require_preprocessed(folder_in(tiny_copy), IDENTIFIER)


def test_a_changed_label_is_done_again_alone(tiny_copy, worked):
    write_image(tiny_copy / "raw" / DATASET / "labelsTr" / "case_01.nii.gz", ball_case(1)[1] // 2)
    plan_again(tiny_copy)
    assert worked == ["case_01"]
    seg = blosc2.open(str(folder_in(tiny_copy) / IDENTIFIER / "case_01_seg.b2nd"))[:]
    assert set(np.unique(seg)) == {0, 1}


@pytest.mark.parametrize("name", ["case_01.b2nd", "case_01.pkl", "case_01_seg.b2nd"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_case_is_done_again_alone(tiny_copy, worked, name, cut):
    path = folder_in(tiny_copy) / IDENTIFIER / name
    whole = path.read_bytes()
    if cut:
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.unlink()
    plan_again(tiny_copy)
    assert worked == ["case_01"]
    assert path.stat().st_size == len(whole)
    require_preprocessed(folder_in(tiny_copy), IDENTIFIER)


def test_a_removed_case_leaves(tiny_copy, worked):
    (tiny_copy / "raw" / DATASET / "imagesUn" / "case_06_0000.nii.gz").unlink()
    plan_again(tiny_copy)
    assert worked == []
    folder = folder_in(tiny_copy)
    assert not list(folder.glob(f"{IDENTIFIER}*/case_06*"))
    assert set(read_manifest(folder, IDENTIFIER)["cases"]) == {*LABELED, *UNLABELED[:2]}


def test_a_case_that_gets_a_label_moves(tiny_copy, worked):
    raw = tiny_copy / "raw" / DATASET
    (raw / "imagesUn" / "case_04_0000.nii.gz").rename(raw / "imagesTr" / "case_04_0000.nii.gz")
    write_image(raw / "labelsTr" / "case_04.nii.gz", ball_case(4)[1])
    describe(tiny_copy, numTraining=5)
    plan_again(tiny_copy)
    assert worked == ["case_04"]
    folder = folder_in(tiny_copy)
    assert (folder / IDENTIFIER / "case_04_seg.b2nd").is_file()
    assert not list((folder / f"{IDENTIFIER}__unlabeled").glob("case_04*"))


def test_another_spacing_is_done_anew(tiny_copy, worked):
    plan_again(tiny_copy, "plan.spacing=[2.0,1.0,1.0]", "plan.patch_size=[8,16,16]")
    assert len(worked) == 7


def describe(home: Path, **keys) -> None:
    path = home / "raw" / DATASET / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **keys}))


@pytest.mark.parametrize(
    ("labels", "order", "added"),
    [
        ({"background": 0, "shell": 1, "core": 2, "none": 3}, None, 3),
        ({"background": 0, "shell": 1, "core": 2, "ignore": 3}, None, (-1, 0, 1, 2)),
        ({"background": 0, "shell": 1, "ignore": 2}, None, (-1, 0, 1)),
        ({"background": 0, "whole": [1, 2], "core": 2}, [1, 2], (1, 2)),
    ],
    ids=["class", "ignore", "core becomes ignore", "regions"],
)
def test_other_classes_are_done_anew(tiny_copy, worked, labels, order, added):
    """Positions of each class are stored with the case."""
    describe(tiny_copy, labels=labels, **({"regions_class_order": order} if order else {}))
    plan_again(tiny_copy)
    assert len(worked) == 7
    locations = load_properties(folder_in(tiny_copy) / IDENTIFIER / "case_00.pkl")[
        "class_locations"
    ]
    assert added in locations


def test_other_names_of_the_classes_need_no_new_voxels(tiny_copy, worked):
    describe(tiny_copy, labels={"background": 0, "wall": 1, "blood": 2})
    plan_again(tiny_copy)
    assert worked == []


def test_a_plan_with_another_batch_or_network_does_not_need_new_voxels(tiny_copy, worked):
    plan_again(tiny_copy, "batch.labeled=8", "network.base_features=6", "optimizer.lr=0.1")
    assert worked == []


def test_a_set_made_for_another_plan_is_not_trained_on(tiny_copy):
    """Planning 2d anew changes the plan of 3d_fullres as well."""
    result = plan_again(tiny_copy, "plan.spacing=[2.0,1.0,1.0]", "plan.patch_size=[8,16,16]",
                        configurations=["2d"])  # fmt: skip
    assert any("3d_fullres was preprocessed for another plan" in note for note in result.notes)
    with pytest.raises(MissingFileError, match="is not preprocessed for gnnunetPlans_3d_fullres"):
        require_preprocessed(folder_in(tiny_copy), IDENTIFIER)
    plan_again(tiny_copy)
    require_preprocessed(folder_in(tiny_copy), IDENTIFIER)


def test_a_damaged_manifest_is_made_again(tiny_copy, worked, capsys):
    path = folder_in(tiny_copy) / f"{IDENTIFIER}.manifest.json"
    path.write_text("{")
    plan_again(tiny_copy)
    assert "is not valid JSON" in capsys.readouterr().err
    assert len(worked) == 7
    assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == 1


def voxels_in(folder: Path) -> dict[str, np.ndarray]:
    """Content of all arrays; the files of equal arrays may differ in unused bytes."""
    return {p.name: blosc2.open(str(p))[:] for p in folder.glob(f"{IDENTIFIER}*/*.b2nd")}


def test_workers_write_the_same_voxels(tiny_copy):
    folder = folder_in(tiny_copy)
    before = voxels_in(folder)
    for path in folder.glob(f"{IDENTIFIER}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    plan_again(tiny_copy, n_workers=2)
    after = voxels_in(folder)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before)


# ------------------------------------------------------------------- faults, stops and crashes


def test_a_failing_case_leaves_the_old_set_and_the_others_are_kept(tiny_copy, worked, monkeypatch):
    change_image(tiny_copy, "imagesUn/case_05_0000.nii.gz")
    change_image(tiny_copy, "imagesTr/case_02_0000.nii.gz")
    work = module._preprocess_case

    def fail(job):
        if job.case == "case_05":
            raise ValueError("broken")
        work(job)

    folder = folder_in(tiny_copy)
    before = (folder / IDENTIFIER / "case_02.b2nd").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_preprocess_case", fail)
        with pytest.raises(CasesFailedError, match="case_05: ValueError: broken") as caught:
            plan_again(tiny_copy)
    assert caught.value.exit_status == 3
    assert "case_05,preprocess,ValueError: broken" in (folder / "failures.csv").read_text(
        encoding="utf-8"
    )
    assert (folder / IDENTIFIER / "case_02.b2nd").read_bytes() == before
    require_preprocessed(folder, IDENTIFIER)
    worked.clear()
    plan_again(tiny_copy)
    assert worked == ["case_05"]
    assert (folder / IDENTIFIER / "case_02.b2nd").read_bytes() != before
    assert not (folder / "failures.csv").exists()


def test_a_failing_case_leaves_the_descriptions_of_the_old_set(tiny_copy, monkeypatch):
    """Nor is another configuration exchanged: all of them share the descriptions."""
    raw, folder = tiny_copy / "raw" / DATASET, folder_in(tiny_copy)
    shutil.copy(raw / "labelsTr" / "case_00.nii.gz", raw / "labelsTr" / "case_01.nii.gz")
    metadata = read_json(raw / "gnnunet.json")
    metadata["patients"]["case_01"] = metadata["patients"]["case_00"]
    write_json(raw / "gnnunet.json", metadata)
    names = ["gnnunet.json", "splits_final.json", "gt_segmentations/case_01.nii.gz",
             "gnnunetPlans_2d/case_01_seg.b2nd"]  # fmt: skip
    before = {name: (folder / name).read_bytes() for name in names}
    work = module._preprocess_case

    def fail(job):
        if job.case == "case_01" and job.configuration == "3d_fullres":
            raise ValueError("broken")
        work(job)

    both = ("2d", "3d_fullres")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_preprocess_case", fail)
        with pytest.raises(CasesFailedError):
            plan_in(tiny_copy, configurations=both)
    assert {name: (folder / name).read_bytes() for name in names} == before
    plan_in(tiny_copy, configurations=both)
    after = {name: (folder / name).read_bytes() for name in names}
    assert not any(after[name] == before[name] for name in names)


def start_slowly(home: Path, seconds: float) -> subprocess.Popen:
    tests = str(REPOSITORY / "tests")
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("slow_preprocessing.py")), str(seconds)],
        env={**os.environ, "PYTHONPATH": tests}, cwd=home,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def test_a_killed_run_is_continued_where_it_was(tiny_copy, worked):
    """Two cases are done, the third is not; the old set stays until the new one is whole."""
    folder = folder_in(tiny_copy)
    for name in LABELED:
        change_image(tiny_copy, f"imagesTr/{name}_0000.nii.gz")
        write_image(
            tiny_copy / "raw" / DATASET / "labelsTr" / f"{name}.nii.gz",
            ball_case(int(name[-1]) + 20)[1],
        )
    before = (folder / IDENTIFIER / "case_00.b2nd").read_bytes()
    process = start_slowly(tiny_copy, 60)
    try:
        assert process.stdout.readline() == "case_00\n"
    finally:
        process.kill()
        process.wait()
    require_preprocessed(folder, IDENTIFIER)
    assert (folder / IDENTIFIER / "case_00.b2nd").read_bytes() == before
    plan_again(tiny_copy)
    assert worked == LABELED[1:]
    assert (folder / IDENTIFIER / "case_00.b2nd").read_bytes() != before
    require_preprocessed(folder, IDENTIFIER)
    hidden = [path.name for path in folder.iterdir() if "partial" in path.name]
    assert hidden == []


def test_of_two_runs_the_second_is_refused_and_the_first_finishes(tiny_copy, capsys):
    change_image(tiny_copy, "imagesUn/case_04_0000.nii.gz")
    process = start_slowly(tiny_copy, 2)
    assert process.stdout.readline() == "case_04\n"
    assert command(["-d", DATASET, "-c", "3d_fullres", "-np", "1", "--set", *TINY]) == 2
    error = capsys.readouterr().err
    assert f"gnnunet_plan_and_preprocess by process {process.pid} on " in error
    assert "Traceback" not in error
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "7 cases" in errors or "4 labeled" in out
    require_preprocessed(folder_in(tiny_copy), IDENTIFIER)


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("steps", range(4))
def test_a_crash_anywhere_in_the_exchange_is_made_good(tiny_copy, worked, monkeypatch, steps):
    """Before the first folder, between the two, between a folder's renames, before the manifest."""
    change_image(tiny_copy, "imagesTr/case_00_0000.nii.gz")
    change_image(tiny_copy, "imagesUn/case_04_0000.nii.gz")
    folder = folder_in(tiny_copy)
    rename = Path.replace
    moved = []

    def counted(self, target):
        if self.is_dir() and (".partial" in self.name or self.name == IDENTIFIER):
            if len(moved) == steps:
                raise Crash
            moved.append(self.name)
        elif "pending" in self.name and steps == 3:
            raise Crash
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        with pytest.raises(Crash):
            plan_again(tiny_copy)
    with pytest.raises(MissingFileError, match="is not preprocessed"):
        require_preprocessed(folder, IDENTIFIER)
    done = sorted(worked)
    assert done == ["case_00", "case_04"]
    worked.clear()
    plan_again(tiny_copy)
    assert worked == []
    manifest = require_preprocessed(folder, IDENTIFIER)
    assert set(manifest["cases"]) == {*LABELED, *UNLABELED}
    assert [p.name for p in folder.iterdir() if "partial" in p.name or "pending" in p.name] == []


def test_a_full_disk_is_named_and_the_old_set_stays(tiny_copy, monkeypatch):
    change_image(tiny_copy, "imagesTr/case_00_0000.nii.gz")

    def fail(*_args, **_keywords):
        raise RuntimeError("Error while creating the NDArray")

    usage = shutil.disk_usage
    monkeypatch.setattr(blosc2, "asarray", fail)
    monkeypatch.setattr(module, "require_free_space", lambda *_: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    with pytest.raises(NoSpaceError, match=r"no space left while writing .*case_00"):
        plan_again(tiny_copy)
    require_preprocessed(folder_in(tiny_copy), IDENTIFIER)


def test_too_little_room_is_seen_before_the_first_case(tiny_copy, worked, monkeypatch):
    change_image(tiny_copy, "imagesTr/case_00_0000.nii.gz")
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    with pytest.raises(NoSpaceError, match="too little room for preprocessing"):
        plan_again(tiny_copy)
    assert worked == []


def test_values_that_are_not_finite_after_normalization_are_refused(tiny_copy, monkeypatch):
    change_image(tiny_copy, "imagesTr/case_00_0000.nii.gz")
    run = DefaultPreprocessor.run_case_npy

    def poison(self, *arguments):
        data, seg, properties = run(self, *arguments)
        data[0, 0, 0, 0] = np.nan
        return data, seg, properties

    monkeypatch.setattr(DefaultPreprocessor, "run_case_npy", poison)
    with pytest.raises(CasesFailedError, match="case_00: the normalized image has values"):
        plan_again(tiny_copy)


def test_case_ids_that_would_share_a_file_are_refused(tiny_copy):
    raw = tiny_copy / "raw" / DATASET
    shutil.copy(
        raw / "imagesUn" / "case_04_0000.nii.gz", raw / "imagesUn" / "case_00_seg_0000.nii.gz"
    )
    change_image(tiny_copy, "imagesUn/case_00_seg_0000.nii.gz")
    with pytest.raises(InputError, match="'case_00_seg' cannot be used beside 'case_00'"):
        plan_again(tiny_copy)


def test_missing_files_are_listed_by_case(tiny_copy):
    folder = folder_in(tiny_copy)
    manifest = read_manifest(folder, IDENTIFIER)
    assert missing_files(folder, IDENTIFIER, manifest) == []
    (folder / IDENTIFIER / "case_02.pkl").unlink()
    assert missing_files(folder, IDENTIFIER, manifest) == ["case_02"]


def test_the_unit_of_the_intensities_changes_nothing(tiny_copy):
    """Diffusion in m²/s is about 1e-9: nnU-Net's epsilon would outweigh its deviation."""
    folder = folder_in(tiny_copy)
    settings = PlansManager(str(folder / "gnnunetPlans.json")).get_configuration("3d_fullres")
    assert set(settings.normalization_schemes) == {"ZScoreNormalization"}
    stored = nnUNetDatasetBlosc2(str(folder / settings.data_identifier))
    before = {case: np.array(stored.load_case(case)[0][:]) for case in LABELED}
    for path in (tiny_copy / "raw" / DATASET).glob("images*/*.nii.gz"):
        image = sitk.ReadImage(str(path))
        small = sitk.GetImageFromArray(sitk.GetArrayFromImage(image).astype(np.float32) * 2.0**-40)
        small.CopyInformation(image)
        sitk.WriteImage(small, str(path))
    plan_again(tiny_copy)
    stored = nnUNetDatasetBlosc2(str(folder / settings.data_identifier))
    for case, data in before.items():
        assert np.array_equal(stored.load_case(case)[0][:], data)
