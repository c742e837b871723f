from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_makers import image_array, save_h5

from graphnn_unet.dataset_conversion.volumes import (
    hash_inputs,
    read_channel,
    read_h5,
    read_list,
)
from graphnn_unet.errors import BadFileError, InputError, MissingFileError


def test_h5_axes_become_z_y_x(tmp_path: Path):
    array = image_array()
    save_h5(tmp_path / "a.h5", array, None)
    volume = read_h5(tmp_path / "a.h5", "image", (3.0, 2.0, 1.0), "xyz")
    np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0))
    np.testing.assert_array_equal(
        read_h5(tmp_path / "a.h5", "image", (3.0, 2.0, 1.0), "zyx").array, array
    )


def test_a_damaged_or_foreign_h5_file_is_named(tmp_path: Path):
    save_h5(tmp_path / "a.h5", image_array(), None)
    with pytest.raises(BadFileError, match=r"a.h5 has no 'label' \(it has image\)"):
        read_h5(tmp_path / "a.h5", "label", (1.0, 1.0, 1.0), "zyx")
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "b.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadFileError, match=r"b.h5 cannot be read"):
        read_h5(tmp_path / "b.h5", "image", (1.0, 1.0, 1.0), "zyx")


def test_channels_of_a_4d_file_keep_their_order_and_geometry(tmp_path: Path):
    channels = np.stack([image_array(i) for i in range(3)])
    image = sitk.GetImageFromArray(channels, isVector=False)
    image.SetSpacing((1.0, 1.5, 2.0, 1.0))
    image.SetOrigin((3.0, -4.0, 5.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    for i in range(3):
        volume = read_channel(tmp_path / "a.nii.gz", i, 3)
        np.testing.assert_array_equal(volume.array, channels[i])
        assert volume.spacing == (2.0, 1.5, 1.0)
        np.testing.assert_allclose(volume.origin, (3.0, -4.0, 5.0))
    with pytest.raises(BadFileError, match=r"3 channels, dataset\.json lists 2"):
        read_channel(tmp_path / "a.nii.gz", 0, 2)


def test_lists_lose_endings_folders_and_comments(tmp_path: Path):
    (tmp_path / "a.list").write_text("# order\nb.h5\n\nx/c.nii.gz\na\n")
    assert read_list(tmp_path / "a.list") == ["b", "c", "a"]
    (tmp_path / "twice.list").write_text("b\na.nii.gz\nb.h5\n")
    assert read_list(tmp_path / "twice.list") == ["b", "a"]
    (tmp_path / "empty.list").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_list(tmp_path / "empty.list")
    with pytest.raises(MissingFileError, match="is missing"):
        read_list(tmp_path / "no.list")


def test_many_inputs_get_one_hash_that_sees_every_file(tmp_path: Path):
    paths = [tmp_path / "s" / f"{i}.dcm" for i in range(40)]
    (tmp_path / "s").mkdir()
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]))
    before = hash_inputs(paths, tmp_path)
    assert list(before) == ["s/*"]
    paths[17].write_bytes(b"changed")
    assert hash_inputs(paths, tmp_path) != before
    assert list(hash_inputs(paths[:2], tmp_path)) == ["s/0.dcm", "s/1.dcm"]
