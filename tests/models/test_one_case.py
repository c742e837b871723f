"""Whole cases that workers predict from the files of image and model: as this process does."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from models.small_models import GOOD, label_maps, same_maps, write_good_images
from tiny_study import write_image
from worker_jobs import run_as_worker

from graphnn_unet import predict
from graphnn_unet.errors import CasesFailedError, FaultsError
from graphnn_unet.models import one_case
from graphnn_unet.storage.processes import jobs_run_by
from graphnn_unet.storage.safe_load import read_json


def records(folder: Path) -> dict:
    """What was noted, without the time."""
    content = read_json(folder / "prediction.json")
    for entry in content["cases"].values():
        entry.pop("when")
    return content


def test_cases_predicted_elsewhere_are_the_same(model, images, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    folder = shutil.copytree(images, tmp_path / "in")
    (folder / "cut_0000.nii.gz").write_bytes((folder / "b_0000.nii.gz").read_bytes()[:99])
    options = {"model": model, "device": "cpu", "save_probabilities": True}
    with pytest.raises(CasesFailedError) as local:
        predict(folder, here, **options)
    loads = []
    load = one_case.load_predictor
    monkeypatch.setattr(
        one_case, "load_predictor", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    with jobs_run_by(run_as_worker), pytest.raises(CasesFailedError) as elsewhere:
        predict(folder, there, **options)
    assert len(loads) == 2  # this process asks what the model needs; the worker reads it once
    assert [f.line for f in elsewhere.value.faults] == [f.line for f in local.value.faults]
    assert same_maps(label_maps(there), label_maps(here))
    assert records(there) == records(here)
    for name in ("volumes.csv", "failures.csv"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert (there / "b.npz").is_file()
    (folder / "cut_0000.nii.gz").unlink()
    kept = predict(folder, there, **options, continue_prediction=True)
    assert kept.predicted == []
    assert kept.kept == sorted(GOOD)


def test_case_that_a_worker_cannot_predict_fails_alone(model, tmp_path):
    folder = write_good_images(tmp_path / "in")
    with jobs_run_by(run_as_worker), pytest.raises(FaultsError) as caught:
        predict(folder, tmp_path / "out", model=model, device="cpu", memory_budget_gb=1e-6)
    assert len(caught.value.faults) == len(GOOD)
    assert "the budget is 1e-06 GB" in caught.value.lines[0]
    write_image(folder / "flat_0000.nii.gz", np.zeros((4, 5)), spacing=(1.0, 1.0))
    with jobs_run_by(run_as_worker), pytest.raises(CasesFailedError) as caught:
        predict(folder, tmp_path / "out", model=model, device="cpu")
    assert [fault.case for fault in caught.value.faults] == ["flat"]
