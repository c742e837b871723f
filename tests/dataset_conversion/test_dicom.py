"""DICOM series: slices sorted by place, series told apart, nothing of the patient kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from volume_makers import image_array, label_array, read, roles, save, save_series

from graphnn_unet.dataset_conversion import dicom
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.forms import Request
from graphnn_unet.errors import BadFileError, FaultsError


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
    dataset = dicom.read(Request(tmp_path))
    assert list(roles(dataset)) == ["p1_series3", "p1_series7"]
    assert dataset.skipped == [("p2", "series of 1 images, no volume")]


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
