"""Scans that are stored in different orientations reach the network in one."""

import json
import shutil
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from tiny_study import DATASET, plan_in, write_image, write_raw_dataset

from graphnn_unet.data.check import check_dataset
from graphnn_unet.data.read_case import read_case
from graphnn_unet.images.orientation import TURNED

TURNED_CASES = ("case_01", "case_05")
SPACING = (2.0, 1.0, 1.5)


def store_as(path: Path, codes: str) -> None:
    """Write the same voxels at the same places along other axes."""
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), codes), str(path), True)


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    """One data set as LPS throughout, and the same with a labeled and an unlabeled scan as PIR."""
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    raw = write_raw_dataset(plain / "raw")
    for path in raw.rglob("*.nii.gz"):
        write_image(path, sitk.GetArrayFromImage(sitk.ReadImage(str(path))), SPACING)
    shutil.copytree(plain, mixed)
    for path in (mixed / "raw").rglob("*.nii.gz"):
        if path.name.startswith(TURNED_CASES):
            store_as(path, "PIR")
    return plain, mixed


def test_mixed_orientations_are_planned_and_preprocessed_as_one(homes, capsys):
    stored = []
    for home in homes:
        plan_in(home)
        folder = home / "preprocessed" / DATASET
        plans = json.loads((folder / "gnnunetPlans.json").read_text(encoding="utf-8"))
        assert plans["orientation"] == "LPS"
        fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text(encoding="utf-8"))
        for metadata in fingerprint["gnnunet"]["cases"].values():
            metadata.pop("sha256")
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

        labeled = nnUNetDatasetBlosc2(str(folder / "gnnunetPlans_3d_fullres"))
        voxels = [np.asarray(part[:]) for part in labeled.load_case("case_01")[:2]]
        stored.append((plans, fingerprint, voxels))
    (plans, fingerprint, voxels), (mixed_plans, mixed_fingerprint, mixed_voxels) = stored
    assert plans == mixed_plans
    assert fingerprint == mixed_fingerprint
    for array, other in zip(voxels, mixed_voxels, strict=True):
        np.testing.assert_array_equal(array, other)
    told = capsys.readouterr().err
    assert "case_01, case_05: stored as PIR, most scans as LPS" in told


def test_the_check_knows_sizes_and_spacings_in_one_orientation(homes):
    plain, mixed = (check_dataset(home / "raw" / DATASET, n_workers=0) for home in homes)
    assert plain.orientation == mixed.orientation == "LPS"
    assert plain.cases["case_01"].shape == mixed.cases["case_01"].shape
    assert plain.cases["case_01"].spacing == mixed.cases["case_01"].spacing == SPACING
    assert mixed.cases["case_01"].orientation == "PIR"
    assert not mixed.errors


def test_what_is_read_is_turned_and_the_files_geometry_kept(homes):
    _, mixed = homes
    raw = mixed / "raw" / DATASET
    image, label = (
        str(raw / "imagesTr" / "case_01_0000.nii.gz"),
        str(raw / "labelsTr" / "case_01.nii.gz"),
    )
    data, seg, properties = read_case(SimpleITKIO(), [image], label, "LPS")
    assert seg is not None
    assert data.shape == seg.shape == (1, 18, 20, 22)
    assert properties["spacing"] == list(SPACING)
    assert properties[TURNED] == ("PIR", "LPS")
    assert properties["sitk_stuff"]["direction"] == sitk.ReadImage(image).GetDirection()
    as_stored, _, properties = read_case(SimpleITKIO(), [image], None, "")
    assert as_stored.shape != data.shape
    assert TURNED not in properties


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIOWithReorient])
def test_a_label_map_without_a_slope_is_read_as_it_was_checked(tmp_path, reader):
    """The standard says that without a slope the other number counts for nothing."""
    label = np.zeros((3, 4, 5), np.uint8)
    label[1] = 1
    for name in ("image", "label"):
        image = nib.Nifti1Image(label.T, np.eye(4))
        nib.save(image, tmp_path / f"{name}.nii")
        content = bytearray((tmp_path / f"{name}.nii").read_bytes())
        content[112:120] = struct.pack("<2f", 0.0, 1.0)  # scl_slope, scl_inter
        (tmp_path / f"{name}.nii").write_bytes(content)
    files = [str(tmp_path / f"{name}.nii") for name in ("image", "label")]
    data, seg, _ = read_case(reader(), files[:1], files[1], "")
    assert set(np.unique(seg)) == set(np.unique(data)) == {0, 1}
