"""The verdict on the graph of scans in the plan."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_study import DATASET, TINY, use_home, write_raw_dataset

from graphnn_unet import plan_and_preprocess
from graphnn_unet.data import scan_graph as module
from graphnn_unet.errors import InputError
from graphnn_unet.plans.planner import run_recipe
from graphnn_unet.pseudo_labels.pipeline import PseudoLabelSettings
from graphnn_unet.scan_graph.verdict import Verdict


def plan(home: Path, monkeypatch, *overrides: str, **keywords):
    use_home(home, monkeypatch)
    result = plan_and_preprocess(
        DATASET, configurations=keywords.pop("configurations", ["3d_fullres"]),
        overrides=[*TINY, *overrides], n_workers=0, scan_graph=True, **keywords,
    )  # fmt: skip
    return result, json.loads(result.plans_file.read_text(encoding="utf-8"))


def corrections(plans) -> list[str] | None:
    return run_recipe(plans, "3d_fullres").of(PseudoLabelSettings).correct


def cross_validate(home: Path, *dice: float) -> None:
    """Summaries of folds of SupervisedTrainer, as far as they are done."""
    splits = home / "preprocessed" / DATASET / "splits_final.json"
    held_out = [fold["val"] for fold in json.loads(splits.read_text(encoding="utf-8"))]
    model = home / "results" / DATASET / "SupervisedTrainer__gnnunetPlans__3d_fullres"
    for fold, value in enumerate(dice):
        folder = model / f"fold_{fold}" / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        per_case = [{"prediction_file": f"validation/{case}.nii.gz"} for case in held_out[fold]]
        summary = {
            "foreground_mean": {"Dice": value}, "is_estimate": True, "metric_per_case": per_case
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ((), f"To know, run gnnunet_train {DATASET} 3d_fullres SupervisedTrainer cv"),
        ((0.9, 0.9, 0.9), "To know, run"),  # one of four is missing
        ((1.0, 0.9, 1.0, 1.0), "is not within 0.02 of the network's 0.975"),
    ],
)
def test_a_vote_that_may_be_worse_than_the_network_is_off(tiny_copy, monkeypatch, folds, words):
    cross_validate(tiny_copy, *folds)
    result, plans = plan(tiny_copy, monkeypatch)
    assert not plans["gnnunet"]["scan_graph"]["3d_fullres"]["is_worth"]
    (note,) = (note for note in result.notes if "graph of scans off: the vote" in note)
    assert words in note
    assert corrections(plans) is None


def test_damaged_cross_validation_is_named(tiny_copy, monkeypatch):
    cross_validate(tiny_copy, 0.9, 0.9, 0.9, 0.9)
    model = tiny_copy / "results" / DATASET / "SupervisedTrainer__gnnunetPlans__3d_fullres"
    (model / "fold_2" / "validation" / "summary.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"fold_2.*summary\.json"):
        plan(tiny_copy, monkeypatch)


def test_a_good_vote_turns_the_graph_on(tiny_copy, monkeypatch):
    cross_validate(tiny_copy, 0.6, 0.7, 0.8, 0.7)
    result, plans = plan(tiny_copy, monkeypatch)
    verdict = plans["gnnunet"]["scan_graph"]["3d_fullres"]
    assert verdict["is_worth"]
    assert verdict["n_scans"] == 4
    assert set(verdict["dice"]) == {"1", "2"}
    assert all(0.6 < value <= 1 for value in verdict["dice"].values())
    assert any("graph of scans on: the vote" in note for note in result.notes)
    assert corrections(plans) == ["scan_graph", "blur"]
    recipe = plans["gnnunet"]["recipes"]["3d_fullres"]
    assert recipe["pseudo_label"]["correct"] == ["scan_graph", "blur"]
    assert recipe["scan_labels"] == {"rounds": 1}
    assert plans["gnnunet"]["derived"]["3d_fullres"]["pseudo_label"]["largest_component"]
    folder = result.plans_file.parent / "scan_graph" / "gnnunetPlans_3d_fullres"
    n_votes, n_links = 3, 4 * 3 + 4 * 3
    assert len(list((folder / "votes").iterdir())) == n_votes
    assert len(list(folder.glob("case_*.b2nd"))) == n_links
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.b2nd")}
    plan(tiny_copy, monkeypatch)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.b2nd")} == before
    _, chosen = plan(tiny_copy, monkeypatch, "pseudo_label.correct=['blur']")
    assert corrections(chosen) == ["blur"]  # the user decides


def test_a_bad_vote_leaves_it_off_and_says_so(tmp_path, monkeypatch):
    """Label maps that have nothing to do with the images."""
    home = tmp_path / "home"
    raw = write_raw_dataset(home / "raw")
    for number, path in enumerate(sorted((raw / "labelsTr").iterdir())):
        image = sitk.ReadImage(str(path))
        label = np.zeros(sitk.GetArrayFromImage(image).shape, np.uint8)
        label[4 * number : 4 * number + 4, 3:8, 2:6] = 1
        label[4 * number : 4 * number + 2, 12:16, 2:6] = 2
        spots = sitk.GetImageFromArray(label)
        spots.CopyInformation(image)
        sitk.WriteImage(spots, str(path))
    result, plans = plan(home, monkeypatch)
    assert not plans["gnnunet"]["scan_graph"]["3d_fullres"]["is_worth"]
    assert any("graph of scans off: the vote" in note for note in result.notes)
    assert corrections(plans) is None
    votes = result.plans_file.parent / "scan_graph" / "gnnunetPlans_3d_fullres" / "votes"
    assert not votes.exists()


@pytest.mark.parametrize(
    ("labels", "configurations", "message"),
    [
        (None, ["2d"], "no 3d configuration is preprocessed"),
        ({"background": 0, "whole": [1, 2], "core": 2}, ["3d_fullres"], "the labels are regions"),
    ],
)
def test_what_it_cannot_serve_is_refused_first(
    tmp_path, monkeypatch, labels, configurations, message
):
    home = tmp_path / "home"
    write_raw_dataset(home / "raw", labels=labels)
    with pytest.raises(InputError, match=f"--scan-graph cannot be used: .*{message}"):
        plan(home, monkeypatch, configurations=configurations)
    assert not list((home / "preprocessed" / DATASET).glob("gnnunetPlans_*"))


def test_a_later_verdict_takes_an_earlier_one_back(tiny_copy, monkeypatch):
    cross_validate(tiny_copy, 0.6, 0.7, 0.8, 0.7)
    _, plans = plan(tiny_copy, monkeypatch)
    judged = []

    def judge(*_, **__):
        judged.append(1)
        return Verdict({1: 0.1}, 4, False, "the vote is bad now")

    monkeypatch.setattr(module, "judge", judge)
    before = json.loads(json.dumps(plans))
    folder = tiny_copy / "preprocessed" / DATASET
    roles = dict.fromkeys(("case_00", "case_01", "case_02", "case_03"), "labeled")
    arguments = (folder, folder / "gnnunetPlans.json", plans, ["3d_fullres"], roles, 3, 0)
    (note,) = module.judge_scan_graph(*arguments)
    assert "graph of scans off: the vote is bad now" in note
    assert corrections(plans) is None
    recipe = plans["gnnunet"]["recipes"]["3d_fullres"]
    assert "correct" not in recipe.get("pseudo_label", {})
    assert "scan_labels" not in recipe
    kept = plans["gnnunet"]["derived"]["3d_fullres"]["pseudo_label"]
    former = before["gnnunet"]["derived"]["3d_fullres"]["pseudo_label"]
    assert kept == {key: value for key, value in former.items() if key != "correct"}


def test_folds_of_other_cases_are_not_compared_with(tiny_copy, monkeypatch):
    cross_validate(tiny_copy, 0.6, 0.7, 0.8, 0.7)
    model = tiny_copy / "results" / DATASET / "SupervisedTrainer__gnnunetPlans__3d_fullres"
    path = model / "fold_1" / "validation" / "summary.json"
    path.write_text(path.read_text(encoding="utf-8").replace("case_", "old_"), encoding="utf-8")
    result, plans = plan(tiny_copy, monkeypatch)
    assert not plans["gnnunet"]["scan_graph"]["3d_fullres"]["is_worth"]
    assert any("To know, run gnnunet_train" in note for note in result.notes)
