"""Corrected masks become labeled cases of a data set, wholly or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_makers import image_array, read, save

from graphnn_unet.commands.convert import main
from graphnn_unet.dataset_conversion import corrected
from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.dataset_conversion.corrected import add_corrected
from graphnn_unet.errors import FaultsError, InputError, MissingFileError


def mask(value: int = 3, shift: int = 0) -> np.ndarray:
    array = np.zeros(image_array().shape, np.uint8)
    array[1:4, 2 + shift : 5 + shift, 2:6] = value
    array[2, 3 + shift, 3] = 7
    return array


@pytest.fixture
def study(tmp_path: Path, raw: Path) -> Path:
    """Two labeled scans with the ids 3 and 7, three unlabeled ones, and one for testing."""
    for i in range(6):
        save(image_array(i), tmp_path / "in" / "images" / f"pat {i}.nii.gz")
    for i in (0, 1, 5):
        save(mask(), tmp_path / "in" / "labels" / f"pat {i}.nii.gz")
    convert(
        "nifti", images=tmp_path / "in" / "images", labels=tmp_path / "in" / "labels",
        dataset="Heart", test=1, label_names={3: "left atrium", 7: "scar"},
    )  # fmt: skip
    return next(raw.glob("Dataset*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_mask_with_the_users_name_and_ids_becomes_a_labeled_case(study: Path, tmp_path: Path):
    save(mask(shift=1), tmp_path / "edited" / "pat 3_seg.nii.gz")
    before = contents(study)
    result = add_corrected("Heart", tmp_path / "edited")
    assert (result.added, result.n_labeled, result.written) == (["pat_3"], 3, True)
    assert set(np.unique(read(study / "labelsTr" / "pat_3.nii.gz"))) == {0, 1, 2}
    after = contents(study)
    assert after["imagesTr/pat_3_0000.nii.gz"] == before["imagesUn/pat_3_0000.nii.gz"]
    assert "imagesUn/pat_3_0000.nii.gz" not in after
    record = json.loads(after["gnnunet.json"])
    assert record["label_order"] == ["pat_0", "pat_1"]
    assert record["corrected"]["pat_3"]["round"] == 1
    assert json.loads(after["dataset.json"])["numTraining"] == 3
    kept = [name for name in before if "pat_3" not in name and not name.endswith("json")]
    assert all(after[name] == before[name] for name in kept)
    assert not list(study.parent.glob(".*new*"))


def test_rounds_are_counted_and_the_order_is_kept(study: Path, tmp_path: Path):
    for name in ("pat 4", "pat 2"):
        save(mask(), tmp_path / name / f"{name}.nii.gz")
        add_corrected("Heart", tmp_path / name)
    record = json.loads((study / "gnnunet.json").read_text(encoding="utf-8"))["corrected"]
    assert [(case, entry["round"]) for case, entry in record.items()] == [
        ("pat_4", 1),
        ("pat_2", 2),
    ]


def test_the_first_label_maps_of_a_data_set_are_no_corrections(study: Path, tmp_path: Path):
    """There is no draw to keep, and a data set needs cases that can be held out."""
    for case in ("pat_0", "pat_1"):
        (study / "labelsTr" / f"{case}.nii.gz").unlink()
        image = f"{case}_0000.nii.gz"
        (study / "imagesTr" / image).rename(study / "imagesUn" / image)
    save(mask(), tmp_path / "edited" / "pat 1.nii.gz")
    add_corrected("Heart", tmp_path / "edited")
    record = json.loads((study / "gnnunet.json").read_text(encoding="utf-8"))
    assert "pat_1" in record["label_order"]
    assert record["corrected"] == {}


def test_segments_of_slicer_are_matched_by_name_and_widened(study: Path, tmp_path: Path):
    """Slicer numbers segments as they are drawn, and saves the part that holds any."""
    image = sitk.ReadImage(str(save(mask(), tmp_path / "whole.nii.gz")))[1:7, 1:6, 1:5]
    image = sitk.ChangeLabel(image, {3: 2, 7: 1})
    for number, (value, name) in enumerate(((1, "Scar"), (2, "left_atrium"))):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    (tmp_path / "edited").mkdir()
    sitk.WriteImage(image, str(tmp_path / "edited" / "pat 3.seg.nrrd"))
    result = add_corrected("Heart", tmp_path / "edited")
    assert any("saved cropped" in note for note in result.notes)
    stored = read(study / "labelsTr" / "pat_3.nii.gz")
    expected = np.zeros_like(stored)
    expected[mask() == 3], expected[mask() == 7] = 1, 2
    assert np.array_equal(stored, expected)


def test_a_segment_that_is_no_class_is_refused(study: Path, tmp_path: Path):
    image = sitk.ReadImage(str(save(mask(), tmp_path / "whole.nii.gz")))
    for number, (value, name) in enumerate(((3, "left atrium"), (7, "vein"))):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    (tmp_path / "edited").mkdir()
    sitk.WriteImage(image, str(tmp_path / "edited" / "pat 3.seg.nrrd"))
    before = contents(study)
    with pytest.raises(FaultsError) as raised:
        add_corrected("Heart", tmp_path / "edited")
    assert "the segment 'vein'; the data set has left atrium, scar" in str(raised.value)
    assert contents(study) == before


def test_a_scan_that_is_new_comes_with_its_image(study: Path, tmp_path: Path):
    save(image_array(8), tmp_path / "scans" / "new 8.nii.gz")
    save(image_array(9), tmp_path / "scans" / "new 9.nii.gz")
    save(mask(), tmp_path / "edited" / "new 8.nii.gz")
    with pytest.raises(FaultsError, match=r"fits no case .* with --images DIR"):
        add_corrected("Heart", tmp_path / "edited")
    result = add_corrected("Heart", tmp_path / "edited", images=tmp_path / "scans")
    assert result.added == ["new_8"]
    assert any("without a mask are left out: new 9" in note for note in result.notes)
    assert (study / "imagesTr" / "new_8_0000.nii.gz").is_file()
    assert "new 8,new_8" in (study / "names.csv").read_text(encoding="utf-8")
    assert "pat 3,pat_3" in (study / "names.csv").read_text(encoding="utf-8")


def test_test_cases_and_their_patients_never_train(study: Path, tmp_path: Path):
    save(mask(), tmp_path / "edited" / "pat 5.nii.gz")
    with pytest.raises(FaultsError, match="mask of a test case"):
        add_corrected("Heart", tmp_path / "edited")
    record = json.loads((study / "gnnunet.json").read_text(encoding="utf-8"))
    record["patients"]["pat_3"] = "pat_5"
    (study / "gnnunet.json").write_text(json.dumps(record))
    (tmp_path / "edited" / "pat 5.nii.gz").rename(tmp_path / "edited" / "pat 3.nii.gz")
    with pytest.raises(FaultsError, match="patient pat_5 has test cases"):
        add_corrected("Heart", tmp_path / "edited")


def test_all_masks_that_cannot_be_used_are_told_and_nothing_changes(study: Path, tmp_path: Path):
    edited = tmp_path / "edited"
    save(mask(value=5), edited / "pat 2.nii.gz")
    save(mask()[:-1], edited / "pat 3.nii.gz")
    save(mask(), edited / "pat 4.nii.gz")
    save(mask(), edited / "pat_4_label.nii.gz")
    before = contents(study)
    with pytest.raises(FaultsError) as raised:
        add_corrected("Heart", edited)
    assert "both fit it" in str(raised.value)
    (edited / "pat_4_label.nii.gz").unlink()
    with pytest.raises(FaultsError) as raised:
        add_corrected("Heart", edited)
    assert {(fault.case, fault.code) for fault in raised.value.faults} == {
        ("pat_2", "I23"), ("pat_3", "I15"),
    }  # fmt: skip
    assert contents(study) == before
    assert add_corrected("Heart", edited, exclude=["pat_2", "pat_3"]).added == ["pat_4"]


def test_a_label_map_that_is_there_is_replaced_only_when_asked(study: Path, tmp_path: Path):
    edited = tmp_path / "edited"
    save(mask(), edited / "pat 0.nii.gz")
    assert add_corrected("Heart", edited).unchanged == ["pat_0"]
    save(mask(shift=2), edited / "pat 0.nii.gz")
    with pytest.raises(FaultsError, match="--overwrite"):
        add_corrected("Heart", edited)
    result = add_corrected("Heart", edited, overwrite=True)
    assert (result.replaced, result.added, result.n_labeled) == (["pat_0"], [], 2)
    record = json.loads((study / "gnnunet.json").read_text(encoding="utf-8"))
    assert record["label_order"] == ["pat_0", "pat_1"]
    assert record["corrected"] == {}


def test_a_stop_at_any_step_leaves_the_old_set_or_the_new(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each call that changes the disk in turn is the last one."""
    save(mask(), tmp_path / "edited" / "pat 3.nii.gz")
    old = contents(study)
    backup = tmp_path / "backup"
    shutil.copytree(study, backup)
    add_corrected("Heart", tmp_path / "edited")
    new = contents(study)
    outcomes = set()
    for step in ("link_or_copy", "write_json", "exchange_folder", "write_csv"):
        shutil.rmtree(study)
        shutil.copytree(backup, study)

        def stop(*arguments, step=step):
            raise KeyboardInterrupt(step)

        with monkeypatch.context() as patch:
            patch.setattr(corrected, step, stop)
            patch.setattr(corrected.shutil, "rmtree", lambda *a, **k: None)  # a kill cleans nothing
            with pytest.raises(KeyboardInterrupt):
                add_corrected("Heart", tmp_path / "edited")
        assert contents(study) == old, step
        add_corrected("Heart", tmp_path / "edited")
        assert contents(study) == new, step
        outcomes.add(len(list(study.parent.glob(".*new*"))))
    assert outcomes == {0}


def test_the_command_says_what_became_of_the_masks(study: Path, tmp_path: Path, capsys):
    save(mask(), tmp_path / "edited" / "pat 3.nii.gz")
    before = contents(study)
    words = ["--add-corrected", str(tmp_path / "edited"), "-d", "Heart"]
    assert main([*words, "--dry-run"]) == 0
    assert "1 case would be added as labeled" in capsys.readouterr().out
    assert contents(study) == before
    assert main([*words, "--test", "3"]) == 2
    assert "--test does not go with --add-corrected" in capsys.readouterr().err
    assert main(["--add-corrected", str(tmp_path / "edited")]) == 2
    assert main(words) == 0
    written = capsys.readouterr()
    assert "1 case added as labeled" in written.out
    assert "3 labeled cases" in written.out
    assert "next: gnnunet_plan_and_preprocess -d Heart" in written.err


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_folder_without_masks_is_refused(study: Path, tmp_path: Path, what: str):
    folder = tmp_path / "edited"
    if what == "file":
        folder.write_text("")
    elif what == "empty":
        folder.mkdir()
    with pytest.raises((InputError, MissingFileError)):
        add_corrected("Heart", folder)


def test_a_data_set_of_other_files_is_refused(study: Path, tmp_path: Path):
    path = study / "dataset.json"
    path.write_text(path.read_text(encoding="utf-8").replace(".nii.gz", ".nrrd"))
    save(mask(), tmp_path / "edited" / "pat 3.nii.gz")
    with pytest.raises(InputError, match="gnnunet_convert nifti"):
        add_corrected("Heart", tmp_path / "edited")
