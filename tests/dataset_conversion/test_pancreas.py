"""Pancreas-CT: label maps turned by their header, the published split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_makers import image_array, label_array, read, roles, save_h5, save_series, volume

from graphnn_unet.dataset_conversion import pancreas
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.forms import Request
from graphnn_unet.errors import FaultsError


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
    dataset = pancreas.read(Request(tmp_path))
    assert list(roles(dataset).items()) == [
        ("0001", "labeled"), ("0002", "labeled"), ("0064", "test"),
    ]  # fmt: skip
    image, _ = volume(dataset, "0001")
    np.testing.assert_array_equal(image.array, image_array(1).transpose(2, 1, 0))
    assert dataset.channel_names[0].lower() != "ct"
