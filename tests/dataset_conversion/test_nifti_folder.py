"""A user's own folders: how files become cases and channels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from volume_makers import image_array, label_array, read, save

from graphnn_unet.data.check import check_dataset
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.errors import FaultsError, InputError, MissingFileError
from graphnn_unet.images.cases import Wanted, find_cases


def run(data: Path, **options):
    options = {"images": data / "images", "labels": data / "labels", "dataset": "My", **options}
    return convert("nifti", **options)


def letters(result) -> str:
    """One letter of the role of a case, in order."""
    return "".join(row.role[0] for row in result.rows)


def test_cases_with_label_train_with_it_and_the_others_without(data: Path):
    result = run(data)
    assert letters(result) == "lllllu"
    assert result.dataset == "Dataset501_My"
    assert result.labels == {"background": 0, "label_1": 1}
    assert check_dataset(result.folder).faults == []


def test_label_maps_may_carry_a_word_more(data: Path):
    for path in (data / "labels").iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", "_seg.nii.gz")))
    result = run(data)
    assert letters(result) == "lllllu"
    assert any("extra word" in note for note in result.notes)


def test_label_maps_without_image_are_all_named(data: Path):
    for name in ("a", "b"):
        save(label_array(), data / "labels" / f"{name}.nii.gz")
    with pytest.raises(FaultsError) as error:
        run(data)
    assert [(f.case, f.code) for f in error.value.faults] == [("a", "I28"), ("b", "I28")]


def test_test_folders_bring_test_cases(data: Path):
    save(image_array(20), data / "ti" / "t1.nii.gz")
    save(image_array(21), data / "ti" / "t2.nii.gz")
    save(label_array(), data / "tl" / "t1.nii.gz")
    result = run(data, test_images=data / "ti", test_labels=data / "tl")
    assert letters(result) == "llllluttt"[:8]
    assert [p.name for p in (result.folder / "labelsTs").iterdir()] == ["t1.nii.gz"]
    save(image_array(22), data / "ti" / "pat0_scan0.nii.gz")
    with pytest.raises(FaultsError, match="two cases have this id"):
        run(data, test_images=data / "ti", overwrite=True)


def test_odd_names_become_safe_ids(data: Path):
    (data / "images" / "pat2_scan5.nii.gz").rename(data / "images" / "pat 2 (late).nii.gz")
    result = run(data)
    assert "pat_2_late" in {row.case for row in result.rows}
    assert any("'pat 2 (late)' is pat_2_late" in note for note in result.notes)
    assert (result.folder / "names.csv").read_text(
        encoding="utf-8"
    ) == "name,case\npat 2 (late),pat_2_late\n"


def test_other_files_are_told_and_passed_over(data: Path):
    (data / "images" / "notes.txt").write_text("x")
    (data / "images" / "._pat0_scan0.nii.gz").write_bytes(b"x")
    result = run(data, dry_run=True)
    assert {name for name, _ in result.skipped} == {
        "images/notes.txt",
        "images/._pat0_scan0.nii.gz",
    }


def test_without_labels_all_cases_are_unlabeled(data: Path):
    result = run(data, labels=None)
    assert letters(result) == "u" * 6
    assert any("training needs at least one" in note for note in result.notes)


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
def test_other_formats_become_nifti(data: Path, ending: str, tmp_path: Path):
    save(image_array(1), tmp_path / "x" / f"a{ending}", direction=(0, 1, 0, 1, 0, 0, 0, 0, 1))
    save(label_array(), tmp_path / "y" / f"a{ending}", direction=(0, 1, 0, 1, 0, 0, 0, 0, 1))
    result = run(data, images=tmp_path / "x", labels=tmp_path / "y")
    np.testing.assert_array_equal(read(result.folder / "imagesTr/a_0000.nii.gz"), image_array(1))
    assert check_dataset(result.folder).faults == []


# ---------------------------------------------------------------- several channels


def names(folder: Path, *channels: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    images = find_cases([folder], Wanted(channels))
    return images.channels, {
        case: {channel: path.name for channel, path in files.items()}
        for case, files in images.cases.items()
    }


def touch(folder: Path, *files: str) -> Path:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_channel_numbers_make_cases(tmp_path: Path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
    channels, cases = names(tmp_path, "T1", "FLAIR")
    assert channels == ["T1", "FLAIR"]
    assert cases["b"] == {"T1": "b_0000.nii.gz", "FLAIR": "b_0001.nii.gz"}


def test_case_numbers_are_not_taken_for_channels(tmp_path: Path):
    touch(tmp_path, *(f"patient_{i:04d}.nii.gz" for i in range(1, 6)))
    assert sorted(names(tmp_path)[1]) == [f"patient_{i:04d}" for i in range(1, 6)]
    touch(tmp_path, "patient_0000.nii.gz")
    assert len(names(tmp_path)[1]) == 6


def test_channel_names_at_the_end_make_cases(tmp_path: Path):
    touch(tmp_path / "s1", "s1_t1.nii.gz", "s1_t1ce.nii.gz", "s1_pd.nii.gz")
    touch(tmp_path / "s2", "s2_t1.nii.gz", "s2_t1ce.nii.gz")
    channels, cases = names(tmp_path, "T1ce", "T1")
    assert channels == ["T1ce", "T1"]
    assert cases["s1"] == {"T1ce": "s1_t1ce.nii.gz", "T1": "s1_t1.nii.gz"}


def test_a_subfolder_a_channel(tmp_path: Path):
    for channel in ("flair", "t1"):
        touch(tmp_path / channel, "a.nii.gz", "b.nii.gz")
    assert names(tmp_path)[0] == ["flair", "t1"]
    channels, cases = names(tmp_path, "t1", "flair")
    assert channels == ["t1", "flair"]
    assert cases["a"] == {"t1": "a.nii.gz", "flair": "a.nii.gz"}


def test_a_subfolder_a_case(tmp_path: Path):
    touch(tmp_path / "p1", "scan1.nii.gz")
    touch(tmp_path / "p2", "scan2.nii.gz")
    assert sorted(names(tmp_path)[1]) == ["scan1", "scan2"]


def test_a_folder_a_channel(data: Path, tmp_path: Path):
    for i in range(6):
        save(image_array(50 + i), tmp_path / "flair" / f"pat{i // 2}_scan{i}.nii.gz")
    result = run(data, images=[data / "images", tmp_path / "flair"], channels=["T1", "FLAIR"])
    assert result.channel_names == {0: "T1", 1: "FLAIR"}
    written = read(result.folder / "imagesTr" / "pat0_scan0_0001.nii.gz")
    np.testing.assert_array_equal(written, image_array(50))
    (tmp_path / "flair" / "pat1_scan2.nii.gz").unlink()
    with pytest.raises(FaultsError, match="channel FLAIR is missing") as error:
        run(data, images=[data / "images", tmp_path / "flair"], channels=["T1", "FLAIR"],
            overwrite=True)  # fmt: skip
    assert [f.case for f in error.value.faults] == ["pat1_scan2"]


@pytest.fixture
def two_channels(data: Path) -> Path:
    """The six scans with two channels each, ``CASE_0000`` and ``CASE_0001``."""
    for number, path in enumerate(sorted((data / "images").iterdir())):
        stem = path.name.removesuffix(".nii.gz")
        save(image_array(50 + number), path.with_name(f"{stem}_0001.nii.gz"))
        path.rename(path.with_name(f"{stem}_0000.nii.gz"))
    return data


@pytest.mark.parametrize("wrong", ["0002", "0003"])
@pytest.mark.parametrize("channels", [[], ["T1", "T2"]])
def test_a_channel_with_a_wrong_number_is_a_fault_of_its_case_alone(two_channels, wrong, channels):
    file = two_channels / "images" / "pat1_scan3_0001.nii.gz"
    file.rename(file.with_name(f"pat1_scan3_{wrong}.nii.gz"))
    with pytest.raises(FaultsError) as error:
        run(two_channels, channels=channels)
    (fault,) = error.value.faults
    second = channels[1] if channels else "0001"
    assert (fault.case, fault.code) == ("pat1_scan3", "I22")
    assert f"it has channel {wrong}, which no other case has; the data set has 2 (" in fault.cause
    assert f"and channel {second} is missing" in fault.cause
    assert f"Rename pat1_scan3_{wrong}.nii.gz if that is channel {second}" in fault.remedy
    result = run(two_channels, channels=channels, exclude=["pat1_scan3"])
    assert letters(result) == "llllu"
    assert len(result.channel_names) == 2


def test_a_case_with_one_channel_more_is_not_the_measure_of_the_others(two_channels):
    save(image_array(9), two_channels / "images" / "pat1_scan3_0002.nii.gz")
    with pytest.raises(FaultsError) as error:
        run(two_channels)
    assert [(fault.case, fault.code) for fault in error.value.faults] == [("pat1_scan3", "I22")]
    assert "missing" not in error.value.faults[0].cause


def test_channels_that_most_cases_have_are_asked_of_the_others(two_channels):
    for number in (3, 5):
        (two_channels / "images" / f"pat{number // 2}_scan{number}_0001.nii.gz").unlink()
    with pytest.raises(FaultsError, match="channel 0001 is missing") as error:
        run(two_channels)
    assert [fault.case for fault in error.value.faults] == ["pat1_scan3", "pat2_scan5"]


@pytest.mark.parametrize("odd", ["T2", "t3", "flair"])
def test_channels_by_name_are_asked_about_where_one_is_spelled_otherwise(two_channels, odd):
    for path in (two_channels / "images").iterdir():
        path.rename(path.with_name(path.name.replace("_0000", "_t1").replace("_0001", "_t2")))
    file = two_channels / "images" / "pat1_scan3_t2.nii.gz"
    file.rename(file.with_name(f"pat1_scan3_{odd}.nii.gz"))
    with pytest.raises(InputError, match="--channels t1 t2 for channels"):
        run(two_channels)
    if odd == "T2":
        assert letters(run(two_channels, channels=["t1", "t2"])) == "lllllu"
    else:
        with pytest.raises(FaultsError, match="channel t2 is missing") as error:
            run(two_channels, channels=["t1", "t2"])
        assert [fault.case for fault in error.value.faults] == ["pat1_scan3"]


def test_two_channels_may_have_one_name(data: Path, tmp_path: Path):
    images, first = tmp_path / "images", next(iter(sorted((data / "images").iterdir())))
    images.mkdir()
    for number in range(2):
        (images / f"a_000{number}.nii.gz").write_bytes(first.read_bytes())
    result = convert("nifti", images=images, dataset="Two", channels=["CT", "CT"])
    description = json.loads((result.folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["channel_names"] == {"0": "CT", "1": "CT"}
    assert len(list((result.folder / "imagesUn").iterdir())) == 2


def test_channel_names_must_fit(tmp_path: Path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz")
    with pytest.raises(InputError, match="3 channel names"):
        names(tmp_path, "a", "b", "c")
    touch(tmp_path / "x", "case1.nii.gz")
    with pytest.raises(InputError, match="no file name ends in"):
        names(tmp_path / "x", "T1", "T2")


def test_an_empty_folder_is_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match="no image in"):
        names(tmp_path)


# ---------------------------------------------------------------- other people's arrangements


def save_patient(folder: Path, number: int, image: str, label: str) -> None:
    save(image_array(number), folder / f"p{number}" / f"{image.format(number)}.nii.gz")
    save(label_array(), folder / f"p{number}" / f"{label.format(number)}.nii.gz")


def test_patients_with_label_maps_in_their_folders_are_read(raw: Path, tmp_path: Path):
    for number in range(3):
        save_patient(tmp_path / "d", number, "p{}", "GT")
    result = run(tmp_path, images=tmp_path / "d", labels=tmp_path / "d")
    assert [(row.case, row.role) for row in result.rows] == [(f"p{i}", "labeled") for i in range(3)]
    assert not result.skipped
    np.testing.assert_array_equal(read(result.folder / "imagesTr/p1_0000.nii.gz"), image_array(1))
    np.testing.assert_array_equal(read(result.folder / "labelsTr/p1.nii.gz"), label_array())


def test_a_channel_with_a_wrong_name_is_a_fault_of_its_patient_alone(raw: Path, tmp_path: Path):
    for number in range(4):
        save_patient(tmp_path / "d", number, "p{}_t1", "p{}_seg")
        save(image_array(30 + number), tmp_path / "d" / f"p{number}" / f"p{number}_t2.nii.gz")
    file = tmp_path / "d" / "p2" / "p2_t2.nii.gz"
    file.rename(file.with_name("p2_tt2.nii.gz"))
    with pytest.raises(FaultsError) as error:
        run(tmp_path, images=tmp_path / "d", labels=tmp_path / "d")
    (fault,) = error.value.faults
    assert fault.case == "p2"
    assert "it has channel tt2, which no other case has; the data set has 2 (t1, t2)" in fault.cause
    assert "Rename p2_tt2.nii.gz if that is channel t2" in fault.remedy


def test_label_maps_in_folders_of_patients_elsewhere_are_matched(raw: Path, tmp_path: Path):
    for number in range(2):
        save(image_array(number), tmp_path / "d" / f"p{number}" / "ct.nii.gz")
        save(label_array(), tmp_path / "m" / f"p{number}" / "heart.nii.gz")
    assert letters(run(tmp_path, images=tmp_path / "d", labels=tmp_path / "m")) == "ll"
    save(label_array(), tmp_path / "m" / "p1" / "lung.nii.gz")
    with pytest.raises(FaultsError, match=r"p1: its label map is in 2 files \(heart"):
        run(tmp_path, images=tmp_path / "d", labels=tmp_path / "m", overwrite=True)


def test_an_image_is_never_its_own_label_map(data: Path):
    (data / "again").symlink_to(data / "images")
    for folder in (data / "images", data / "again"):
        with pytest.raises(InputError, match="do not tell label maps from images"):
            run(data, labels=folder)
    for path in (data / "labels").iterdir():
        path.unlink()
    (data / "labels" / "pat0_scan0.nii.gz").symlink_to(data / "images" / "pat0_scan0.nii.gz")
    with pytest.raises(MissingFileError, match="all files in it are images"):
        run(data)


def test_label_maps_below_the_images_are_no_patients(raw: Path, tmp_path: Path):
    for seed, name in enumerate("ab"):
        save(image_array(seed), tmp_path / "d" / "scans" / f"{name}.nii.gz")
        save(label_array(), tmp_path / "d" / "ours" / f"{name}.nii.gz")
    result = run(tmp_path, images=tmp_path / "d", labels=tmp_path / "d" / "ours")
    assert [row.case for row in result.rows] == ["a", "b"]
    assert letters(result) == "ll"


def test_kinds_that_become_nifti_are_named(raw: Path, tmp_path: Path):
    save(image_array(), tmp_path / "d" / "a.mhd")
    save(image_array(1), tmp_path / "d" / "b.nii.gz")
    result = run(tmp_path, images=tmp_path / "d", labels=None)
    assert "written as .nii.gz: a.mhd" in result.notes
    assert not result.skipped
    record = json.loads((result.folder / "gnnunet.json").read_text(encoding="utf-8"))
    assert {"a.mhd", "a.zraw"} < set(record["sha256"]) or {"a.mhd", "a.raw"} < set(record["sha256"])
    np.testing.assert_array_equal(read(result.folder / "imagesUn/a_0000.nii.gz"), image_array())


def test_all_names_that_changed_are_told(data: Path):
    for path in sorted((data / "images").iterdir()):
        path.rename(path.with_name(f"Fall ä {path.name[-8]}.nii.gz"))
    result = run(data, labels=None)
    (note,) = [note for note in result.notes if "became case ids" in note]
    assert all(f"'Fall ä {i}' is Fall_ae_{i}" in note for i in range(6))


@pytest.mark.parametrize(
    ("images", "labels", "labeled"),
    [
        # one label map alone, in folders that are called alike
        (["s1/anat", "s2/anat", "s3/anat"], ["s2/anat"], "ulu"),
        (["s1/anat", "s2/anat", "s3/anat"], ["s2/masks"], "ulu"),
        # label maps of one of two sites
        (["A/p0", "A/p1", "B/p0", "B/p1"], ["A/p0", "A/p1"], "lluu"),
        (["A/p0", "A/p1", "B/p0", "B/p1"], ["B/p0"], "uulu"),
        # one of two visits
        (["p1/v1", "p1/v2"], ["p1/v2"], "ul"),
        # as before: by name where places differ
        (["p0", "p1"], ["ours/p0/x", "ours/p1/x"], "ll"),
    ],
)
def test_few_label_maps_belong_to_the_images_at_their_place(
    raw: Path, tmp_path: Path, images, labels, labeled
):
    for seed, place in enumerate(images):
        save(image_array(seed), tmp_path / "d" / place / f"{Path(place).parts[0]}_t1.nii.gz")
        save(image_array(9 + seed), tmp_path / "d" / place / f"{Path(place).parts[0]}_t2.nii.gz")
    for place in labels:
        save(label_array(), tmp_path / "m" / place / "lesion_mask.nii.gz")
    result = run(tmp_path, images=tmp_path / "d", labels=tmp_path / "m")
    assert letters(result) == labeled
    assert not result.skipped


def test_a_label_map_at_no_images_place_is_told_with_its_place(raw: Path, tmp_path: Path):
    for number in range(2):
        save(image_array(number), tmp_path / "d" / f"p{number}" / "ct.nii.gz")
        save(label_array(), tmp_path / "m" / f"p{number + 1}" / "seg.nii.gz")
    (tmp_path / "m" / "p1" / "notes.txt").write_text("")
    with pytest.raises(FaultsError, match=r"label map p2/seg\.nii\.gz has no image"):
        run(tmp_path, images=tmp_path / "d", labels=tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "p2")
    result = run(tmp_path, images=tmp_path / "d", labels=tmp_path / "m", overwrite=True)
    assert letters(result) == "ul"
    assert result.skipped == (("m/p1/notes.txt", "no image file"),)
