"""What the options of ``convert`` do with the cases, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from volume_makers import image_array, label_array, read, save

import graphnn_unet
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.errors import InputError, MissingFileError, RefusedError


def run(data: Path, **options):
    options = {"images": data / "images", "labels": data / "labels", "dataset": "My", **options}
    return convert("nifti", **options)


def letters(result) -> str:
    """One letter of the role of a case, in order."""
    return "".join(row.role[0] for row in result.rows)


def test_the_package_offers_the_same_function(data: Path):
    assert graphnn_unet.convert is convert


def test_labels_beyond_n_are_written_nowhere(data: Path):
    marker = label_array(5)
    for i in range(2, 5):
        save(marker, data / "labels" / f"pat{i // 2}_scan{i}.nii.gz")
    result = run(data, labeled=2)
    assert letters(result) == "lluuuu"
    assert [p.name for p in (result.folder / "labelsTr").iterdir()] == [
        "pat0_scan0.nii.gz",
        "pat0_scan1.nii.gz",
    ]
    assert result.labels == {"background": 0, "label_1": 1}  # value 5 was never read
    record = json.loads((result.folder / "gnnunet.json").read_text(encoding="utf-8"))
    assert sum(name.startswith("labels/") for name in record["sha256"]) == 2
    content = json.loads((result.folder / "dataset.json").read_text(encoding="utf-8"))
    assert content["numTraining"] == 2


def test_the_last_labeled_cases_become_test_cases(data: Path):
    result = run(data, test=1)
    assert letters(result) == "lllltu"
    assert (result.folder / "labelsTs" / "pat2_scan4.nii.gz").is_file()


def test_test_cases_are_taken_before_labeled_ones_are_counted(data: Path):
    assert letters(run(data, test=1, labeled=2)) == "lluutu"


def test_unlabeled_cases_can_be_limited(data: Path):
    result = run(data, test=1, labeled=2, unlabeled=1)
    assert [(row.case, row.role) for row in result.rows] == [
        ("pat0_scan0", "labeled"),
        ("pat0_scan1", "labeled"),
        ("pat1_scan2", "unlabeled"),
        ("pat2_scan4", "test"),
    ]
    with pytest.raises(InputError, match="9 unlabeled cases were asked for: there are"):
        run(data, labeled=2, unlabeled=9, overwrite=True)


def test_a_list_names_the_test_cases(data: Path):
    (data / "test.list").write_text("pat0_scan0.nii.gz\npat0_scan1\nnobody\n")
    result = run(data, test=data / "test.list")
    assert letters(result) == "ttlllu"
    assert any("2 of the 3" in note for note in result.notes)
    (data / "test.list").write_text("nobody\n")
    with pytest.raises(InputError, match="none of the 1 cases"):
        run(data, test=data / "test.list", dataset="Other")


def test_a_patient_is_never_in_training_and_test(data: Path):
    with pytest.raises(InputError, match="patient pat2 would be in training and in test"):
        run(data, test=1, patient_regex=r"^(pat\d)")
    (data / "test.list").write_text("pat2_scan4\npat2_scan5\n")
    result = run(data, test=data / "test.list", patient_regex=r"^(pat\d)")
    assert letters(result) == "lllltt"
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


def test_an_existing_data_set_is_refused_before_anything_is_read(data: Path):
    run(data)
    (data / "labels" / "pat0_scan0.nii.gz").write_bytes(b"broken")
    with pytest.raises(RefusedError, match="Dataset501_My exists"):
        run(data)


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


def test_options_that_do_not_fit_are_refused(data: Path):
    with pytest.raises(InputError, match="fix_geometry"):
        run(data, fix_geometry="guess")
    with pytest.raises(InputError, match="test label maps without test images"):
        run(data, test_labels=data / "labels")


def two_channels(folder: Path) -> Path:
    """Two scans whose second channel is brighter by 1000."""
    for number in range(4):
        case, channel = divmod(number, 2)
        save(image_array(number) + 1000 * channel, folder / f"a{case}_{channel:04d}.nii.gz")
    return folder


def means(folder: Path) -> list[int]:
    """Mean of each channel of the first case, in hundreds."""
    return [round(float(read(path).mean()) / 100) for path in sorted(folder.glob("*a0*"))]


@pytest.mark.parametrize("in_folders", [False, True])
def test_channels_of_one_name_stay_the_channels_they_are(tmp_path: Path, raw: Path, in_folders):
    images = [two_channels(tmp_path / "im")]
    if in_folders:
        images = [tmp_path / "first", tmp_path / "second"]
        for channel, folder in enumerate(images):
            save(image_array(7) + 1000 * channel, folder / "a0.nii.gz")
    result = convert("nifti", images=images, dataset="My", channels=["CT", "CT"])
    assert result.channel_names == {0: "CT", 1: "CT"}
    assert means(result.folder / "imagesUn") == [1, 11]


@pytest.mark.parametrize(
    ("modality", "channels", "kept"),
    [
        (("CT", "CT"), ["CT", "CT"], [1, 11]),
        (("CT", "PET"), ["PET", "CT"], [11, 1]),
        (("CT", "PET"), ["PET"], [11]),
        (("CT", "CT"), ["MRI", "MRI"], [1, 11]),
    ],
)
def test_a_selection_takes_each_channel_once(decathlon, modality, channels, kept):
    result = convert("MSD", decathlon(modality), dataset="My", channels=channels)
    assert list(result.channel_names.values()) == channels
    assert means(result.folder / "imagesTr") == kept


@pytest.mark.parametrize(
    ("modality", "channels"), [(("CT", "CT"), ["CT"]), (("CT", "PET"), ["CT", "CT"])]
)
def test_a_selection_by_a_name_that_two_have_is_refused(decathlon, modality, channels):
    with pytest.raises(InputError, match="leaves open which channels are meant"):
        convert("MSD", decathlon(modality), dataset="My", channels=channels)


@pytest.fixture
def decathlon(tmp_path: Path, raw: Path):
    """Makes an MSD folder with one case of two channels, by their names."""

    def make(modality: tuple[str, str]) -> Path:
        folder = tmp_path / "Task11_X"
        both = np.stack([image_array(), image_array() + 1000]).transpose(3, 2, 1, 0)
        for kind in ("imagesTr", "labelsTr"):
            (folder / kind).mkdir(parents=True)
        nib.save(nib.Nifti1Image(both, np.eye(4)), folder / "imagesTr" / "a0.nii.gz")
        label = nib.Nifti1Image(label_array().transpose(2, 1, 0), np.eye(4))
        nib.save(label, folder / "labelsTr" / "a0.nii.gz")
        pair = {"image": "./imagesTr/a0.nii.gz", "label": "./labelsTr/a0.nii.gz"}
        content = {
            "name": "X", "modality": dict(enumerate(modality)), "numTraining": 1, "numTest": 0,
            "labels": {"0": "background", "1": "a"}, "training": [pair], "test": [],
        }  # fmt: skip
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder

    return make
