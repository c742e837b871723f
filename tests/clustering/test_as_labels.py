"""Clusters as the labels of a raw data set."""

import json
import sys

import numpy as np
import pytest
from pictures import QUICK, blob, read
from PIL import Image
from tiny_study import use_home

import graphnn_unet
from graphnn_unet.commands.cluster import main
from graphnn_unet.errors import RefusedError


def test_pseudo_labels_are_a_raw_data_set(folder, tmp_path):
    result = graphnn_unet.cluster(folder, tmp_path / "out", as_labels="Discs", **QUICK)
    raw = tmp_path / "home" / "raw" / "Dataset501_Discs"
    assert result.dataset == raw
    about = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    assert (about["numTraining"], len(about["channel_names"])) == (3, 3)
    assert about["labels"] == {"background": 0, "cluster_1": 1}
    assert about["file_ending"] == ".png"
    label = np.asarray(Image.open(raw / "labelsTr" / "p1.png"))
    assert (label == read(tmp_path / "out" / "p1.png")).all()
    assert (np.asarray(Image.open(raw / "imagesTr" / "p1_0000.png")) == blob(seed=1)[0]).all()
    with pytest.raises(RefusedError, match=r"Dataset501_Discs exists: .* with --as-labels"):
        graphnn_unet.cluster(folder, tmp_path / "other", as_labels="Discs", **QUICK)
    assert not (tmp_path / "other").exists()


def test_a_name_that_is_taken_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    home = use_home(tmp_path / "home", monkeypatch)
    (home / "raw" / "Dataset501_Discs").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "graphnn_unet.clustering.cluster", None)
    call = ["-i", str(tmp_path / "none"), "-o", str(tmp_path / "out"), "--as-labels", "Discs"]
    assert main(call) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {home / 'raw' / 'Dataset501_Discs'} exists:")
    assert not (tmp_path / "out").exists()
