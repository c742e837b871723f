import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images.read import (
    ENDINGS,
    case_id,
    geometry_differences,
    read_label_map,
    read_volume,
)

TURNED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_is_read_as_itk_reads_it(tmp_path: Path, write_map, array, ending: str):
    path = write_map(tmp_path / f"a.b{ending}", array, origin=(10.0, -20.0, 30.0), direction=TURNED)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.spacing == pytest.approx((3.0, 1.0, 0.5))
    assert volume.origin == pytest.approx((10.0, -20.0, 30.0))
    assert volume.direction == pytest.approx(TURNED, abs=1e-6)
    assert case_id(path) == "a.b"


def test_formats_of_one_map_have_no_difference(tmp_path: Path, write_map, array):
    geometry = {"origin": (10.0, -20.0, 30.0), "direction": TURNED}
    one = read_volume(write_map(tmp_path / "a.nii.gz", array, **geometry))
    other = read_volume(write_map(tmp_path / "a.mha", array, **geometry))
    assert geometry_differences(one, other) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"spacing": (3.0, 1.0, 0.6)}, "spacing 3 x 1 x 0.5 against 3 x 1 x 0.6 mm"),
        ({"origin": (0.0, 0.0, 1.0)}, "origin"),
        ({"direction": TURNED}, "direction"),
    ],
)
def test_difference_in_geometry_is_named(tmp_path: Path, write_map, array, change, word: str):
    one = read_volume(write_map(tmp_path / "a.nii.gz", array))
    (found,) = geometry_differences(
        one, read_volume(write_map(tmp_path / "b.nii", array, **change))
    )
    assert found.startswith(word)


def test_rounding_in_headers_is_no_difference(tmp_path: Path, write_map, array):
    one = read_volume(write_map(tmp_path / "a.nii.gz", array))
    near = {"spacing": (3.0001, 1.0, 0.5), "origin": (0.01, 0.0, 0.0)}
    assert not geometry_differences(one, read_volume(write_map(tmp_path / "b.nii", array, **near)))


def test_slice_keeps_its_two_axes(tmp_path: Path, write_map):
    path = write_map(tmp_path / "a.nii.gz", np.ones((4, 5), dtype=np.uint8), (2.0, 0.5))
    volume = read_volume(path)
    assert volume.array.shape == (4, 5)
    assert volume.spacing == (2.0, 0.5)


def test_units_of_the_header_count(tmp_path: Path, array):
    image = nib.Nifti1Image(array.T, np.diag([500.0, 1000.0, 3000.0, 1.0]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").spacing == pytest.approx((3.0, 1.0, 0.5))


@pytest.mark.parametrize(("kept", "lost"), [(0.5, "truncated"), (0.99, "lost the end of its gzip")])
def test_truncated_gzip_is_refused(tmp_path: Path, write_map, array, kept: float, lost: str):
    path = write_map(tmp_path / "a.nii.gz", array)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=rf"a\.nii\.gz (is|has) {lost}"):
        read_volume(path)


def test_flipped_bit_is_refused(tmp_path: Path, write_map, array):
    path = write_map(tmp_path / "a.nii.gz", array)
    content = bytearray(path.read_bytes())
    content[-30] ^= 0x04
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged: its gzip stream is not valid"):
        read_volume(path)


def test_whole_gzip_of_half_a_volume_is_refused(tmp_path: Path, write_map, array):
    path = write_map(tmp_path / "a.nii.gz", array)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-100]))
    with pytest.raises(InputError, match=r"claims 562 bytes, the file holds 462"):
        read_volume(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_header_that_claims_a_huge_volume_is_refused_unread(
    tmp_path: Path, write_map, array, ending: str
):
    path = write_map(tmp_path / f"a{ending}", array)
    raw = path.read_bytes()
    content = bytearray(gzip.decompress(raw) if ending == ".nii.gz" else raw)
    content[42:48] = struct.pack("<3h", 30000, 30000, 30000)
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with pytest.raises(InputError, match="header claims 27000000000352 bytes"):
        read_volume(path)


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
def test_cut_files_of_other_formats_are_refused(tmp_path: Path, write_map, array, ending: str):
    path = write_map(tmp_path / f"a{ending}", array)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="is truncated: the header claims"):
        read_volume(path)


def test_missing_empty_and_foreign_files_are_told_apart(tmp_path: Path):
    with pytest.raises(MissingFileError):
        read_volume(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match=r"a\.nii\.gz is empty"):
        read_volume(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").write_text("no header here")
    with pytest.raises(InputError, match=r"b\.nii is truncated within its header"):
        read_volume(tmp_path / "b.nii")


def test_four_axes_are_refused(tmp_path: Path):
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 2), dtype=np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii is a 4D file"):
        read_volume(tmp_path / "a.nii")


def test_labels_stored_as_floats_are_integers(tmp_path: Path, write_map, array):
    stored = array.astype(np.float32)
    stored[0, 0, 0] = 1.9999
    labels = read_label_map(write_map(tmp_path / "a.nii.gz", stored)).array
    assert labels.dtype == np.uint8
    assert labels[0, 0, 0] == 2
    np.testing.assert_array_equal(labels.ravel()[1:], array.ravel()[1:])


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "1 voxels are no integers, the first is 0.5"), (np.nan, "the first is nan"), (-1, "-1")],
)
def test_values_that_are_no_labels_are_refused(tmp_path: Path, write_map, value, message: str):
    stored = np.zeros((3, 4, 5), dtype=np.float32)
    stored[1, 2, 3] = value
    image = nib.Nifti1Image(stored.T, np.eye(4))  # SimpleITK would write NaN, and read 0
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=message):
        read_label_map(tmp_path / "a.nii.gz")
