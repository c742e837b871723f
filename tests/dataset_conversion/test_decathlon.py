"""Task folders of the Decathlon: channels, label gaps, files that are not where they should be."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_makers import image_array, label_array, read, save

from graphnn_unet.dataset_conversion import decathlon
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.forms import Request
from graphnn_unet.errors import InputError, MissingFileError


def save_task(folder: Path, n_channels: int = 1, labels: dict | None = None) -> Path:
    shape = (n_channels, 6, 8, 10)
    for number, where in ((1, "imagesTr"), (2, "imagesTr"), (3, "imagesTs")):
        array = image_array(number, shape)
        array = array if n_channels > 1 else array[0]
        (folder / where).mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array, isVector=False)
        sitk.WriteImage(image, str(folder / where / f"organ_{number:03d}.nii.gz"))
        if where == "imagesTr":
            label = label_array(2 if number == 1 else 1).astype(np.float32)
            save(label, folder / "labelsTr" / f"organ_{number:03d}.nii.gz", spacing=(1, 1, 1),
                 origin=(0, 0, 0))  # fmt: skip
    (folder / "imagesTr" / "._organ_001.nii.gz").write_bytes(b"\0")
    modalities = ["FLAIR", "T1w", "T2w"][:n_channels]
    table = {
        "name": "Organ",
        "modality": dict(enumerate(modalities)),
        "labels": labels or {"0": "background", "1": "edge", "2": "core"},
        "training": [
            {
                "image": f"./imagesTr/organ_{i:03d}.nii.gz",
                "label": f"./labelsTr/organ_{i:03d}.nii.gz",
            }
            for i in (1, 2)
        ],
        "test": ["./imagesTs/organ_003.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def test_decathlon_channels_are_split(tmp_path: Path, raw: Path):
    result = convert("MSD", save_task(tmp_path / "Task17_Organ", 3))
    assert result.dataset == "Dataset017_Organ"
    assert result.channel_names == {0: "FLAIR", 1: "T1w", 2: "T2w"}
    assert [(row.case, row.role) for row in result.rows] == [
        ("organ_001", "labeled"), ("organ_002", "labeled"), ("organ_003", "test"),
    ]  # fmt: skip
    for channel in range(3):
        written = read(result.folder / f"imagesTr/organ_002_{channel:04d}.nii.gz")
        np.testing.assert_array_equal(written, image_array(2, (3, 6, 8, 10))[channel])
    assert result.labels == {"background": 0, "edge": 1, "core": 2}
    assert any("float32" in note for note in result.notes)


def test_some_channels_can_be_chosen_by_name(tmp_path: Path, raw: Path):
    result = convert("MSD", save_task(tmp_path / "Task17_Organ", 3), channels=["T2w", "FLAIR"])
    np.testing.assert_array_equal(
        read(result.folder / "imagesTr/organ_001_0000.nii.gz"),
        image_array(1, (3, 6, 8, 10))[2],
    )
    with pytest.raises(InputError, match="2 channel names for 3 channels"):
        convert("MSD", tmp_path / "Task17_Organ", channels=["a", "b"], dry_run=True)


def test_decathlon_label_gaps_are_closed(tmp_path: Path, raw: Path):
    folder = save_task(tmp_path / "t", labels={"0": "background", "1": "a", "2": "b", "5": "c"})
    save(label_array(5), folder / "labelsTr" / "organ_001.nii.gz", spacing=(1, 1, 1),
         origin=(0, 0, 0))  # fmt: skip
    result = convert("MSD", folder)
    assert result.labels == {"background": 0, "a": 1, "b": 2, "c": 3}
    np.testing.assert_array_equal(read(result.folder / "labelsTr/organ_001.nii.gz"), label_array(3))
    record = json.loads((result.folder / "gnnunet.json").read_text(encoding="utf-8"))
    assert record["label_mapping"]["5"] == 3


def test_decathlon_files_that_are_missing_or_outside_are_all_named(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    table = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "labelsTr" / "organ_001.nii.gz").unlink()
    table["training"][1]["label"] = "../../secret.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(table))
    assert [(f.case, f.code) for f in decathlon.read(Request(folder)).faults] == [
        ("organ_001", "I27"), ("organ_002", "S14"),
    ]  # fmt: skip


def test_decathlon_files_nobody_lists_are_told(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    save(image_array(1), folder / "imagesTr" / "stray.nii.gz")
    assert decathlon.read(Request(folder)).skipped == [
        ("imagesTr/stray.nii.gz", "not listed in dataset.json")
    ]


@pytest.mark.parametrize("n_channels", [1, 2])
def test_the_numbered_files_of_nnunet_1_are_the_cases_that_its_table_lists(
    tmp_path: Path, raw: Path, n_channels: int
):
    folder = save_task(tmp_path / "Task017_Organ")
    table = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    table["modality"] = dict(enumerate(["T1", "T2"][:n_channels]))
    (folder / "dataset.json").write_text(json.dumps(table))
    for path in [*folder.glob("images*/organ_*")]:
        array = read(path)
        for channel in range(n_channels):
            save(array + channel, path.with_name(path.name.replace(".nii", f"_{channel:04d}.nii")),
                 spacing=(1, 1, 1), origin=(0, 0, 0))  # fmt: skip
        path.unlink()
    result = convert("MSD", folder)
    assert [row.case for row in result.rows] == ["organ_001", "organ_002", "organ_003"]
    assert not result.skipped
    for channel in range(n_channels):
        written = read(result.folder / f"imagesTr/organ_001_{channel:04d}.nii.gz")
        np.testing.assert_array_equal(written, image_array(1) + channel)


def test_a_table_with_numbered_names_finds_plain_files(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    text = (folder / "dataset.json").read_text(encoding="utf-8")
    for part in ("imagesTr/organ_001", "imagesTr/organ_002", "imagesTs/organ_003"):
        text = text.replace(part, f"{part}_0000")
    (folder / "dataset.json").write_text(text)
    assert [case.case_id for case in decathlon.read(Request(folder)).cases] == [
        "organ_001", "organ_002", "organ_003",
    ]  # fmt: skip


def test_a_case_listed_twice_is_one_and_two_files_of_one_id_are_refused(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    table = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    table["training"].append(table["training"][0])
    (folder / "dataset.json").write_text(json.dumps(table))
    dataset = decathlon.read(Request(folder))
    assert len(dataset.cases) == 3
    assert dataset.notes == ["dataset.json lists 1 cases twice"]
    table["test"].append("./imagesTr/organ_001.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(table))
    (fault,) = decathlon.read(Request(folder)).faults
    assert fault.line.startswith("organ_001: two cases have this id")


def test_linked_files_are_taken_and_other_unicode_finds_its_file(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    stored = folder / "imagesTr" / "organ_001.nii.gz"
    stored.rename(tmp_path / "store.nii.gz")
    stored.with_name(unicodedata.normalize("NFD", "örgan.nii.gz")).symlink_to(
        tmp_path / "store.nii.gz"
    )
    table = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    table["training"][0]["image"] = "./imagesTr/" + unicodedata.normalize("NFC", "örgan.nii.gz")
    (folder / "dataset.json").write_bytes(json.dumps(table, ensure_ascii=False).encode("utf-16"))
    assert decathlon.read(Request(folder)).cases[0].case_id == "oergan"


def test_folders_of_another_form_are_named_as_what_they_are(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    (folder / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {}}')
    with pytest.raises(InputError, match="raw folder of nnU-Net v2"):
        decathlon.read(Request(folder))
    (folder / "dataset.json").unlink()
    with pytest.raises(MissingFileError, match=f"gnnunet_convert nifti --images {folder}/imagesTr"):
        decathlon.read(Request(folder))
