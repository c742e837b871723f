"""Several models: one label map of their averaged probabilities, whatever stops the command."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_study import DATASET, use_home

from graphnn_unet.errors import CasesFailedError, InputError
from graphnn_unet.models import ensemble as module
from graphnn_unet.models.ensemble import MEMBERS, MergeJob, merge_case
from graphnn_unet.models.predict import predict
from graphnn_unet.models.predict_cases import CaseByCase
from graphnn_unet.prediction.write_case import Outputs

OPTIONS = {"device": "cpu", "mirroring": False}


@pytest.fixture
def models(trained_home, monkeypatch):
    """Two models and images to predict."""
    use_home(trained_home, monkeypatch)
    results = trained_home / "results" / DATASET
    names = ("SupervisedTrainer", "GraphCLTrainer")
    return [results / f"{name}__gnnunetPlans__3d_fullres" for name in names], (
        trained_home / "raw" / DATASET / "imagesTs"
    )


def arrays(folder) -> dict[str, np.ndarray]:
    return {
        path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        for path in sorted(folder.glob("*.nii.gz"))
    }


def test_models_are_averaged_as_nnunet_averages(models, tmp_path):
    folders, images = models
    predict(images, tmp_path / "both", model=folders, save_probabilities=True, uncertainty=True,
            **OPTIONS)  # fmt: skip
    for number, folder in enumerate(folders):
        predict(images, tmp_path / str(number), model=folder, save_probabilities=True, **OPTIONS)
    merged = arrays(tmp_path / "both")
    assert merged
    changed = 0
    for name in arrays(tmp_path / "0"):
        archives = [tmp_path / str(n) / name.replace(".nii.gz", ".npz") for n in range(2)]
        alone = [np.load(path)["probabilities"] for path in archives]
        mean = (alone[0] + alone[1]) / 2
        assert np.array_equal(merged[name], mean.argmax(0))
        changed += (merged[name] != alone[0].argmax(0)).any()
        saved = np.load(tmp_path / "both" / archives[0].name)["probabilities"]
        assert np.array_equal(saved, mean)
        entropy = merged[name.replace(".nii.gz", "_uncertainty.nii.gz")]
        assert np.allclose(
            entropy, -(mean * np.log(mean + 1e-30)).sum(0) / np.log(len(mean)), atol=1e-5
        )
        image, label = (
            sitk.ReadImage(str(folder / name)) for folder in (tmp_path / "0", tmp_path / "both")
        )
        assert label.GetDirection() == image.GetDirection()
        assert label.GetSpacing() == image.GetSpacing()
    assert changed, "the second model had a say"
    record = json.loads((tmp_path / "both" / "prediction.json").read_text(encoding="utf-8"))
    assert set(record["cases"]) == {name.removesuffix(".nii.gz") for name in arrays(tmp_path / "0")}
    volumes = (tmp_path / "both" / "volumes.csv").read_text(encoding="utf-8")
    assert volumes.count("core") == len(record["cases"])
    assert not list((tmp_path / "both").glob(f"{MEMBERS}*"))


def test_an_edited_average_is_moved_aside(models, tmp_path):
    folders, images = models
    predict(images, tmp_path, model=folders, **OPTIONS)
    path = min(tmp_path.glob("*.nii.gz"))
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image * 0 + 1, str(path), True)
    content = path.read_bytes()
    predict(images, tmp_path, model=folders, **OPTIONS)
    assert [p.name for p in (tmp_path / "set_aside").iterdir()] == [path.name]
    assert (tmp_path / "set_aside" / path.name).read_bytes() == content


def test_a_turned_image_gets_the_same_label_map(models, tmp_path):
    folders, images = models
    source = next(iter(sorted(images.glob("*.nii.gz"))))
    upright, turned = tmp_path / "upright", tmp_path / "turned"
    for folder, axes in ((upright, "LPS"), (turned, "PIR")):
        folder.mkdir()
        sitk.WriteImage(
            sitk.DICOMOrient(sitk.ReadImage(str(source)), axes), str(folder / source.name)
        )
        predict(folder, folder / "out", model=folders, **OPTIONS)
    straight, back = (
        sitk.GetArrayFromImage(
            sitk.DICOMOrient(sitk.ReadImage(str(next((f / "out").glob("*.nii.gz")))), "LPS")
        )
        for f in (upright, turned)
    )
    assert np.array_equal(straight, back)


def test_stopped_between_the_models_goes_on(models, tmp_path, monkeypatch, capsys):
    folders, images = models
    predict(images, tmp_path / "whole", model=folders, **OPTIONS)
    run = CaseByCase.run
    calls = []

    def stopped(work, cases):
        calls.append(len(cases))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(work, cases)

    monkeypatch.setattr(CaseByCase, "run", stopped)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt, match=f"{out} are whole.*--continue_prediction"):
        predict(images, out, model=folders, **OPTIONS)
    assert not list(out.glob("*.nii.gz"))
    predict(images, out, model=folders, continue_prediction=True, **OPTIONS)
    assert calls[2] == 0, "the first model had done its part"
    whole, resumed = arrays(tmp_path / "whole"), arrays(out)
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    n_calls = len(calls)
    predict(images, out, model=folders, continue_prediction=True, **OPTIONS)
    assert len(calls) == n_calls, "all label maps are there"
    predict(images, out, model=folders[:1], continue_prediction=True, **OPTIONS)
    assert "of another model or other options" in capsys.readouterr().err


def test_models_of_other_classes_are_refused(models, tmp_path):
    folders, images = models
    other = tmp_path / "other"
    shutil.copytree(folders[1], other)
    description = json.loads((other / "dataset.json").read_text(encoding="utf-8"))
    description["labels"] = {"background": 0, "core": 1, "rim": 2}
    (other / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"cannot be averaged.*labels"):
        predict(images, tmp_path / "out", model=[folders[0], other], **OPTIONS)


def test_largest_component_is_taken_of_the_average(models, tmp_path):
    folders, images = models
    for number, folder in enumerate(folders):
        predict(images, tmp_path / str(number), model=folder, save_probabilities=True, **OPTIONS)
    case = sorted(images.glob("*_0000.nii.gz"))[0].name.removesuffix("_0000.nii.gz")
    archive = tmp_path / "0" / f"{case}.npz"
    probabilities = np.load(archive)["probabilities"]
    probabilities[:] = 0
    probabilities[0] = 0.9
    probabilities[1, :2, :2, :2] = 3
    probabilities[1, -1, -1, -1] = 3
    for number in range(2):
        np.savez(tmp_path / str(number) / f"{case}.npz", probabilities=probabilities)
    plans, description = (
        json.loads((folders[0] / name).read_text(encoding="utf-8"))
        for name in ("plans.json", "dataset.json")
    )
    first = next(name for name, number in description["labels"].items() if number == 1)
    description["original_labels"] = {**description["labels"], first: 7}
    job = MergeJob(case, (tmp_path / "0", tmp_path / "1"), tmp_path / "out", plans, description,
                   Outputs(".nii.gz"))  # fmt: skip
    both = merge_case(job)
    cleaned = merge_case(replace(job, outputs=Outputs(".nii.gz", largest_component=(1,))))
    assert both[first][0] == 9
    assert cleaned[first][0] == 8
    assert set(np.unique(arrays(tmp_path / "out")[f"{case}.nii.gz"])) == {0, 7}


def test_shapes_that_differ_are_refused(tmp_path):
    for number, shape in enumerate([(2, 1, 3, 3), (2, 1, 4, 3)]):
        (tmp_path / str(number)).mkdir()
        np.savez(tmp_path / str(number) / "a.npz", probabilities=np.zeros(shape, np.float32))
    paths = [tmp_path / str(number) / "a.npz" for number in range(2)]
    with pytest.raises(InputError, match="do not fit"):
        module._mean([module._probabilities(path) for path in paths], "a")


def test_a_case_that_fails_leaves_no_older_map(models, tmp_path, capsys):
    folders, images = models
    scans = shutil.copytree(images, tmp_path / "in")
    predict(scans, tmp_path / "out", model=folders[0], **OPTIONS)
    maps = arrays(tmp_path / "out")
    assert {array.dtype for array in maps.values()} == {np.dtype(np.uint8)}
    first = min(scans.glob("*_0000.nii.gz"))
    first.write_bytes(first.read_bytes()[:-200])
    with pytest.raises(CasesFailedError):
        predict(scans, tmp_path / "out", model=folders, **OPTIONS)
    name = first.name.replace("_0000", "")
    left = arrays(tmp_path / "out")
    assert left.keys() == maps.keys() - {name}
    assert {array.dtype for array in left.values()} == {np.dtype(np.uint8)}
    assert [path.name for path in (tmp_path / "out" / "set_aside").iterdir()] == [name]
    assert name.removesuffix(".nii.gz") not in (tmp_path / "out" / "volumes.csv").read_text(
        encoding="utf-8"
    )
