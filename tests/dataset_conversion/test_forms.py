"""Each published form: what is found, in which order, with which role, and where voxels land."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_makers import image_array, label_array, read, save, save_h5, save_series

from graphnn_unet.dataset_conversion import acdc, decathlon, dicom, left_atrium, pancreas
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.published import published
from graphnn_unet.dataset_conversion.records import ConvertedDataset, Volume
from graphnn_unet.dataset_conversion.volumes import load
from graphnn_unet.errors import BadFileError, FaultsError, InputError, MissingFileError

LA = published("left_atrium")
ACDC = published("acdc")
PANCREAS = published("pancreas")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


def roles(found: ConvertedDataset) -> dict[str, str]:
    return {case.case_id: case.role for case in found.cases}


def volume(found: ConvertedDataset, case_id: str) -> tuple[Volume, Volume]:
    case = next(case for case in found.cases if case.case_id == case_id)
    assert case.label is not None
    return load(case.images[0], case_id), load(case.label, case_id)


# ---------------------------------------------------------------- published splits


def test_published_splits_are_whole_and_apart():
    for table, n_train, n_test in ((LA, 80, 20), (ACDC, 140, 40), (PANCREAS, 62, 18)):
        parts = [table["train"], table["test"], table.get("val", [])]
        names = [name for part in parts for name in part]
        assert (len(table["train"]), len(table["test"])) == (n_train, n_test)
        assert len(set(names)) == len(names)
        assert table["source"].startswith("repository ")
    patients = [{n.split("_")[0] for n in ACDC[part]} for part in ("train", "val", "test")]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 100
    first = {name.split("_")[0] for name in ACDC["train"][:6]}
    assert len(first) == 3
    assert {"0025", "0070"}.isdisjoint(PANCREAS["train"] + PANCREAS["test"])


# ---------------------------------------------------------------- left atrium


def test_left_atrium_h5_comes_in_published_order_with_turned_axes(tmp_path: Path):
    first, second, test = LA["train"][0], LA["train"][1], LA["test"][0]
    for number, name in enumerate(("unknown", second, test, first)):
        save_h5(tmp_path / name / "mri_norm2.h5", image_array(number), label_array())
    found = left_atrium.read(tmp_path)
    assert list(roles(found).items()) == [
        (first, "labeled"), (second, "labeled"), (test, "test"), ("unknown", "labeled"),
    ]  # fmt: skip
    image, label = volume(found, first)
    np.testing.assert_array_equal(image.array, image_array(3).transpose(2, 1, 0))
    np.testing.assert_array_equal(label.array, label_array().transpose(2, 1, 0))
    assert image.spacing == (0.625, 0.625, 0.625)
    assert any("97 of 100" in note for note in found.notes)
    assert found.published_splits["UA-MT"]["train"] == LA["train"]


def test_left_atrium_lists_beside_the_data_win(tmp_path: Path):
    for name in ("a", "b", "c"):
        save(image_array(1), tmp_path / "images" / f"{name}.nii.gz")
        save(label_array(), tmp_path / "labels" / f"{name}.nii.gz")
    (tmp_path / "train.list").write_text("c\na\n")
    (tmp_path / "test.list").write_text("b\n")
    found = left_atrium.read(tmp_path)
    assert list(roles(found).items()) == [("c", "labeled"), ("a", "labeled"), ("b", "test")]
    assert found.published_splits["lists beside the data"]["test"] == ["b"]
    assert "UA-MT" in found.published_splits


def test_left_atrium_challenge_files_lose_their_255(tmp_path: Path, raw: Path):
    name = LA["train"][0]
    save(image_array(1), tmp_path / "in" / name / "lgemri.nrrd", spacing=(0.625, 0.625, 0.625))
    save(label_array(255), tmp_path / "in" / name / "laendo.nrrd", spacing=(0.625, 0.625, 0.625))
    save(image_array(2), tmp_path / "in" / "new" / "lgemri.nrrd")
    result = convert("LA", tmp_path / "in")
    assert [(row.case, row.role) for row in result.rows] == [
        (name, "labeled"),
        ("new", "unlabeled"),
    ]
    np.testing.assert_array_equal(read(result.folder / f"labelsTr/{name}.nii.gz"), label_array())
    written = sitk.ReadImage(str(result.folder / f"imagesTr/{name}_0000.nii.gz"))
    np.testing.assert_allclose(written.GetOrigin(), (3.0, -4.0, 5.0))


def test_a_folder_of_another_form_is_refused(tmp_path: Path):
    for reader in (left_atrium.read, lambda p: acdc.read(p, frozenset()), decathlon.read):
        with pytest.raises(MissingFileError):
            reader(tmp_path)
    with pytest.raises(MissingFileError, match="PANCREAS_0001"):
        pancreas.read(tmp_path, None)
    with pytest.raises(MissingFileError, match="no DICOM series"):
        dicom.read(tmp_path, None)


# ---------------------------------------------------------------- ACDC


def save_slices(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> None:
    for number, (plane, plane_label) in enumerate(zip(image, label, strict=True), start=1):
        save_h5(folder / f"{name}_slice_{number}.h5", plane, plane_label)


def test_acdc_slices_are_stacked_by_number_not_by_text(tmp_path: Path):
    image, label = image_array(1, (12, 6, 5)), label_array(3, (12, 8, 10))[:, :6, :5]
    save_slices(tmp_path / "data" / "slices", ACDC["train"][0], image, label)
    found = acdc.read(tmp_path, frozenset())
    stacked, stacked_label = volume(found, ACDC["train"][0])
    np.testing.assert_array_equal(stacked.array, image)
    np.testing.assert_array_equal(stacked_label.array, label)
    assert stacked.spacing == acdc.H5_SPACING_MM
    assert any("store no spacing" in note for note in found.notes)


def test_acdc_missing_slices_are_a_fault(tmp_path: Path):
    name = ACDC["train"][0]
    save_slices(tmp_path, name, image_array(1), label_array())
    (tmp_path / f"{name}_slice_3.h5").unlink()
    (tmp_path / f"{name}_slice_1.h5").unlink()
    with pytest.raises(FaultsError, match="slices 1, 3 of 1 to 6 are missing"):
        acdc.read(tmp_path, frozenset())


def test_acdc_patients_have_published_order_and_roles(tmp_path: Path):
    train, validation, test = ACDC["train"], ACDC["val"], ACDC["test"]
    for name in (*train[:4], *validation[:2], *test[:2]):
        save_h5(tmp_path / f"{name}.h5", image_array(1), label_array())
    found = acdc.read(tmp_path, frozenset())
    assert list(roles(found).items()) == [
        *((name, "labeled") for name in train[:4]), *((name, "test") for name in test[:2]),
    ]  # fmt: skip
    assert [name for name, _ in found.skipped] == validation[:2]
    assert {case.patient for case in found.cases} == {
        name.split("_")[0] for name in train[:4] + test[:2]
    }
    wanted = acdc.read(tmp_path, frozenset(validation))
    assert roles(wanted)[validation[0]] == "test"


def test_acdc_challenge_files_are_found_with_their_own_frames(tmp_path: Path):
    patient = ACDC["train"][0].split("_")[0]
    folder = tmp_path / "training" / patient
    save(image_array(1), folder / f"{patient}_frame01.nii.gz", spacing=(1.4, 1.4, 10.0))
    save(label_array(2), folder / f"{patient}_frame01_gt.nii.gz", spacing=(1.4, 1.4, 10.0))
    save(image_array(2), folder / f"{patient}_frame12.nii.gz", spacing=(1.4, 1.4, 10.0))
    save(image_array(3), folder / f"{patient}_4d.nii.gz")
    outside = tmp_path / "testing" / "patient101"
    save(image_array(4), outside / "patient101_frame01.nii.gz")
    found = acdc.read(tmp_path, frozenset())
    assert roles(found) == {f"{patient}_frame01": "labeled", f"{patient}_frame12": "unlabeled"}
    assert [name for name, _ in found.skipped] == ["patient101_frame01"]


# ---------------------------------------------------------------- Decathlon


def save_task(folder: Path, n_channels: int = 1, labels: dict | None = None) -> Path:
    shape = (n_channels, 6, 8, 10)
    for number, where in ((1, "imagesTr"), (2, "imagesTr"), (3, "imagesTs")):
        array = image_array(number, shape)
        array = array if n_channels > 1 else array[0]
        (folder / where).mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array, isVector=False)
        sitk.WriteImage(image, str(folder / where / f"organ_{number:03d}.nii.gz"))
        if where == "imagesTr":
            label = label_array(2 if number == 1 else 1).astype(np.float32)
            save(label, folder / "labelsTr" / f"organ_{number:03d}.nii.gz", spacing=(1, 1, 1),
                 origin=(0, 0, 0))  # fmt: skip
    (folder / "imagesTr" / "._organ_001.nii.gz").write_bytes(b"\0")
    modalities = ["FLAIR", "T1w", "T2w"][:n_channels]
    table = {
        "name": "Organ",
        "modality": dict(enumerate(modalities)),
        "labels": labels or {"0": "background", "1": "edge", "2": "core"},
        "training": [
            {
                "image": f"./imagesTr/organ_{i:03d}.nii.gz",
                "label": f"./labelsTr/organ_{i:03d}.nii.gz",
            }
            for i in (1, 2)
        ],
        "test": ["./imagesTs/organ_003.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def test_decathlon_channels_are_split(tmp_path: Path, raw: Path):
    result = convert("MSD", save_task(tmp_path / "Task17_Organ", 3))
    assert result.dataset == "Dataset017_Organ"
    assert result.channel_names == {0: "FLAIR", 1: "T1w", 2: "T2w"}
    assert [(row.case, row.role) for row in result.rows] == [
        ("organ_001", "labeled"), ("organ_002", "labeled"), ("organ_003", "test"),
    ]  # fmt: skip
    for channel in range(3):
        written = read(result.folder / f"imagesTr/organ_002_{channel:04d}.nii.gz")
        np.testing.assert_array_equal(written, image_array(2, (3, 6, 8, 10))[channel])
    assert result.labels == {"background": 0, "edge": 1, "core": 2}
    assert any("float32" in note for note in result.notes)


def test_some_channels_can_be_chosen_by_name(tmp_path: Path, raw: Path):
    result = convert("MSD", save_task(tmp_path / "Task17_Organ", 3), channels=["T2w", "FLAIR"])
    np.testing.assert_array_equal(
        read(result.folder / "imagesTr/organ_001_0000.nii.gz"),
        image_array(1, (3, 6, 8, 10))[2],
    )
    with pytest.raises(InputError, match="2 channel names for 3 channels"):
        convert("MSD", tmp_path / "Task17_Organ", channels=["a", "b"], dry_run=True)


def test_decathlon_label_gaps_are_closed(tmp_path: Path, raw: Path):
    folder = save_task(tmp_path / "t", labels={"0": "background", "1": "a", "2": "b", "5": "c"})
    save(label_array(5), folder / "labelsTr" / "organ_001.nii.gz", spacing=(1, 1, 1),
         origin=(0, 0, 0))  # fmt: skip
    result = convert("MSD", folder)
    assert result.labels == {"background": 0, "a": 1, "b": 2, "c": 3}
    np.testing.assert_array_equal(read(result.folder / "labelsTr/organ_001.nii.gz"), label_array(3))
    record = json.loads((result.folder / "gnnunet.json").read_text())
    assert record["label_mapping"]["5"] == 3


def test_decathlon_files_that_are_missing_or_outside_are_all_named(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    table = json.loads((folder / "dataset.json").read_text())
    (folder / "labelsTr" / "organ_001.nii.gz").unlink()
    table["training"][1]["label"] = "../../secret.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(table))
    with pytest.raises(FaultsError) as error:
        decathlon.read(folder)
    assert [(f.case, f.code) for f in error.value.faults] == [
        ("organ_001", "I27"), ("organ_002", "S14"),
    ]  # fmt: skip


def test_decathlon_files_nobody_lists_are_told(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    save(image_array(1), folder / "imagesTr" / "stray.nii.gz")
    assert decathlon.read(folder).skipped == [
        ("imagesTr/stray.nii.gz", "not listed in dataset.json")
    ]


# ---------------------------------------------------------------- Pancreas and DICOM


def test_pancreas_labels_stored_upside_down_are_turned_by_their_header(tmp_path: Path, raw: Path):
    array = (10 * image_array(1)).astype(np.int16)
    folder = tmp_path / "in"
    save_series(folder / "PANCREAS_0001" / "x" / "y", array)
    label = to_label(label_array(), "LAS")
    (folder / "labels").mkdir()
    sitk.WriteImage(label, str(folder / "labels" / "label0001.nii.gz"))
    result = convert("Pancreas", folder)
    assert result.channel_names == {0: "CT"}
    np.testing.assert_array_equal(read(result.folder / "imagesTr/0001_0000.nii.gz"), array)
    np.testing.assert_array_equal(read(result.folder / "labelsTr/0001.nii.gz"), label_array())


def to_label(array: np.ndarray, orientation: str, origin=(0.0, 0.0, 0.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin(origin)
    return sitk.DICOMOrient(image, orientation)


def test_a_pancreas_label_with_a_foreign_origin_is_not_guessed(tmp_path: Path, raw: Path):
    array = (10 * image_array(1)).astype(np.int16)
    save_series(tmp_path / "in" / "PANCREAS_0001", array)
    label = to_label(label_array(), "LAS", origin=(50.0, 0.0, 0.0))
    sitk.WriteImage(label, str(tmp_path / "in" / "label0001.nii.gz"))
    with pytest.raises(FaultsError, match="--fix-geometry") as error:
        convert("Pancreas", tmp_path / "in")
    assert [(f.case, f.code) for f in error.value.faults] == [("0001", "I17")]
    result = convert("Pancreas", tmp_path / "in", fix_geometry="header")
    np.testing.assert_array_equal(read(result.folder / "labelsTr/0001.nii.gz"), label_array())


def test_pancreas_h5_has_the_published_split(tmp_path: Path):
    for name in ("image0064_norm", "image0002_norm", "image0001_norm"):
        save_h5(tmp_path / f"{name}.h5", image_array(1), label_array())
    save_h5(tmp_path / "other.h5", image_array(1), label_array())
    found = pancreas.read(tmp_path, None)
    assert list(roles(found).items()) == [
        ("0001", "labeled"), ("0002", "labeled"), ("0064", "test"),
    ]  # fmt: skip
    image, _ = volume(found, "0001")
    np.testing.assert_array_equal(image.array, image_array(1).transpose(2, 1, 0))
    assert found.channel_names[0].lower() != "ct"


def test_dicom_slices_are_sorted_by_place(tmp_path: Path, raw: Path):
    array = (10 * image_array(1)).astype(np.int16)
    save_series(tmp_path / "in" / "scan_a", array, uid="1.2.3.4")
    save_series(tmp_path / "in" / "scan_b", array + 1, uid="1.2.3.5")
    save(label_array(4), tmp_path / "labels" / "scan_a.nii.gz", origin=(0.0, 0.0, 0.0))
    result = convert("dicom", tmp_path / "in", labels=tmp_path / "labels", dataset="Scans")
    assert [(row.case, row.role) for row in result.rows] == [
        ("scan_a", "labeled"), ("scan_b", "unlabeled"),
    ]  # fmt: skip
    np.testing.assert_array_equal(read(result.folder / "imagesTr/scan_a_0000.nii.gz"), array)
    assert result.rows[0].spacing == (2.0, 1.5, 1.0)
    assert result.channel_names == {0: "CT"}
    assert result.labels == {"background": 0, "label_4": 1}


def test_nothing_of_the_patient_reaches_the_record(tmp_path: Path, raw: Path):
    for name in ("a", "b"):
        save_series(tmp_path / "in" / name, image_array(1), uid=f"1.2.{ord(name)}", patient="ID77")
    result = convert("dicom", tmp_path / "in", dataset="Scans")
    text = (result.folder / "gnnunet.json").read_text() + (
        result.folder / "dataset.json"
    ).read_text()
    assert "Doe" not in text
    assert "ID77" not in text
    assert len({row.patient for row in result.rows}) == 1


def test_two_series_in_one_folder_are_two_cases_and_localizers_none(tmp_path: Path):
    save_series(tmp_path / "p1", image_array(1), uid="1.2.3.4", number="3")
    save_series(tmp_path / "p1", image_array(2), uid="1.2.3.5", number="7")
    save_series(tmp_path / "p2", image_array(3)[:1], uid="1.2.3.6")
    found = dicom.read(tmp_path, None)
    assert list(roles(found)) == ["p1_series3", "p1_series7"]
    assert found.skipped == [("p2", "series of 1 images, no volume")]


@pytest.mark.parametrize(
    ("heights", "words"),
    [
        ([0, 2, 4, 8, 10, 12], "4.000 mm after slice 3"),
        ([0, 2, 4, 4, 6, 8], "two slices lie at one place"),
    ],
)
def test_missing_and_double_slices_are_faults(tmp_path: Path, heights: list[int], words: str):
    positions = [(0.0, 0.0, float(height)) for height in heights]
    save_series(tmp_path / "a", image_array(1), positions=positions)
    (series,) = dicom.find_series(tmp_path)
    with pytest.raises(BadFileError, match=words):
        dicom.read_series(series.files)


def test_a_tilted_series_is_refused(tmp_path: Path):
    positions = [(0.0, 0.5 * k, 2.0 * k) for k in range(6)]
    save_series(tmp_path / "a", image_array(1), positions=positions)
    (series,) = dicom.find_series(tmp_path)
    with pytest.raises(BadFileError, match=r"tilted by 14\.0 degrees"):
        dicom.read_series(series.files)


def test_a_cut_dicom_file_is_a_fault(tmp_path: Path, raw: Path):
    save_series(tmp_path / "in" / "a", image_array(1))
    path = next((tmp_path / "in" / "a").glob("003*"))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(FaultsError) as error:
        convert("dicom", tmp_path / "in", dataset="Scans")
    assert error.value.faults[0].case == "a"


def test_the_order_of_the_files_does_not_matter(tmp_path: Path):
    array = (10 * image_array(1)).astype(np.int16)
    save_series(tmp_path / "a", array)
    (series,) = dicom.find_series(tmp_path)
    shuffled = tuple(series.files[i] for i in (3, 0, 5, 1, 4, 2))
    np.testing.assert_array_equal(dicom.read_series(shuffled).array, array)
