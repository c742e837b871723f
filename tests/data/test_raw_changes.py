"""Raw files that were edited or removed after they were preprocessed."""

import os
import shutil

import pytest
import SimpleITK as sitk
from tiny_study import DATASET, plan_in, train_in

from graphnn_unet.data import preprocess
from graphnn_unet.data.raw_changes import changed_files
from graphnn_unet.errors import FaultsError
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.safe_load import read_json

CASES = ["case_00", "case_01", "case_04"]


def later(path):
    """Date a file after preprocessing, however coarse the clock of the disk is."""
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 3600))


def edit(path):
    image = sitk.ReadImage(str(path))
    image[3, 3, 3] = 2 if image[3, 3, 3] != 2 else 1
    sitk.WriteImage(image, str(path))
    later(path)


def changed_in(home, cases=CASES):
    raw, preprocessed = home / "raw" / DATASET, home / "preprocessed" / DATASET
    return changed_files(raw, preprocessed, "gnnunetPlans_3d_fullres", cases)


def test_only_other_content_counts(tiny_copy):
    raw = tiny_copy / "raw" / DATASET
    assert changed_in(tiny_copy) == []
    later(raw / "imagesTr" / "case_00_0000.nii.gz")  # the same bytes, copied anew
    assert changed_in(tiny_copy) == []
    edit(raw / "labelsTr" / "case_01.nii.gz")
    (raw / "imagesUn" / "case_04_0000.nii.gz").unlink()
    edit(raw / "labelsTr" / "case_02.nii.gz")  # not of this run
    assert changed_in(tiny_copy) == ["imagesUn/case_04_0000.nii.gz", "labelsTr/case_01.nii.gz"]


def test_a_check_that_fails_hides_no_edit(tiny_copy):
    raw = tiny_copy / "raw" / DATASET
    edit(raw / "labelsTr" / "case_01.nii.gz")
    (raw / "imagesTr" / "case_02_0000.nii.gz").write_bytes(b"cut")
    with pytest.raises(FaultsError, match="case_02"):
        plan_in(tiny_copy)
    assert changed_in(tiny_copy) == ["labelsTr/case_01.nii.gz"]


@pytest.mark.parametrize("is_former", [False, True])
def test_an_edit_with_an_older_date_is_told(tiny_copy, is_former):
    """As ``cp -p``, ``rsync -a`` and ``unzip`` leave it; former manifests know no dates."""
    path = tiny_copy / "raw" / DATASET / "labelsTr" / "case_01.nii.gz"
    manifest = tiny_copy / "preprocessed" / DATASET / "gnnunetPlans_3d_fullres.manifest.json"
    edit(path)
    os.utime(path, (0, 0))
    if is_former:
        content = read_json(manifest)
        for entry in content["cases"].values():
            del entry["stamps"]
        write_json(manifest, content)
    assert changed_in(tiny_copy) == ([] if is_former else ["labelsTr/case_01.nii.gz"])
    os.utime(path, (4e9, 4e9))
    assert changed_in(tiny_copy) == ["labelsTr/case_01.nii.gz"]


def test_an_edit_while_cases_are_preprocessed_is_told(tiny_copy, monkeypatch):
    path = tiny_copy / "raw" / DATASET / "labelsTr" / "case_01.nii.gz"
    edit(tiny_copy / "raw" / DATASET / "labelsTr" / "case_00.nii.gz")
    work = preprocess._preprocess_case

    def slow(job):
        work(job)
        image = sitk.ReadImage(str(path))
        image[3, 3, 4] = 2 if image[3, 3, 4] != 2 else 1
        sitk.WriteImage(image, str(path))

    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "_preprocess_case", slow)
        plan_in(tiny_copy)
    assert changed_in(tiny_copy) == ["labelsTr/case_01.nii.gz"]


def test_without_raw_files_nothing_can_be_told(tiny_copy):
    shutil.rmtree(tiny_copy / "raw")
    assert changed_in(tiny_copy) == []


@pytest.mark.parametrize("is_edited", [True, False])
def test_a_training_says_what_it_does_not_see(tiny_copy, capsys, is_edited):
    if is_edited:
        edit(tiny_copy / "raw" / DATASET / "labelsTr" / "case_03.nii.gz")
    train_in(tiny_copy, "SupervisedTrainer")
    words = "warning: labelsTr/case_03.nii.gz changed after preprocessing"
    assert (words in capsys.readouterr().err) == is_edited
