"""One small data set, one fault at a time: the check names the case, the cause and the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_dataset import (
    CASES,
    FAULTS,
    SHAPE,
    Spoil,
    cut,
    edit,
    edit_header,
    float32,
    image_array,
    image_path,
    int16,
    label_path,
    make_dataset,
    rewrite,
    save,
    set_voxels,
)

from graphnn_unet.data.check import check_case_images, check_dataset
from graphnn_unet.errors import BadFileError
from graphnn_unet.images.read import read_volume


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "Dataset001_Small")


def test_a_clean_data_set_has_no_fault_and_all_its_metadata(dataset: Path):
    report = check_dataset(dataset)
    assert report.faults == []
    assert list(report.cases) == ["case_000", "case_001", "case_002", "scan_9", "test_8"]
    roles = [metadata.role for metadata in report.cases.values()]
    assert roles == ["labeled"] * 3 + ["unlabeled", "test"]
    metadata = report.cases["case_001"]
    assert metadata.shape == SHAPE
    assert metadata.spacing == (2.0, 1.0, 1.0)
    assert metadata.label_values == (0, 1, 2)
    assert metadata.classes[1].n_voxels == 100
    assert set(metadata.sha256) == {"imagesTr/case_001_0000.nii.gz", "labelsTr/case_001.nii.gz"}
    assert report.cases["scan_9"].label is None
    assert json.loads(json.dumps(report.as_json()))["n_cases"]["labeled"] == 3


@pytest.mark.parametrize(
    ("code", "spoil", "words", "case"),
    FAULTS,
    ids=[f"{fault[0]}-{number}" for number, fault in enumerate(FAULTS)],
)
def test_each_fault_is_named_with_case_cause_and_remedy(
    dataset: Path, code: str, spoil: Spoil, words: str, case: str
):
    spoil(dataset)
    report = check_dataset(dataset)
    faults = [f for f in report.errors if f.code == code]
    assert [f.case for f in faults] == [case], [f.line for f in report.faults]
    assert words in faults[0].line
    assert faults[0].remedy
    assert "\n" not in faults[0].line


@pytest.mark.parametrize(
    ("ending", "code", "spoil"),
    [(ending, "I05", lambda f: cut(image_path(f), 0.6)) for ending in (".nii", ".mha", ".nrrd")]
    + [(ending, "I10", lambda f: set_voxels(image_path(f), np.nan)) for ending in (".mha", ".nrrd")]
    + [
        (ending, "I11", lambda f: set_voxels(image_path(f), -np.inf))
        for ending in (".mha", ".nrrd")
    ],
)
def test_other_formats_are_checked_as_closely(tmp_path: Path, ending: str, code: str, spoil: Spoil):
    folder = make_dataset(tmp_path, ending)
    assert check_dataset(folder).faults == []
    spoil(folder)
    assert [(f.code, f.case) for f in check_dataset(folder).errors] == [(code, "case_001")]


def test_two_channels_of_different_size_are_an_error(tmp_path: Path):
    folder = make_dataset(tmp_path, n_channels=2)
    assert check_dataset(folder).faults == []
    rewrite(image_path(folder, 1), image_array(5)[2:])
    assert [(f.code, f.case) for f in check_dataset(folder).errors] == [("I19", "case_001")]


def test_a_missing_channel_is_named_for_its_case(tmp_path: Path):
    folder = make_dataset(tmp_path, n_channels=2)
    image_path(folder, 1).unlink()
    (fault,) = check_dataset(folder).errors
    assert (fault.code, fault.case) == ("I21", "case_001")
    assert "0001" in fault.cause


def test_a_channel_that_no_case_has_is_one_fault_of_dataset_json(dataset: Path):
    for folder in ("imagesUn", "imagesTs"):
        shutil.rmtree(dataset / folder)
    shutil.rmtree(dataset / "labelsTs")
    edit(dataset, channel_names={"0": "T1", "1": "T2"})
    (fault,) = check_dataset(dataset).errors
    assert fault.code == "I20"
    assert "lists 2 channels" in fault.cause


def test_an_empty_label_map_is_a_warning_and_only_empty_ones_an_error(dataset: Path):
    rewrite(label_path(dataset), np.zeros(SHAPE, np.uint8))
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.warnings] == [("I29", "case_001")]
    assert not report.errors
    for case in CASES:
        rewrite(dataset / "labelsTr" / f"{case}.nii.gz", np.zeros(SHAPE, np.uint8))
    assert [f.code for f in check_dataset(dataset).faults] == ["I30"]


def test_a_label_map_of_background_and_voxels_without_a_label_is_empty(dataset: Path):
    """A first round of drawn slices that show nothing."""
    names = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["labels"]
    edit(dataset, labels={**names, "ignore": len(names)})
    nothing = np.zeros(SHAPE, np.uint8)
    nothing[1:] = len(names)
    rewrite(label_path(dataset), nothing)
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.faults] == [("I29", "case_001")]
    for case in CASES:
        rewrite(dataset / "labelsTr" / f"{case}.nii.gz", nothing)
    assert [f.code for f in check_dataset(dataset).errors] == ["I30"]


def test_a_constant_image_is_a_warning(dataset: Path):
    rewrite(image_path(dataset), np.full(SHAPE, 42, np.int16))
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.faults] == [("I47", "case_001")]
    assert not report.errors


def test_one_empty_channel_of_two_is_only_a_warning(tmp_path: Path):
    folder = make_dataset(tmp_path, n_channels=2)
    rewrite(image_path(folder, 1), np.zeros(SHAPE, np.int16))
    report = check_dataset(folder)
    assert [(f.code, f.severity) for f in report.faults] == [("I47", "warning")]


@pytest.mark.parametrize(
    ("shift", "severity"), [(5e-4, "warning"), (0.09, "warning"), (0.11, "error")]
)
def test_a_rounded_header_is_a_warning_and_a_shift_an_error(
    dataset: Path, shift: float, severity: str
):
    rewrite(label_path(dataset), origin=(3.0 + shift, -4.0, 5.0))
    (fault,) = check_dataset(dataset).faults
    assert (fault.code, fault.severity) == ("I17", severity)


def test_a_foreign_origin_can_be_allowed_but_a_flip_cannot(dataset: Path):
    rewrite(label_path(dataset), origin=(53.0, -4.0, 5.0))
    assert not check_dataset(dataset, allow_origin_mismatch=True).errors
    rewrite(label_path(dataset), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert [f.code for f in check_dataset(dataset, allow_origin_mismatch=True).errors] == ["I18"]


def test_a_copy_among_unlabeled_scans_is_only_a_warning(dataset: Path):
    scan = dataset / "imagesUn" / "scan_9_0000.nii.gz"
    shutil.copy(scan, scan.with_name("scan_10_0000.nii.gz"))
    (fault,) = check_dataset(dataset).faults
    assert (fault.code, fault.severity) == ("I31", "warning")
    assert "training data" not in fault.line


def test_a_copy_with_another_header_is_a_warning_unless_it_scores(dataset: Path):
    first = dataset / "imagesTr" / "case_000_0000.nii.gz"
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(first)))
    rewrite(image_path(dataset), array=voxels, spacing=(1.0, 1.0, 1.5))
    rewrite(label_path(dataset), spacing=(1.0, 1.0, 1.5))
    (fault,) = check_dataset(dataset).faults
    assert (fault.case, fault.code, fault.severity) == ("case_001", "I31", "warning")
    assert "kept in one fold" in fault.remedy
    scored = dataset / "imagesTs" / "other_0000.nii.gz"
    shutil.copy(image_path(dataset), scored)
    rewrite(scored, spacing=(1.0, 1.0, 2.5))
    assert [(f.case, f.code) for f in check_dataset(dataset).errors] == [("other", "I31")]


def test_stray_files_are_notes(dataset: Path):
    (dataset / "imagesTr" / "notes.txt").write_text("hello")
    (dataset / "imagesTr" / "._case_000_0000.nii.gz").write_bytes(b"\0\5\26\7")
    report = check_dataset(dataset)
    assert report.faults == []
    assert len(report.notes) == 2
    assert any("notes.txt" in note for note in report.notes)


def test_label_values_as_text_and_strange_names_are_accepted(dataset: Path):
    edit(dataset, labels={"background": "0", "<script>": "1", "$(rm)": "2"})
    assert check_dataset(dataset).faults == []


def test_unlabeled_scans_need_no_label_and_are_not_counted(dataset: Path):
    label_path(dataset).unlink()
    image_path(dataset).rename(dataset / "imagesUn" / image_path(dataset).name)
    edit(dataset, numTraining=2)
    report = check_dataset(dataset)
    assert report.faults == []
    assert report.cases["case_001"].role == "unlabeled"


def test_damage_in_unlabeled_and_test_scans_is_found_too(dataset: Path):
    cut(dataset / "imagesUn" / "scan_9_0000.nii.gz", 0.5)
    set_voxels(dataset / "imagesTs" / "test_8_0000.nii.gz", np.nan)
    codes = {(f.code, f.case) for f in check_dataset(dataset).errors}
    assert codes == {("I01", "scan_9"), ("I08", "test_8")}


def test_all_faults_come_in_one_pass(dataset: Path):
    cut(image_path(dataset), 0.5)
    set_voxels(label_path(dataset), 7)
    set_voxels(dataset / "imagesTr" / "case_000_0000.nii.gz", np.nan)
    edit(dataset, numTraining=9)
    codes = [f.code for f in check_dataset(dataset).errors]
    assert sorted(codes) == ["I01", "I08", "I23", "I44"]


def test_paths_outside_the_data_set_are_refused(dataset: Path):
    good = {"images": ["imagesTr/case_000_0000.nii.gz"], "label": "labelsTr/case_000.nii.gz"}
    section = {
        "case_000": good,
        "../../escaped": good,
        "odd": {**good, "label": "../../secret.nii.gz"},
        "home": {**good, "label": "$HOME/label.nii.gz"},
    }
    edit(dataset, dataset=section, numTraining=1)
    codes = {(f.code, f.case) for f in check_dataset(dataset).errors}
    assert codes == {("S12", "../../escaped"), ("S14", "odd"), ("S14", "home")}


def test_workers_find_the_same_as_this_process(dataset: Path):
    cut(image_path(dataset), 0.5)
    assert check_dataset(dataset, n_workers=2) == check_dataset(dataset, n_workers=0)


def test_endings_in_capitals_are_left_out_of_raw_folders_by_name(dataset: Path):
    folder = dataset / "imagesTr"
    capitals = folder / "case_000_0000.NII.GZ"
    image_path(dataset).parent.joinpath("case_000_0000.nii.gz").rename(capitals)
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.errors if f.code == "I28"] == [("I28", "case_000")]
    assert any("NII.GZ was passed over (nnU-Net takes .nii.gz" in note for note in report.notes)


def test_links_to_files_are_taken_and_those_to_nowhere_are_faults(dataset: Path, tmp_path: Path):
    folder = dataset / "imagesTr"
    path = folder / "case_000_0000.nii.gz"
    path.rename(tmp_path / "kept.nii.gz")
    path.symlink_to(tmp_path / "kept.nii.gz")
    assert check_dataset(dataset).errors == []
    (tmp_path / "kept.nii.gz").unlink()
    faults = {fault.code: fault for fault in check_dataset(dataset).errors}
    lost = faults["I36"]
    assert lost.case == "case_000"
    assert "a link that leads nowhere" in lost.cause


def test_the_images_of_one_case_can_be_checked_alone(tmp_path: Path):
    path = tmp_path / "x_0000.nii.gz"
    save(np.zeros(SHAPE, np.float32), path)
    (fault,) = check_case_images([path])
    assert (fault.code, fault.case, fault.severity) == ("I48", "x", "warning")
    cut(path, 0.5)
    (fault,) = check_case_images([path])
    assert (fault.code, fault.severity) == ("I01", "error")


def test_an_impossible_header_takes_no_memory(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    edit_header(image_path(dataset), 42, int16(30000, 30000, 30000))
    monkeypatch.setattr(np, "frombuffer", lambda *_: pytest.fail("memory was asked for"))
    with pytest.raises(BadFileError, match="claims"):
        read_volume(image_path(dataset))


def test_a_case_that_cannot_be_read_is_still_a_case(dataset: Path):
    cut(image_path(dataset), 0.5)
    report = check_dataset(dataset)
    assert {fault.case for fault in report.errors} == {"case_001"}
    assert report.cases["case_001"].shape == (0, 0, 0)
    assert len(report.errors) == 1


def test_a_header_with_nan_in_its_orientation_is_refused(dataset: Path):
    edit_header(image_path(dataset), 292, float32(np.nan))  # sform, offset in x
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.errors] == [("I18", "case_001")]
