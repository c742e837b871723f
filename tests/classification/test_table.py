import pytest

from graphnn_unet.classification.table import (
    encode,
    findings_of,
    groups_of,
    read_table,
    unknown_classes,
)
from graphnn_unet.errors import FaultsError, InputError, MissingFileError


def table(tmp_path, text: str, encoding: str = "utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    return read_table(path)


def test_ids_stay_text_and_cells_are_stripped(tmp_path):
    labels = table(tmp_path, "case,class\n001, a \n002,b\n\n")
    assert labels.rows == {"001": ("a",), "002": ("b",)}


def test_semicolons_and_byte_order_marks_of_spreadsheets(tmp_path):
    labels = table(tmp_path, "case;class\nx;a\n", "utf-8-sig")
    assert labels.columns == ("class",)
    assert labels.rows == {"x": ("a",)}


def test_empty_cells_are_unlabeled_and_unknown_classes_get_the_next_number(tmp_path):
    labels = table(tmp_path, "case,edema,mass\na,0,1\nb,1,0\nc,1,\nd,0,1\ne,,0\n")
    findings = findings_of(labels)
    assert [finding.classes for finding in findings] == [("0", "1"), ("0", "1")]
    codes = encode(labels, findings, ["a", "c", "e", "z"])
    assert codes.tolist() == [[0, 1], [1, -1], [-1, 0], [-1, -1]]
    truth = table(tmp_path, "case,mass,edema\na,1,2\n")
    assert encode(truth, findings, ["a"]).tolist() == [[2, 1]]
    assert unknown_classes(truth, findings) == ["edema: 2"]


@pytest.mark.parametrize("text", ["", "id,class\na,b\n", "case\na\n", "case,class,class\n"])
def test_other_tables_are_refused(tmp_path, text):
    with pytest.raises(InputError, match="not a table of labels"):
        table(tmp_path, text)


def test_all_wrong_rows_are_listed(tmp_path):
    with pytest.raises(FaultsError) as caught:
        table(tmp_path, "case,class\na,x\na,y\nb\n,z\n")
    assert [line.split(": ")[0] for line in caught.value.lines] == [
        "t.csv, line 3", "t.csv, line 4", "t.csv, line 5",
    ]  # fmt: skip
    codes = [fault.code for fault in caught.value.faults]
    assert codes == ["T03", "T01", "T02"]


def test_one_class_is_refused(tmp_path):
    labels = table(tmp_path, "case,class,empty\na,x,\nb,x,\n")
    with pytest.raises(FaultsError) as caught:
        findings_of(labels)
    assert "only the class x" in caught.value.lines[0]
    assert "no label" in caught.value.lines[1]
    assert [fault.code for fault in caught.value.faults] == ["T04", "T04"]


def test_class_with_one_label_is_refused_by_name(tmp_path):
    with pytest.raises(FaultsError) as caught:
        findings_of(table(tmp_path, "case,class\na,x\nb,x\nc,y\nd,z\ne,z\n"))
    (fault,) = caught.value.faults
    assert fault.code == "T05"
    assert "class y has 1 labeled case, at least 2 are needed" in fault.line


def test_patients_are_no_finding_but_groups(tmp_path):
    labels = table(tmp_path, "case,patient,class\na,p1,x\nb,p1,y\nc,,x\nd,p2,y\n")
    assert labels.columns == ("class",)
    assert labels.rows["b"] == ("y",)
    groups = groups_of(labels, ["a", "b", "c", "d", "e"]).tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == 4
    with pytest.raises(InputError):
        table(tmp_path, "case,patient\na,p1\n")


@pytest.mark.parametrize("head", ["case,Patient,class", "Case,class,PATIENT"])
def test_patients_are_found_in_any_letters(tmp_path, head):
    place = head.lower().split(",").index("patient")
    lines = [["a", "x"], ["b", "y"]]
    for cells in lines:
        cells.insert(place, "p1")
    labels = table(tmp_path, "\n".join([head, *(",".join(cells) for cells in lines)]))
    assert labels.columns == ("class",)
    assert labels.rows == {"a": ("x",), "b": ("y",)}
    assert labels.patients == {"a": "p1", "b": "p1"}
    with pytest.raises(InputError, match="each name once"):
        table(tmp_path, "case,patient,Patient,class\na,p1,p1,x\n")


@pytest.mark.parametrize(
    "name", ["patient_id", "PatientID", "Patient ID", "subject", "Subject_ID", "participant_id"]
)
def test_columns_that_look_like_patients_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"column {name} of .* looks like patients.*Call it pat"):
        table(tmp_path, f"case,class,{name}\na,x,p1\n")
    assert table(tmp_path, "case,subject_moved\na,yes\n").columns == ("subject_moved",)


def test_words_for_nothing_are_empty_cells(tmp_path):
    labels = table(tmp_path, "case,patient,class\nNA,NaN,x\nb,n/a,NaN\nc,null,NA\nd,p,none\n")
    assert labels.rows == {"NA": ("x",), "b": ("",), "c": ("",), "d": ("none",)}
    assert labels.patients == {"d": "p"}


def test_missing_file_and_missing_column(tmp_path):
    with pytest.raises(MissingFileError):
        read_table(tmp_path / "none.csv")
    labels = table(tmp_path, "case,class\na,x\nb,x\nc,y\nd,y\n")
    truth = table(tmp_path, "case,kind\na,x\n")
    with pytest.raises(InputError, match="lacks the column class"):
        encode(truth, findings_of(labels), ["a"])
