"""Hidden label maps come to the grid of preprocessed cases as those of labeled ones do."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_study import DATASET, ball_case

from graphnn_unet.data.hidden_labels import HiddenLabels, hidden_files, ids_in
from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.data.preprocess import _save, normalized_case
from graphnn_unet.errors import InputError, MissingFileError, ShapeError
from graphnn_unet.storage.safe_load import read_json

DESCRIPTION = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "shell": 1, "core": 2},
    "file_ending": ".nii.gz",
}


def write(path, array, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), origin=(0, 0, 0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.2, 0.8, 1.5))
    image.SetDirection(direction)
    image.SetOrigin(origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def scan():
    """A ball out of the center in a field with empty borders of different widths."""
    (image,), label = ball_case(3)
    borders = ((1, 4), (5, 2), (3, 0))
    return np.pad(image, borders), np.pad(label, borders)


def preprocessed(tiny_home, folder, direction, configuration="3d_fullres", **changes):
    """A case and its label map as nnU-Net stores them, and what reads hidden ones."""
    plans = read_json(tiny_home / "preprocessed" / DATASET / "gnnunetPlans.json")
    plans = {**plans, "orientation": "LPS", **changes}
    image, label = scan()
    paths = (
        write(folder / "images" / "a_0000.nii.gz", image, direction),
        write(folder / "hidden" / "a.nii.gz", label, direction),
    )
    data, seg, properties = normalized_case(
        [str(paths[0])], str(paths[1]), plans, configuration, DESCRIPTION
    )
    (folder / "done").mkdir()
    _save(data, None, properties, folder / "done" / "a", (16, 16, 16))
    manager = PlansManager(plans)
    reader = HiddenLabels(manager, manager.get_configuration(configuration), DESCRIPTION)
    return StoredCase("a", folder / "done", False), seg[0], reader, paths[1]


@pytest.mark.parametrize(
    "direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1),
                  (0, 0, -1, 1, 0, 0, 0, 1, 0)],
)  # fmt: skip
@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_they_are_turned_cropped_and_resampled_as_those_of_labeled_cases(
    tiny_home, tmp_path, direction, configuration
):
    axes = {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
    case, expected, reader, path = preprocessed(
        tiny_home, tmp_path, direction, configuration, **axes
    )
    label = reader.on_grid(path, case)
    assert label.shape == case.image().shape[1:] == expected.shape
    assert label.shape != scan()[0].shape
    np.testing.assert_array_equal(label, np.maximum(expected, 0))
    assert np.unique(label).tolist() == [0, 1, 2]


def test_a_map_that_is_stored_along_other_axes_is_that_of_the_same_places(tiny_home, tmp_path):
    case, expected, reader, path = preprocessed(tiny_home, tmp_path, (1, 0, 0, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS"), str(path))
    np.testing.assert_array_equal(reader.on_grid(path, case), np.maximum(expected, 0))


def test_a_map_of_another_image_is_refused(tiny_home, tmp_path):
    case, _, reader, path = preprocessed(tiny_home, tmp_path, (1, 0, 0, 0, 1, 0, 0, 0, 1))
    write(path, scan()[1], origin=(0, 3, 0))
    with pytest.raises(ShapeError, match=r"a.nii.gz is not on the grid of its image: origin"):
        reader.on_grid(path, case)
    write(path, scan()[1] * 3)
    with pytest.raises(InputError, match=r"holds 3, 6: the data set has 0, 1, 2"):
        reader.on_grid(path, case)


def test_ids_are_the_users_but_in_folders_of_this_program(tiny_home, tmp_path):
    case, expected, reader, path = preprocessed(tiny_home, tmp_path, (1, 0, 0, 0, 1, 0, 0, 0, 1))
    changed = {**DESCRIPTION, "original_labels": {"background": 0, "shell": 2, "core": 40}}
    assert ids_in(path.parent, changed) == {0: 0, 1: 2, 2: 40}
    reader = HiddenLabels(reader.plans, reader.configuration, changed)
    with pytest.raises(InputError, match="the data set has 0, 2, 40"):
        reader.on_grid(path, case)
    write(path, np.array([0, 2, 40], np.uint8)[scan()[1]])
    np.testing.assert_array_equal(reader.on_grid(path, case), np.maximum(expected, 0))
    # labelsTr of the raw data set has the ids inside
    write(path, scan()[1])
    (tmp_path / "dataset.json").write_text(json.dumps(changed))
    assert ids_in(path.parent, changed) == {0: 0, 1: 1, 2: 2}
    np.testing.assert_array_equal(reader.on_grid(path, case), np.maximum(expected, 0))


def test_cases_without_a_label_map_are_left_out(tmp_path):
    cases = [StoredCase(name, tmp_path, False) for name in "abc"]
    (tmp_path / "b.nii.gz").touch()
    assert hidden_files(tmp_path, cases, DESCRIPTION) == {"b": tmp_path / "b.nii.gz"}
    with pytest.raises(InputError, match="has no label map of an unlabeled case"):
        hidden_files(tmp_path, cases[:1], DESCRIPTION)
    with pytest.raises(MissingFileError, match="nowhere is missing"):
        hidden_files(tmp_path / "nowhere", cases, DESCRIPTION)
