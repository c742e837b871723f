"""Where data lie and how data sets are named."""

import os
from pathlib import Path

import pytest

from graphnn_unet.data.paths import (
    dataset_id,
    folders,
    home,
    known_datasets,
    new_dataset_name,
    resolve_dataset,
    use_folders,
)
from graphnn_unet.errors import InputError, MissingFileError


@pytest.fixture
def base(tmp_path) -> Path:
    """``$GNNUNET_HOME`` of every test; its folders need not exist."""
    return tmp_path / "home"


def make(base: Path, *names: str, where: str = "raw") -> None:
    for name in names:
        (base / where / name).mkdir(parents=True)


def test_unset_variables_default_to_the_home_and_are_set_for_nnunet(base):
    paths = use_folders()
    assert (paths.raw, paths.preprocessed, paths.results) == (
        base / "raw", base / "preprocessed", base / "results",
    )  # fmt: skip
    assert os.environ["nnUNet_raw"] == str(base / "raw")
    assert os.environ["nnUNet_results"] == str(base / "results")
    assert set(paths.sources.values()) == {"GNNUNET_HOME"}


def test_without_home_it_is_below_the_users_own(monkeypatch, tmp_path):
    monkeypatch.delenv("GNNUNET_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert home() == tmp_path / "gnnunet"
    assert folders().sources["raw"] == "~/gnnunet"


def test_nnunets_variables_win(base, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "mine"))
    paths = folders()
    assert paths.raw == tmp_path / "mine"
    assert paths.preprocessed == base / "preprocessed"
    assert paths.sources == {
        "raw": "nnUNet_raw", "preprocessed": "GNNUNET_HOME", "results": "GNNUNET_HOME",
    }  # fmt: skip


def test_a_default_of_an_earlier_call_is_still_called_a_default():
    use_folders()
    assert folders().sources["raw"] == "GNNUNET_HOME"


def test_looking_changes_no_variable(base, monkeypatch):
    monkeypatch.setenv("nnUNet_results", "here")
    before = dict(os.environ)
    folders()
    known_datasets()
    assert dict(os.environ) == before


def test_an_empty_variable_counts_as_unset(base, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "")
    assert folders().raw == base / "raw"


def test_a_relative_folder_and_a_tilde_are_resolved(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("nnUNet_results", "~/there")
    assert use_folders().raw == tmp_path / "here"
    assert folders().results == tmp_path / "there"
    assert os.environ["nnUNet_raw"] == str(tmp_path / "here")


def test_one_line_names_all_three(base):
    line = folders().line
    assert "\n" not in line
    assert all(str(base / name) in line for name in ("raw", "preprocessed", "results"))


def test_data_sets_are_found_in_all_three_folders(base):
    make(base, "Dataset102_B", "imagesTr", "Dataset1_short")
    make(base, "Dataset101_A", where="preprocessed")
    make(base, "Dataset103_C", where="results")
    (base / "raw" / "Dataset104_file").write_text("x")
    assert known_datasets() == ["Dataset101_A", "Dataset102_B", "Dataset103_C"]


@pytest.mark.parametrize("given", ["LA", "la", "101", 101, "Dataset101_LA"])
def test_a_data_set_is_found_by_name_id_or_both(base, given):
    make(base, "Dataset101_LA", "Dataset102_LA_half")
    assert resolve_dataset(given) == "Dataset101_LA"


def test_the_right_case_wins_over_another(base):
    make(base, "Dataset101_LA", "Dataset102_la")
    assert resolve_dataset("la") == "Dataset102_la"
    assert resolve_dataset("LA") == "Dataset101_LA"
    with pytest.raises(InputError, match="ambiguous"):
        resolve_dataset("La")


def test_an_ambiguous_name_or_id_lists_what_it_fits(base):
    make(base, "Dataset101_LA", "Dataset102_LA", "Dataset101_Other")
    with pytest.raises(InputError, match="'LA' is ambiguous: it fits Dataset101_LA, Dataset102_LA"):
        resolve_dataset("LA")
    with pytest.raises(InputError, match="it fits Dataset101_LA, Dataset101_Other"):
        resolve_dataset(101)


def test_an_unknown_name_lists_near_ones(base):
    make(base, "Dataset101_Pancreas", "Dataset102_ACDC")
    with pytest.raises(MissingFileError, match=r"'Pancras' was not found.*near names: Pancreas"):
        resolve_dataset("Pancras")
    with pytest.raises(MissingFileError, match="known names: Pancreas, "):
        resolve_dataset("xyz")


def test_without_any_data_set_the_way_to_one_is_told():
    with pytest.raises(MissingFileError, match=r"known names: none.*gnnunet_convert"):
        resolve_dataset("LA")


def test_the_id_of_a_name():
    assert dataset_id("Dataset007_Bond") == 7


@pytest.mark.parametrize(
    ("given", "default", "label", "name"),
    [
        ("MyStudy", None, "", "Dataset501_MyStudy"),
        ("LA", 101, "", "Dataset101_LA"),
        ("Dataset733_My-Study_2", None, "", "Dataset733_My-Study_2"),
        ("733", None, "LA", "Dataset733_LA"),
        ("7", None, "", "Dataset007_Study"),
    ],
)
def test_new_names(given, default, label, name):
    assert new_dataset_name(given, default, label) == name


def test_a_new_name_takes_the_next_free_id(base):
    make(base, "Dataset501_A", "Dataset101_LA")
    assert new_dataset_name("B") == "Dataset502_B"
    assert new_dataset_name("A") == "Dataset501_A"  # it is there already
    assert new_dataset_name("Atrium", 101) == "Dataset502_Atrium"  # 101 is another's


@pytest.mark.parametrize("given", ["a b", "../up", "x/y", "", "-x", "$(id)", "ä", "a" * 65])
def test_names_that_cannot_be_folders_are_refused(given):
    with pytest.raises(InputError, match="cannot name a data set"):
        new_dataset_name(given)


def test_an_id_of_another_data_set_or_out_of_range_is_refused(base):
    make(base, "Dataset101_LA")
    with pytest.raises(InputError, match="id 101 belongs to Dataset101_LA"):
        new_dataset_name("Dataset101_Other")
    with pytest.raises(InputError, match="out of range"):
        new_dataset_name("1000")
    with pytest.raises(InputError, match="out of range"):
        new_dataset_name("0")
