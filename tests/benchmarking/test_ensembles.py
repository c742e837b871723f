"""Pairs of methods are scored on the patients that their folds hold out."""

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_study import DATASET, use_home

from graphnn_unet.benchmarking import choose as module
from graphnn_unet.benchmarking.choose import choose
from graphnn_unet.benchmarking.one_run import MEMBER, Job, RunResult
from graphnn_unet.data.splits import make_splits
from graphnn_unet.storage.checkpoints import FINAL

TRAINERS = ["SupervisedTrainer", "BCPTrainer"]
OPTIONS = {"trainers": TRAINERS, "configurations": ["3d_fullres"], "device": "cpu"}


@pytest.fixture
def scored(tiny_copy, trained_home, monkeypatch):
    """Folds that score alike; each method knows half of the voxels, so both know them all."""
    began: list[Job] = []
    folds = make_splits({f"case_{number:02d}": f"case_{number:02d}" for number in range(4)})
    truths = tiny_copy / "preprocessed" / DATASET / "gt_segmentations"

    def carry_out(job: Job) -> RunResult:
        began.append(job)
        for name in ("plans.json", "dataset.json"):
            job.model.mkdir(parents=True, exist_ok=True)
            model = (
                trained_home / "results" / DATASET / "SupervisedTrainer__gnnunetPlans__3d_fullres"
            )
            (job.model / name).write_bytes((model / name).read_bytes())
        job.fold.mkdir(parents=True, exist_ok=True)
        (job.fold / FINAL).write_text(job.spec["trainer"])
        (case,) = folds[job.spec["fold"]]["val"]
        job.predictions.mkdir(parents=True)
        header = "case,class,dice,jaccard,hd95,asd,distance_unit,missed,invented,protocol"
        (job.predictions / "metrics.csv").write_text(
            f"{header}\n{case},core,0.6,0.4,1,1,mm,0,0,honest\n"
        )
        image = sitk.ReadImage(str(truths / f"{case}.nii.gz"))
        label = sitk.GetArrayFromImage(image).astype(int)
        sitk.WriteImage(image, str(job.predictions / f"{case}.nii.gz"))
        if job.part == MEMBER:
            assert job.cases == (case,)
            assert job.predict == {"folds": [job.spec["fold"]], "save_probabilities": True}
            known = np.arange(label.size).reshape(label.shape) % 2 == (
                job.spec["trainer"] == TRAINERS[0]
            )
            right = np.eye(3, dtype=np.float32)[label].transpose(3, 0, 1, 2)
            wrong = np.eye(3, dtype=np.float32)[(label + 1) % 3].transpose(3, 0, 1, 2)
            said = np.where(known, right, 0.4 * right + 0.6 * wrong)
            np.savez(job.predictions / f"{case}.npz", probabilities=said)
        return RunResult(0, minutes=1.0)

    monkeypatch.setattr("graphnn_unet.benchmarking.run.carry_out", carry_out)
    monkeypatch.setattr(module, "MIN_PATIENTS", 3)
    monkeypatch.setattr(module, "_require_its_data", lambda *_: None)
    return tiny_copy, began


def test_an_average_that_is_better_becomes_the_choice(scored, monkeypatch):
    home, began = scored
    use_home(home, monkeypatch)
    result = choose(DATASET, ensembles=True, **OPTIONS)
    names = [candidate.name for candidate in result.candidates]
    assert names[-1] == "SupervisedTrainer 3d_fullres + BCPTrainer 3d_fullres"
    assert result.candidates[-1].mean == pytest.approx(1.0)
    assert [path.name for path in result.choice.models] == [
        f"{trainer}__gnnunetPlans__3d_fullres" for trainer in TRAINERS
    ]
    assert any("+" in step.name and step.taken for step in result.steps)
    assert len(began) == 16, "four folds of two methods: trained, then predicted"
    folder = home / "results" / DATASET / "choose"
    assert not list(folder.rglob("*.npz")), "probabilities are large and gone"
    choose(DATASET, ensembles=True, **OPTIONS)
    assert len(began) == 16, "nothing is done twice"
    assert len(choose(DATASET, **OPTIONS).choice.models) == 1


def test_models_that_were_trained_anew_are_averaged_anew(scored, monkeypatch):
    home, began = scored
    use_home(home, monkeypatch)
    choose(DATASET, ensembles=True, **OPTIONS)
    results = home / "results" / DATASET
    (scores,) = (results / "choose" / "ensembles").rglob("metrics.csv")
    scores.write_text(scores.read_text().replace("case_00", "old_case"))
    (results / "BCPTrainer__gnnunetPlans__3d_fullres" / "fold_0" / FINAL).write_text("another")
    result = choose(DATASET, ensembles=True, **OPTIONS)
    assert len(began) == 24, "eight folds predict again"
    assert "old_case" not in result.candidates[-1].dice


def test_budget_keeps_ensembles_for_the_next_call(scored, monkeypatch):
    home, began = scored
    use_home(home, monkeypatch)
    choose(DATASET, **OPTIONS)
    assert len(began) == 8
    result = choose(DATASET, ensembles=True, budget_hours=1 / 3600, **OPTIONS)
    assert (result.choice, result.n_left) == (None, 7)
    assert choose(DATASET, ensembles=True, **OPTIONS).choice is not None
