"""Predictions as files that 3D Slicer edits and that come back."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.errors import InputError
from graphnn_unet.images.as_predicted import AS_PREDICTED, EDITING
from graphnn_unet.images.label_ids import ORIGINAL
from graphnn_unet.images.read import read_volume
from graphnn_unet.images.segments import Segment, segments_of
from graphnn_unet.prediction.segmentation_files import require_editable, write_for_editing
from graphnn_unet.prediction.write_case import Outputs
from graphnn_unet.storage.atomic import checksum

DESCRIPTION = {
    "labels": {"background": 0, "left atrium": 1, "scar": 2},
    ORIGINAL: {"background": 0, "left atrium": 5, "scar": 300},
}


def predicted(folder, write_map, value=5):
    array = np.zeros((3, 4, 5), np.uint16)
    array[1, 1:3], array[2, 0, 0] = value, 300
    return write_map(
        folder / "a.nii.gz", array, origin=(3.0, -4.0, 5.0), direction=(0, -1, 0, 1, 0, 0, 0, 0, 1)
    )


def test_names_colors_ids_and_place_are_in_the_file(tmp_path, write_map):
    path = predicted(tmp_path, write_map)
    (file,) = write_for_editing(tmp_path, ["a"], ".nii.gz", DESCRIPTION, {5: (255, 0, 51)})
    assert file == tmp_path / EDITING / "a.seg.nrrd"
    assert segments_of(file) == (Segment("left atrium", 5), Segment("scar", 300))
    header = sitk.ReadImage(str(file))
    assert header.GetMetaData("Segment0_Color") == "1 0 0.2"
    assert header.GetMetaData("Segment0_Extent") == "0 4 0 3 0 2"
    written, label_map = read_volume(file), read_volume(path)
    assert np.array_equal(written.array, label_map.array)
    assert np.allclose(written.direction, label_map.direction)
    assert written.grid.origin == label_map.grid.origin


def test_an_edited_file_is_left_and_one_as_it_was_is_written_anew(tmp_path, write_map):
    predicted(tmp_path, write_map)
    (file,) = write_for_editing(tmp_path, ["a"], ".nii.gz", DESCRIPTION, {})
    known = json.loads((tmp_path / EDITING / AS_PREDICTED).read_text(encoding="utf-8"))
    assert known == {"a.seg.nrrd": checksum(file)}
    before = file.read_bytes()
    predicted(tmp_path, write_map, value=300)
    assert write_for_editing(tmp_path, ["a"], ".nii.gz", DESCRIPTION, {}) == [file]
    assert file.read_bytes() != before
    file.write_bytes(before)
    assert write_for_editing(tmp_path, ["a"], ".nii.gz", DESCRIPTION, {}) == []
    assert file.read_bytes() == before


def test_pictures_parts_and_objects_alone_have_no_such_files():
    require_editable(Outputs(".nii.gz"), 1)
    with pytest.raises(InputError, match="pictures"):
        require_editable(Outputs(".png"), 1)
    with pytest.raises(InputError, match="--continue_prediction"):
        require_editable(Outputs(".nii.gz"), 2)
    with pytest.raises(InputError, match="Give --output-type nifti dicom_seg"):
        require_editable(Outputs(".nii.gz", kinds=("dicom_seg",)), 1)
