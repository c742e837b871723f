"""Label maps as DICOM objects: the same voxels, on the images that they were made of."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_makers import write_enhanced
from prediction.dicom_series import (
    AXIAL,
    OBLIQUE,
    SAGITTAL,
    clinical_series,
    in_segments,
    in_structures,
)
from pydicom.uid import generate_uid

from graphnn_unet.errors import BadFileError
from graphnn_unet.prediction.dicom_codes import PRIVATE_SCHEME, class_code
from graphnn_unet.prediction.dicom_objects import (
    RTSTRUCT,
    SEG,
    LabeledClass,
    build_objects,
    is_whole_object,
    require_references,
)

CLASSES = [
    LabeledClass(1, "left_atrium", (230, 57, 57)),
    LabeledClass(4, "Läsion", (57, 108, 230)),
    LabeledClass(7, "absent", (0, 200, 0)),
]
SHAPE = (5, 9, 12)


def noise(shape=SHAPE) -> np.ndarray:
    """Single voxels, holes, corners that touch, and classes at every border."""
    return np.random.default_rng(0).choice(np.array([0, 0, 1, 4], np.uint8), shape)


def written(folder: Path, labels: np.ndarray, files: list[Path], *kinds: str) -> dict[str, Path]:
    objects = build_objects(labels, files, kinds or (SEG, RTSTRUCT), CLASSES, "f00d")
    paths = {kind: folder / f"{kind}.dcm" for kind in objects}
    for kind, path in paths.items():
        objects[kind].save_as(path, enforce_file_format=True)
        assert is_whole_object(path, kind)
    return paths


@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "oblique"])
def test_voxels_come_back_from_both_kinds(axes, tmp_path):
    """The outlines run half-way between voxels, so no center changes its side."""
    labels = noise()
    files = clinical_series(tmp_path / "in", np.zeros(SHAPE, np.int16), axes)
    paths = written(tmp_path, labels, files[::-1])
    for masks in (in_segments(paths[SEG], files), in_structures(paths[RTSTRUCT], files)):
        for wanted in CLASSES:
            np.testing.assert_array_equal(masks[wanted.name], labels == wanted.number)


def test_area_inside_an_outline_is_that_of_its_voxels_less_half_a_voxel(tmp_path):
    shape = (1, 41, 41)
    y, x = np.mgrid[-20:21, -20:21]
    labels = (y**2 + x**2 < 15**2).astype(np.uint8)[None]
    files = clinical_series(tmp_path, np.zeros(shape, np.int16), spacing=(3.0, 1.0, 1.0))
    (contour,) = (
        build_objects(labels, files, [RTSTRUCT], CLASSES, "")[RTSTRUCT]
        .ROIContourSequence[0]
        .ContourSequence
    )
    x, y, _ = np.reshape([float(v) for v in contour.ContourData], (-1, 3)).T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert area == pytest.approx(labels.sum() - 0.5, abs=0.05)


def test_objects_belong_to_their_series(tmp_path):
    files = clinical_series(tmp_path / "in", np.zeros(SHAPE, np.int16))
    image = pydicom.dcmread(files[0])
    paths = written(tmp_path, noise(), files)
    for kind, path in paths.items():
        result = pydicom.dcmread(path)
        for key in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "StudyDate",
                    "AccessionNumber", "FrameOfReferenceUID"):  # fmt: skip
            assert result[key].value == image[key].value, (kind, key)
        assert result.SeriesInstanceUID != image.SeriesInstanceUID
        assert result.Modality == {SEG: "SEG", RTSTRUCT: "RTSTRUCT"}[kind]
        assert (result.SoftwareVersions, result.DeviceSerialNumber) != ("", "")
    series = pydicom.dcmread(paths[SEG]).ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    frame = pydicom.dcmread(paths[RTSTRUCT]).ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    uids = [str(item.ReferencedSOPInstanceUID) for item in series.ContourImageSequence]
    assert uids == [str(pydicom.dcmread(file).SOPInstanceUID) for file in files]


def test_segments_have_names_codes_and_colors(tmp_path):
    import highdicom as hd

    files = clinical_series(tmp_path / "in", np.zeros(SHAPE, np.int16))
    paths = written(tmp_path, noise(), files)
    segments = pydicom.dcmread(paths[SEG]).SegmentSequence
    assert [s.SegmentLabel for s in segments] == [c.name for c in CLASSES]
    assert [s.SegmentDescription for s in segments] == ["label id 1", "label id 4", "label id 7"]
    codes = [s.SegmentedPropertyTypeCodeSequence[0] for s in segments]
    assert [(c.CodeValue, c.CodingSchemeDesignator) for c in codes] == [
        ("82471001", "SCT"), (class_code("Läsion").kind.value, PRIVATE_SCHEME),
        ("absent", PRIVATE_SCHEME),
    ]  # fmt: skip
    for segment, wanted in zip(segments, CLASSES, strict=True):
        lab = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
        assert np.abs(np.subtract(lab.to_rgb(), wanted.color)).max() <= 1
    result = pydicom.dcmread(paths[RTSTRUCT])
    assert [roi.ROIName for roi in result.StructureSetROISequence] == [c.name for c in CLASSES]
    colors = [tuple(int(v) for v in roi.ROIDisplayColor) for roi in result.ROIContourSequence]
    assert colors == [c.color for c in CLASSES]
    assert "ContourSequence" not in result.ROIContourSequence[2]


def test_names_find_their_codes():
    assert class_code("LIVER").kind.value == "10200004"
    assert class_code("tumour").category.meaning == "Morphologically Abnormal Structure"
    right = class_code("right-kidney")
    assert (right.kind.value, right.side.value) == ("64033007", "24028007")
    assert class_code("left ventricle").side is None
    assert class_code("left") != class_code("right")
    names = ["left", "a" * 30, "a" * 31, "A b", "a_b", "", "鼻"]
    values = [class_code(name).kind.value for name in names]
    assert len(set(values)) == len(names)
    assert all(0 < len(value) <= 16 and value.isascii() for value in values)


def test_an_empty_label_map_is_an_object_too(tmp_path):
    files = clinical_series(tmp_path / "in", np.zeros(SHAPE, np.int16))
    paths = written(tmp_path, np.zeros(SHAPE, np.uint8), files)
    masks = in_segments(paths[SEG], files) | in_structures(paths[RTSTRUCT], files)
    assert not any(mask.any() for mask in masks.values())


def test_frames_of_one_file_are_met_in_their_stored_order(tmp_path):
    heights = [4.0, 0.0, 2.0]
    path = write_enhanced(tmp_path / "e.dcm", np.zeros((3, 9, 12), np.int16), heights)
    header = pydicom.dcmread(path)
    header.FrameOfReferenceUID, header.InstanceNumber = generate_uid(), 1
    header.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = 2.0
    header.save_as(path)
    with pytest.raises(BadFileError, match="frames of one file"):
        require_references([path], [SEG, RTSTRUCT])
    labels = noise((3, 9, 12))
    result = pydicom.dcmread(written(tmp_path, labels, [path], SEG)[SEG])
    back = np.zeros_like(labels)
    for frame, group in zip(
        result.pixel_array, result.PerFrameFunctionalGroupsSequence, strict=True
    ):
        height = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        back[round(height / 2)][frame > 0] = CLASSES[number - 1].number
    np.testing.assert_array_equal(back, labels)


def test_series_that_cannot_be_referred_to_are_refused(tmp_path):
    array = np.zeros(SHAPE, np.int16)
    files = clinical_series(tmp_path / "a", array, FrameOfReferenceUID=None)
    with pytest.raises(BadFileError, match="lack FrameOfReferenceUID") as caught:
        build_objects(noise(), files, [SEG], CLASSES, "")
    assert caught.value.code == "I51"
    files = clinical_series(tmp_path / "b", array)
    with pytest.raises(BadFileError, match="voxels, the label map"):
        build_objects(noise((5, 9, 11)), files, [SEG], CLASSES, "")
    files[2].unlink()
    with pytest.raises(BadFileError, match="voxels, the label map"):
        build_objects(noise(), [*files[:2], *files[3:]], [RTSTRUCT], CLASSES, "")


def test_cut_objects_are_not_whole(tmp_path):
    files = clinical_series(tmp_path / "in", np.zeros(SHAPE, np.int16))
    for kind, path in written(tmp_path, noise(), files).items():
        content = path.read_bytes()
        for n_bytes in (0, 100, len(content) // 2, len(content) - 20):
            path.write_bytes(content[:n_bytes])
            assert not is_whole_object(path, kind), (kind, n_bytes)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_a_checker_of_others_finds_no_error(axes, tmp_path):
    files = clinical_series(tmp_path / "in", np.zeros(SHAPE, np.int16), axes)
    for kind, path in written(tmp_path, noise(), files).items():
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert not errors, (kind, done.stderr)
