"""Cross-validation says what helps, or that it cannot be told; predict takes the choice."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_study import DATASET, use_home

from graphnn_unet.benchmarking import choose as module
from graphnn_unet.benchmarking.choose import MIN_PATIENTS, Candidate, choose
from graphnn_unet.benchmarking.one_run import Job, RunResult
from graphnn_unet.errors import CasesFailedError, InputError, MissingFileError
from graphnn_unet.images.components import keep_largest_components
from graphnn_unet.models.choice import Choice, read_choice
from graphnn_unet.models.predict import predict


def candidates(*gains: float, n_cases: int = 12, seed: int = 0) -> list[Candidate]:
    """Methods that are better than the first one by about so much."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.6, 0.9, n_cases)
    rows = [base, *(base + gain + rng.normal(0, 0.01, n_cases) for gain in gains)]
    return [
        Candidate(
            f"method {number}",
            (f"model_{number}",),
            {case: {"organ": value} for case, value in enumerate(row)},
        )
        for number, row in enumerate(rows)
    ]


def test_a_later_method_is_taken_where_it_is_better_beyond_doubt():
    best, steps = module._compared(candidates(0.05, 0.001, 0.1), {})
    assert best.name == "method 3"
    assert [step.taken for step in steps] == [True, False, True]
    assert [step.against for step in steps] == ["method 0", "method 1", "method 1"]
    best, steps = module._compared(candidates(-0.05), {})
    assert best.name == "method 0"
    assert steps[0].sentence.endswith("12 patients: worse")


def test_with_few_patients_the_simplest_one_is_taken_and_that_is_said():
    best, (step,) = module._compared(candidates(0.2, n_cases=MIN_PATIENTS - 1), {})
    assert best.name == "method 0"
    assert f"{MIN_PATIENTS - 1} patients are too few to tell" in step.sentence
    best, _ = module._compared(candidates(0.2, n_cases=MIN_PATIENTS), {})
    assert best.name == "method 1"


def test_scans_of_a_patient_are_one_patient():
    patient_of = {case: f"p{case % 2}" for case in range(12)}
    best, (step,) = module._compared(candidates(0.2), patient_of)
    assert (best.name, step.n_patients) == ("method 0", 2)


@pytest.fixture
def scored(tiny_copy, monkeypatch):
    """Trainings that leave a table and label maps; Dice by trainer."""
    dice = {"SupervisedTrainer": 0.6, "BCPTrainer": 0.8}
    began: list[str] = []

    def carry_out(job: Job) -> RunResult:
        began.append(job.name)
        value = dice[job.spec["trainer"]]
        if value is None:
            return RunResult(2, "no room")
        job.predictions.mkdir(parents=True)
        case = f"case_{job.spec['fold']:02d}"
        header = "case,class,dice,jaccard,hd95,asd,distance_unit,missed,invented,protocol"
        (job.predictions / "metrics.csv").write_text(
            f"{header}\n{case},core,{value},0.4,1,1,mm,0,0,honest\n"
        )
        truth = tiny_copy / "preprocessed" / DATASET / "gt_segmentations" / f"{case}.nii.gz"
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(truth)))
        label[0, 0, :2] = 1  # a second component
        sitk.WriteImage(sitk.GetImageFromArray(label), str(job.predictions / f"{case}.nii.gz"))
        return RunResult(0, minutes=1.0)

    monkeypatch.setattr("graphnn_unet.benchmarking.run.carry_out", carry_out)
    monkeypatch.setattr(module, "MIN_PATIENTS", 3)
    return dice, began


TRAINERS = ["SupervisedTrainer", "BCPTrainer"]


def test_the_choice_is_written_and_folds_are_trained_once(tiny_copy, scored):
    _, began = scored
    result = choose(DATASET, trainers=TRAINERS, configurations=["3d_fullres"], device="cpu")
    assert len(began) == len(set(began)) == 8
    assert [round(c.mean, 3) for c in result.candidates] == [0.6, 0.8]
    assert result.choice.models[0].name == "BCPTrainer__gnnunetPlans__3d_fullres"
    assert result.choice.largest_component == ("shell",), "the piece that was added is dropped"
    results = tiny_copy / "results" / DATASET
    result.choice.models[0].mkdir(exist_ok=True)
    assert read_choice(results) == result.choice
    choose(DATASET, trainers=TRAINERS, configurations=["3d_fullres"], device="cpu")
    assert len(began) == 8


def test_folds_of_other_data_are_not_compared_with_new_ones(tiny_copy, scored):
    options = {"trainers": TRAINERS, "configurations": ["3d_fullres"], "device": "cpu"}
    choose(DATASET, **options)
    cases = {f"case_{number:02d}": "0" for number in range(4)}
    for fold in (tiny_copy / "results" / DATASET).glob("BCP*/fold_*"):
        state = {"network_weights": {}, "gnnunet": {"content": cases}}
        torch.save(state, fold / "checkpoint_final.pth")
    with pytest.raises(InputError, match=r"trained on other data: case_0.*Move .*BCPTrainer"):
        choose(DATASET, **options)


def test_a_failed_training_chooses_nothing(tiny_copy, scored):
    dice, _ = scored
    dice["BCPTrainer"] = None
    with pytest.raises(CasesFailedError, match="no room"):
        choose(DATASET, trainers=TRAINERS, configurations=["3d_fullres"], device="cpu")
    assert not (tiny_copy / "results" / DATASET / "choice.json").exists()


def test_budget_leaves_trainings_for_the_next_call(tiny_copy, scored):
    options = {"trainers": TRAINERS, "configurations": ["3d_fullres"], "device": "cpu"}
    result = choose(DATASET, **options, budget_hours=1 / 3600)
    assert result.n_left == 7
    assert result.choice is None
    assert choose(DATASET, **options).choice is not None


def test_one_patient_is_refused(tiny_copy, scored):
    path = tiny_copy / "preprocessed" / DATASET / "gnnunet.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "patients": dict.fromkeys(facts["patients"], "eve")}))
    with pytest.raises(InputError, match="nothing can be compared"):
        choose(DATASET, trainers=TRAINERS, configurations=["3d_fullres"], device="cpu")


def test_predict_takes_the_choice_and_cleans_its_classes(
    trained_home, tmp_path, monkeypatch, capsys
):
    home = tmp_path / "chosen"
    shutil.copytree(trained_home, home)
    use_home(home, monkeypatch)
    results, images = home / "results" / DATASET, home / "raw" / DATASET / "imagesTs"
    model = results / "BCPTrainer__gnnunetPlans__3d_fullres"
    options = {"device": "cpu", "mirroring": False}
    with pytest.raises(InputError, match="several models"):
        predict(images, tmp_path / "none", dataset=DATASET, **options)
    predict(images, tmp_path / "plain", model=model, **options)
    Choice((model,), ("shell", "core")).write(results)
    predict(images, tmp_path / "chosen_maps", dataset=DATASET, **options)
    assert "chosen by gnnunet_choose" in capsys.readouterr().err
    for path in sorted((tmp_path / "plain").glob("*.nii.gz")):
        plain = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        cleaned = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "chosen_maps" / path.name)))
        assert np.array_equal(cleaned, keep_largest_components(plain, [1, 2]))
    record = json.loads((tmp_path / "chosen_maps" / "prediction.json").read_text(encoding="utf-8"))
    assert "largest_component" in json.dumps(record)
    shutil.rmtree(model)
    with pytest.raises(MissingFileError, match="chooses is missing"):
        predict(images, tmp_path / "gone", dataset=DATASET, **options)


def test_a_choice_that_names_a_path_is_refused(tmp_path):
    (tmp_path / "choice.json").write_text(
        json.dumps(
            {"schema_version": 1, "model": "../../x", "largest_component": [], "reasons": []}
        )
    )
    with pytest.raises(InputError, match=r"choice\.json"):
        read_choice(tmp_path)


NAN = float("nan")


def test_inventing_a_structure_costs_on_healthy_patients():
    """Slightly better on the ill, and a lesion in every healthy one."""
    ill, healthy = [f"ill_{n}" for n in range(8)], [f"healthy_{n}" for n in range(8)]
    careful = {case: {"lesion": 0.8} for case in ill} | {case: {"lesion": NAN} for case in healthy}
    eager = {case: {"lesion": 0.805} for case in ill} | {case: {"lesion": 0.0} for case in healthy}
    best, (step,) = module._compared(
        [Candidate("careful", ("a",), careful), Candidate("eager", ("b",), eager)], {}
    )
    assert best.name == "careful"
    assert step.n_patients == 16
    assert step.mean == pytest.approx((8 * 0.005 - 8) / 16)
    nothing = {case: {"lesion": NAN} for case in healthy}
    both = [Candidate("a", ("a",), nothing), Candidate("b", ("b",), nothing)]
    assert not module._compared(both, {})[1][0].taken


def test_pieces_in_slices_that_nobody_drew_decide_nothing(tmp_path):
    truth, said = np.zeros((8, 6, 6), np.uint8), np.zeros((8, 6, 6), np.uint8)
    truth[0:2, 1:5, 1:5] = said[0:2, 1:5, 1:5] = said[6:8, 1:4, 1:4] = 1
    truth[3:] = 2  # ignore
    for place, array in (("gt_segmentations", truth), ("said", said)):
        (tmp_path / place).mkdir()
        for number in range(8):
            image = sitk.GetImageFromArray(array)
            sitk.WriteImage(image, str(tmp_path / place / f"c{number}.nii.gz"))
    description = {"labels": {"background": 0, "spot": 1, "ignore": 2}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dice = {f"c{number}": {"spot": 1.0} for number in range(8)}
    best = Candidate("one", ("a",), dice, (tmp_path / "said",))
    taken, (step,) = module._single_components(best, tmp_path, {})
    assert (taken, step.mean) == ((), 0.0)
    (tmp_path / "said" / "c3.nii.gz").unlink()
    with pytest.raises(MissingFileError, match=r"one has no label map c3\.nii\.gz"):
        module._single_components(best, tmp_path, {})
