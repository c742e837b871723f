"""The two forms of ACDC: stacked slices, published patients, frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from volume_makers import image_array, label_array, roles, save, save_h5, volume

from graphnn_unet.dataset_conversion import acdc
from graphnn_unet.dataset_conversion.forms import Request
from graphnn_unet.dataset_conversion.published import published

ACDC = published("acdc")


def save_slices(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> None:
    for number, (plane, plane_label) in enumerate(zip(image, label, strict=True), start=1):
        save_h5(folder / f"{name}_slice_{number}.h5", plane, plane_label)


def test_acdc_slices_are_stacked_by_number_not_by_text(tmp_path: Path):
    image, label = image_array(1, (12, 6, 5)), label_array(3, (12, 8, 10))[:, :6, :5]
    save_slices(tmp_path / "data" / "slices", ACDC["train"][0], image, label)
    dataset = acdc.read(Request(tmp_path))
    stacked, stacked_label = volume(dataset, ACDC["train"][0])
    np.testing.assert_array_equal(stacked.array, image)
    np.testing.assert_array_equal(stacked_label.array, label)
    assert stacked.spacing == acdc.H5_SPACING_MM
    assert any("store no spacing" in note for note in dataset.notes)


def test_acdc_missing_slices_are_a_fault(tmp_path: Path):
    name = ACDC["train"][0]
    save_slices(tmp_path, name, image_array(1), label_array())
    (tmp_path / f"{name}_slice_3.h5").unlink()
    (tmp_path / f"{name}_slice_1.h5").unlink()
    (fault,) = acdc.read(Request(tmp_path)).faults
    assert (fault.case, fault.code) == (name, "I21")
    assert "slices 1, 3 of 1 to 6 are missing" in fault.cause


def test_acdc_patients_have_published_order_and_roles(tmp_path: Path):
    train, validation, test = ACDC["train"], ACDC["val"], ACDC["test"]
    for name in (*train[:4], *validation[:2], *test[:2]):
        save_h5(tmp_path / f"{name}.h5", image_array(1), label_array())
    dataset = acdc.read(Request(tmp_path))
    assert list(roles(dataset).items()) == [
        *((name, "labeled") for name in train[:4]), *((name, "test") for name in test[:2]),
    ]  # fmt: skip
    assert [name for name, _ in dataset.skipped] == validation[:2]
    assert {case.patient for case in dataset.cases} == {
        name.split("_")[0] for name in train[:4] + test[:2]
    }
    (tmp_path / "test.list").write_text("\n".join(validation))
    wanted = acdc.read(Request(tmp_path, test=tmp_path / "test.list"))
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
    dataset = acdc.read(Request(tmp_path))
    assert roles(dataset) == {f"{patient}_frame01": "labeled", f"{patient}_frame12": "unlabeled"}
    assert [name for name, _ in dataset.skipped] == [
        "patient101_frame01",
        f"training/{patient}/{patient}_4d.nii.gz",
    ]
