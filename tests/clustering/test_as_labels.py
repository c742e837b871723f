"""Clusters as the labels of a raw data set."""

import json

import pytest
import SimpleITK as sitk
from pictures import QUICK, blob, read

import graphnn_unet
from graphnn_unet.errors import RefusedError


def test_pseudo_labels_are_a_raw_data_set(folder, tmp_path):
    result = graphnn_unet.cluster(folder, tmp_path / "out", as_labels="Discs", **QUICK)
    raw = tmp_path / "home" / "raw" / "Dataset501_Discs"
    assert result.dataset == raw
    about = json.loads((raw / "dataset.json").read_text())
    assert (about["numTraining"], len(about["channel_names"])) == (3, 3)
    assert about["labels"] == {"background": 0, "cluster_1": 1}
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / "p1.nii.gz")))
    assert (label[0] == read(tmp_path / "out" / "p1.png")).all()
    red = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "imagesTr" / "p1_0000.nii.gz")))
    assert (red[0] == blob(seed=1)[0][..., 0]).all()
    with pytest.raises(RefusedError):
        graphnn_unet.cluster(folder, tmp_path / "other", as_labels="Discs", **QUICK)
    assert not (tmp_path / "other").exists()
