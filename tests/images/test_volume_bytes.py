"""Where the voxels of a file start, how they are written, and what their numbers mean."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.errors import BadFileError
from graphnn_unet.images.nifti_forms import is_plain, plain_files
from graphnn_unet.images.read import read_volume

VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4) - 7  # z y x
RAW = VOXELS.tobytes()
TEXT = b" ".join(str(value).encode() for value in VOXELS.ravel())
META = b"ObjectType = Image\nNDims = 3\n%sDimSize = 4 3 2\nElementType = MET_SHORT\n"
NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nspacings: 1 2 3\nendian: little\n%s\n"


def meta(path: Path, fields: bytes, data: bytes) -> Path:
    head = META % fields + b"ElementDataFile = LOCAL\n"
    room = 200 - len(head) if b"= 200" in fields else 0
    path.write_bytes(head + b"#" * room + data)
    return path


def nrrd(path: Path, fields: bytes, data: bytes) -> Path:
    path.write_bytes(NRRD % fields + data)
    return path


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        (b"", RAW),
        (b"BinaryData = True\n", RAW),
        (b"BinaryData = False\n", TEXT + b"\n"),
        (b"BinaryData = False\n", TEXT.replace(b" ", b"\r\n ") + b"\n\n"),
        (b"HeaderSize = -1\n", b"#" * 9 + RAW),
        (b"HeaderSize = 200\n", RAW),
    ],
)
def test_voxels_of_metaimage_start_where_the_header_says(tmp_path: Path, fields, data):
    path = meta(tmp_path / "a.mha", fields, data)
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VOXELS)


@pytest.mark.parametrize(("kind", "stored"), [(b"MET_LONG", "<i4"), (b"MET_ULONG", "<u4")])
def test_a_long_of_metaimage_has_four_bytes(tmp_path: Path, kind: bytes, stored: str):
    voxels = np.abs(VOXELS).astype(stored)
    path = meta(tmp_path / "a.mha", b"", voxels.tobytes())
    path.write_bytes(path.read_bytes().replace(b"MET_SHORT", kind))
    np.testing.assert_array_equal(read_volume(path).array, voxels)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), voxels)


def test_a_type_of_metaimage_that_is_not_read_is_named(tmp_path: Path):
    path = meta(tmp_path / "a.mha", b"", RAW)
    path.write_bytes(path.read_bytes().replace(b"MET_SHORT", b"MET_STRING"))
    with pytest.raises(BadFileError, match="type MET_STRING, which is not read"):
        read_volume(path)


@pytest.mark.parametrize(
    ("fields", "data", "words"),
    [
        (b"BinaryData = False\n", TEXT[:-3], "the file lists 23"),
        (b"BinaryData = False\n", TEXT + b" 1", "the file lists 25"),
        (b"BinaryData = False\n", TEXT.replace(b" 3", b" x", 1), "words among its voxels"),
        (b"BinaryData = False\n", TEXT.replace(b" 3", b" 0.5", 1), "int16 cannot hold"),
        (b"BinaryData = False\n", TEXT.replace(b" 3", b" 40000", 1), "int16 cannot hold"),
        (b"ElementNumberOfChannels = 2\n", RAW + RAW, "2 values a voxel"),
        (b"ElementToIntensityFunctionSlope = 2\n", RAW, "scale of intensities"),
        (b"", RAW + RAW, "holds 96"),
        (b"", RAW[:-2], "truncated"),
    ],
)
def test_metaimage_that_cannot_be_understood_is_refused(tmp_path: Path, fields, data, words):
    with pytest.raises(BadFileError, match=words):
        read_volume(meta(tmp_path / "a.mha", fields, data))


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        (b"encoding: raw\n", RAW),
        (b"encoding: raw\nbyte skip: 10\n", b"#" * 10 + RAW),
        (b"encoding: RAW\nbyteskip: 10\n", b"#" * 10 + RAW),
        (b"encoding: raw\nbyte skip: -1\n", b"#" * 11 + RAW),
        (b"encoding: raw\nline skip: 2\n", b"one\ntwo\n" + RAW),
        (b"encoding: raw\nline skip: 1\nbyte skip: 3\n", b"one\n###" + RAW),
        (b"encoding: gzip\nbyte skip: 10\n", gzip.compress(b"#" * 10 + RAW, mtime=0)),
        (b"encoding: gzip\nline skip: 1\n", b"one\n" + gzip.compress(RAW, mtime=0)),
        (b"encoding: gzip\nbyte skip: -1\n", gzip.compress(b"#" * 10 + RAW, mtime=0)),
        (b"encoding: ascii\nline skip: 1\n", b"one\n" + TEXT),
        (b"encoding: raw\ntype:=uchar\nsizes:=1 1 1\n", RAW),
    ],
)
def test_voxels_of_nrrd_start_where_the_header_says(tmp_path: Path, fields, data):
    path = nrrd(tmp_path / "a.nrrd", fields, data)
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VOXELS)


@pytest.mark.parametrize("encoding", [b"raw", b"gzip"])
def test_skipping_more_than_there_is_is_refused(tmp_path: Path, encoding: bytes):
    data = gzip.compress(RAW) if encoding == b"gzip" else RAW
    path = nrrd(tmp_path / "a.nrrd", b"encoding: %s\nbyte skip: 10\n" % encoding, data)
    with pytest.raises(BadFileError, match="truncated"):
        read_volume(path)


@pytest.mark.parametrize("kind", [b"time", b"list", b"vector"])
def test_axes_that_are_no_space_are_refused(tmp_path: Path, kind: bytes):
    fields = b"encoding: raw\nkinds: domain domain %s\n" % kind
    with pytest.raises(BadFileError, match=f"an axis of kind '{kind.decode()}'"):
        read_volume(nrrd(tmp_path / "a.nrrd", fields, RAW))


def scaled(path: Path, slope: float, intercept: float) -> Path:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(VOXELS.shape[::-1])
    header.set_sform(np.diag([-1, -1, 2, 1]), 1)
    header.set_qform(np.diag([-1, -1, 2, 1]), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = slope, intercept
    path.write_bytes(header.binaryblock + b"\0" * 4 + RAW)
    return path


@pytest.mark.parametrize(
    ("slope", "intercept", "expected", "all_agree"),
    [
        (0, 5, VOXELS, False),
        (np.nan, 5, VOXELS, False),
        (np.inf, 5, VOXELS, False),
        (np.nan, np.nan, VOXELS, True),
        (0, 0, VOXELS, True),
        (1, 0, VOXELS, True),
        (1, -1024, VOXELS - 1024.0, True),
        (0.5, 3, VOXELS * 0.5 + 3, True),
        (-1, 0, -VOXELS, True),
        (2, np.nan, VOXELS * 2, False),
        (1e-12, 0, VOXELS * 1e-12, True),
    ],
)
def test_a_slope_of_zero_means_as_stored(tmp_path: Path, slope, intercept, expected, all_agree):
    """The standard: with slope 0 nothing is scaled. ITK adds the intercept all the same."""
    path = scaled(tmp_path / "a.nii", slope, intercept)
    np.testing.assert_allclose(read_volume(path).array, expected, rtol=1e-6)
    assert is_plain(path) == all_agree
    with plain_files([path], None) as (placed,):
        assert (placed == path) == all_agree
        itk = sitk.GetArrayFromImage(sitk.ReadImage(str(placed)))
        np.testing.assert_allclose(itk, expected, rtol=1e-6)
