"""The three forms of the left atrium: what is found, in which order, with which role."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from volume_makers import image_array, label_array, read, roles, save, save_h5, volume

from graphnn_unet.dataset_conversion import left_atrium
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.forms import Request
from graphnn_unet.dataset_conversion.published import published

LA = published("left_atrium")


def test_left_atrium_h5_comes_in_published_order_with_turned_axes(tmp_path: Path):
    first, second, test = LA["train"][0], LA["train"][1], LA["test"][0]
    for number, name in enumerate(("unknown", second, test, first)):
        save_h5(tmp_path / name / "mri_norm2.h5", image_array(number), label_array())
    dataset = left_atrium.read(Request(tmp_path))
    assert list(roles(dataset).items()) == [
        (first, "labeled"), (second, "labeled"), (test, "test"), ("unknown", "labeled"),
    ]  # fmt: skip
    image, label = volume(dataset, first)
    np.testing.assert_array_equal(image.array, image_array(3).transpose(2, 1, 0))
    np.testing.assert_array_equal(label.array, label_array().transpose(2, 1, 0))
    assert image.spacing == (0.625, 0.625, 0.625)
    assert any("97 of 100" in note for note in dataset.notes)
    assert dataset.published_splits["UA-MT"]["train"] == LA["train"]


def test_left_atrium_lists_beside_the_data_win(tmp_path: Path):
    for name in ("a", "b", "c"):
        save(image_array(1), tmp_path / "images" / f"{name}.nii.gz")
        save(label_array(), tmp_path / "labels" / f"{name}.nii.gz")
    (tmp_path / "train.list").write_text("c\na\n")
    (tmp_path / "test.list").write_text("b\n")
    dataset = left_atrium.read(Request(tmp_path))
    assert list(roles(dataset).items()) == [("c", "labeled"), ("a", "labeled"), ("b", "test")]
    assert dataset.published_splits["lists beside the data"]["test"] == ["b"]
    assert "UA-MT" in dataset.published_splits


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
