"""Volumes of classes, and their names and colors for viewers."""

import csv

import numpy as np

from graphnn_unet.images.label_ids import ORIGINAL, id_names
from graphnn_unet.prediction.label_tables import (
    COLUMNS,
    count_classes,
    write_color_tables,
    write_volumes,
)


def test_classes_are_counted_over_all_slices():
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[0, :2] = 1
    labels[2, 3, :3] = 3
    classes = {"background": 0, "a": 1, "b": 2, "c": 3, "none": 4, "ignore": 5}
    assert count_classes(labels, classes) == {"a": 10, "b": 0, "c": 3, "none": 0}
    assert count_classes(labels, {"background": 0, "all": [1, 3], "c": 3}) == {"all": 13, "c": 3}


def test_table_of_volumes_holds_no_formulas(tmp_path):
    table = tmp_path / "volumes.csv"
    write_volumes(table, {"b": {"=1+1": [0, 0.0]}, "a": {"organ": [1234567, 1851.8505]}})
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [list(COLUMNS), ["a", "organ", "1234567", "1851.85"], ["b", "'=1+1", "0", "0"]]
    write_volumes(table, {"a": {"cell": [12, None]}})
    assert table.read_text(encoding="utf-8").splitlines()[1] == "a,cell,12,"


def test_viewers_get_the_users_ids_and_names(tmp_path):
    description = {
        "labels": {"background": 0, "left atrium": 1, 'the "wall"\n2': 2, "vessel": 3, "ignore": 4},
        ORIGINAL: {
            "background": 0, "left atrium": 420, 'the "wall"\n2': 2, "vessel": 70_000, "ignore": 9,
        },
    }  # fmt: skip
    write_color_tables(tmp_path, description, {2: (1, 2, 3)})
    slicer = [
        line.split()
        for line in (tmp_path / "labels.ctbl").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert slicer[0] == ["0", "background", "0", "0", "0", "0"]
    assert [row[:2] for row in slicer[1:]] == [
        ["2", 'the_"wall"_2'], ["420", "left_atrium"], ["70000", "vessel"],
    ]  # fmt: skip
    assert slicer[1][2:] == ["1", "2", "3", "255"]
    assert len({tuple(row[2:5]) for row in slicer}) == 4  # told apart
    text = (tmp_path / "labels_itksnap.txt").read_text(encoding="utf-8")
    snap = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line.split(maxsplit=7)[0] for line in snap] == ["0", "2", "420"]  # of 16 bits
    assert snap[1].split(maxsplit=7) == ["2", "1", "2", "3", "1", "1", "1", "\"the 'wall' 2\""]


def test_a_region_has_the_name_of_the_id_that_shows_it():
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}
    names = id_names({"labels": regions, "regions_class_order": [1, 2, 3]})
    assert names == {1: "whole", 2: "core", 3: "rim"}
