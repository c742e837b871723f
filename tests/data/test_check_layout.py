"""What file names and dataset.json say: cases, channels, ids, the table of labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphnn_unet.data.check_layout import (
    case_id_fault,
    channel_faults,
    list_images,
    no_images_fault,
    read_description,
)


def test_files_are_grouped_by_case_and_channel(tmp_path: Path):
    for name in ("b_0000", "b_0001", "a_0000", "a_0001", "c_0000", "scout"):
        (tmp_path / f"{name}.nii.gz").touch()
    listing = list_images(tmp_path, ".nii.gz")
    assert list(listing.cases) == ["a", "b", "c"]
    assert [path.name for path in listing.cases["b"].values()] == [
        "b_0000.nii.gz",
        "b_0001.nii.gz",
    ]
    faults = listing.faults + channel_faults("in", listing.cases, 2)
    assert {(f.code, f.case) for f in faults} == {("I33", "scout"), ("I21", "c")}


def test_where_no_image_has_a_channel_number_the_command_that_gives_it_is_named(tmp_path: Path):
    (tmp_path / "a.nii.gz").touch()
    (fault,) = list_images(tmp_path, ".nii.gz").faults
    assert fault.code == "I33"
    assert fault.remedy.startswith(f"Type gnnunet_convert nifti --images {tmp_path}")


def test_a_description_of_nnunet_1_is_named_as_what_it_is(tmp_path: Path):
    content = {"modality": {"0": "CT"}, "labels": {"0": "background"}, "training": []}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    _, (fault,) = read_description(tmp_path)
    assert "nnU-Net v1 and the Decathlon" in fault.cause
    assert fault.remedy == f"Type gnnunet_convert MSD {tmp_path} -d NAME"


def test_an_empty_or_missing_folder_is_one_fault(tmp_path: Path):
    for folder, words in ((tmp_path, "is empty"), (tmp_path / "no", "does not exist")):
        assert list_images(folder, ".nii.gz").cases == {}
        assert words in no_images_fault(folder, ".nii.gz").cause


def test_a_data_set_without_any_label_map_is_named_as_what_it_is(tmp_path: Path):
    for name in ("imagesTr", "imagesUn"):
        (tmp_path / name).mkdir()
    assert "the folder is empty" in no_images_fault(tmp_path / "imagesTr", ".nii.gz").cause
    (tmp_path / "imagesUn" / "a_0000.nii.gz").touch()
    fault = no_images_fault(tmp_path / "imagesTr", ".nii.gz")
    assert fault.cause.startswith("no case is labeled")
    assert "--add-corrected" in fault.remedy


@pytest.mark.parametrize("case", ["a", "LA_017", "x.y-z_0", "0" * 128])
def test_case_ids_that_can_be_file_names_pass(case):
    assert case_id_fault(case, "dataset.json") is None


@pytest.mark.parametrize(
    "case",
    ["../../../escaped", "a/b c;$(x)", "..", "a..b", "", ".hidden", "-rf", "0" * 129, "a\n", "ä"],
)
def test_case_ids_that_could_leave_the_folder_are_refused(case):
    fault = case_id_fault(case, "dataset.json")
    assert fault is not None
    assert fault.code == ("S12" if ".." in case else "S13")
    assert "in dataset.json" in fault.cause


def description(folder: Path, labels: object, **keys: object):
    """What ``read_description`` says of a table of labels."""
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 1}
    content |= {"file_ending": ".nii.gz", **keys}
    (folder / "dataset.json").write_text(json.dumps(content))
    return read_description(folder)


@pytest.mark.parametrize(
    ("labels", "codes", "values"),
    [
        ({"background": 0, "a": 1, "b": "2"}, [], (0, 1, 2)),
        ({"background": 0, "a": 1, "ignore": 2}, [], (0, 1, 2)),
        ({"background": 0, "a": 1, "ignore": 3}, ["I45"], (0, 1, 3)),
        ({"background": 0, "a": 1, "b": 3}, ["I45"], (0, 1, 3)),
        ({"background": 0, "a": -1}, ["I45"], (-1, 0)),
        ({"a": 1}, ["I42"], (0, 1)),
        ({"background": 0, "a": 1, "b": 1}, ["I41"], (0, 1)),
        ({"background": 0, "all": [1, 2], "core": [2]}, ["I39"], None),
        ({"background": 0, "a": "one"}, ["I39"], None),
        ([0, 1], ["I39"], None),
    ],
)
def test_a_table_of_labels_is_judged_as_nnunet_would(
    tmp_path: Path, labels: object, codes: list[str], values: tuple[int, ...] | None
):
    described, faults = description(tmp_path, labels)
    assert [fault.code for fault in faults] == codes
    assert (None if described is None else described.label_values) == values


def test_regions_need_an_order(tmp_path: Path):
    labels = {"background": 0, "all": [1, 2], "core": [2]}
    described, faults = description(tmp_path, labels, regions_class_order=[1, 2])
    assert faults == []
    assert described is not None
    assert described.label_values == (0, 1, 2)
