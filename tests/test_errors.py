from pathlib import Path

from graphnn_unet.errors import MANY, SHOWN, Fault, FaultsError


def fault(number: int, cause: str = "there is no prediction") -> Fault:
    return Fault(f"c{number:03d}", "evaluate", cause, "Predict the case")


def test_few_faults_have_a_line_each_in_their_order():
    faults = [fault(2), fault(1, "it is empty"), fault(0)]
    assert FaultsError(faults).lines == [
        "c002: there is no prediction. Predict the case.",
        "c001: it is empty. Predict the case.",
        "c000: there is no prediction. Predict the case.",
    ]


def test_many_cases_with_one_fault_share_a_line_that_names_them():
    faults = [fault(n) for n in range(MANY)]
    shared, other = FaultsError([faults[0], fault(99, "it is empty"), *faults[1:]]).lines
    names = ", ".join(f"c{n:03d}" for n in range(MANY))
    text = "there is no prediction. Predict the case."
    assert shared == f"{MANY} cases: {text} They are {names}."
    assert other == "c099: it is empty. Predict the case."
    many = [fault(n) for n in range(SHOWN + 7)]
    error = FaultsError(many, report=Path("report.json"))
    (line,) = error.lines
    assert error.note == "all faults stand in report.json"
    assert line.endswith(f"c{SHOWN - 1:03d} and 7 more.")
    assert f"c{SHOWN:03d}" not in line


def test_names_are_cut_only_where_a_report_holds_them():
    error = FaultsError([fault(n) for n in range(SHOWN + 7)])
    (line,) = error.lines
    assert f"c{SHOWN + 6:03d}." in line
    assert error.note == ""


def test_faults_that_differ_in_the_name_of_the_case_share_a_line():
    faults = [Fault(f"c{n}", "convert", f"in/c{n}_0000.nii is missing", "") for n in range(MANY)]
    (line,) = FaultsError(faults).lines
    assert line.startswith(f"{MANY} cases: in/CASE_0000.nii is missing. They are c0, c1, ")
    assert len(FaultsError(faults[1:]).lines) == MANY - 1
