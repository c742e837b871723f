from pathlib import Path

import pytest

from graphnn_unet import _version
from graphnn_unet.deprecation import ExpiredError
from graphnn_unet.errors import MissingFileError
from graphnn_unet.metrics import csv_columns, read_metrics_csv

OLD = """\
case,class,dice,jaccard,hd95_mm,asd_mm,missed,protocol
a,liver,0.5,0.25,3.5,1.5,0,honest
b,liver,0.0,0.0,90.0,90.0,1,honest
c,liver,,,,,0,honest
"""


@pytest.fixture
def old_table(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    path.write_text(OLD)
    return path


def test_old_columns_are_read_with_a_warning_that_says_when_it_ends(old_table: Path):
    with pytest.warns(FutureWarning, match=r"column hd95_mm in .*ends with 0\.3\.") as caught:
        rows = read_metrics_csv(old_table)
    assert caught[0].filename == __file__
    assert [tuple(row) for row in rows] == [csv_columns()] * 3
    assert [(row["dice"], row["hd95"], row["asd"]) for row in rows] == [
        ("0.5", "3.5", "1.5"), ("0.0", "90.0", "90.0"), ("", "", ""),
    ]  # fmt: skip
    assert {row["distance_unit"] for row in rows} == {"mm"}
    # the old column counted both, so of case b it is not known which
    assert [(row["missed"], row["invented"]) for row in rows] == [("0", "0"), ("1", ""), ("0", "0")]


def test_old_columns_of_the_published_protocol_hold_voxels(old_table: Path):
    old_table.write_text(OLD.replace("honest", "published"))
    with pytest.warns(FutureWarning):
        rows = read_metrics_csv(old_table)
    assert {row["distance_unit"] for row in rows} == {"voxel"}


def test_old_columns_are_refused_from_their_end_on(old_table: Path, monkeypatch):
    monkeypatch.setattr(_version, "__version__", "0.3.0")
    with pytest.raises(ExpiredError, match="Use hd95 and distance_unit"):
        read_metrics_csv(old_table)


def test_files_of_today_are_read_as_they_are(tmp_path: Path, recwarn):
    path = tmp_path / "metrics.csv"
    path.write_text("case,class,dice,hd95,distance_unit\na,1,0.5,2.0,mm\n")
    assert read_metrics_csv(path) == [
        {"case": "a", "class": "1", "dice": "0.5", "hd95": "2.0", "distance_unit": "mm"}
    ]
    assert not recwarn.list
    with pytest.raises(MissingFileError, match=r"nowhere\.csv is missing"):
        read_metrics_csv(tmp_path / "nowhere.csv")
