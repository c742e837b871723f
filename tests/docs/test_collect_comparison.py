"""What is compared in a table of results has the same draws."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
from tiny_study import REPOSITORY

HEAD = ("row,trainer,labeled,draw,seed,part,case,class,dice,jaccard,hd95,asd,distance_unit,missed,"
        "invented,protocol")  # fmt: skip


def collect(tmp_path: Path, *rows: tuple[str, str, str], draws=("1", "2")) -> list[dict[str, str]]:
    lines = [f"{row},T,4,{draw},0,{part},a,liver,0.123456,,1,1,mm,0,0,honest"
             for row, draw, part in rows]  # fmt: skip
    (tmp_path / "benchmark.csv").write_text("\n".join([HEAD, *lines, ""]))
    script, table = REPOSITORY / "docs" / "collect_comparison.py", tmp_path / "table.csv"
    before = sys.argv
    sys.argv = [str(script), str(table), str(tmp_path / "benchmark.csv"), "--part", "development",
                "--draws", *draws]  # fmt: skip
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_without_a_draw_and_other_parts_are_left_out(tmp_path, capsys):
    part = "development"
    rows = collect(
        tmp_path, ("one", "1", part), ("one", "2", part), ("two", "1", part), ("one", "2", "test"),
        ("all labels", "0", part),
    )  # fmt: skip
    assert [(r["row"], r["draw"]) for r in rows] == [
        ("one", "1"),
        ("one", "2"),
        ("all labels", "0"),
    ]
    assert (rows[0]["dice"], rows[0]["jaccard"]) == ("0.1235", "")
    assert "left out: two" in capsys.readouterr().out


@pytest.mark.parametrize("draws", [("1",), ("1", "2")])
def test_draws_that_nobody_asked_for_do_not_count(tmp_path, draws):
    rows = collect(tmp_path, *(("one", str(n), "development") for n in (1, 2, 3)), draws=draws)
    assert [row["draw"] for row in rows] == list(draws)
