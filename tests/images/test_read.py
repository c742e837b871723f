import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from graphnn_unet.errors import BadFileError, InputError, MissingFileError
from graphnn_unet.images.find import RAW_VOLUMES
from graphnn_unet.images.grid import Grid, compare_grids
from graphnn_unet.images.header import read_grid
from graphnn_unet.images.read import read_label_map, read_volume

TURNED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)


@pytest.mark.parametrize("ending", RAW_VOLUMES)
def test_every_format_is_read_as_itk_reads_it(tmp_path: Path, write_map, array, ending: str):
    path = write_map(tmp_path / f"a.b{ending}", array, origin=(10.0, -20.0, 30.0), direction=TURNED)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.spacing == pytest.approx((3.0, 1.0, 0.5))
    assert volume.origin == pytest.approx((10.0, -20.0, 30.0))
    assert volume.direction == pytest.approx(TURNED, abs=1e-6)
    assert read_grid(path) == volume.grid


def test_formats_of_one_map_lie_on_one_grid(tmp_path: Path, write_map, array):
    geometry = {"origin": (10.0, -20.0, 30.0), "direction": TURNED}
    nifti = read_grid(write_map(tmp_path / "a.nii.gz", array, **geometry))
    meta = read_grid(write_map(tmp_path / "a.mha", array, **geometry))
    difference = compare_grids(nifti, meta)
    assert not difference.is_mismatch
    assert not difference.is_rounding


def test_slice_keeps_its_two_axes(tmp_path: Path, write_map):
    path = write_map(tmp_path / "a.nii.gz", np.ones((4, 5), dtype=np.uint8), (2.0, 0.5))
    volume = read_volume(path, n_dims=None)
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


def test_a_scaled_header_is_applied_before_voxels_are_judged(tmp_path: Path):
    loaded = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    loaded.header.set_slope_inter(0.5, -3)
    nib.save(loaded, tmp_path / "a.nii.gz")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").array, expected)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_voxels_and_grid_equal_those_that_simpleitk_reads(
    tmp_path: Path, write_map, array, ending: str
):
    path = write_map(tmp_path / f"a{ending}", array, (3.0, 0.7, 0.5), direction=TURNED)
    image = sitk.ReadImage(str(path))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.grid.spacing, image.GetSpacing()[::-1])
    np.testing.assert_allclose(volume.grid.origin, image.GetOrigin())
    np.testing.assert_allclose(volume.grid.direction, image.GetDirection())


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_damaged_header_is_a_fault_and_never_a_crash(
    tmp_path: Path, write_map, array, ending: str
):
    path = write_map(tmp_path / f"a{ending}", array)
    good = path.read_bytes()
    packed = ending == ".nii.gz"
    content = gzip.decompress(good) if packed else good
    generator = np.random.default_rng(7)
    refused = 0
    for _ in range(60):
        spoiled = bytearray(content)
        for place in generator.integers(0, 350, 3):
            spoiled[place] = generator.integers(256)
        path.write_bytes(gzip.compress(bytes(spoiled), 1) if packed else bytes(spoiled))
        try:
            grid = read_volume(path).grid
        except BadFileError:
            refused += 1
        else:
            assert np.isfinite([*grid.spacing, *grid.origin, *grid.direction]).all()
    assert refused > 0


def test_an_error_over_a_file_keeps_its_parts_on_the_way_from_a_worker(tmp_path: Path):
    (tmp_path / "a.nii").touch()
    with pytest.raises(BadFileError) as caught:
        read_volume(tmp_path / "a.nii", "the label map")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.code, error.line) == (
        "I07",
        "the label map is empty (0 bytes). Copy or export the file again, or leave the case out.",
    )
    fault = error.as_fault("a", "check")
    assert (fault.case, fault.code, fault.cause) == ("a", "I07", "the label map is empty (0 bytes)")


def test_the_header_alone_says_where_a_cut_file_lies(tmp_path: Path, write_map, array):
    path = write_map(tmp_path / "a.nii", array)
    grid = read_volume(path).grid
    path.write_bytes(path.read_bytes()[:-50])
    assert read_grid(path) == grid
    with pytest.raises(BadFileError, match="truncated"):
        read_volume(path)


def test_copies_packed_anew_have_one_content_and_two_hashes(tmp_path: Path, write_map, array):
    packed = read_volume(write_map(tmp_path / "a.nii.gz", array))
    plain = read_volume(write_map(tmp_path / "a.nii", array))
    assert packed.content_hash() == plain.content_hash()
    assert packed.sha256 == hashlib.sha256((tmp_path / "a.nii.gz").read_bytes()).hexdigest()
    assert packed.sha256 != plain.sha256
    other = array.copy()
    other[0, 0, 0] += 1
    changed = read_volume(write_map(tmp_path / "b.nii", other))
    assert changed.content_hash() != plain.content_hash()


@pytest.mark.parametrize("ending", [".NII.GZ", ".NII", ".MHA", ".NRRD"])
def test_endings_in_capitals_are_read(tmp_path: Path, write_map, array, ending: str):
    path = write_map(tmp_path / f"a{ending.lower()}", array).rename(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read_volume(path).array, array)


def test_pictures_are_label_maps_where_they_hold_one_number_a_pixel(tmp_path: Path):
    gray = np.array([[0, 255], [7, 0]], np.uint8)
    Image.fromarray(np.repeat(gray[..., None], 3, axis=2)).save(tmp_path / "x.png")
    labels = read_label_map(tmp_path / "x.png")
    assert labels.array.tolist() == gray.tolist()
    assert labels.grid == Grid((2, 2), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    Image.fromarray(np.arange(27, dtype=np.uint8).reshape(3, 3, 3)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="no label map"):
        read_label_map(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be read"):
        read_label_map(tmp_path / "x.png")


def test_a_picture_of_floats_is_a_label_map_where_all_are_whole(tmp_path: Path):
    labels = np.arange(6, dtype=np.float32).reshape(2, 3)
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", labels / 2, photometric="minisblack")
    assert (read_label_map(tmp_path / "a.tif").array == labels).all()
    with pytest.raises(InputError, match=r"3 voxels are no integers, the first is 0\.5"):
        read_label_map(tmp_path / "b.tif")
