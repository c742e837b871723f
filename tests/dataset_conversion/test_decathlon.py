"""Task folders of the Decathlon: channels, label gaps, files that are not where they should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_makers import image_array, label_array, read, save

from graphnn_unet.dataset_conversion import decathlon
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.forms import Request
from graphnn_unet.errors import FaultsError, InputError


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
    record = json.loads((result.folder / "gnnunet.json").read_text())
    assert record["label_mapping"]["5"] == 3


def test_decathlon_files_that_are_missing_or_outside_are_all_named(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    table = json.loads((folder / "dataset.json").read_text())
    (folder / "labelsTr" / "organ_001.nii.gz").unlink()
    table["training"][1]["label"] = "../../secret.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(table))
    with pytest.raises(FaultsError) as error:
        decathlon.read(Request(folder))
    assert [(f.case, f.code) for f in error.value.faults] == [
        ("organ_001", "I27"), ("organ_002", "S14"),
    ]  # fmt: skip


def test_decathlon_files_nobody_lists_are_told(tmp_path: Path):
    folder = save_task(tmp_path / "t")
    save(image_array(1), folder / "imagesTr" / "stray.nii.gz")
    assert decathlon.read(Request(folder)).skipped == [
        ("imagesTr/stray.nii.gz", "not listed in dataset.json")
    ]
