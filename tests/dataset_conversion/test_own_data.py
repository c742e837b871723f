"""A user's own folders: how files become cases, and what the options do with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from volume_makers import image_array, label_array, read, save

import graphnn_unet
from graphnn_unet.data.check import check_dataset
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.nifti_folder import find_images
from graphnn_unet.errors import FaultsError, InputError, MissingFileError, RefusedError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six scans, five label maps, and a place for raw folders."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for i in range(6):
        save(image_array(i), tmp_path / "in" / "images" / f"pat{i // 2}_scan{i}.nii.gz")
        if i < 5:
            save(label_array(), tmp_path / "in" / "labels" / f"pat{i // 2}_scan{i}.nii.gz")
    return tmp_path / "in"


def run(data: Path, **options):
    options = {"images": data / "images", "labels": data / "labels", "dataset": "My", **options}
    return convert("nifti", **options)


def roles(result) -> str:
    """One letter a case, in order."""
    return "".join(row.role[0] for row in result.rows)


def test_cases_with_label_train_with_it_and_the_others_without(data: Path):
    result = run(data)
    assert roles(result) == "lllllu"
    assert result.dataset == "Dataset501_My"
    assert result.labels == {"background": 0, "label_1": 1}
    assert check_dataset(result.folder).faults == []


def test_the_package_offers_the_same_function(data: Path):
    assert graphnn_unet.convert is convert


def test_labels_beyond_n_are_written_nowhere(data: Path):
    marker = label_array(5)
    for i in range(2, 5):
        save(marker, data / "labels" / f"pat{i // 2}_scan{i}.nii.gz")
    result = run(data, labeled=2)
    assert roles(result) == "lluuuu"
    assert [p.name for p in (result.folder / "labelsTr").iterdir()] == [
        "pat0_scan0.nii.gz",
        "pat0_scan1.nii.gz",
    ]
    assert result.labels == {"background": 0, "label_1": 1}  # value 5 was never read
    record = json.loads((result.folder / "gnnunet.json").read_text())
    assert sum(name.startswith("labels/") for name in record["sha256"]) == 2
    content = json.loads((result.folder / "dataset.json").read_text())
    assert content["numTraining"] == 2


def test_the_last_labelled_cases_become_test_cases(data: Path):
    result = run(data, test=1)
    assert roles(result) == "lllltu"
    assert (result.folder / "labelsTs" / "pat2_scan4.nii.gz").is_file()


def test_test_cases_are_taken_before_labelled_ones_are_counted(data: Path):
    assert roles(run(data, test=1, labeled=2)) == "lluutu"


def test_unlabelled_cases_can_be_limited(data: Path):
    result = run(data, test=1, labeled=2, unlabeled=1)
    assert [(row.case, row.role) for row in result.rows] == [
        ("pat0_scan0", "labeled"),
        ("pat0_scan1", "labeled"),
        ("pat1_scan2", "unlabeled"),
        ("pat2_scan4", "test"),
    ]
    with pytest.raises(InputError, match="9 unlabelled cases were asked for: there are"):
        run(data, labeled=2, unlabeled=9, overwrite=True)


def test_a_list_names_the_test_cases(data: Path):
    (data / "test.list").write_text("pat0_scan0.nii.gz\npat0_scan1\nnobody\n")
    result = run(data, test=data / "test.list")
    assert roles(result) == "ttlllu"
    assert any("2 of the 3" in note for note in result.notes)
    (data / "test.list").write_text("nobody\n")
    with pytest.raises(InputError, match="none of the 1 cases"):
        run(data, test=data / "test.list", dataset="Other")


def test_a_patient_is_never_in_training_and_test(data: Path):
    with pytest.raises(InputError, match="patient pat2 would be in training and in test"):
        run(data, test=1, patient_regex=r"^(pat\d)")
    (data / "test.list").write_text("pat2_scan4\npat2_scan5\n")
    result = run(data, test=data / "test.list", patient_regex=r"^(pat\d)")
    assert roles(result) == "lllltt"
    assert {row.patient for row in result.rows} == {"pat0", "pat1", "pat2"}


@pytest.mark.parametrize("pattern", ["^(", "^case"])
def test_a_patient_pattern_that_does_not_fit_is_refused(data: Path, pattern: str):
    with pytest.raises(InputError, match="--patient-regex"):
        run(data, patient_regex=pattern)


@pytest.mark.parametrize(
    "options", [{"labeled": 0}, {"labeled": 6}, {"test": 5}, {"exclude": ["x"]}, {"test": 7}]
)
def test_numbers_and_names_that_do_not_fit_are_refused(data: Path, options: dict):
    with pytest.raises(InputError):
        run(data, **options)
    assert not (data.parent / "nnUNet_raw").exists()


def test_excluded_cases_are_left_out_and_listed(data: Path):
    result = run(data, exclude=["pat0_scan1"])
    assert "pat0_scan1" not in {row.case for row in result.rows}
    assert ("pat0_scan1", "excluded") in result.skipped


def test_any_label_ids_become_consecutive_and_the_mapping_is_kept(data: Path):
    save(label_array(7), data / "labels" / "pat0_scan0.nii.gz")
    save(label_array().astype(np.uint16) * 420, data / "labels" / "pat0_scan1.nii.gz")
    result = run(data, label_names={7: "liver", 420: "spleen"})
    assert result.labels == {"background": 0, "label_1": 1, "liver": 2, "spleen": 3}
    written = read(result.folder / "labelsTr" / "pat0_scan1.nii.gz")
    np.testing.assert_array_equal(written, label_array(3))
    record = json.loads((result.folder / "gnnunet.json").read_text())
    assert record["label_mapping"] == {"0": 0, "1": 1, "7": 2, "420": 3}
    assert any("420 is 3" in note for note in result.notes)
    assert check_dataset(result.folder).faults == []


def test_an_image_given_as_label_map_is_refused(data: Path):
    save((100 * image_array(1)).astype(np.int16), data / "labels" / "pat0_scan0.nii.gz")
    with pytest.raises(InputError, match="is it an image"):
        run(data)


def test_label_maps_may_carry_a_word_more(data: Path):
    for path in (data / "labels").iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", "_seg.nii.gz")))
    result = run(data)
    assert roles(result) == "lllllu"
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
    assert roles(result) == "llllluttt"[:8]
    assert [p.name for p in (result.folder / "labelsTs").iterdir()] == ["t1.nii.gz"]
    save(image_array(22), data / "ti" / "pat0_scan0.nii.gz")
    with pytest.raises(FaultsError, match="two cases have this id"):
        run(data, test_images=data / "ti", overwrite=True)


def test_odd_names_become_safe_ids(data: Path):
    (data / "images" / "pat2_scan5.nii.gz").rename(data / "images" / "pat 2 (late).nii.gz")
    result = run(data)
    assert "pat_2_late" in {row.case for row in result.rows}
    assert any("'pat 2 (late)' is pat_2_late" in note for note in result.notes)


def test_other_files_are_told_and_passed_over(data: Path):
    (data / "images" / "notes.txt").write_text("x")
    (data / "images" / "._pat0_scan0.nii.gz").write_bytes(b"x")
    result = run(data, dry_run=True)
    assert {name for name, _ in result.skipped} == {
        "images/notes.txt",
        "images/._pat0_scan0.nii.gz",
    }


def test_without_labels_all_cases_are_unlabelled(data: Path):
    result = run(data, labels=None)
    assert roles(result) == "u" * 6
    assert any("training needs at least one" in note for note in result.notes)


def test_an_existing_data_set_is_refused_before_anything_is_read(data: Path):
    run(data)
    (data / "labels" / "pat0_scan0.nii.gz").write_bytes(b"broken")
    with pytest.raises(RefusedError, match="Dataset501_My exists"):
        run(data)


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
def test_other_formats_become_nifti(data: Path, ending: str, tmp_path: Path):
    save(image_array(1), tmp_path / "x" / f"a{ending}", direction=(0, 1, 0, 1, 0, 0, 0, 0, 1))
    save(label_array(), tmp_path / "y" / f"a{ending}", direction=(0, 1, 0, 1, 0, 0, 0, 0, 1))
    result = run(data, images=tmp_path / "x", labels=tmp_path / "y")
    np.testing.assert_array_equal(read(result.folder / "imagesTr/a_0000.nii.gz"), image_array(1))
    assert check_dataset(result.folder).faults == []


# ---------------------------------------------------------------- several channels


def names(folder: Path, *channels: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    found = find_images([folder], list(channels), [])
    return found.channels, {
        case: {channel: path.name for channel, path in files.items()}
        for case, files in found.cases.items()
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
    touch(tmp_path / "s1", "s1_t1.nii.gz", "s1_t1ce.nii.gz", "s1_seg.nii.gz")
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


# ---------------------------------------------------------------- arguments of convert


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("XYZ", "."), "form 'XYZ' is unknown"),
        (("LA", None), "needs the folder"),
        (("nifti", None), "no image folder"),
        (("LA", "/nowhere/at/all"), "does not exist"),
    ],
)
def test_wrong_arguments_are_explained(data: Path, arguments: tuple, words: str):
    with pytest.raises((InputError, MissingFileError), match=words):
        convert(*arguments)


def test_options_of_another_form_are_refused(data: Path):
    with pytest.raises(InputError, match="belong to form nifti"):
        convert("LA", data, images=data)
    with pytest.raises(InputError, match="--labels belongs"):
        convert("ACDC", data, labels=data)
    with pytest.raises(InputError, match="fix_geometry"):
        run(data, fix_geometry="guess")
    with pytest.raises(InputError, match="test label maps without test images"):
        run(data, test_labels=data / "labels")
