"""Volumes in two files and FreeSurfer's: the same voxels at the same place as in one file."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.errors import BadFileError
from graphnn_unet.images.read import read_volume

ARRAY = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)  # x, y, z
AFFINE = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3.0, 30], [0, 0, 0, 1]])


def one_file(folder: Path) -> Path:
    nib.save(nib.Nifti1Image(ARRAY, AFFINE), folder / "one.nii")
    return folder / "one.nii"


def save_as(ending: str, folder: Path) -> Path:
    path = folder / f"two{ending}"
    if ending in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(ARRAY.astype(np.int32), AFFINE), path)
    elif ending == ".img":
        nib.save(nib.Nifti1Pair(ARRAY, AFFINE), path)
    else:
        image = sitk.ReadImage(str(one_file(folder)))
        sitk.WriteImage(image, str(path), ending == ".mhd")
    return path


@pytest.mark.parametrize("ending", [".mhd", ".mgz", ".mgh", ".img"])
def test_voxels_and_place_are_those_of_one_file(tmp_path: Path, ending: str):
    expected, volume = read_volume(one_file(tmp_path)), read_volume(save_as(ending, tmp_path))
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.spacing, expected.spacing, rtol=1e-5)
    np.testing.assert_allclose(volume.origin, expected.origin, atol=1e-4)
    np.testing.assert_allclose(volume.direction, expected.direction, atol=1e-5)


def test_hash_of_two_files_is_that_of_both(tmp_path: Path):
    path = save_as(".img", tmp_path)
    before = read_volume(path).sha256
    header = path.with_suffix(".hdr")
    content = bytearray(header.read_bytes())
    content[148:152] = b"else"  # description
    header.write_bytes(bytes(content))
    assert read_volume(path).sha256 != before


@pytest.mark.parametrize("name", ["../two.raw", "/etc/hostname", "none.raw", "LIST"])
def test_voxels_outside_the_folder_are_not_read(tmp_path: Path, name: str):
    path = save_as(".mhd", tmp_path / "in") if (tmp_path / "in").mkdir() is None else None
    (tmp_path / "two.raw").write_bytes(bytes(1000))
    lines = path.read_text(encoding="utf-8").splitlines()[:-1]
    path.write_text("\n".join([*lines, f"ElementDataFile = {name}"]) + "\n")
    with pytest.raises(BadFileError, match="not in its folder"):
        read_volume(path)


def test_analyze_is_refused_for_want_of_an_orientation(tmp_path: Path):
    nib.AnalyzeImage(ARRAY, np.eye(4)).to_filename(str(tmp_path / "a.img"))
    with pytest.raises(BadFileError, match="left and right"):
        read_volume(tmp_path / "a.img")


@pytest.mark.parametrize("ending", [".mhd", ".mgz", ".mgh", ".img"])
def test_a_cut_file_is_named(tmp_path: Path, ending: str):
    path = save_as(ending, tmp_path)
    voxels = next((p for p in tmp_path.glob("two.*raw")), path)
    voxels.write_bytes(voxels.read_bytes()[:-60])
    with pytest.raises(BadFileError, match=path.name):
        read_volume(path)
