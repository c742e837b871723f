"""Label tables: consecutive ids, names, and images that are no label maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from volume_makers import image_array, label_array, read, save

from graphnn_unet.data.check import check_dataset
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.label_table import with_label_table
from graphnn_unet.dataset_conversion.records import ConvertedDataset
from graphnn_unet.errors import FaultsError, InputError


def run(data: Path, **options):
    options = {"images": data / "images", "labels": data / "labels", "dataset": "My", **options}
    return convert("nifti", **options)


def test_any_label_ids_become_consecutive_and_the_mapping_is_kept(data: Path):
    save(label_array(7), data / "labels" / "pat0_scan0.nii.gz")
    save(label_array().astype(np.uint16) * 420, data / "labels" / "pat0_scan1.nii.gz")
    result = run(data, label_names={7: "liver", 420: "spleen"})
    assert result.labels == {"background": 0, "label_1": 1, "liver": 2, "spleen": 3}
    written = read(result.folder / "labelsTr" / "pat0_scan1.nii.gz")
    np.testing.assert_array_equal(written, label_array(3))
    record = json.loads((result.folder / "gnnunet.json").read_text(encoding="utf-8"))
    assert record["label_mapping"] == {"0": 0, "1": 1, "7": 2, "420": 3}
    assert any("420 is 3" in note for note in result.notes)
    description = json.loads((result.folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["labels"] == result.labels
    assert description["original_labels"] == {
        "background": 0, "label_1": 1, "liver": 7, "spleen": 420,
    }  # fmt: skip
    assert check_dataset(result.folder).faults == []


def test_an_image_given_as_label_map_is_refused(data: Path):
    save((100 * image_array(1)).astype(np.int16), data / "labels" / "pat0_scan0.nii.gz")
    with pytest.raises(FaultsError, match="values that are not expected") as error:
        run(data)
    assert [(f.case, f.code) for f in error.value.faults] == [("pat0_scan0", "I23")]
    assert "more values" in error.value.faults[0].cause
    assert error.value.faults[0].remedy.startswith("They look like those of an image")


@pytest.mark.parametrize("n_values", [480, 150])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_swapped_folders_are_told_as_such(data: Path, n_values: int, fraction: float):
    for seed, path in enumerate((data / "images").iterdir()):
        gray = np.random.default_rng(seed).permutation(480).reshape(6, 8, 10) % n_values
        save((gray + fraction).astype(np.float32), path)
    with pytest.raises(InputError) as error:
        run(data, images=data / "labels", labels=data / "images")
    assert error.value.what == "--images and --labels look swapped, as in pat0_scan0"
    why = "its label map has the values of an image, its image 2 values (0, 1)"
    assert error.value.why == why
    result = run(data)
    assert result.labels == {"background": 0, "label_1": 1}


def test_label_maps_of_fractions_are_no_swapped_images(data: Path):
    for path in (data / "labels").iterdir():
        save(0.4 * label_array().astype(np.float32), path)
    with pytest.raises(FaultsError) as error:
        run(data)
    assert {fault.code for fault in error.value.faults} == {"I24"}


def test_images_in_place_of_all_label_maps_are_named_one_by_one(data: Path):
    for seed, path in enumerate(data.glob("*/*.nii.gz")):
        save((100 * image_array(10 + seed)).astype(np.int16), path)
    with pytest.raises(FaultsError, match="They look like those of an image") as error:
        run(data)
    assert len(error.value.faults) == 5


def test_one_swapped_pair_is_a_fault_of_its_case(data: Path):
    save((100 * image_array(1)).astype(np.int16), data / "labels" / "pat0_scan0.nii.gz")
    save(label_array(), data / "images" / "pat0_scan0.nii.gz")
    with pytest.raises(FaultsError) as error:
        run(data)
    assert [(f.case, f.code) for f in error.value.faults] == [("pat0_scan0", "I23")]


def test_more_values_than_a_label_map_can_have_are_refused(data: Path):
    for scan in range(5):
        wide = (np.arange(480).reshape(6, 8, 10) % 100 + 100 * scan).astype(np.int16)
        save(wide, data / "labels" / f"pat{scan // 2}_scan{scan}.nii.gz")
    with pytest.raises(InputError, match="more than 255"):
        run(data)


def save_labels(data: Path, *values: int) -> None:
    """One label map of a single value for each scan."""
    for scan, value in enumerate(values):
        save(label_array(value), data / "labels" / f"pat{scan // 2}_scan{scan}.nii.gz")


def test_the_name_that_an_unnamed_value_has_is_no_name_of_another(data: Path):
    save(label_array(2), data / "labels" / "pat0_scan0.nii.gz")
    words = r"the value 1 is named Label_2: so is the value 2, .* Name 2, too, or give 1 another"
    with pytest.raises(InputError, match=words):
        run(data, label_names={1: "Label_2"})
    assert run(data, label_names={1: "label_2", 2: "b"}).labels["label_2"] == 1
    assert run(data, label_names={1: "label_0", 2: "b"}, overwrite=True).labels["label_0"] == 1


def asked(data: Path, **options) -> list[str]:
    result = run(data, dry_run=True, **options)
    return [note for note in result.notes if "--label-names" in note]


def test_a_mask_of_255_among_masks_of_1_is_asked_about(data: Path):
    save_labels(data, 1, 255, 1, 1, 1)
    (question,) = asked(data)
    assert question.startswith(
        "label 255 occurs in 1 of 5 label maps only (pat0_scan1), which has none of the others' "
        "labels (1): is it the same structure? Bring all label maps to the same values"
    )
    assert asked(data, label_names={1: "organ", 255: "tumor"}) == []


def test_two_kinds_of_masks_are_asked_about_once(data: Path):
    save_labels(data, 255, 1, 255, 255, 1)
    (question,) = asked(data)
    assert "label 1 occurs in 2 of 5 label maps only (pat0_scan1, pat2_scan4)" in question
    (question,) = asked(data, label_names={1: "organ"})
    assert "label 255 occurs in 3 of 5 label maps only (pat0_scan0, pat1_scan2, " in question


def test_a_stray_voxel_is_asked_about(data: Path):
    array = label_array()
    array[0, 0, 0] = 7
    save(array, data / "labels" / "pat1_scan2.nii.gz")
    (question,) = asked(data)
    assert "only 1 of 5 label maps has label 7 (pat1_scan2, 1 voxel): is it meant?" in question
    (data / "labels" / "pat0_scan0.nii.gz").unlink()
    assert len(asked(data)) == 1
    (data / "labels" / "pat0_scan1.nii.gz").unlink()
    assert asked(data) == []  # one of three may well be rare


def test_a_named_class_without_a_voxel_is_told(data: Path):
    result = run(data, label_names={1: "organ", 9: "ghost", 12: "ignore"})
    assert result.labels == {"background": 0, "organ": 1, "ghost": 2, "ignore": 3}
    (note,) = [note for note in result.notes if note.startswith("no label map has")]
    assert note.startswith("no label map has 9 (ghost): ")
    unlabeled = run(data, labels=None, label_names={9: "ghost"}, overwrite=True)
    assert not any("ghost" in note for note in unlabeled.notes)


def test_ignore_becomes_the_highest_id_and_the_mapping_is_told(data: Path):
    for name in ("pat0_scan0", "pat0_scan1"):
        array = label_array(1)
        array[0, 0, 0], array[0, 0, 1] = 2, 3
        save(array, data / "labels" / f"{name}.nii.gz")
    result = run(data, label_names={1: "organ", 2: "Ignore", 3: "tumor"})
    assert result.labels == {"background": 0, "organ": 1, "tumor": 2, "ignore": 3}
    written = read(result.folder / "labelsTr" / "pat0_scan0.nii.gz")
    assert (written[0, 0, 0], written[0, 0, 1], written[1, 1, 2]) == (3, 2, 1)
    record = json.loads((result.folder / "gnnunet.json").read_text(encoding="utf-8"))
    assert record["label_mapping"] == {"0": 0, "1": 1, "3": 2, "2": 3}
    assert any("2 is 3" in note and "'ignore' is the highest" in note for note in result.notes)
    assert check_dataset(result.folder).errors == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({1: "Liver", 2: "liver"}, "differ in capitals only"),
        ({1: "liver", 2: "liver"}, "have one name"),
        ({1: "Background"}, "differ in capitals only"),
        ({0: "air", 1: "liver"}, "the label 0 is the background"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(data: Path, names, words):
    with pytest.raises(InputError, match=words):
        run(data, label_names=names)


def test_a_table_of_the_form_moves_ignore_too(data: Path):
    table = {"background": 0, "unsure": 1, "wall": 2, "blood": 3}
    dataset = ConvertedDataset("A", None, "x", data, {0: "image"}, table, [])
    labeled = with_label_table(dataset, {1: "ignore"}, 0)
    assert labeled.labels == {"background": 0, "wall": 1, "blood": 2, "ignore": 3}
    assert labeled.label_mapping == {0: 0, 2: 1, 3: 2, 1: 3}
    assert with_label_table(dataset, {}, 0).labels == table
