"""One small data set, one fault at a time: the check names the case, the cause and the remedy."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.data.check import check_case_images, check_dataset
from graphnn_unet.errors import BadFileError
from graphnn_unet.images.read import read_volume

SHAPE = (12, 14, 16)
CASES = ("case_000", "case_001", "case_002")


def image_array(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def label_array() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 3:8, 3:8] = 1
    label[6:9, 3:8, 3:8] = 2
    return label


def save(array: np.ndarray, path: Path, **header) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(header.get("spacing", (1.0, 1.0, 2.0)))
    image.SetOrigin(header.get("origin", (3.0, -4.0, 5.0)))
    if "direction" in header:
        image.SetDirection(header["direction"])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), path.suffix != ".nii")


def make_dataset(folder: Path, ending: str = ".nii.gz", n_channels: int = 1) -> Path:
    for number, case in enumerate(CASES):
        for channel in range(n_channels):
            array = image_array(10 * number + channel)
            save(array, folder / "imagesTr" / f"{case}_{channel:04d}{ending}")
        save(label_array(), folder / "labelsTr" / f"{case}{ending}")
    for channel in range(n_channels):
        save(image_array(90 + channel), folder / "imagesUn" / f"scan_9_{channel:04d}{ending}")
        save(image_array(80 + channel), folder / "imagesTs" / f"test_8_{channel:04d}{ending}")
    save(label_array(), folder / "labelsTs" / f"test_8{ending}")
    edit(folder, channel_names={str(i): f"c{i}" for i in range(n_channels)}, file_ending=ending)
    return folder


def edit(folder: Path, **keys) -> None:
    """Set keys of dataset.json; ``None`` removes one."""
    path = folder / "dataset.json"
    content = {"labels": {"background": 0, "a": 1, "b": 2}, "numTraining": len(CASES)}
    if path.exists():
        content = json.loads(path.read_text())
    content.update(keys)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def image_path(folder: Path, channel: int = 0) -> Path:
    ending = json.loads((folder / "dataset.json").read_text())["file_ending"]
    return folder / "imagesTr" / f"case_001_{channel:04d}{ending}"


def label_path(folder: Path) -> Path:
    return folder / "labelsTr" / image_path(folder).name.replace("_0000", "")


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def cut_bytes(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def cut_inside(path: Path) -> None:
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: len(content) // 2]))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_header(path: Path, offset: int, value: bytes) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[offset : offset + len(value)] = value
    path.write_bytes(gzip.compress(bytes(content)))


def set_voxels(path: Path, value: float, where: tuple = (slice(4, 6), 2, 3), dtype=None) -> None:
    """Write a value, around SimpleITK, which would hide NaN in what it reads."""
    if path.name.endswith(".nii.gz"):
        loaded = nib.load(path)
        array = np.asarray(loaded.dataobj).copy()
        array = array.astype(dtype or array.dtype)
        array.T[where] = value
        header = loaded.header.copy()
        header.set_data_dtype(array.dtype)
        nib.save(nib.Nifti1Image(array, loaded.affine, header), path)
        return
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array[where] = value
    new = sitk.GetImageFromArray(array)
    new.CopyInformation(image)
    sitk.WriteImage(new, str(path), True)


def rewrite(path: Path, array: np.ndarray | None = None, **header) -> None:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image) if array is None else array
    defaults = {"spacing": image.GetSpacing(), "origin": image.GetOrigin()}
    save(array, path, **{**defaults, **header})


def int16(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


def float32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


Spoil = Callable[[Path], object]

# code, spoil, words of the message; the case is case_001 where none is given
FAULTS: list[tuple[str, Spoil, str, str]] = [
    ("I01", lambda f: cut(image_path(f), 0.5), "truncated", "case_001"),
    ("I01", lambda f: cut(image_path(f), 0.99), "truncated", "case_001"),
    ("I02", lambda f: cut_inside(image_path(f)), "truncated", "case_001"),
    ("I03", lambda f: cut_bytes(image_path(f), 8), "lost the end", "case_001"),
    ("I03b", lambda f: flip_bit(image_path(f)), "damaged", "case_001"),
    ("I04", lambda f: cut_inside(label_path(f)), "labelsTr/case_001.nii.gz", "case_001"),
    ("I06", lambda f: edit_header(image_path(f), 42, int16(32000)), "claims", "case_001"),
    ("I06", lambda f: edit_header(image_path(f), 42, int16(8)), "claims", "case_001"),
    ("I07", lambda f: image_path(f).write_bytes(b""), "is empty", "case_001"),
    ("I08", lambda f: set_voxels(image_path(f), np.nan), "2 NaN voxels, the first at", "case_001"),
    ("I09", lambda f: set_voxels(image_path(f), np.inf), "2 infinite voxels", "case_001"),
    (
        "I12",
        lambda f: set_voxels(label_path(f), np.nan, dtype=np.float32),
        "NaN voxels",
        "case_001",
    ),
    (
        "I13",
        lambda f: sitk.WriteImage(
            sitk.GetImageFromArray(image_array(4)[3]), str(image_path(f)), True
        ),
        "has 2 dimensions, the data set has 3",
        "case_001",
    ),
    (
        "I14",
        lambda f: nib.save(
            nib.Nifti1Image(np.zeros((16, 14, 12, 2), np.int16), np.eye(4)), image_path(f)
        ),
        "is a 4D file",
        "case_001",
    ),
    (
        "I15",
        lambda f: rewrite(label_path(f), label_array()[3:]),
        "labelsTr/case_001.nii.gz is not on the grid of imagesTr/case_001_0000.nii.gz: "
        "size (9, 14, 16) against (12, 14, 16) voxels (z, y, x)",
        "case_001",
    ),
    ("I16", lambda f: rewrite(label_path(f), spacing=(1.0, 1.0, 4.0)), "spacing", "case_001"),
    ("I17", lambda f: rewrite(label_path(f), origin=(53.0, -4.0, 5.0)), "origin", "case_001"),
    (
        "I18",
        lambda f: rewrite(label_path(f), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)),
        "direction",
        "case_001",
    ),
    (
        "I18",
        lambda f: nib.save(
            nib.Nifti1Image(
                image_array(3).T,
                np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]),
            ),
            image_path(f),
        ),
        "not perpendicular",
        "case_001",
    ),
    ("I22", lambda f: shutil.copy(image_path(f), image_path(f, 1)), "0001", "case_001"),
    ("I23", lambda f: set_voxels(label_path(f), 7), "7 (2 voxels)", "case_001"),
    ("I24", lambda f: set_voxels(label_path(f), 0.5, dtype=np.float32), "0.5", "case_001"),
    (
        "I25",
        lambda f: set_voxels(label_path(f), 1.9999, dtype=np.float32),
        "just beside an integer",
        "case_001",
    ),
    ("I26", lambda f: set_voxels(label_path(f), -1, dtype=np.int16), "-1 (2 voxels)", "case_001"),
    ("I27", lambda f: label_path(f).unlink(), "labelsTr/case_001.nii.gz is missing", "case_001"),
    ("I28", lambda f: image_path(f).unlink(), "has no image", "case_001"),
    (
        "I31",
        lambda f: shutil.copy(f / "imagesTr" / "case_000_0000.nii.gz", image_path(f)),
        "equal those of case_000",
        "case_001",
    ),
    (
        "I31",
        lambda f: shutil.copy(image_path(f), f / "imagesTs" / "copy_0000.nii.gz"),
        "equal those of case_001 (imagesTr)",
        "copy",
    ),
    (
        "I31",
        lambda f: shutil.copy(image_path(f), f / "imagesUn" / image_path(f).name),
        "in imagesTr and in imagesUn",
        "case_001",
    ),
    (
        "I33",
        lambda f: shutil.copy(image_path(f), f / "imagesTr" / "localizer.nii.gz"),
        "_0000.nii.gz",
        "localizer",
    ),
    (
        "I35",
        lambda f: image_path(f).rename(f / "imagesTr" / "case_001.nii.gz"),
        "must end in _0000.nii.gz",
        "case_001",
    ),
    (
        "I36",
        lambda f: (image_path(f).unlink(), os.mkfifo(image_path(f))),
        "imagesTr/case_001_0000.nii.gz is a pipe",
        "case_001",
    ),
    (
        "I36",
        lambda f: (image_path(f).unlink(), image_path(f).symlink_to("nowhere.nii.gz")),
        "link that leads nowhere",
        "case_001",
    ),
    ("I37", lambda f: (f / "dataset.json").unlink(), "is missing", "dataset.json"),
    (
        "I38",
        lambda f: (f / "dataset.json").write_text((f / "dataset.json").read_text()[:60]),
        "line 1, column",
        "dataset.json",
    ),
    ("I39", lambda f: edit(f, labels=None, numTraining=None), "lacks labels", "dataset.json"),
    ("I40", lambda f: edit(f, file_ending=".nrrd"), "found: .nii.gz", "imagesTr"),
    ("I40", lambda f: edit(f, file_ending=".jpg"), "not supported", "dataset.json"),
    (
        "I41",
        lambda f: edit(f, labels={"background": 0, "a": 1, "b": 1, "c": 2}),
        "same value",
        "dataset.json",
    ),
    ("I42", lambda f: edit(f, labels={"a": 1, "b": 2}), "background", "dataset.json"),
    ("I44", lambda f: edit(f, numTraining=9), "9, there are 3", "dataset.json"),
    (
        "I45",
        lambda f: edit(f, labels={"background": 0, "a": 1, "b": 3}),
        "not consecutive: [0, 1, 3]",
        "dataset.json",
    ),
    ("I48", lambda f: rewrite(image_path(f), np.zeros(SHAPE, np.int16)), "are 0", "case_001"),
    (
        "I49",
        lambda f: [rewrite(p, spacing=(1e3, 1e3, 1e3)) for p in (image_path(f), label_path(f))],
        "after resampling",
        "case_001",
    ),
    (
        "I50",
        lambda f: [rewrite(p, spacing=(0.01, 0.01, 0.01)) for p in (image_path(f), label_path(f))],
        "nothing of it would be left",
        "case_001",
    ),
    ("I51", lambda f: edit_header(image_path(f), 80, float32(0, 1, 1)), "(0.0, 1.0", "case_001"),
    ("I51", lambda f: edit_header(image_path(f), 88, float32(np.nan)), "nan", "case_001"),
    (
        "S12",
        lambda f: image_path(f).rename(f / "imagesTr" / "a..b_0000.nii.gz"),
        "'..'",
        "a..b",
    ),
    (
        "S13",
        lambda f: image_path(f).rename(f / "imagesTr" / "b c;$(x)_0000.nii.gz"),
        "letters, digits",
        "b c;$(x)",
    ),
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "Dataset001_Small")


def test_a_clean_data_set_has_no_fault_and_all_its_metadata(dataset: Path):
    report = check_dataset(dataset)
    assert report.faults == []
    assert list(report.cases) == ["case_000", "case_001", "case_002", "scan_9", "test_8"]
    roles = [metadata.role for metadata in report.cases.values()]
    assert roles == ["labeled"] * 3 + ["unlabeled", "test"]
    metadata = report.cases["case_001"]
    assert metadata.shape == SHAPE
    assert metadata.spacing == (2.0, 1.0, 1.0)
    assert metadata.label_values == (0, 1, 2)
    assert metadata.classes[1].n_voxels == 100
    assert set(metadata.sha256) == {"imagesTr/case_001_0000.nii.gz", "labelsTr/case_001.nii.gz"}
    assert report.cases["scan_9"].label is None
    assert json.loads(json.dumps(report.as_json()))["n_cases"]["labeled"] == 3


@pytest.mark.parametrize(
    ("code", "spoil", "words", "case"),
    FAULTS,
    ids=[f"{fault[0]}-{number}" for number, fault in enumerate(FAULTS)],
)
def test_each_fault_is_named_with_case_cause_and_remedy(
    dataset: Path, code: str, spoil: Spoil, words: str, case: str
):
    spoil(dataset)
    report = check_dataset(dataset)
    faults = [f for f in report.errors if f.code == code]
    assert [f.case for f in faults] == [case], [f.line for f in report.faults]
    assert words in faults[0].line
    assert faults[0].remedy
    assert "\n" not in faults[0].line


@pytest.mark.parametrize(
    ("ending", "code", "spoil"),
    [(ending, "I05", lambda f: cut(image_path(f), 0.6)) for ending in (".nii", ".mha", ".nrrd")]
    + [(ending, "I10", lambda f: set_voxels(image_path(f), np.nan)) for ending in (".mha", ".nrrd")]
    + [
        (ending, "I11", lambda f: set_voxels(image_path(f), -np.inf))
        for ending in (".mha", ".nrrd")
    ],
)
def test_other_formats_are_checked_as_closely(tmp_path: Path, ending: str, code: str, spoil: Spoil):
    folder = make_dataset(tmp_path, ending)
    assert check_dataset(folder).faults == []
    spoil(folder)
    assert [(f.code, f.case) for f in check_dataset(folder).errors] == [(code, "case_001")]


def test_two_channels_of_different_size_are_an_error(tmp_path: Path):
    folder = make_dataset(tmp_path, n_channels=2)
    assert check_dataset(folder).faults == []
    rewrite(image_path(folder, 1), image_array(5)[2:])
    assert [(f.code, f.case) for f in check_dataset(folder).errors] == [("I19", "case_001")]


def test_a_missing_channel_is_named_for_its_case(tmp_path: Path):
    folder = make_dataset(tmp_path, n_channels=2)
    image_path(folder, 1).unlink()
    (fault,) = check_dataset(folder).errors
    assert (fault.code, fault.case) == ("I21", "case_001")
    assert "0001" in fault.cause


def test_a_channel_that_no_case_has_is_one_fault_of_dataset_json(dataset: Path):
    for folder in ("imagesUn", "imagesTs"):
        shutil.rmtree(dataset / folder)
    shutil.rmtree(dataset / "labelsTs")
    edit(dataset, channel_names={"0": "T1", "1": "T2"})
    (fault,) = check_dataset(dataset).errors
    assert fault.code == "I20"
    assert "lists 2 channels" in fault.cause


def test_an_empty_label_map_is_a_warning_and_only_empty_ones_an_error(dataset: Path):
    rewrite(label_path(dataset), np.zeros(SHAPE, np.uint8))
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.warnings] == [("I29", "case_001")]
    assert not report.errors
    for case in CASES:
        rewrite(dataset / "labelsTr" / f"{case}.nii.gz", np.zeros(SHAPE, np.uint8))
    assert [f.code for f in check_dataset(dataset).faults] == ["I30"]


def test_a_constant_image_is_a_warning(dataset: Path):
    rewrite(image_path(dataset), np.full(SHAPE, 42, np.int16))
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.faults] == [("I47", "case_001")]
    assert not report.errors


def test_one_empty_channel_of_two_is_only_a_warning(tmp_path: Path):
    folder = make_dataset(tmp_path, n_channels=2)
    rewrite(image_path(folder, 1), np.zeros(SHAPE, np.int16))
    report = check_dataset(folder)
    assert [(f.code, f.severity) for f in report.faults] == [("I47", "warning")]


@pytest.mark.parametrize(
    ("shift", "severity"), [(5e-4, "warning"), (0.09, "warning"), (0.11, "error")]
)
def test_a_rounded_header_is_a_warning_and_a_shift_an_error(
    dataset: Path, shift: float, severity: str
):
    rewrite(label_path(dataset), origin=(3.0 + shift, -4.0, 5.0))
    (fault,) = check_dataset(dataset).faults
    assert (fault.code, fault.severity) == ("I17", severity)


def test_a_foreign_origin_can_be_allowed_but_a_flip_cannot(dataset: Path):
    rewrite(label_path(dataset), origin=(53.0, -4.0, 5.0))
    assert not check_dataset(dataset, allow_origin_mismatch=True).errors
    rewrite(label_path(dataset), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert [f.code for f in check_dataset(dataset, allow_origin_mismatch=True).errors] == ["I18"]


def test_stray_files_are_notes(dataset: Path):
    (dataset / "imagesTr" / "notes.txt").write_text("hello")
    (dataset / "imagesTr" / "._case_000_0000.nii.gz").write_bytes(b"\0\5\26\7")
    report = check_dataset(dataset)
    assert report.faults == []
    assert len(report.notes) == 2
    assert any("notes.txt" in note for note in report.notes)


def test_label_values_as_text_and_strange_names_are_accepted(dataset: Path):
    edit(dataset, labels={"background": "0", "<script>": "1", "$(rm)": "2"})
    assert check_dataset(dataset).faults == []


def test_unlabeled_scans_need_no_label_and_are_not_counted(dataset: Path):
    label_path(dataset).unlink()
    image_path(dataset).rename(dataset / "imagesUn" / image_path(dataset).name)
    edit(dataset, numTraining=2)
    report = check_dataset(dataset)
    assert report.faults == []
    assert report.cases["case_001"].role == "unlabeled"


def test_damage_in_unlabeled_and_test_scans_is_found_too(dataset: Path):
    cut(dataset / "imagesUn" / "scan_9_0000.nii.gz", 0.5)
    set_voxels(dataset / "imagesTs" / "test_8_0000.nii.gz", np.nan)
    codes = {(f.code, f.case) for f in check_dataset(dataset).errors}
    assert codes == {("I01", "scan_9"), ("I08", "test_8")}


def test_all_faults_come_in_one_pass(dataset: Path):
    cut(image_path(dataset), 0.5)
    set_voxels(label_path(dataset), 7)
    set_voxels(dataset / "imagesTr" / "case_000_0000.nii.gz", np.nan)
    edit(dataset, numTraining=9)
    codes = [f.code for f in check_dataset(dataset).errors]
    assert sorted(codes) == ["I01", "I08", "I23", "I44"]


def test_paths_outside_the_data_set_are_refused(dataset: Path):
    good = {"images": ["imagesTr/case_000_0000.nii.gz"], "label": "labelsTr/case_000.nii.gz"}
    section = {
        "case_000": good,
        "../../escaped": good,
        "odd": {**good, "label": "../../secret.nii.gz"},
        "home": {**good, "label": "$HOME/label.nii.gz"},
    }
    edit(dataset, dataset=section, numTraining=1)
    codes = {(f.code, f.case) for f in check_dataset(dataset).errors}
    assert codes == {("S12", "../../escaped"), ("S14", "odd"), ("S14", "home")}


def test_workers_find_the_same_as_this_process(dataset: Path):
    cut(image_path(dataset), 0.5)
    assert check_dataset(dataset, n_workers=2) == check_dataset(dataset, n_workers=0)


def test_endings_in_capitals_are_left_out_of_raw_folders_by_name(dataset: Path):
    folder = dataset / "imagesTr"
    capitals = folder / "case_000_0000.NII.GZ"
    image_path(dataset).parent.joinpath("case_000_0000.nii.gz").rename(capitals)
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.errors if f.code == "I28"] == [("I28", "case_000")]
    assert any("NII.GZ was passed over (nnU-Net takes .nii.gz" in note for note in report.notes)


def test_links_to_files_are_taken_and_those_to_nowhere_are_faults(dataset: Path, tmp_path: Path):
    folder = dataset / "imagesTr"
    path = folder / "case_000_0000.nii.gz"
    path.rename(tmp_path / "kept.nii.gz")
    path.symlink_to(tmp_path / "kept.nii.gz")
    assert check_dataset(dataset).errors == []
    (tmp_path / "kept.nii.gz").unlink()
    faults = {fault.code: fault for fault in check_dataset(dataset).errors}
    lost = faults["I36"]
    assert lost.case == "case_000"
    assert "a link that leads nowhere" in lost.cause


def test_the_images_of_one_case_can_be_checked_alone(tmp_path: Path):
    path = tmp_path / "x_0000.nii.gz"
    save(np.zeros(SHAPE, np.float32), path)
    (fault,) = check_case_images([path])
    assert (fault.code, fault.case, fault.severity) == ("I48", "x", "warning")
    cut(path, 0.5)
    (fault,) = check_case_images([path])
    assert (fault.code, fault.severity) == ("I01", "error")


def test_an_impossible_header_takes_no_memory(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    edit_header(image_path(dataset), 42, int16(30000, 30000, 30000))
    monkeypatch.setattr(np, "frombuffer", lambda *_: pytest.fail("memory was asked for"))
    with pytest.raises(BadFileError, match="claims"):
        read_volume(image_path(dataset))


def test_a_case_that_cannot_be_read_is_still_a_case(dataset: Path):
    cut(image_path(dataset), 0.5)
    report = check_dataset(dataset)
    assert {fault.case for fault in report.errors} == {"case_001"}
    assert report.cases["case_001"].shape == (0, 0, 0)
    assert len(report.errors) == 1


def test_a_header_with_nan_in_its_orientation_is_refused(dataset: Path):
    edit_header(image_path(dataset), 292, float32(np.nan))  # sform, offset in x
    report = check_dataset(dataset)
    assert [(f.code, f.case) for f in report.errors] == [("I18", "case_001")]
