"""Published splits: whole, apart, and the lists that win over them."""

from __future__ import annotations

from pathlib import Path

from graphnn_unet.dataset_conversion.published import Split, published, split_for
from graphnn_unet.dataset_conversion.records import file_case

LA = published("left_atrium")
ACDC = published("acdc")
PANCREAS = published("pancreas")


def test_published_splits_are_whole_and_apart():
    for table, n_train, n_test in ((LA, 80, 20), (ACDC, 140, 40), (PANCREAS, 62, 18)):
        parts = [table["train"], table["test"], table.get("val", [])]
        names = [name for part in parts for name in part]
        assert (len(table["train"]), len(table["test"])) == (n_train, n_test)
        assert len(set(names)) == len(names)
        assert table["source"].startswith("repository ")
    patients = [{n.split("_")[0] for n in ACDC[part]} for part in ("train", "val", "test")]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 100
    first = {name.split("_")[0] for name in ACDC["train"][:6]}
    assert len(first) == 3
    assert {"0025", "0070"}.isdisjoint(PANCREAS["train"] + PANCREAS["test"])


def test_the_published_split_holds_without_lists_and_says_what_is_missing(tmp_path: Path):
    there = [*LA["train"][:3], LA["test"][0], "new"]
    split = split_for("left_atrium", tmp_path, there)
    assert (split.train, split.test) == (LA["train"], LA["test"])
    assert list(split.tables) == ["UA-MT"]
    assert split.notes == [
        "96 of 100 listed cases are not in the source",
        "1 cases are in no list and come last, such as new",
    ]


def test_listed_cases_come_first_in_their_order_and_those_for_testing_are_test_cases():
    cases = {name: file_case(name, [Path(name)], Path("label")) for name in "dacb"}
    ordered = Split(["c", "x"], ["a"], {}, []).applied(cases)
    assert [(case.case_id, case.role[0]) for case in ordered] == [
        ("c", "l"), ("a", "t"), ("b", "l"), ("d", "l"),
    ]  # fmt: skip


def test_a_list_of_test_cases_alone_takes_them_out_of_training(tmp_path: Path):
    (tmp_path / "test.list").write_text(f"{LA['train'][0]}\n")
    split = split_for("left_atrium", tmp_path / "in", LA["train"])
    assert split.test == LA["train"][:1]
    assert split.train == LA["train"][1:]
    assert split.tables["lists beside the data"]["test"] == split.test
    assert split.tables["UA-MT"]["test"] == LA["test"]
    assert "order and test cases come from the lists beside the data" in split.notes[0]
