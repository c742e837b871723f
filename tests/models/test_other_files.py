"""Predictions for files that are stored in other ways than those of the training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from images.test_orientation import ALL_48
from models.small_models import read
from tiny_study import ball_case, write_image

from graphnn_unet import predict
from graphnn_unet.images.label_ids import ORIGINAL
from graphnn_unet.metrics.evaluate import evaluate

IDS = {"background": 0, "organ": 1, "lesion": 70_004}


@pytest.fixture
def other_ids(model: Path, tmp_path: Path) -> Path:
    """The model of a data set whose label maps have the ids 0, 1 and 70 004."""
    copy = tmp_path / model.name
    shutil.copytree(model, copy)
    description = json.loads((copy / "dataset.json").read_text(encoding="utf-8"))
    names = dict(zip(description["labels"], IDS.values(), strict=True))
    (copy / "dataset.json").write_text(json.dumps({**description, ORIGINAL: names}))
    return copy


def test_all_orientations_of_a_scan_give_the_same_label_map(model: Path, tmp_path: Path, capsys):
    (array,), _ = ball_case(3, (18, 21, 24))
    scan = sitk.ReadImage(str(write_image(tmp_path / "scan.nii.gz", array, (1.5, 1.0, 1.2))))
    scan.SetOrigin((5.0, -3.0, 2.0))
    images = tmp_path / "images"
    images.mkdir()
    for codes in ALL_48:
        sitk.WriteImage(sitk.DICOMOrient(scan, codes), str(images / f"{codes}_0000.nii.gz"), True)
    predict(
        images, tmp_path / "out", model=model, device="cpu", mirroring=False, uncertainty=True,
        save_probabilities=True,
    )  # fmt: skip
    expected = read(tmp_path / "out" / "LPS.nii.gz")
    assert expected.sum() > 0
    probabilities = np.load(tmp_path / "out" / "LPS.npz")["probabilities"]
    for codes in ALL_48:
        image = sitk.ReadImage(str(images / f"{codes}_0000.nii.gz"))
        for name in (codes, f"{codes}_uncertainty"):
            result = sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz"))
            for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(result, geometry)() == getattr(image, geometry)()
            back = sitk.GetArrayFromImage(sitk.DICOMOrient(result, "LPS"))
            reference = read(tmp_path / "out" / f"{name.replace(codes, 'LPS')}.nii.gz")
            np.testing.assert_array_equal(back, reference)
        stored = np.load(tmp_path / "out" / f"{codes}.npz")["probabilities"]
        for channel, wanted in zip(stored, probabilities, strict=True):
            volume = sitk.GetImageFromArray(channel)
            volume.CopyInformation(image)
            back = sitk.GetArrayFromImage(sitk.DICOMOrient(volume, "LPS"))
            np.testing.assert_array_equal(back, wanted)
    assert "1 images stored as PIR were turned to LPS" in capsys.readouterr().err


def test_the_users_ids_come_back(model: Path, other_ids: Path, images: Path, tmp_path: Path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    predict(images, inside, model=model, device="cpu")
    predict(images, outside, model=other_ids, device="cpu")
    for path in sorted(inside.glob("*.nii.gz")):
        expected = np.array(list(IDS.values()))[read(path)]
        np.testing.assert_array_equal(read(outside / path.name), expected)
    told = json.loads((outside / "dataset.json").read_text(encoding="utf-8"))
    assert set(told["labels"].values()) == {0, 1, 70_004}
    result = evaluate(outside, _copied(inside, tmp_path / "own", IDS), tmp_path / "metrics")
    assert result.mean["dice"].value == 1.0
    again = predict(images, outside, model=other_ids, device="cpu", continue_prediction=True)
    assert again.predicted == []


def _copied(maps: Path, target: Path, ids: dict[str, int]) -> Path:
    """The same label maps with other ids, of a user who has no dataset.json."""
    for path in maps.glob("*.nii.gz"):
        image = sitk.ReadImage(str(path))
        other = np.array(list(ids.values()), np.uint32)[sitk.GetArrayFromImage(image)]
        copy = sitk.GetImageFromArray(other)
        copy.CopyInformation(image)
        target.mkdir(exist_ok=True)
        sitk.WriteImage(copy, str(target / path.name), True)
    return target
