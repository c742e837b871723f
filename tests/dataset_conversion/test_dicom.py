"""DICOM series: slices sorted by place, series told apart, nothing of the patient kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_makers import dicom_object, write, write_enhanced, write_slices
from volume_makers import image_array, label_array, read, roles, save, save_series

from graphnn_unet.dataset_conversion import dicom
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.forms import Request
from graphnn_unet.dataset_conversion.volumes import load
from graphnn_unet.errors import BadFileError, FaultsError, InputError
from graphnn_unet.images.volume import Volume


def test_dicom_slices_are_sorted_by_place(tmp_path: Path, raw: Path):
    array = (10 * image_array(1)).astype(np.int16)
    save_series(tmp_path / "in" / "scan_a", array, uid="1.2.3.4")
    save_series(tmp_path / "in" / "scan_b", array + 1, uid="1.2.3.5")
    save(label_array(4), tmp_path / "labels" / "scan_a.nii.gz", origin=(0.0, 0.0, 0.0))
    result = convert("dicom", tmp_path / "in", labels=tmp_path / "labels", dataset="Scans")
    assert [(row.case, row.role) for row in result.rows] == [
        ("scan_a", "labeled"), ("scan_b", "unlabeled"),
    ]  # fmt: skip
    np.testing.assert_array_equal(read(result.folder / "imagesTr/scan_a_0000.nii.gz"), array)
    assert result.rows[0].spacing == (2.0, 1.5, 1.0)
    assert result.channel_names == {0: "CT"}
    assert result.labels == {"background": 0, "label_4": 1}


def test_nothing_of_the_patient_reaches_the_record(tmp_path: Path, raw: Path):
    for seed, name in enumerate("ab"):
        scan = image_array(seed)
        save_series(tmp_path / "in" / name, scan, uid=f"1.2.{seed + 1}", patient="ID77")
    result = convert("dicom", tmp_path / "in", dataset="Scans")
    text = (result.folder / "gnnunet.json").read_text(encoding="utf-8") + (
        result.folder / "dataset.json"
    ).read_text(encoding="utf-8")
    assert "Doe" not in text
    assert "ID77" not in text
    assert len({row.patient for row in result.rows}) == 1


def test_two_series_in_one_folder_are_two_cases_and_localizers_none(tmp_path: Path):
    save_series(tmp_path / "p1", image_array(1), uid="1.2.3.4", number="3")
    save_series(tmp_path / "p1", image_array(2), uid="1.2.3.5", number="7")
    save_series(tmp_path / "p2", image_array(3)[:1], uid="1.2.3.6")
    dataset = dicom.read(Request(tmp_path))
    assert list(roles(dataset)) == ["p1_series3", "p1_series7"]
    assert dataset.skipped == [("p2", "series of 1 images, no volume")]


@pytest.mark.parametrize(
    ("heights", "words"),
    [
        ([0, 2, 4, 8, 10, 12], "4.000 mm after slice 3"),
        ([0, 2, 4, 4, 6, 8], "two slices lie at one place"),
    ],
)
def test_missing_and_double_slices_are_faults(tmp_path: Path, heights: list[int], words: str):
    positions = [(0.0, 0.0, float(height)) for height in heights]
    save_series(tmp_path / "a", image_array(1), positions=positions)
    (series,) = dicom.find_series(tmp_path)
    with pytest.raises(BadFileError, match=words):
        dicom.read_series(series.files)


def test_a_tilted_series_is_refused(tmp_path: Path):
    positions = [(0.0, 0.5 * k, 2.0 * k) for k in range(6)]
    save_series(tmp_path / "a", image_array(1), positions=positions)
    (series,) = dicom.find_series(tmp_path)
    with pytest.raises(BadFileError, match=r"tilted by 14\.0 degrees"):
        dicom.read_series(series.files)


def volume_at(folder: Path, positions: list[tuple[float, float, float]], **tags) -> Volume:
    """A series of one slice a position, read."""
    scan = np.zeros((len(positions), 4, 5), np.int16)

    def place(k, header):
        header.ImagePositionPatient = list(positions[k])

    write_slices(folder, scan, place, **tags)
    (series,) = dicom.find_series(folder)
    return dicom.read_series(series.files)


@pytest.mark.parametrize(("step", "digits"), [(0.625, 2), (2 / 3, 3), (0.9375, 3), (0.6, 1)])
def test_rounded_positions_do_not_add_up(tmp_path: Path, step: float, digits: int):
    heights = [round(k * step, digits) for k in range(100)]
    volume = volume_at(tmp_path / "a", [(0.0, 0.0, height) for height in heights])
    assert 99 * volume.spacing[0] == pytest.approx(heights[-1])


def test_a_slight_tilt_is_refused_where_it_moves_slices_by_half_a_pixel(tmp_path: Path):
    slope = np.tan(np.radians(0.5))
    positions = [(0.0, round(5 * k * slope, 4), 5.0 * k) for k in range(20)]
    with pytest.raises(BadFileError, match=r"tilted by 0\.5 degrees") as caught:
        volume_at(tmp_path / "a", positions, PixelSpacing=[0.45, 0.45])
    assert caught.value.code == "I18"
    volume_at(tmp_path / "b", [(x, y / 10, z) for x, y, z in positions])


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        (range(4, 7), r"slice 5 is 20\.00 mm beside others"),
        ([0], r"slice 1 is 20\.00 mm beside others"),
        (range(8, 12), "do not lie upon each other"),
    ],
)
def test_slices_beside_the_others_are_refused(tmp_path: Path, moved, words: str):
    positions = [(20.0 * (k in moved), 0.0, 2.0 * k) for k in range(12)]
    with pytest.raises(BadFileError, match=words) as caught:
        volume_at(tmp_path, positions)
    assert caught.value.code == "I18"


@pytest.mark.parametrize("digits", [2, 6])
def test_rounded_positions_and_oblique_axes_are_straight(tmp_path: Path, digits: int):
    turn = np.radians([12.0, -7.0])
    row = np.array([np.cos(turn[0]), np.sin(turn[0]), 0.0])
    column = np.array([-np.sin(turn[0]) * np.cos(turn[1]), np.cos(turn[0]) * np.cos(turn[1]),
                       np.sin(turn[1])])  # fmt: skip
    normal = np.cross(row, column)
    positions = [tuple(np.round(1.25 * k * normal, digits)) for k in range(100)]
    axes = [float(f"{value:.5f}") for value in (*row, *column)]
    volume = volume_at(tmp_path, positions, ImageOrientationPatient=axes, PixelSpacing=[0.4, 0.4])
    assert volume.spacing[0] == pytest.approx(1.25, rel=1e-4)


def test_a_cut_dicom_file_is_a_fault(tmp_path: Path, raw: Path):
    save_series(tmp_path / "in" / "a", image_array(1))
    path = next((tmp_path / "in" / "a").glob("003*"))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(FaultsError) as error:
        convert("dicom", tmp_path / "in", dataset="Scans")
    assert error.value.faults[0].case == "a"


def test_the_order_of_the_files_does_not_matter(tmp_path: Path):
    array = (10 * image_array(1)).astype(np.int16)
    save_series(tmp_path / "a", array)
    (series,) = dicom.find_series(tmp_path)
    shuffled = tuple(series.files[i] for i in (3, 0, 5, 1, 4, 2))
    np.testing.assert_array_equal(dicom.read_series(shuffled).array, array)


RAMP = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
HEIGHTS = [2.0 * k for k in range(len(RAMP))]


def volume_of(folder: Path) -> Volume:
    (series,) = dicom.find_series(folder)
    return dicom.read_series(series.files)


def skipped_in(folder: Path) -> dict[str, str]:
    skipped: list[tuple[str, str]] = []
    assert list(dicom.find_series(folder, skipped)) == []
    return dict(skipped)


@pytest.mark.parametrize("slopes", [[1, 0.25, 0.5, 0.001, 2, 3], [0.3] * 6, [1, 2, 1, 2, 1, 2]])
def test_each_slice_has_its_own_scale(tmp_path: Path, slopes):
    def edit(k, header):
        header.RescaleSlope, header.RescaleIntercept = str(slopes[k]), str(-k)

    write_slices(tmp_path / "a", RAMP, edit)
    volume = volume_of(tmp_path)
    wanted = RAMP * np.array(slopes)[:, None, None] - np.arange(6)[:, None, None]
    np.testing.assert_allclose(volume.array, wanted, rtol=1e-6)
    has_fractions = any(slope != int(slope) for slope in slopes)
    assert volume.array.dtype.kind == ("f" if has_fractions else "i")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -10), (0.5, 3)])
def test_numbers_count_and_not_how_they_are_shown(tmp_path: Path, kind, slope, intercept):
    array = RAMP.astype(kind)
    tags = {"RescaleSlope": str(slope), "RescaleIntercept": str(intercept)}
    write_slices(tmp_path / "a", array, PhotometricInterpretation="MONOCHROME1", **tags)
    np.testing.assert_array_equal(volume_of(tmp_path).array, array * float(slope) + intercept)


@pytest.mark.parametrize(
    ("tag", "values", "words"),
    [
        ("PixelSpacing", ([1.5, 1.0], [1.5, 1.2]), "several pixel spacings"),
        ("ImageOrientationPatient", ([1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1]), "orientations"),
        ("ImagePositionPatient", ([0, 0, 0], None), "does not say where its slice lies"),
        ("PixelSpacing", ([1.5, 1.0], None), "how large its pixels are"),
        ("PixelSpacing", ([1.5, 1.0], [0, 0]), "how large its pixels are"),
    ],
)
def test_slices_that_are_no_volume_are_refused(tmp_path: Path, tag, values, words):
    def edit(k, header):
        if k == 4:
            setattr(header, tag, values[1])

    write_slices(tmp_path / "a", RAMP, edit)
    with pytest.raises(BadFileError, match=words):
        volume_of(tmp_path)


def test_images_at_one_place_are_told_apart_by_what_differs(tmp_path: Path):
    for echo, folder in ((10, "a"), (20, "b")):
        write_slices(tmp_path / folder, RAMP, EchoTime=str(echo))
    with pytest.raises(BadFileError, match=r"one place .*; they differ in EchoTime") as error:
        volume_of(tmp_path)
    assert error.value.code == "I31"


def test_equal_numbers_of_slices_do_not_matter(tmp_path: Path):
    write_slices(tmp_path / "a", RAMP[::-1], InstanceNumber=1)
    np.testing.assert_array_equal(volume_of(tmp_path).array, RAMP[::-1])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [0, 2, 4, 1, 3, 5], [5, 4, 3, 2, 1, 0]])
def test_frames_are_sorted_by_place(tmp_path: Path, order):
    heights = [HEIGHTS[k] for k in order]
    scales = [(k + 1, 0.5) for k in order]
    write_enhanced(tmp_path / "a" / "frames.dcm", RAMP[order], heights, scales)
    volume = volume_of(tmp_path)
    np.testing.assert_allclose(volume.array, RAMP * np.arange(1, 7)[:, None, None] + 0.5)
    assert volume.spacing == (2.0, 1.5, 1.0)
    assert volume.origin == (0.0, 0.0, 0.0)


def test_frames_with_a_gap_or_two_volumes_are_refused(tmp_path: Path):
    write_enhanced(tmp_path / "a" / "f.dcm", RAMP, [*HEIGHTS[:3], 26.0, 28.0, 30.0])
    with pytest.raises(BadFileError, match=r"22\.000 mm after slice 3"):
        volume_of(tmp_path)
    write_enhanced(
        tmp_path / "a" / "f.dcm", np.concatenate([RAMP, RAMP]), HEIGHTS * 2,
        echoes=[10] * 6 + [20] * 6,
    )  # fmt: skip
    with pytest.raises(BadFileError, match="differ in EffectiveEchoTime"):
        volume_of(tmp_path)


@pytest.mark.parametrize(
    ("kind", "modality"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "SEG"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
        ("1.2.840.10008.5.1.4.1.1.7", "CT"),
        ("1.2.840.10008.5.1.4.1.1.7.2", "OT"),
        ("1.2.840.10008.5.1.4.1.1.3.1", "US"),
        ("1.2.840.10008.5.1.4.1.1.12.1", "XA"),
        ("1.2.840.10008.5.1.4.1.1.1.1", "DX"),
        ("1.2.840.10008.5.1.4.1.1.88.11", "SR"),
        ("1.2.840.10008.5.1.4.1.1.2", "RTDOSE"),
    ],
)
def test_what_is_no_scan_is_left_out_and_named(tmp_path: Path, raw: Path, kind, modality):
    header = dicom_object(RAMP, kind=kind, modality=modality, SeriesInstanceUID="1.2.9")
    header.ImagePositionPatient, header.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    header.PixelSpacing, header.SpacingBetweenSlices = [1, 1], 2
    write(header, tmp_path / "in" / "p" / "other.dcm")
    assert "no scan" in skipped_in(tmp_path / "in")["p"]
    write_slices(tmp_path / "in" / "p", RAMP)
    result = convert("dicom", tmp_path / "in", dataset="Scans")
    assert [row.case for row in result.rows] == ["p"]
    assert [name for name, _ in result.skipped] == ["p"]


def test_localizers_and_frames_of_time_are_no_volumes(tmp_path: Path):
    write_slices(tmp_path / "in" / "a", RAMP, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(dicom_object(RAMP, SeriesInstanceUID="1.2.8"), tmp_path / "in" / "b" / "cine.dcm")
    (tmp_path / "in" / "c.dcm").write_text("a web page")
    skipped = skipped_in(tmp_path / "in")
    assert skipped["a"] == "6 files: localizer"
    assert "cine" in skipped["b"]
    assert "no DICOM file" in skipped["c.dcm"]


def test_one_series_in_two_folders_is_one_case_and_copies_count_once(tmp_path: Path):
    paths = write_slices(tmp_path / "in" / "p" / "1", RAMP)
    (tmp_path / "in" / "p" / "2").mkdir()
    for path in paths[3:]:
        path.rename(tmp_path / "in" / "p" / "2" / path.name)
    shutil.copy(paths[0], tmp_path / "in" / "p" / "2" / "copy.dcm")
    dataset = dicom.read(Request(tmp_path / "in"))
    (case,) = dataset.cases
    assert case.case_id == "p"
    assert len(case.inputs) == 6
    assert dataset.skipped == [("p/2/copy.dcm", "the same as in p/1")]
    np.testing.assert_array_equal(load(case.images[0], "image").array, RAMP)


def test_files_without_the_mark_of_dicom_are_read(tmp_path: Path):
    for path in write_slices(tmp_path / "a", RAMP):
        path.with_suffix("").write_bytes(path.read_bytes()[132:])
        path.unlink()
    np.testing.assert_array_equal(volume_of(tmp_path).array, RAMP)


def test_files_named_by_their_uid_are_read(tmp_path: Path):
    for number, path in enumerate(write_slices(tmp_path / "a", RAMP)):
        path.with_name(f"1.2.840.113.{number}").write_bytes(path.read_bytes()[132:])
        path.unlink()
    (tmp_path / "a" / "notes.2024").write_text("no DICOM")
    np.testing.assert_array_equal(volume_of(tmp_path).array, RAMP)


def test_studies_of_one_patient_id_are_asked_about(tmp_path: Path, raw: Path):
    for number in range(4):
        name = f"scan{number}"
        tags = {"PatientID": "ANON", "SeriesInstanceUID": f"1.2.{number}", "PixelSpacing": [1, 1]}
        study = {"StudyInstanceUID": f"1.2.9.{number}", "StudyDate": "20240102"}
        write_slices(tmp_path / "in" / name, RAMP + number, **tags, **study)
        label = np.ones(RAMP.shape, np.uint8)
        header = {"spacing": (1, 1, 2), "origin": (0, 0, 0)}
        save(label, tmp_path / "labels" / f"{name}.nii.gz", **header)
    options = {"labels": tmp_path / "labels", "dataset": "Scans"}
    result = convert("dicom", tmp_path / "in", **options)
    note = (
        "4 series of 4 studies have one patient id and count as one patient; if they are several "
        "patients, give --patient-regex '(.*)'"
    )
    assert note in result.notes
    with pytest.raises(InputError, match=r"or give --patient-regex .* if one patient id"):
        convert("dicom", tmp_path / "in", test=2, overwrite=True, **options)
    options |= {"patient_regex": "(.*)", "test": 2, "overwrite": True}
    result = convert("dicom", tmp_path / "in", **options)
    assert [row.role for row in result.rows] == ["labeled", "labeled", "test", "test"]
    assert note not in result.notes


def test_series_of_one_study_are_no_question(tmp_path: Path):
    for number in range(2):
        write_slices(tmp_path / f"scan{number}", RAMP, SeriesInstanceUID=f"1.2.{number}")
    assert not any("studies" in note for note in dicom.read(Request(tmp_path)).notes)
