"""Results of old and new evaluations come into one table of today's columns."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
from tiny_study import REPOSITORY

from graphnn_unet.metrics import METRICS, csv_columns

OLD = """\
case,class,dice,jaccard,hd95_mm,asd_mm,missed,protocol
a,liver,0.5,0.25,3.5,1.5,0,honest
b,liver,0.0,0.0,90.0,90.0,1,honest
c,liver,,,,,0,honest
"""


@pytest.fixture
def old_metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    path.write_text(OLD)
    return path


def collect(table: Path, metrics: Path, *flags: str) -> list[dict[str, str]]:
    arguments = [str(table), str(metrics), "--trainer", "T", "--labeled", "4", *flags]
    script = REPOSITORY / "docs" / "collect_results.py"
    before, sys.argv = sys.argv, [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
    with table.open() as file:
        return list(csv.DictReader(file))


def test_collected_results_replace_the_same_run_alone(old_metrics: Path, tmp_path: Path):
    table = tmp_path / "table.csv"
    with pytest.warns(FutureWarning):
        collect(table, old_metrics, "--run", "one")
    with pytest.warns(FutureWarning):
        assert len(collect(table, old_metrics, "--run", "two")) == 6
    new = tmp_path / "new.csv"
    blanks = "," * (len(METRICS) - 1)
    new.write_text(f"{','.join(csv_columns())}\nz,liver,0.123456789{blanks},mm,0,1,honest\n")
    rows = collect(table, new, "--run", "one")
    assert [(row["run"], row["case"]) for row in rows] == [
        ("two", "a"), ("two", "b"), ("two", "c"), ("one", "z"),
    ]  # fmt: skip
    assert rows[0]["hd95"] == "3.50000"
    assert (rows[3]["dice"], rows[3]["distance_unit"], rows[3]["invented"]) == (
        "0.12346", "mm", "1",
    )  # fmt: skip
