from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet import _version
from graphnn_unet.deprecation import ExpiredError
from graphnn_unet.errors import MissingFileError
from graphnn_unet.metrics import csv_columns, read_metrics_csv
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.metrics.result import changed_since_scored, scored_references

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


def test_label_maps_in_two_files_are_told_when_they_change(tmp_path):
    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:4, 2:5] = 1
    for folder in ("said", "true"):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / folder / "a.mhd"))
    evaluate(tmp_path / "said", tmp_path / "true", n_workers=0)
    assert changed_since_scored(tmp_path / "said") == []
    before = scored_references(tmp_path / "said")
    sitk.WriteImage(sitk.GetImageFromArray(array * 0), str(tmp_path / "said" / "a.mhd"))
    assert changed_since_scored(tmp_path / "said") == ["a.mhd"]
    sitk.WriteImage(sitk.GetImageFromArray(array[..., ::-1]), str(tmp_path / "true" / "a.mhd"))
    evaluate(tmp_path / "said", tmp_path / "true", n_workers=0)
    assert before.keys() == {"a.mhd"}
    assert scored_references(tmp_path / "said") != before
