"""Masks of which only some slices are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_makers import SHAPE, image_array, read, save

from graphnn_unet.commands.convert import main
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.sparse import drawn_slices
from graphnn_unet.errors import FaultsError, InputError, MissingFileError


def mask(slices=(1, 3)) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[list(slices), 2:5, 2:6] = 2
    return array


@pytest.fixture
def study(tmp_path: Path, raw: Path) -> Path:
    for i in range(3):
        save(image_array(i), tmp_path / "im" / f"p{i}.nii.gz")
        save(mask(), tmp_path / "la" / f"p{i}.nii.gz")
    return tmp_path


def run(study: Path, **options):
    options.setdefault("sparse", "auto")
    return convert("nifti", images=study / "im", labels=study / "la", dataset="My", **options)


def ignored(result, case: str) -> list[int]:
    """Slices that are ignored wholly; none may be so in part."""
    array = read(result.folder / "labelsTr" / f"{case}.nii.gz")
    is_ignored = (array == result.labels["ignore"]).reshape(len(array), -1)
    assert np.array_equal(is_ignored.any(axis=1), is_ignored.all(axis=1))
    return np.flatnonzero(is_ignored.all(axis=1)).tolist()


def test_slices_without_a_label_are_ignored_and_the_others_stay(study: Path):
    result = run(study, label_names={2: "organ"})
    assert result.labels == {"background": 0, "organ": 1, "ignore": 2}
    assert ignored(result, "p0") == [z for z in range(SHAPE[0]) if z not in (1, 3)]
    array = read(result.folder / "labelsTr" / "p0.nii.gz")
    assert np.array_equal(array[[1, 3]] == 1, mask()[[1, 3]] == 2)
    table = json.loads((result.folder / "dataset.json").read_text(encoding="utf-8"))
    assert table["original_labels"] == {"background": 0, "organ": 2, "ignore": 3}


def test_a_table_names_slices_that_are_drawn_and_empty(study: Path):
    (study / "drawn.csv").write_text("case,why,slices\np0,x,0 3\np1,y,all\np2,z,\n")
    result = run(study, sparse_slices=study / "drawn.csv")
    assert ignored(result, "p0") == [z for z in range(SHAPE[0]) if z not in (0, 1, 3)]
    assert ignored(result, "p1") == []
    assert ignored(result, "p2") == [z for z in range(SHAPE[0]) if z not in (1, 3)]


def test_slices_can_be_drawn_across_another_axis(study: Path):
    result = run(study, sparse="x")
    array = read(result.folder / "labelsTr" / "p0.nii.gz")
    columns = (array == result.labels["ignore"]).all(axis=(0, 1))
    assert np.flatnonzero(~columns).tolist() == [2, 3, 4, 5]


def test_axes_are_those_of_the_image(study: Path):
    """A mask stored along other axes is turned before its slices are looked at."""
    for i in range(3):
        path = study / "la" / f"p{i}.nii.gz"
        turned = sitk.PermuteAxes(sitk.ReadImage(str(path)), (2, 1, 0))
        sitk.WriteImage(turned, str(path))
    assert ignored(run(study), "p0") == [z for z in range(SHAPE[0]) if z not in (1, 3)]


def test_masks_of_test_cases_stay_whole(study: Path):
    result = run(study, test=1)
    assert not (read(result.folder / "labelsTs" / "p2.nii.gz") == 2).any()
    assert ignored(result, "p0")


def test_a_label_called_ignore_is_used_further(study: Path):
    array = mask()
    array[1, 0, 0] = 9
    save(array, study / "la" / "p0.nii.gz")
    result = run(study, label_names={2: "organ", 9: "ignore"})
    assert result.labels == {"background": 0, "organ": 1, "ignore": 2}
    stored = read(result.folder / "labelsTr" / "p0.nii.gz")
    assert stored[1, 0, 0] == 2
    assert (stored[0] == 2).all()
    assert stored[1, 0, 1] == 0


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("case,slices\np0,1;x\n", "cannot be read"),
        ("name,slices\np0,1\n", "no table of slices"),
        ("case,slices\nother,1\n", "has no such case"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(study: Path, table: str, words: str):
    (study / "drawn.csv").write_text(table)
    with pytest.raises(InputError, match=words):
        run(study, sparse_slices=study / "drawn.csv")


def test_masks_without_a_drawn_slice_or_with_too_few_slices_are_told(study: Path):
    save(np.zeros(SHAPE, np.uint8), study / "la" / "p0.nii.gz")
    (study / "drawn.csv").write_text("case,slices\np1,99\n")
    with pytest.raises(FaultsError) as raised:
        run(study, sparse_slices=study / "drawn.csv")
    assert {fault.case for fault in raised.value.faults} == {"p0", "p1"}
    assert "slice 99 is named as drawn" in str(raised.value)


SCANS = (18, 12, 14)


@pytest.fixture
def sparse_study(tmp_path: Path, raw: Path) -> Path:
    """Three scans, each with four slices drawn across z, and one with a whole mask."""
    for i in range(4):
        save(image_array(i, SCANS), tmp_path / "im" / f"p{i}.nii.gz")
        array = np.zeros(SCANS, np.uint8)
        slices = slice(4, 12) if i == 3 else [1 + i, 5 + i, 10 + i, 14 + i]
        array[slices, 2:9, 3:11] = 1
        save(array, tmp_path / "la" / f"p{i}.nii.gz")
    return tmp_path


def slice_notes_of(study: Path, **options) -> list[str]:
    result = run(study, sparse=options.pop("sparse", None), dry_run=True, **options)
    return [note for note in result.notes if "at equal distances" in note]


def test_masks_that_look_sparse_are_told(sparse_study: Path):
    (note,) = slice_notes_of(sparse_study)
    assert note.startswith(
        "3 of 4 label maps (p0, p1, p2) have labels only in slices across z at equal distances: "
        "where the slices between were not drawn, give --sparse, or"
    )
    assert slice_notes_of(sparse_study, sparse="auto") == []
    assert slice_notes_of(sparse_study, sparse="z") == []


@pytest.mark.parametrize("axis", ["x", "y"])
def test_slices_that_lie_across_another_axis_than_the_given_one_are_told(sparse_study, axis):
    (note,) = slice_notes_of(sparse_study, sparse=axis)
    assert "across z" in note
    assert "give --sparse z, or" in note


def test_the_axis_is_named_where_the_spacing_does_not_tell_it(sparse_study: Path):
    for path in sparse_study.glob("*/*.nii.gz"):
        save(read(path), path, spacing=(1.0, 5.0, 1.0))
    (note,) = slice_notes_of(sparse_study)
    assert "give --sparse z, or" in note
    assert len(slice_notes_of(sparse_study, sparse="auto")) == 1


def test_the_axis_is_that_of_the_image(sparse_study: Path):
    for path in sparse_study.glob("la/*.nii.gz"):
        sitk.WriteImage(sitk.PermuteAxes(sitk.ReadImage(str(path)), (2, 1, 0)), str(path))
    (note,) = slice_notes_of(sparse_study)
    assert "across z" in note
    assert slice_notes_of(sparse_study, sparse="z") == []


def test_masks_that_the_table_calls_whole_are_not_told(sparse_study: Path):
    (sparse_study / "drawn.csv").write_text("case,slices\np0,all\np1,all\np2,all\n")
    assert slice_notes_of(sparse_study, sparse_slices=sparse_study / "drawn.csv") == []


def test_half_of_the_masks_are_not_enough(sparse_study: Path):
    whole = sparse_study / "la" / "p3.nii.gz"
    (sparse_study / "la" / "p2.nii.gz").write_bytes(whole.read_bytes())
    assert slice_notes_of(sparse_study) == []


def test_only_own_volumes_have_sparse_masks(study: Path):
    with pytest.raises(InputError, match="belongs to form nifti"):
        convert("LA", study, sparse="auto")
    with pytest.raises(MissingFileError):
        drawn_slices("auto", study / "none.csv")
    with pytest.raises(InputError, match="axis"):
        drawn_slices("w", None)


def test_the_command_takes_an_axis_or_none(study: Path, capsys):
    words = ["nifti", "--images", str(study / "im"), "--labels", str(study / "la"), "-d", "My"]
    assert main([*words, "--sparse", "--dry-run"]) == 0
    assert "ignore=2" in capsys.readouterr().out
    assert main([*words, "--sparse", "y", "--dry-run"]) == 0
