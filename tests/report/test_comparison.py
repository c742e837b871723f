"""The page of a comparison and its tables say how much their intervals mean."""

import json

import pytest
from report.small_folders import score_rows, write_rows

from graphnn_unet.report.comparison import report_comparison

NOTE = "The 95 % intervals decide nothing: {} patients are too few to tell, 6 are needed."


def comparison(folder, n_cases, patient_of):
    """One method in two runs on so many cases; trained by nobody."""
    dice = {f"c{number}": 0.5 + 0.01 * number for number in range(n_cases)}
    facts = {"row": "SupervisedTrainer", "labeled": "4", "seed": 0, "part": "development"}
    scores = [{**facts, "draw": draw, **row} for draw in (0, 1) for row in score_rows(dice)]
    write_rows(folder / "benchmark.csv", scores)
    run = {**facts, "name": "one", "draw": 0, "status": "done", "minutes": 1, "device": "cpu",
           "peak_memory_gb": 1, "error": ""}  # fmt: skip
    write_rows(folder / "runs.csv", [run])
    (folder / "commands.sh").write_text("gnnunet_train ...\n")
    (folder / "benchmark.json").write_text(json.dumps({"dataset": "Dataset805_Small",
                                                       "patients": patient_of}))  # fmt: skip


@pytest.mark.parametrize(
    ("n_cases", "patient_of", "n_told"),
    [(1, {}, 0), (2, {}, 2), (5, {}, 5), (6, {}, 0), (6, {"c0": "eve", "c1": "eve"}, 5)],
)
def test_few_patients_are_told_once_on_each_page(tmp_path, n_cases, patient_of, n_told):
    comparison(tmp_path, n_cases, patient_of)
    html = report_comparison(tmp_path).read_text(encoding="utf-8")
    text = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    for page in (html, text):
        assert page.count(NOTE.format(n_told)) == (n_told > 0)
        assert page.count("too few") == (n_told > 0)
