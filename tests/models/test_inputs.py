"""What can be given to be predicted, and under which names it comes back."""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from models.small_models import label_maps, read
from tiny_study import write_image

from graphnn_unet import predict
from graphnn_unet.errors import InputError, MissingFileError, RefusedError
from graphnn_unet.images.read import read_volume
from graphnn_unet.models.cases import readable
from graphnn_unet.models.inputs import find_inputs
from graphnn_unet.storage.atomic import TEMPORARY_MARK, remove_leftovers


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(folder: Path, *channels: str) -> dict[str, list[str]]:
    inputs = find_inputs(folder, channels or ("CT",))
    return {case: [p.name for p in given.sources] for case, given in inputs.cases.items()}


def test_channels_of_one_name_are_told_apart_by_their_numbers(tmp_path: Path):
    touch(tmp_path, *(f"a_000{n}.nii.gz" for n in range(3)))
    assert names(tmp_path, "MRI", "noNorm", "noNorm") == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"]
    }


def save_series(folder: Path, image: Path, uid: str = "1.2.3") -> None:
    """An image as DICOM slices."""
    folder.mkdir(parents=True)
    volume = sitk.ReadImage(str(image))
    array = sitk.GetArrayFromImage(volume).round().astype(np.int16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(array):
        slice_ = sitk.GetImageFromArray(plane)
        slice_.SetSpacing(volume.GetSpacing()[:2])
        position = volume.TransformIndexToPhysicalPoint((0, 0, k))
        tags = {
            "0008|0060": "CT", "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{k + 1}", "0020|000d": "1.2", "0020|000e": uid,
            "0020|0032": "\\".join(f"{v:.5f}" for v in position), "0020|0013": str(k + 1),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }  # fmt: skip
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{len(array) - k:03d}.dcm"))
        writer.Execute(slice_)


def test_a_dicom_file_that_is_no_scan_is_refused(tmp_path):
    """Nothing predicted would look like a success."""
    write_image(tmp_path / "image.nii.gz", np.zeros((3, 4, 5), np.float32))
    save_series(tmp_path / "series", tmp_path / "image.nii.gz")
    first = sorted((tmp_path / "series").iterdir())[0]
    assert list(find_inputs(first, ("CT",)).cases) == ["series"]
    scout = pydicom.dcmread(first)
    scout.SOPClassUID = scout.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    scout.Modality, scout.SeriesInstanceUID = "RTSTRUCT", "1.2.3.9"
    scout.save_as(tmp_path / "series" / "contours.dcm")
    with pytest.raises(
        InputError, match=r"contours\.dcm belongs to no series of a scan: .*RTSTRUCT"
    ):
        find_inputs(tmp_path / "series" / "contours.dcm", ("CT",))


def test_channels_must_be_complete(tmp_path):
    touch(tmp_path, *(f"{n}.nii.gz" for n in ("a_0000", "a_0001", "b_0000", "c_0001", "plain")))
    inputs = find_inputs(tmp_path, ("T1", "T2"))
    assert names(tmp_path, "T1", "T2") == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    assert {f.case: (f.code, f.cause) for f in inputs.faults} == {
        "b": ("I21", "channel T2 is missing"), "c": ("I21", "channel T1 is missing"),
    }  # fmt: skip
    assert inputs.left_out == [("plain.nii.gz", "its name has no channel number")]


def test_patients_folders_give_channels_in_the_models_order(tmp_path):
    touch(tmp_path, *(f"p{i}/{c}.nii.gz" for i in (1, 2) for c in ("flair", "t1")))
    assert names(tmp_path, "T1", "FLAIR") == {
        "p1": ["t1.nii.gz", "flair.nii.gz"], "p2": ["t1.nii.gz", "flair.nii.gz"],
    }  # fmt: skip
    with pytest.raises(InputError, match="hold flair, t1"):
        find_inputs(tmp_path, ("T1", "DWI"))


def test_plain_names_are_no_cases_of_a_model_with_two_channels(tmp_path):
    touch(tmp_path, "plain.nii.gz")
    with pytest.raises(InputError, match=r"named like plain\.nii\.gz"):
        find_inputs(tmp_path, ("T1", "T2"))


def test_label_maps_beside_the_images_are_not_predicted(tmp_path):
    touch(tmp_path, "a.nii.gz", "a_seg.nii.gz")
    inputs = find_inputs(tmp_path, ("CT",), tmp_path / "out")
    assert list(inputs.cases) == ["a"]
    assert inputs.left_out == [("a_seg.nii.gz", "a label map by its name")]


def test_label_maps_of_this_program_are_no_scans(tmp_path):
    touch(tmp_path, "a.nii.gz", "other.nii.gz")
    record = tmp_path / "prediction.json"
    record.write_text('{"risk": 0.3}')  # somebody else's file
    assert names(tmp_path) == {"a": ["a.nii.gz"], "other": ["other.nii.gz"]}
    record.write_text('{"schema_version": 2, "cases": {"a": {}}}')
    words = "that gnnunet_predict wrote: prediction.json there tells of them. Give the scans with"
    with pytest.raises(InputError, match=f"{tmp_path.name} holds label maps {words} -i"):
        find_inputs(tmp_path, ("CT",))
    with pytest.raises(InputError, match=rf"a\.nii\.gz is a label map {words} -i"):
        find_inputs(tmp_path / "a.nii.gz", ("CT",))
    assert names(tmp_path / "other.nii.gz") == {"other": ["other.nii.gz"]}


def test_what_is_no_file_is_a_fault_of_its_case(tmp_path):
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "b_0000.nii.gz").symlink_to("none")
    (fault,) = find_inputs(tmp_path, ("CT",)).faults
    assert (fault.case, fault.code) == ("b", "I36")
    assert "leads nowhere" in fault.cause


def test_one_file_is_one_case_with_all_its_channels(tmp_path):
    touch(tmp_path, "a_0000.mha", "a_0001.mha", "b_0000.mha", "x.nii")
    assert names(tmp_path / "a_0000.mha") == {"a": ["a_0000.mha"]}
    assert names(tmp_path / "a_0001.mha") == {"a_0001": ["a_0001.mha"]}
    assert names(tmp_path / "a_0001.mha", "T1", "T2") == {"a": ["a_0000.mha", "a_0001.mha"]}
    for name in ("b_0000.mha", "x.nii"):
        with pytest.raises(InputError, match="is one channel, the model takes 2"):
            find_inputs(tmp_path / name, ("T1", "T2"))
    with pytest.raises(InputError, match="cannot be predicted"):
        find_inputs(touch(tmp_path, "y.txt") / "y.txt", ("CT",))
    with pytest.raises(MissingFileError):
        find_inputs(tmp_path / "none.nii", ("CT",))


def test_every_kind_of_input_gives_the_same_label_map(model, images, tmp_path):
    source = images / "b_0000.nii.gz"
    array = read(source).round()
    folder = tmp_path / "in"
    write_image(folder / "plain.nii.gz", array)
    for name in ("Größe 1.nrrd", "x.mhd", "UPPER.NII.GZ", "y.MHA"):
        write_image(tmp_path / "as" / name.lower(), array)
        (tmp_path / "as" / name.lower()).rename(folder / name)
    for raw in (tmp_path / "as").glob("*raw"):
        raw.rename(folder / raw.name)
    target = tmp_path / "out"
    result = predict(folder, target, model=model, device="cpu", mirroring=False)
    assert result.predicted == ["Groesse_1", "UPPER", "plain", "x", "y"]
    maps = {
        unicodedata.normalize("NFC", name): labels for name, labels in label_maps(target).items()
    }
    assert sorted(maps) == ["Größe 1", "UPPER", "plain", "x", "y"]
    for labels in maps.values():
        np.testing.assert_array_equal(labels, maps["plain"])
    with (target / "names.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert rows["Groesse_1"]["output"] == "Größe 1.nii.gz"
    assert rows["x"]["input"] == str(folder / "x.mhd")
    assert not list(target.glob(f".{TEMPORARY_MARK}*"))
    kept = predict(
        folder, target, model=model, device="cpu", mirroring=False, continue_prediction=True
    )
    assert kept.kept == result.predicted


def test_dicom_series_lie_where_their_label_maps_lie(model, images, tmp_path):
    write_image(tmp_path / "a.nii.gz", read(images / "b_0000.nii.gz").round())
    save_series(tmp_path / "study" / "früh", tmp_path / "a.nii.gz")
    save_series(tmp_path / "elsewhere", tmp_path / "a.nii.gz", "1.2.4")
    (tmp_path / "study" / "link").symlink_to(tmp_path / "elsewhere")
    target = tmp_path / "out"
    result = predict(tmp_path / "study", target, model=model, device="cpu", mirroring=False)
    assert result.predicted == ["frueh", "link"]
    assert [unicodedata.normalize("NFC", name) for name in label_maps(target)] == ["früh", "link"]
    (first, second) = label_maps(target).values()
    np.testing.assert_array_equal(first, second)
    expected = read_volume(tmp_path / "a.nii.gz").grid
    grid = read_volume(target / "link.nii.gz").grid
    assert grid.shape == expected.shape
    np.testing.assert_allclose(grid.spacing, expected.spacing, rtol=1e-4)
    one = tmp_path / "study" / "früh" / "003.dcm"
    assert list(find_inputs(one, ("CT",)).cases) == ["frueh"]
    with pytest.raises(InputError, match="which series belong together"):
        find_inputs(tmp_path / "study", ("T1", "T2"))


def test_the_folder_of_a_single_input_is_no_output_folder(model, images):
    with pytest.raises(RefusedError, match="input and output are both"):
        predict(images / "b_0000.nii.gz", images, model=model, device="cpu")


def test_copies_for_the_reader_are_removed_whatever_happens(images, tmp_path):
    source = images / "b_0000.nii.gz"
    with readable([source], [".nii.gz"], tmp_path / "out") as files:
        assert files == [source]
    assert not (tmp_path / "out").exists()

    def stop() -> None:
        with readable([source], [".mha"], tmp_path / "out") as files:
            np.testing.assert_array_equal(read(files[0]), read(source))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out" / f".{TEMPORARY_MARK}folder-killed").mkdir()
    assert remove_leftovers(tmp_path / "out") == 1
    assert list((tmp_path / "out").iterdir()) == []
