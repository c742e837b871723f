"""Which case a mask belongs to, and which masks were edited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from volume_makers import label_array, save

from graphnn_unet.dataset_conversion.corrected_masks import find_masks, mask_source, require_folder
from graphnn_unet.dataset_conversion.volumes import load
from graphnn_unet.errors import BadFileError, InputError, MissingFileError
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


def save_segments(path: Path, *segments: tuple[str, int]) -> Path:
    """A file of Slicer of 2 x 2 x 2 voxels with one of value 1 and one of value 2."""
    fields = "".join(
        f"Segment{k}_Name:={name}\nSegment{k}_LabelValue:={value}\nSegment{k}_Layer:=0\n"
        for k, (name, value) in enumerate(segments)
    )
    head = (
        "NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\n"
        "sizes: 2 2 2\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\n"
        f"encoding: raw\nspace origin: (0,0,0)\n{fields}\n"
    )
    path.write_bytes(head.encode() + bytes([0, 1, 2, 0, 0, 0, 0, 0]))
    return path


@pytest.mark.parametrize("names", [("Segment_1", "Segment_2"), ("label 1", "Label_2")])
def test_segments_that_nobody_named_are_read_by_their_values(tmp_path: Path, names):
    path = save_segments(tmp_path / "a.seg.nrrd", (names[0], 1), (names[1], 2))
    assert mask_source(path, {"liver": 1, "spleen": 2}, None) == path


@pytest.mark.parametrize(
    ("segments", "unknown"),
    [
        ((("Milz", 1), ("Leber", 2)), "Milz"),
        ((("Segment_1", 1), ("Leber", 2)), "Segment_1"),
        ((("Segment_2", 1), ("Segment_1", 2)), "Segment_2"),
        ((("Spleen", 1), ("Leber", 2)), "Leber"),
    ],
)
def test_segments_of_other_names_are_no_classes(tmp_path: Path, segments, unknown: str):
    path = save_segments(tmp_path / "a.seg.nrrd", *segments)
    source = mask_source(path, {"liver": 1, "spleen": 2}, None)
    words = f"a.seg.nrrd has the segment '{unknown}'; the data set has liver, spleen"
    with pytest.raises(BadFileError, match=words) as caught:
        load(source, "a")
    assert caught.value.code == "I23"


def test_a_file_is_no_folder_of_masks(tmp_path: Path):
    path = save(label_array(), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="is a file"):
        require_folder(path)
    with pytest.raises(MissingFileError):
        require_folder(tmp_path / "none")
