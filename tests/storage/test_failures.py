import csv

from graphnn_unet.errors import Fault
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.failures import FAILURES, write_failures


def test_every_fault_is_a_row_and_none_removes_the_table_of_an_earlier_call(tmp_path):
    path = tmp_path / FAILURES
    write_failures(path, [])
    assert not path.exists()
    faults = [
        Fault("b", "check", 'odd, "quoted" cause', "Fix it", code="I07"),
        Fault("a", "predict", "no room", ""),
    ]
    write_failures(path, faults)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"case": "b", "stage": "check", "cause": 'odd, "quoted" cause', "remedy": "Fix it"},
        {"case": "a", "stage": "predict", "cause": "no room", "remedy": ""},
    ]
    write_failures(path, [])
    assert not path.exists()


def test_rows_of_another_stage_stay(tmp_path):
    path = tmp_path / FAILURES
    write_failures(path, [Fault("a", "predict", "no room", "")])
    write_failures(path, [Fault("b", "evaluate", "no label", "")], stage="evaluate")
    assert [row["case"] for row in read_csv(path)] == ["a", "b"]
    write_failures(path, [], stage="evaluate")
    assert [row["case"] for row in read_csv(path)] == ["a"]
    write_failures(path, [Fault("b", "evaluate", "no label", "")], stage="evaluate", done=["a"])
    assert [row["case"] for row in read_csv(path)] == ["b"]
    write_failures(path, [], stage="evaluate")
    assert not path.exists()
    path.write_text("of,somebody\nelse,\n", encoding="utf-8")
    write_failures(path, [], stage="evaluate")
    assert not path.exists()
