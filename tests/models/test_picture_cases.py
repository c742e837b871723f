"""Pictures to predict: which files are cases, and what is unlike the training pictures."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from graphnn_unet.errors import BadFileError, InputError
from graphnn_unet.models.picture_cases import picture_cases, picture_data

COLOR = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)


def save(folder, *names, array=COLOR):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(array).save(folder / name)


def test_any_kind_and_name_is_a_case(tmp_path):
    save(tmp_path, "a.png", "b_7.JPG", "c_0003.tif", "d.bmp")
    (tmp_path / "notes.txt").touch()
    cases, faults, skipped = picture_cases(tmp_path, 3)
    assert sorted(cases) == ["a", "b_7", "c_0003", "d"]
    assert (faults, skipped) == ([], ["notes.txt"])


def test_names_of_a_raw_folder_lose_their_number(tmp_path):
    save(tmp_path, "a_0000.png", "b_0000.png")
    assert sorted(picture_cases(tmp_path, 3)[0]) == ["a", "b"]


def test_gray_files_a_channel_are_joined_and_gaps_named(tmp_path):
    save(tmp_path, "a_0000.png", "a_0001.png", "b_0000.png", array=COLOR[..., 0])
    cases, faults, _ = picture_cases(tmp_path, 2)
    assert {case: len(paths) for case, paths in cases.items()} == {"a": 2}
    assert [(fault.case, fault.code) for fault in faults] == [("b", "I21")]
    assert picture_data("a", cases["a"], 2)[0].shape == (2, 1, 8, 9)


def test_folder_without_pictures_says_what_it_holds(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match=r"found: a\.nii\.gz"):
        picture_cases(tmp_path, 3)


def test_data_are_what_nnunet_reads_in_training(tmp_path):
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    save(tmp_path, "a.png")
    data, properties, warnings = picture_data("a", [tmp_path / "a.png"], 3)
    read, noted = NaturalImage2DIO().read_images([str(tmp_path / "a.png")])
    assert np.array_equal(data, read)
    assert data.dtype == read.dtype
    assert tuple(properties["spacing"]) == tuple(noted["spacing"])
    assert not warnings


def test_gray_for_color_is_told_and_color_for_gray_refused(tmp_path):
    save(tmp_path, "gray.png", array=COLOR[..., 0])
    save(tmp_path, "color.png")
    data, _, warnings = picture_data("gray", [tmp_path / "gray.png"], 3)
    assert (data[:, 0] == COLOR[..., 0]).all()
    assert [warning.severity for warning in warnings] == ["warning"]
    assert "it is gray" in warnings[0].cause
    with pytest.raises(BadFileError, match="is a color picture"):
        picture_data("color", [tmp_path / "color.png"], 1)


def test_deep_colors_are_reduced_as_those_of_the_training(tmp_path):
    array = np.full((8, 9, 3), (256, 128, 64), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    for bits, red in ((12, 16), (16, 1)):
        data, _, (warning,) = picture_data("a", [tmp_path / "a.tif"], 3, bits)
        assert data[:, 0, 0, 0].tolist() == [red, red // 2, red // 4]
        assert f"its colors of {bits} bits were reduced to 8" in warning.cause
