import csv
import json
import math

import pytest
from decided import KIND, SIZE, predictions

from graphnn_unet.classification.outputs import (
    clear_results,
    prediction_rows,
    refuse_results,
    write_results,
)
from graphnn_unet.classification.table import Finding
from graphnn_unet.errors import Fault, RefusedError


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


@pytest.mark.parametrize(
    ("findings", "ours"),
    [
        (["kind"], {"map.png", "confusion.png"}),
        (["kind", "a / b"], {"map_kind.png", "confusion_kind.png", "map_a_b.png"}),
    ],
)
def test_pictures_of_old_results_go_with_them_and_no_others(tmp_path, findings, ours):
    theirs = {"map_of_my_city.png", "confusion_fig3.png", "mapping.png"}
    for name in ours | theirs:
        (tmp_path / name).write_text("x")
    summary = {"findings": {key: ["a", "b"] for key in findings}}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    clear_results(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == theirs
    (tmp_path / "map.png").write_text("x")
    clear_results(tmp_path)  # a picture alone is no result
    assert (tmp_path / "map.png").is_file()
