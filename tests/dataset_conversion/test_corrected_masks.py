"""Which case a mask belongs to, and which masks were edited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from volume_makers import label_array, save

from graphnn_unet.dataset_conversion.corrected_masks import find_masks, mask_source, require_folder
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images.as_predicted import AS_PREDICTED, EDITING
from graphnn_unet.storage.atomic import checksum

CASES = {"case_1": "case_1", "Müller (2)": "case_2", "case_2": "case_2"}


def test_masks_are_sorted_by_the_names_of_users_and_of_cases(tmp_path: Path):
    for name in ("case_1_seg", "Müller (2)", "elsewhere", "case_1_uncertainty", "case_1"):
        save(label_array(), tmp_path / f"{name}.nii.gz")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "case_1_seg.nii.gz").unlink()
    masks = find_masks(tmp_path, CASES)
    assert {case: path.name for case, path in masks.of_case.items()} == {
        "case_1": "case_1.nii.gz", "case_2": "Müller (2).nii.gz",
    }  # fmt: skip
    assert list(masks.others) == ["elsewhere"]
    assert ("case_1_uncertainty.nii.gz", "a map of uncertainty") in masks.left_out


@pytest.mark.parametrize("inside", [True, False])
def test_masks_that_nobody_edited_are_told_from_the_others(tmp_path: Path, inside: bool):
    paths = [save(label_array(), tmp_path / f"case_{i}.nii.gz") for i in (1, 2)]
    table = tmp_path / EDITING / AS_PREDICTED if inside else tmp_path / AS_PREDICTED
    table.parent.mkdir(exist_ok=True)
    table.write_text(json.dumps({path.name: checksum(path) for path in paths}))
    save(1 - label_array(), paths[1])
    masks = find_masks(tmp_path, CASES)
    assert masks.as_predicted == ["case_1.nii.gz"]
    assert list(masks.of_case) == ["case_2"]


def test_a_file_without_named_segments_is_read_by_its_values(tmp_path: Path):
    path = save(label_array(), tmp_path / "a.nrrd")
    assert mask_source(path, {"organ": 1}, None) == path


def test_overlapping_segments_are_refused(tmp_path: Path):
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(
        b"NRRD0004\nSegment0_Name:=organ\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n"
        b"Segment1_Name:=lesion\nSegment1_LabelValue:=1\nSegment1_Layer:=1\n\n"
    )
    with pytest.raises(InputError, match="2 layers"):
        mask_source(path, {"organ": 1, "lesion": 2}, None)


def test_a_file_is_no_folder_of_masks(tmp_path: Path):
    path = save(label_array(), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="is a file"):
        require_folder(path)
    with pytest.raises(MissingFileError):
        require_folder(tmp_path / "none")
