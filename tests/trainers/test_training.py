"""Trainings of a few steps on the tiny data set: what they leave, repeat and refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_study import (
    DATASET,
    ball_case,
    model_of,
    plan_in,
    train_in,
    use_home,
    write_image,
    write_raw_dataset,
)
from trainers.small_trainers import make_trainer

from graphnn_unet.errors import InputError, MissingFileError, RecipeError, RefusedError
from graphnn_unet.storage import checkpoints
from graphnn_unet.storage.checkpoints import FINAL, LATEST, PREVIOUS
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers import BCPTrainer, SupervisedTrainer, run
from graphnn_unet.trainers.semi import SemiTrainer

TRAINERS = ["SupervisedTrainer", "BCPTrainer", "GraphCLTrainer"]
BASELINES = ["MeanTeacherTrainer", "UncertaintyMeanTeacherTrainer", "PseudoLabelTrainer",
             "FilterMatchTrainer"]  # fmt: skip
SLOW = pytest.mark.slow


def _weights(model, fold="all", name=FINAL):
    return load_checkpoint(model / f"fold_{fold}" / name)["network_weights"]


def _equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_training_leaves_the_agreed_files(trained_home, trainer):
    model = model_of(trained_home, trainer)
    fold = model / "fold_all"
    assert {"plans.json", "dataset.json", "recipe.toml"} <= {p.name for p in model.iterdir()}
    names = {p.name for p in fold.iterdir()}
    assert {FINAL, "metrics.csv", "progress.png", "environment.json", "validation"} <= names
    assert LATEST not in names
    assert "checkpoint_best.pth" not in names  # nothing is held out with fold all
    rows = pd.read_csv(fold / "metrics.csv")
    assert rows["step"].tolist() == ([2, 4, 6] if trainer == "SupervisedTrainer" else [2, 3, 4, 6])
    assert np.isfinite(rows["loss"]).all()
    summary = json.loads((fold / "validation" / "summary.json").read_text(encoding="utf-8"))
    assert summary["is_estimate"] is False
    assert len(list((fold / "validation").glob("case_*.nii.gz"))) == 4


def test_checkpoint_holds_plain_values_and_what_stock_nnunet_reads(trained_home):
    state = load_checkpoint(model_of(trained_home, "GraphCLTrainer") / "fold_all" / FINAL)
    assert state["trainer_name"] == "GraphCLTrainer"
    assert state["init_args"]["configuration"] == "3d_fullres"
    assert tuple(state["inference_allowed_mirroring_axes"]) == (0, 1, 2)
    assert not any(key.startswith("cluster") for key in state["network_weights"])
    assert set(state["gnnunet"]["heads"]) == {"cluster_head"}
    assert state["gnnunet"]["teacher"]["updates"] == 3


def test_teacher_differs_from_student_after_self_training(trained_home):
    state = load_checkpoint(model_of(trained_home, "BCPTrainer") / "fold_all" / FINAL)
    assert not _equal(state["network_weights"], state["gnnunet"]["teacher"]["weights"])


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(
    trained_home, tiny_copy, workers
):
    again = train_in(tiny_copy, "GraphCLTrainer", n_loader_workers=workers)
    assert _equal(_weights(again.model), _weights(model_of(trained_home, "GraphCLTrainer")))


def test_another_seed_gives_other_weights(trained_home, tiny_copy):
    other = train_in(tiny_copy, "SupervisedTrainer", seed=1)
    assert other.model.name.endswith("__seed1")
    assert not _equal(_weights(other.model), _weights(model_of(trained_home, "SupervisedTrainer")))


@pytest.mark.parametrize("stop_after", [2, 3, 5])
def test_continued_training_equals_the_uninterrupted_one(
    trained_home, tiny_copy, monkeypatch, stop_after
):
    """Stops inside pre-training, at the change of phase, and inside self-training."""
    from graphnn_unet.trainers import semi

    class Stop:
        def __init__(self):
            self.asked = 0

        def is_set(self):
            self.asked += 1
            return self.asked == stop_after

    monkeypatch.setattr(semi, "stop_requests", lambda: _context(Stop()))
    with pytest.raises(KeyboardInterrupt, match="--c"):
        train_in(tiny_copy, "GraphCLTrainer")
    model = model_of(tiny_copy, "GraphCLTrainer")
    assert load_checkpoint(model / "fold_all" / LATEST)["gnnunet"]["step"] == stop_after
    monkeypatch.undo()
    use_home(tiny_copy, monkeypatch)
    train_in(tiny_copy, "GraphCLTrainer", mode="continue")
    expected = model_of(trained_home, "GraphCLTrainer")
    assert _equal(_weights(model), _weights(expected))
    ours = load_checkpoint(model / "fold_all" / FINAL)["gnnunet"]
    theirs = load_checkpoint(expected / "fold_all" / FINAL)["gnnunet"]
    assert _equal(ours["teacher"]["weights"], theirs["teacher"]["weights"])
    assert _equal(ours["heads"]["cluster_head"], theirs["heads"]["cluster_head"])
    mine, reference = (
        pd.read_csv(m / "fold_all" / "metrics.csv").drop(columns="loader_wait_s")
        for m in (model, expected)
    )
    pd.testing.assert_frame_equal(mine, reference)


def _context(value):
    from contextlib import nullcontext

    return nullcontext(value)


def test_damaged_latest_checkpoint_falls_back_to_the_one_before(trained_home, tiny_copy, caplog):
    shutil.copytree(model_of(trained_home, "BCPTrainer"), model_of(tiny_copy, "BCPTrainer"))
    fold = model_of(tiny_copy, "BCPTrainer") / "fold_all"
    (fold / FINAL).rename(fold / "checkpoint_previous.pth")
    (fold / LATEST).write_bytes((fold / "checkpoint_previous.pth").read_bytes()[:5000])
    with caplog.at_level("WARNING"):
        train_in(tiny_copy, "BCPTrainer", mode="continue")
    assert "checkpoint_latest.pth" in caplog.text
    assert "continuing from checkpoint_previous.pth" in caplog.text


def test_a_damaged_checkpoint_takes_the_place_of_no_whole_one(
    trained_home, tiny_copy, monkeypatch, caplog
):
    """A kill at the first save after the fall back, when the latest became the one before."""
    fold = model_of(tiny_copy, "BCPTrainer") / "fold_all"
    shutil.copytree(model_of(trained_home, "BCPTrainer"), fold.parent)
    whole = load_checkpoint(fold / FINAL)
    whole["gnnunet"]["step"] = 3
    torch.save(whole, fold / PREVIOUS)
    (fold / LATEST).write_bytes((fold / FINAL).read_bytes()[:5000])
    (fold / FINAL).unlink()

    def killed(source, target):
        source.replace(target)
        if Path(target).name == PREVIOUS:
            raise SystemExit("killed")

    monkeypatch.setattr(checkpoints, "rename", killed)
    train_in(tiny_copy, "BCPTrainer", mode="continue")
    assert load_checkpoint(fold / FINAL)["gnnunet"]["step"] == 6


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [("new", RefusedError, "--restart"), ("continue", RefusedError, "finished")],
)
def test_finished_fold_is_not_trained_over(trained_home, mode, error, words):
    before = (model_of(trained_home, "BCPTrainer") / "fold_all" / FINAL).read_bytes()
    with pytest.raises(error, match=words):
        train_in(trained_home, "BCPTrainer", mode=mode)
    assert (model_of(trained_home, "BCPTrainer") / "fold_all" / FINAL).read_bytes() == before


def test_continue_without_checkpoint_is_an_error(tiny_copy):
    with pytest.raises(MissingFileError, match="nothing to continue"):
        train_in(tiny_copy, "BCPTrainer", mode="continue")


def test_restart_sets_the_old_results_aside(trained_home, tiny_copy):
    model = model_of(tiny_copy, "SupervisedTrainer")
    shutil.copytree(model_of(trained_home, "SupervisedTrainer"), model)
    train_in(tiny_copy, "SupervisedTrainer", mode="restart")
    assert (model / "fold_all.old1" / FINAL).is_file()
    assert (model / "fold_all" / FINAL).is_file()


@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_restart_that_was_stopped_goes_on(trained_home, tiny_copy, monkeypatch, killed_at):
    """While old results are moved: no old score stays beside the new training."""
    model = model_of(tiny_copy, "SupervisedTrainer")
    shutil.copytree(model_of(trained_home, "SupervisedTrainer"), model)
    n_files = len(list((model / "fold_all").iterdir()))
    moved = []

    def killed(source, target):
        source.replace(target)
        moved.append(source)
        if len(moved) == killed_at:
            raise SystemExit("killed")

    monkeypatch.setattr(run, "rename", killed)
    with pytest.raises(SystemExit):
        train_in(tiny_copy, "SupervisedTrainer", mode="restart")
    with pytest.raises(RefusedError, match="is finished"):
        train_in(tiny_copy, "SupervisedTrainer")
    monkeypatch.undo()
    use_home(tiny_copy, monkeypatch)
    train_in(tiny_copy, "SupervisedTrainer", mode="restart")
    old = [p for n in (1, 2) for p in (model / f"fold_all.old{n}").iterdir()]
    assert len(old) == n_files - 1  # the lock stays


def test_scores_of_an_earlier_training_are_gone_when_a_new_one_begins(
    trained_home, tiny_copy, monkeypatch
):
    model = model_of(tiny_copy, "SupervisedTrainer")
    shutil.copytree(model_of(trained_home, "SupervisedTrainer"), model)
    (model / "fold_all" / FINAL).unlink()  # by hand
    monkeypatch.setattr(SupervisedTrainer, "perform_actual_validation", lambda _: None)
    train_in(tiny_copy, "SupervisedTrainer")
    assert not (model / "fold_all" / "validation").exists()


def test_nnunets_own_validation_finds_its_cases(trained_home, tiny_copy, monkeypatch):
    """``nnUNetv2_train ... --val`` loads a checkpoint and validates at once."""
    fold = train_in(tiny_copy, "SupervisedTrainer", 1).model / "fold_1"
    plans = json.loads((fold.parent / "plans.json").read_text(encoding="utf-8"))
    description = json.loads((fold.parent / "dataset.json").read_text(encoding="utf-8"))
    trainer = SupervisedTrainer(plans, "3d_fullres", 1, description, torch.device("cpu"))
    trainer.output_folder = str(fold)
    summary = (fold / "validation" / "summary.json").read_bytes()
    shutil.rmtree(fold / "validation")
    trainer.load_checkpoint(str(fold / FINAL))
    trainer.perform_actual_validation(False)
    assert (fold / "validation" / "summary.json").read_bytes() == summary


def test_a_box_that_does_not_fit_is_told_before_data_are_read(tiny_home, monkeypatch):
    box = "copy_paste.box_fraction=[80,8,8]"
    monkeypatch.setattr(SemiTrainer, "prepare_data", lambda _: pytest.fail("data were read"))
    for cls in (SupervisedTrainer, BCPTrainer):
        with pytest.raises(RecipeError, match=r"\[80, 8, 8\] does not fit the patch"):
            make_trainer(cls, tiny_home, monkeypatch, box)
    with pytest.raises(pytest.fail.Exception, match="data were read"):  # no box is cut
        make_trainer(SupervisedTrainer, tiny_home, monkeypatch, box, "copy_paste.supervised=false")


def test_continuing_with_another_recipe_is_refused(trained_home, tiny_copy):
    model = model_of(tiny_copy, "BCPTrainer")
    shutil.copytree(model_of(trained_home, "BCPTrainer"), model)
    (model / "fold_all" / FINAL).rename(model / "fold_all" / LATEST)
    other = {"mode": "continue", "overrides": ["loss.unlabeled_weight=0.25"]}
    with pytest.raises(InputError, match=r"loss\.unlabeled_weight is 0\.5 there, 0\.25 here"):
        train_in(tiny_copy, "BCPTrainer", output=model, **other)
    # without --output the other recipe has a folder of its own, in which nothing was begun
    with pytest.raises(MissingFileError, match=rf"were begun: {model.name}\. Give the same"):
        train_in(tiny_copy, "BCPTrainer", **other)


def begun(trained_home, home, trainer="BCPTrainer"):
    """A training of which the last checkpoint is there to go on from."""
    model = model_of(home, trainer)
    shutil.copytree(model_of(trained_home, trainer), model)
    (model / "fold_all" / FINAL).rename(model / "fold_all" / LATEST)


def test_continuing_with_a_plan_that_was_made_anew_says_so(trained_home, tiny_copy):
    begun(trained_home, tiny_copy)
    plan_in(tiny_copy, "optimizer.lr=0.5")
    words = r"lr is .*made anew since: it was made with --set .* optimizer\.lr=0\.005\. Plan again"
    with pytest.raises(InputError, match=words):
        train_in(tiny_copy, "BCPTrainer", mode="continue")


def test_continuing_with_other_data_is_refused(trained_home, tiny_copy):
    begun(trained_home, tiny_copy)
    raw = tiny_copy / "raw" / DATASET
    shutil.copy(raw / "labelsTr" / "case_00.nii.gz", raw / "labelsTr" / "case_01.nii.gz")
    (raw / "imagesUn" / "case_05_0000.nii.gz").rename(raw / "imagesUn" / "case_09_0000.nii.gz")
    plan_in(tiny_copy)
    words = r"was trained on other data: case_01 changed, case_09 new, case_05 gone"
    with pytest.raises(InputError, match=words):
        train_in(tiny_copy, "BCPTrainer", mode="continue")


def label_case_04(home):
    """Its scan was unlabeled before; plan again."""
    raw = home / "raw" / DATASET
    name = "case_04_0000.nii.gz"
    (raw / "imagesUn" / name).rename(raw / "imagesTr" / name)
    write_image(raw / "labelsTr" / "case_04.nii.gz", ball_case(4)[1])
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    description["numTraining"] += 1
    (raw / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    plan_in(home)


def test_a_fold_that_other_data_trained_is_not_scored_again(tiny_copy):
    """With one more labeled case the folds are others, so that training cases are held out."""
    fold = train_in(tiny_copy, "SupervisedTrainer", 1).model / "fold_1"
    summary = (fold / "validation" / "summary.json").read_bytes()
    label_case_04(tiny_copy)
    with pytest.raises(InputError, match=r"trained on other data: .*case_04 changed.*--restart"):
        train_in(tiny_copy, "SupervisedTrainer", 1, mode="validate")
    assert (fold / "validation" / "summary.json").read_bytes() == summary


def test_a_finished_fold_is_scored_again(tiny_copy):
    fold = train_in(tiny_copy, "SupervisedTrainer", 1).model / "fold_1"
    summary = (fold / "validation" / "summary.json").read_bytes()
    train_in(tiny_copy, "SupervisedTrainer", 1, mode="validate")
    assert (fold / "validation" / "summary.json").read_bytes() == summary


def test_folds_of_other_data_are_not_scored_together(tiny_copy):
    model = train_in(tiny_copy, "SupervisedTrainer", "cv").model
    label_case_04(tiny_copy)
    with pytest.raises(InputError, match=r"fold_0.* was trained on other data: .*case_04"):
        train_in(tiny_copy, "SupervisedTrainer", "cv")
    for fold in range(4):  # as checkpoints of earlier versions, which do not tell their cases
        path = model / f"fold_{fold}" / FINAL
        state = torch.load(path, weights_only=True)
        del state["gnnunet"]["cases"], state["gnnunet"]["content"]
        torch.save(state, path)
    shutil.copytree(model / "fold_3", model / "fold_4")
    with pytest.raises(MissingFileError, match=r"no fold of .* has predicted case_04"):
        train_in(tiny_copy, "SupervisedTrainer", "cv")


def test_variants_by_set_do_not_collide(tiny_copy):
    plain = train_in(tiny_copy, "SupervisedTrainer")
    override = ["copy_paste.supervised=false"]
    variant = train_in(tiny_copy, "SupervisedTrainer", overrides=override)
    assert variant.model.name.startswith(f"{plain.model.name}__recipe")
    assert not _equal(_weights(plain.model), _weights(variant.model))
    with pytest.raises(RefusedError, match="is finished"):
        train_in(tiny_copy, "SupervisedTrainer", overrides=override)


def test_cross_validation_holds_each_case_out_once(tiny_copy):
    result = train_in(tiny_copy, "SupervisedTrainer", "cv")
    assert result.folds == [0, 1, 2, 3]
    seen = []
    for fold in result.folds:
        folder = result.model / f"fold_{fold}"
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        assert not set(environment["held_out"]) & set(environment["labeled"])
        assert not set(environment["held_out"]) & set(environment["unlabeled"])
        assert environment["uses_unlabeled"] is False
        seen += environment["held_out"]
        assert (folder / "checkpoint_best.pth").is_file()
        assert "val_dice_1" in pd.read_csv(folder / "metrics.csv").columns
    assert sorted(seen) == [f"case_{i:02d}" for i in range(4)]
    predictions = sorted((result.model / "fold_2" / "validation").glob("*.nii.gz"))
    assert predictions
    predictions[0].unlink()
    train_in(tiny_copy, "SupervisedTrainer", "cv", mode="validate")
    assert predictions[0].is_file()
    summary = json.loads(result.summaries[-1].read_text(encoding="utf-8"))
    assert summary["is_estimate"] is True
    assert len(summary["metric_per_case"]) == 4


@pytest.mark.parametrize("fold", [4, 7])
def test_fold_that_does_not_exist_lists_those_that_do(tiny_copy, fold):
    with pytest.raises(InputError, match="0, 1, 2, 3, all"):
        train_in(tiny_copy, "SupervisedTrainer", fold)


def test_labels_of_cases_outside_the_draw_are_never_opened(tiny_copy):
    reference = train_in(tiny_copy, "BCPTrainer", n_labeled=2)
    environment = json.loads(
        (reference.model / "fold_all" / "environment.json").read_text(encoding="utf-8")
    )
    assert environment["labeled"] == ["case_00", "case_01"]
    assert {"case_02", "case_03"} <= set(environment["unlabeled"])
    assert environment["uses_unlabeled"] is True
    folder = tiny_copy / "preprocessed" / DATASET / "gnnunetPlans_3d_fullres"
    for case in ("case_02", "case_03"):  # a reader would fail, and so would a changed size
        for name in (f"{case}_seg.b2nd", f"{case}.pkl"):
            (folder / name).write_bytes(b"x" * (folder / name).stat().st_size)
    again = train_in(tiny_copy, "BCPTrainer", n_labeled=2, mode="restart")
    assert _equal(_weights(again.model), _weights(reference.model, "all.old1"))


def test_damaged_preprocessed_case_is_named_before_training(tiny_copy):
    folder = tiny_copy / "preprocessed" / DATASET / "gnnunetPlans_3d_fullres__unlabeled"
    path = folder / "case_05.b2nd"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"1 of 7 preprocessed cases .*case_05"):
        train_in(tiny_copy, "BCPTrainer")


def test_method_that_needs_unlabeled_cases_says_so(tmp_path):
    write_raw_dataset(tmp_path / "raw", n_unlabeled=0)
    plan_in(tmp_path)
    with pytest.raises(InputError, match="needs unlabeled cases"):
        train_in(tmp_path, "BCPTrainer")


@pytest.mark.parametrize(
    "trainers", [["SupervisedTrainer", "GraphCLTrainer"], pytest.param(BASELINES, marks=SLOW)]
)
def test_regions_ignore_label_and_two_channels_train(tmp_path, trainers):
    def with_ignored(label):
        label = label.copy()
        label[:3] = 3
        return label

    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    write_raw_dataset(tmp_path / "raw", n_channels=2, labels=labels, transform_label=with_ignored)
    plan_in(tmp_path)
    for trainer in trainers:
        result = train_in(tmp_path, trainer, 0)
        rows = pd.read_csv(result.model / "fold_0" / "metrics.csv")
        assert np.isfinite(rows["loss"]).all()
        assert "val_dice_whole" in rows.columns


@pytest.mark.parametrize(
    "trainer",
    ["BCPTrainer", "GraphCLTrainer", *(pytest.param(name, marks=SLOW) for name in BASELINES)],
)
def test_2d_configuration_trains(tiny_copy, trainer):
    result = train_in(tiny_copy, trainer, configuration="2d")
    rows = pd.read_csv(result.model / "fold_all" / "metrics.csv")
    assert np.isfinite(rows["loss"]).all()
    assert len(list((result.model / "fold_all" / "validation").glob("*.nii.gz"))) == 4


def test_planning_keys_cannot_change_in_training(tiny_copy):
    with pytest.raises(InputError, match="cannot be changed in training"):
        train_in(tiny_copy, "BCPTrainer", overrides=["plan.patch_size=[8,8,8]"])


def test_users_own_trainer_file_runs(tiny_copy, tmp_path):
    path = tmp_path / "my_trainer.py"
    path.write_text(
        "from graphnn_unet.trainers import SupervisedTrainer\n"
        "class MyTrainer(SupervisedTrainer):\n"
        "    def epoch_facts(self, phase):\n"
        "        return {'mine': 42.0}\n"
    )
    result = train_in(tiny_copy, f"{path}:MyTrainer")
    assert result.model.name.startswith("MyTrainer__")
    assert set(pd.read_csv(result.model / "fold_all" / "metrics.csv")["mine"]) == {42}
    state = load_checkpoint(result.model / "fold_all" / FINAL)
    assert (state["trainer_name"], state["gnnunet"]["network"]) == (
        "MyTrainer", "planned",
    )  # fmt: skip


def test_unknown_trainer_lists_near_names(tiny_copy):
    with pytest.raises(InputError, match="GraphCLTrainer"):
        train_in(tiny_copy, "GraphClTrainer")


def test_teacher_can_be_deployed(tiny_copy):
    result = train_in(tiny_copy, "BCPTrainer", overrides=["teacher.deploy=teacher"])
    state = load_checkpoint(result.model / "fold_all" / FINAL)
    assert _equal(state["network_weights"], state["gnnunet"]["teacher"]["weights"])
    assert not _equal(state["network_weights"], state["gnnunet"]["student"])


@pytest.mark.parametrize(("stop_after", "is_teacher"), [(3, False), (4, True)])
def test_a_teacher_is_deployed_from_the_first_step_that_it_follows(
    tiny_copy, monkeypatch, stop_after, is_teacher
):
    """Before, it has the random weights that it was made with."""
    from graphnn_unet.trainers import semi

    monkeypatch.setattr(semi, "stop_requests", lambda: _context(StopAfter(stop_after)))
    model = tiny_copy / "results" / "deployed"
    with pytest.raises(KeyboardInterrupt):
        train_in(tiny_copy, "BCPTrainer", overrides=["teacher.deploy=teacher"], output=model)
    state = load_checkpoint(model / "fold_all" / LATEST)
    teacher = state["gnnunet"]["teacher"]["weights"]
    assert _equal(state["network_weights"], teacher) == is_teacher
    assert (state["gnnunet"]["student"] is None) != is_teacher


def test_diverging_training_stops_and_names_the_cases(tiny_copy, monkeypatch):
    from graphnn_unet.errors import DivergedError
    from graphnn_unet.trainers.supervised import SupervisedTrainer

    original = SupervisedTrainer.batch_loss

    def poisoned(self, batch, phase):
        loss = original(self, batch, phase)
        loss.total = loss.total * float("nan")
        return loss

    monkeypatch.setattr(SupervisedTrainer, "batch_loss", poisoned)
    with pytest.raises(DivergedError, match=r"3 steps in a row .*case_0"):
        train_in(tiny_copy, "SupervisedTrainer")
    assert not (model_of(tiny_copy, "SupervisedTrainer") / "fold_all" / FINAL).exists()


def test_best_checkpoint_of_a_continued_fold_is_that_of_the_uninterrupted_one(
    tiny_copy, monkeypatch
):
    """What was the best before the stop stays the mark to beat."""
    from graphnn_unet.trainers import semi

    scores = iter([0.9, 0.2, 0.3, 0.4, 0.5, 0.6] * 2)
    monkeypatch.setattr(semi, "score_patches", lambda *_: [next(scores)] * 2)
    steps = ["schedule.pretrain_steps=6", "schedule.selftrain_steps=6"]
    whole = train_in(tiny_copy, "SupervisedTrainer", 0, overrides=steps).model
    expected = load_checkpoint(whole / "fold_0" / "checkpoint_best.pth")
    assert expected["gnnunet"]["step"] == 2  # 0.9 was the best

    scores = iter([0.9, 0.2, 0.3, 0.4, 0.5, 0.6])
    event = StopAfter(5)
    monkeypatch.setattr(semi, "stop_requests", lambda: _context(event))
    with pytest.raises(KeyboardInterrupt):
        train_in(tiny_copy, "SupervisedTrainer", 0, overrides=steps, mode="restart")
    monkeypatch.setattr(semi, "stop_requests", lambda: _context(StopAfter(10**6)))
    train_in(tiny_copy, "SupervisedTrainer", 0, overrides=steps, mode="continue")
    best = load_checkpoint(whole / "fold_0" / "checkpoint_best.pth")
    assert best["gnnunet"]["step"] == 2
    assert best["_best_ema"] == expected["_best_ema"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_epoch_without_any_class_in_its_patches_does_not_end_the_search_for_the_best(
    tiny_copy, monkeypatch
):
    from graphnn_unet.trainers import semi

    nothing = float("nan")
    scores = iter([[nothing, nothing], [0.4, nothing], [0.9, 0.7]])
    monkeypatch.setattr(semi, "score_patches", lambda *_: next(scores))
    fold = train_in(tiny_copy, "SupervisedTrainer", 0).model / "fold_0"
    best = load_checkpoint(fold / "checkpoint_best.pth")
    assert best["gnnunet"]["step"] == 6
    assert best["_best_ema"] == pytest.approx(0.9 * 0.4 + 0.1 * 0.8)
    dice = pd.read_csv(fold / "metrics.csv")["val_dice"]
    np.testing.assert_allclose(dice, [nothing, 0.4, 0.8])


def test_checkpoints_of_the_former_version_are_continued(trained_home, tiny_copy, monkeypatch):
    """Heads lay beside the other keys, teachers had none, later recipe keys were missing."""
    from graphnn_unet.trainers import semi

    monkeypatch.setattr(semi, "stop_requests", lambda: _context(StopAfter(5)))
    with pytest.raises(KeyboardInterrupt):
        train_in(tiny_copy, "GraphCLTrainer")
    monkeypatch.undo()
    use_home(tiny_copy, monkeypatch)
    path = model_of(tiny_copy, "GraphCLTrainer") / "fold_all" / LATEST
    state = torch.load(path, weights_only=True)
    former = state["gnnunet"]
    former |= {"schema_version": 1, **former.pop("heads")}
    former["teacher"].pop("heads")
    former["recipe"].pop("blur")
    former["recipe"]["optimizer"].pop("reset_between_phases")
    torch.save(state, path)
    train_in(tiny_copy, "GraphCLTrainer", mode="continue")
    ours, theirs = (model_of(home, "GraphCLTrainer") for home in (tiny_copy, trained_home))
    assert _equal(_weights(ours), _weights(theirs))


class StopAfter:
    """Asks to stop after so many steps."""

    def __init__(self, n_steps):
        self.n_steps = n_steps

    def is_set(self):
        self.n_steps -= 1
        return self.n_steps == 0
