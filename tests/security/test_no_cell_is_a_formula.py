"""No name of a label, class, case or cause becomes a formula in a spreadsheet."""

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from graphnn_unet.classification.run import classify
from graphnn_unet.commands import classify as classify_command
from graphnn_unet.errors import Fault
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.metrics.result import read_metrics_csv
from graphnn_unet.storage.atomic import write_csv
from graphnn_unet.storage.csv_cells import as_cell, from_cell, read_csv
from graphnn_unet.storage.failures import write_failures

FORMULAS = (
    "=cmd|'/C calc'!A0", "=HYPERLINK(1)", "@SUM(A1)", "+1+1", "-2+3", "\t=1", " =1", "\uff1d1",
    "a;=1", "a\n=1",
)  # fmt: skip


def cells(path: Path, separators: str = ",;\t") -> list[str]:
    """All cells of a table as a spreadsheet of any country splits them."""
    text = path.read_text(encoding="utf-8")
    return [
        cell.strip()
        for separator in separators
        for row in csv.reader(text.splitlines(), delimiter=separator)
        for cell in row
    ]


def is_formula(cell: str) -> bool:
    if cell.lstrip()[:1] not in ("=", "+", "-", "@", "\uff1d"):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_text_in_heads_and_cells_and_come_back(tmp_path, text):
    path = tmp_path / "t.csv"
    write_csv(path, [{text: text, "x": -1.5, "y": "-0.25"}], [text, "x", "y"])
    assert not any(map(is_formula, cells(path)))
    assert "-1.5,-0.25" in path.read_text(encoding="utf-8")
    assert read_csv(path) == [{text: text, "x": "-1.5", "y": "-0.25"}]


@given(st.text("=+-@'; \t\n\r1a,\"", max_size=12))
def test_every_text_comes_back(text):
    cell = as_cell(text)
    assert isinstance(cell, str)
    assert from_cell(cell) == text
    assert as_cell(text) == text or not is_formula(cell)


def test_label_names_in_the_table_of_an_evaluation(tmp_path):
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:5] = 1
    for name in ("maps", "labels"):
        (tmp_path / name).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(label), str(tmp_path / name / "a.nii.gz"))
    (tmp_path / "maps" / "dataset.json").write_text(
        f'{{"labels": {{"background": 0, "{FORMULAS[0]}": 1}}}}'
    )
    evaluate(tmp_path / "maps", tmp_path / "labels", tmp_path / "out")
    assert not any(map(is_formula, cells(tmp_path / "out" / "metrics.csv", ",")))
    assert [row["class"] for row in read_metrics_csv(tmp_path / "out" / "metrics.csv")] == [
        FORMULAS[0]
    ]


def test_causes_in_the_table_of_failures(tmp_path):
    write_failures(tmp_path / "failures.csv", [Fault("=1+1", "check", "@x", "+y")])
    assert not any(map(is_formula, cells(tmp_path / "failures.csv")))


def test_classes_and_pictures_in_the_table_of_a_classification(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    rows = ["case,class"]
    for number in range(8):
        name = f"=1+{number}"
        pixels = rng.integers(0, 90, (20, 20)) + 150 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "in" / f"{name}.png")
        rows.append(f"{name},{('=HYPERLINK(1)', '@x')[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows[:7]))
    classify(
        tmp_path / "in", tmp_path / "labels.csv", tmp_path / "out", encoder="small", max_epochs=1,
        rounds=1, image_size=16, batch_size=4, device="cpu",
    )  # fmt: skip
    for path in (tmp_path / "out").glob("*.csv"):
        assert not any(map(is_formula, cells(path)))
    predictions = read_csv(tmp_path / "out" / "predictions.csv")
    assert {row["predicted"] for row in predictions} <= {"=HYPERLINK(1)", "@x"}
    assert {row["case"] for row in predictions} == {f"=1+{number}" for number in range(8)}
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "x," + "y" * 200_000]))
    given_words = ["-i", str(tmp_path / "in"), "--labels", str(tmp_path / "labels.csv"), "-o", "o"]
    assert classify_command.main(given_words) == 2
    assert "line 10: field larger than field limit" in capsys.readouterr().err
