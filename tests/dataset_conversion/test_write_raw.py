from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_makers import SHAPE, image_array, label_array, read, save

from graphnn_unet.data.check import check_dataset
from graphnn_unet.dataset_conversion import write_raw as write_raw_module
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset
from graphnn_unet.dataset_conversion.write_raw import write_raw
from graphnn_unet.errors import FaultsError, LockedError, RefusedError
from graphnn_unet.images.volume import Volume
from graphnn_unet.storage.locks import folder_lock

FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for i in range(4):
        save(image_array(i), tmp_path / "in" / f"c{i}.nii.gz")
        save(label_array(), tmp_path / "in" / f"c{i}_label.nii.gz")
    return tmp_path / "in"


def make(source: Path, **changes) -> ConvertedDataset:
    """c0, c1 labeled, c2 unlabeled, c3 test."""
    roles = ("labeled", "labeled", "unlabeled", "test")
    cases = []
    for i, role in enumerate(roles):
        image, label = source / f"c{i}.nii.gz", source / f"c{i}_label.nii.gz"
        has_label = role != "unlabeled"
        inputs = (image, label) if has_label else (image,)
        cases.append(Case(f"c{i}", (image,), label if has_label else None, role, f"p{i}", inputs))
    dataset = ConvertedDataset(
        name="Small",
        default_id=None,
        form="nifti",
        source=source,
        channel_names={0: "MRI"},
        labels={"background": 0, "organ": 1},
        cases=cases,
    )
    return replace(dataset, **changes)


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "Dataset501_Small"


def test_the_folder_has_exactly_the_files_of_the_contract(source: Path, target: Path):
    result = write_raw(make(source), target)
    assert files_of(target) == {
        "dataset.json",
        "gnnunet.json",
        "imagesTr/c0_0000.nii.gz",
        "imagesTr/c1_0000.nii.gz",
        "imagesUn/c2_0000.nii.gz",
        "imagesTs/c3_0000.nii.gz",
        "labelsTr/c0.nii.gz",
        "labelsTr/c1.nii.gz",
        "labelsTs/c3.nii.gz",
    }
    assert result.written
    assert [result.count(role) for role in ("labeled", "unlabeled", "test")] == [2, 1, 1]
    assert check_dataset(target).faults == []
    assert {p.name for p in target.parent.iterdir()} == {".gnnunet-locks", target.name}


def test_stock_nnunet_accepts_the_folder(source: Path, target: Path):
    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    write_raw(make(source), target)
    content = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
    assert LabelManager(content["labels"], None).all_labels == [0, 1]
    files = get_filenames_of_train_images_and_targets(str(target), content)
    assert len(files) == content["numTraining"] == 2
    for case in files.values():
        assert check_cases(case["images"], case["label"], 1, SimpleITKIO)


def test_the_record_names_order_patients_hashes_and_source(source: Path, target: Path):
    splits = {"S": {"source": "somewhere", "train": ["c1", "c0"]}}
    dataset = make(source, published_splits=splits, notes=["a note"])
    dataset.cases.reverse()
    write_raw(dataset, target)
    record = json.loads((target / "gnnunet.json").read_text(encoding="utf-8"))
    assert record["schema_version"] == 1
    assert record["format"] == "nifti"
    assert record["label_order"] == ["c1", "c0"]
    assert record["patients"] == {f"c{i}": f"p{i}" for i in range(4)}
    assert record["published_splits"] == splits
    assert record["notes"] == ["a note"]
    assert set(record["sha256"]) == {
        "c0.nii.gz", "c0_label.nii.gz", "c1.nii.gz", "c1_label.nii.gz", "c2.nii.gz",
        "c3.nii.gz", "c3_label.nii.gz",
    }  # fmt: skip


def test_right_files_are_copied_byte_for_byte(source: Path, target: Path):
    write_raw(make(source), target)
    for stored, written in (
        ("c0.nii.gz", "imagesTr/c0_0000.nii.gz"),
        ("c0_label.nii.gz", "labelsTr/c0.nii.gz"),
    ):
        assert (source / stored).read_bytes() == (target / written).read_bytes()


def test_a_dry_run_writes_nothing_and_finds_the_same(source: Path, target: Path):
    dry = write_raw(make(source), target, dry_run=True)
    assert not target.parent.exists()
    wet = write_raw(make(source), target)
    assert [replace(row, sha256={}) for row in wet.rows] == list(dry.rows)
    assert dry.rows[0].shape == SHAPE
    assert dry.rows[0].label_values == (0, 1)
    assert dry.rows[2].label_values == ()


def test_an_existing_folder_is_refused_unless_asked_for(source: Path, target: Path):
    write_raw(make(source), target)
    (target / "mine.txt").write_text("keep")
    with pytest.raises(RefusedError, match="--overwrite"):
        write_raw(make(source), target)
    assert (target / "mine.txt").exists()
    write_raw(make(source), target, overwrite=True)
    assert not (target / "mine.txt").exists()


def test_all_faults_are_reported_and_the_old_folder_stays(source: Path, target: Path):
    write_raw(make(source), target)
    before = {name: (target / name).read_bytes() for name in files_of(target)}
    (source / "c0.nii.gz").write_bytes((source / "c0.nii.gz").read_bytes()[:-40])
    save(label_array(7), source / "c1_label.nii.gz")
    with pytest.raises(FaultsError) as error:
        write_raw(make(source), target, overwrite=True)
    assert [(f.case, f.code) for f in error.value.faults] == [("c0", "I01"), ("c1", "I23")]
    assert all(fault.remedy for fault in error.value.faults)
    assert {name: (target / name).read_bytes() for name in files_of(target)} == before
    assert not [p for p in target.parent.iterdir() if ".partial-" in p.name]


def test_an_interruption_leaves_nothing_behind(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def interrupted(job):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return prepare(job)

    prepare = write_raw_module.prepare_case
    monkeypatch.setattr(write_raw_module, "prepare_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_raw(make(source), target)
    assert [p.name for p in target.parent.iterdir()] == [".gnnunet-locks"]


def test_what_a_killed_conversion_left_is_cleared(source: Path, target: Path):
    left = target.with_name(f".partial-new-{target.name}-123")
    left.mkdir(parents=True)
    write_raw(make(source), target)
    assert not left.exists()


def test_two_conversions_of_one_set_do_not_run_at_once(source: Path, target: Path):
    with (
        folder_lock(target.parent / write_raw_module.LOCKS / target.name, "another"),
        pytest.raises(LockedError, match="in use"),
    ):
        write_raw(make(source), target)


def test_float_labels_are_rounded_only_when_they_are_integers(source: Path, target: Path):
    nearly = label_array().astype(np.float32) * 0.9999
    save(nearly, source / "c0_label.nii.gz")
    result = write_raw(make(source), target)
    written = read(target / "labelsTr/c0.nii.gz")
    np.testing.assert_array_equal(written, label_array())
    assert written.dtype == np.uint8
    assert any("c0" in note and "rounded" in note for note in result.notes)
    save(label_array().astype(np.float32) * 0.5, source / "c0_label.nii.gz")
    with pytest.raises(FaultsError, match=r"no integers, such as 0.5"):
        write_raw(make(source), target, overwrite=True)


def test_label_values_are_mapped(source: Path, target: Path):
    save(label_array(255), source / "c0_label.nii.gz")
    write_raw(make(source, label_mapping={0: 0, 1: 1, 255: 1}), target)
    np.testing.assert_array_equal(read(target / "labelsTr/c0.nii.gz"), label_array())


def test_a_rounded_header_is_fixed_and_said(source: Path, target: Path):
    save(label_array(), source / "c0_label.nii.gz", origin=(3.0004, -4.0, 5.0))
    result = write_raw(make(source), target)
    assert check_dataset(target).faults == []
    assert any("c0" in note and "rounding" in note for note in result.notes)


def test_a_label_stored_along_other_axes_lands_on_its_tissue(source: Path, target: Path):
    image = sitk.ReadImage(str(source / "c0_label.nii.gz"))
    sitk.WriteImage(sitk.DICOMOrient(image, "PSR"), str(source / "c0_label.nii.gz"))
    result = write_raw(make(source), target)
    np.testing.assert_array_equal(read(target / "labelsTr/c0.nii.gz"), label_array())
    assert any("c0" in note and "other axes" in note for note in result.notes)
    assert check_dataset(target).faults == []


def test_a_flip_without_its_origin_is_never_guessed(source: Path, target: Path):
    save(label_array(), source / "c0_label.nii.gz", direction=FLIPPED)
    with pytest.raises(FaultsError, match="--fix-geometry") as error:
        write_raw(make(source), target)
    assert error.value.faults[0].code == "I18"
    write_raw(make(source), target, fix_geometry="header")
    np.testing.assert_array_equal(read(target / "labelsTr/c0.nii.gz"), label_array())


def test_a_label_on_a_coarser_grid_is_resampled_when_asked(source: Path, target: Path):
    coarse = label_array()[::2, ::2, ::2]
    save(coarse, source / "c0_label.nii.gz", spacing=(2.0, 3.0, 4.0))
    with pytest.raises(FaultsError, match=r"\(3, 4, 5\) against \(6, 8, 10\) voxels"):
        write_raw(make(source), target)
    result = write_raw(make(source), target, fix_geometry="resample")
    written = read(target / "labelsTr/c0.nii.gz")
    assert written.shape == SHAPE
    np.testing.assert_array_equal(written[::2, ::2, ::2], coarse)
    assert any("resampled" in note for note in result.notes)


def test_a_further_channel_on_another_grid_is_a_fault_or_resampled(source: Path, target: Path):
    save(image_array(9)[::2], source / "flair.nii.gz", spacing=(1.0, 1.5, 4.0))
    dataset = make(source, channel_names={0: "T1", 1: "FLAIR"})
    image = source / "c0.nii.gz"
    dataset.cases[:] = [Case("c0", (image, source / "flair.nii.gz"), None, "unlabeled", "p", ())]
    with pytest.raises(FaultsError, match="channel 0001") as error:
        write_raw(dataset, target)
    assert error.value.faults[0].code == "I19"
    write_raw(dataset, target, fix_geometry="resample")
    assert read(target / "imagesUn/c0_0001.nii.gz").shape == SHAPE


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_with_values_that_are_no_numbers_are_refused(
    source: Path, target: Path, value: float
):
    array = image_array(0)
    array[2, 3, 4] = value
    dataset = make(source)
    dataset.cases[0] = replace(dataset.cases[0], images=(partial(Volume, array, (2.0, 1.5, 1.0)),))
    with pytest.raises(FaultsError, match="1 NaN or infinite") as error:
        write_raw(dataset, target)
    assert error.value.faults[0].case == "c0"


def test_intensities_like_ct_bring_a_hint(source: Path, target: Path):
    save(image_array(1) - 1100, source / "c1.nii.gz")
    result = write_raw(make(source), target, dry_run=True)
    assert any("--channels CT" in note for note in result.notes)
    named = write_raw(make(source, channel_names={0: "CT"}), target, dry_run=True)
    assert not any("--channels CT" in note for note in named.notes)


def test_workers_write_the_same_bytes(source: Path, target: Path):
    dataset = make(source, label_mapping={0: 0, 1: 1})
    write_raw(dataset, target, n_workers=0)
    alone = {name: (target / name).read_bytes() for name in files_of(target)}
    write_raw(dataset, target, n_workers=2, overwrite=True)
    assert {name: (target / name).read_bytes() for name in files_of(target)} == alone


def test_regions_get_an_order(source: Path, target: Path):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    write_raw(make(source, labels=labels), target)
    assert json.loads((target / "dataset.json").read_text(encoding="utf-8"))[
        "regions_class_order"
    ] == [1, 2]


def test_scans_along_other_axes_are_named_and_stay_as_they_are(source: Path, tmp_path: Path):
    stored = sitk.DICOMOrient(sitk.ReadImage(str(source / "c2.nii.gz")), "PIR")
    sitk.WriteImage(stored, str(source / "c2.nii.gz"), True)
    result = write_raw(make(source), tmp_path / "Dataset001_A", n_workers=0)
    assert [row.orientation for row in result.rows] == ["LPS", "LPS", "PIR", "LPS"]
    assert any(note.startswith("c2: stored as PIR, most scans as LPS") for note in result.notes)
    np.testing.assert_array_equal(
        read(result.folder / "imagesUn" / "c2_0000.nii.gz"), sitk.GetArrayFromImage(stored)
    )


def test_test_scans_do_not_say_what_is_usual(source: Path, tmp_path: Path):
    """The note names the orientation that planning will choose."""
    for name in ("c2", "c3"):  # unlabeled and test: two of four, one of the three that train
        stored = sitk.DICOMOrient(sitk.ReadImage(str(source / f"{name}.nii.gz")), "AIR")
        sitk.WriteImage(stored, str(source / f"{name}.nii.gz"), True)
    for suffix in ("", "_label"):
        path = source / f"c3{suffix}.nii.gz"
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "AIR"), str(path), True)
    result = write_raw(make(source), tmp_path / "Dataset001_A", n_workers=0)
    assert any(note.startswith("c2, c3: stored as AIR, most scans as LPS") for note in result.notes)
    assert check_dataset(result.folder, n_workers=0).orientation == "LPS"


def test_test_scans_alone_have_no_usual_orientation_to_be_turned_to(source: Path, target: Path):
    dataset = make(source)
    cases = [replace(case, role="test") for case in dataset.cases]
    result = write_raw(replace(dataset, cases=cases), target, dry_run=True)
    assert [row.role for row in result.rows] == ["test"] * 4
    assert not any("stored as" in note for note in result.notes)
