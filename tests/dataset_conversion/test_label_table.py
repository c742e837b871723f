"""Label tables: consecutive ids, names, and images that are no label maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from volume_makers import image_array, label_array, read, save

from graphnn_unet.data.check import check_dataset
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.errors import InputError


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
    record = json.loads((result.folder / "gnnunet.json").read_text())
    assert record["label_mapping"] == {"0": 0, "1": 1, "7": 2, "420": 3}
    assert any("420 is 3" in note for note in result.notes)
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["labels"] == result.labels
    assert description["original_labels"] == {
        "background": 0, "label_1": 1, "liver": 7, "spleen": 420,
    }  # fmt: skip
    assert check_dataset(result.folder).faults == []


def test_an_image_given_as_label_map_is_refused(data: Path):
    save((100 * image_array(1)).astype(np.int16), data / "labels" / "pat0_scan0.nii.gz")
    with pytest.raises(InputError, match="is it an image"):
        run(data)
