import csv
import json
import math

import pytest
import torch

from graphnn_unet.classification.outputs import (
    Predictions,
    clear_results,
    evaluate_predictions,
    prediction_rows,
    predictions_of,
    refuse_results,
    write_results,
)
from graphnn_unet.classification.table import Finding
from graphnn_unet.errors import Fault, InputError, RefusedError

KIND, SIZE = Finding("kind", ("a", "b")), Finding("size", ("big", "mid", "small"))
NEAR = [[("x", 0.5), ("y", 0.25)], [], [("x", -0.1)]]


def predictions(findings=(KIND,)) -> Predictions:
    """Of three images: diffused, out of reach, given."""
    n_classes = sum(len(finding.classes) for finding in findings)
    score = torch.zeros(3, n_classes, dtype=torch.float64)
    score[0, :2], score[2, :2] = torch.tensor([0.25, 0.75]), torch.tensor([0.9, 0.1])
    if len(findings) == 2:
        score[:, 2:] = torch.tensor([0.2, 0.5, 0.3])
    given = torch.full((3, len(findings)), -1)
    given[2, 0] = 1
    logits = torch.zeros(3, n_classes)
    logits[1, 0] = math.log(3)
    return predictions_of(("p", "q", "r"), findings, score, logits, given, NEAR)


def test_network_decides_where_no_label_reaches_with_certainty_0():
    decided = predictions()
    assert decided.predicted[:, 0].tolist() == [1, 0, 1]
    assert decided.probability[1].tolist() == pytest.approx([0.75, 0.25])
    assert decided.by_network[:, 0].tolist() == [False, True, False]
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert decided.certainty[:, 0].tolist() == pytest.approx([1 - entropy, 0, 1])


def test_rows_of_one_finding():
    rows = prediction_rows(predictions())
    assert list(rows[0]) == [
        "case",
        "predicted",
        "probability",
        "certainty",
        "neighbours",
        "a",
        "b",
    ]
    assert rows[0]["predicted"] == "b"
    assert rows[0]["probability"] == "0.750000"
    assert rows[0]["neighbours"] == "x:0.500;y:0.250"
    # the label that was given stands, with the probability of that class
    assert (rows[2]["predicted"], rows[2]["probability"]) == ("b", "0.100000")
    assert (rows[2]["a"], rows[2]["b"]) == ("0.900000", "0.100000")


def test_rows_of_several_findings_name_them():
    row = prediction_rows(predictions((KIND, SIZE)))[0]
    assert row["predicted"] == "kind=b;size=mid"
    assert row["probability"] == "0.750000;0.500000"
    assert list(row)[5:] == ["kind=a", "kind=b", "size=big", "size=mid", "size=small"]


@pytest.mark.parametrize("name", ["case", "predicted", "probability", "certainty", "neighbours"])
def test_a_class_called_like_a_column_takes_no_column_away(name):
    plain = prediction_rows(predictions())
    rows = prediction_rows(predictions((Finding("group", ("a", name)),)))
    assert list(rows[0])[5:] == ["group=a", f"group={name}"]
    for row, before in zip(rows, plain, strict=True):
        assert row["case"] == before["case"]
        assert row["predicted"] == {"a": "a", "b": name}[before["predicted"]]
        assert list(row.values())[2:] == list(before.values())[2:]


def test_images_with_a_given_label_are_not_evaluated(tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("case,kind\np,b\nq,b\nr,a\n")
    (score,) = evaluate_predictions(predictions(), truth).values()
    assert (score.n, score.accuracy) == (2, 0.5)
    assert evaluate_predictions(predictions(), None) == {}
    truth.write_text("case,kind\nr,a\n")
    with pytest.raises(InputError, match="has no case to evaluate"):
        evaluate_predictions(predictions(), truth)


def test_patients_of_both_tables_widen_the_interval(tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("case,kind\np,b\nq,a\n")
    alone, together = (
        evaluate_predictions(predictions(), truth, patients)["kind"]
        for patients in (None, {"p": "P1", "q": "P1"})
    )
    assert (alone.accuracy, together.accuracy) == (1, 1)
    assert together.n_patients == 1
    assert together.accuracy_interval[0] < alone.accuracy_interval[0]
    truth.write_text("case,patient,kind\np,P1,b\nq,P1,a\n")
    said = evaluate_predictions(predictions(), truth)["kind"]
    assert said.as_dict() == together.as_dict()


def test_tables_hold_what_was_found(tmp_path):
    log = [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "a": 0.5}]
    faults = [Fault("bad", "read", "it is cut off", "Copy it again")]
    write_results(tmp_path, predictions(), {}, faults, {"n_held_out": 2}, log)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert (summary["n_images"], summary["n_labeled"], summary["n_held_out"]) == (3, 1, 2)
    assert summary["decided_by_network"] == ["q"]
    assert summary["macro_auc"] is None
    with (tmp_path / "rounds.csv").open(newline="") as file:
        assert [row["a"] for row in csv.DictReader(file)] == ["", "0.5"]
    assert "bad,read,it is cut off,Copy it again" in (tmp_path / "failures.csv").read_text(
        encoding="utf-8"
    )


def test_old_results_are_refused_or_cleared(tmp_path):
    refuse_results(tmp_path)
    for name in ("predictions.csv", "checkpoint_latest.pth", "mine.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(RefusedError, match="has results already: for example predictions"):
        refuse_results(tmp_path)
    clear_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_pictures_of_old_results_go_with_them(tmp_path):
    pictures = ("map.png", "map_kind.png", "confusion.png", "confusion_kind.png")
    for name in (*pictures, "summary.json", "mapping.png"):
        (tmp_path / name).write_text("x")
    clear_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mapping.png"]
    (tmp_path / "map.png").write_text("x")
    clear_results(tmp_path)  # a picture alone is no result
    assert (tmp_path / "map.png").is_file()
