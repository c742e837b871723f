import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from graphnn_unet.errors import CasesFailedError, FaultsError, InputError, RefusedError
from graphnn_unet.metrics import csv_columns, hd95, image_diagonal_mm
from graphnn_unet.metrics.evaluate import PartlyEvaluatedError, evaluate

SHAPE, SPACING = (6, 12, 10), (3.0, 1.0, 0.5)
NAMES = {"background": 0, "liver": 1, "tumor": 2}


def label_map(shift: int = 0, tumor: bool = True) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[1:5, 1 + shift : 8 + shift, 2:8] = 1
    if tumor:
        array[2:4, 3 : 5 + shift, 3:6] = 2
    return array


@pytest.fixture
def folders(tmp_path: Path, write_map) -> tuple[Path, Path]:
    """Three cases: both classes found, a tumor missed, no tumor in either."""
    predictions, labels = tmp_path / "predictions", tmp_path / "raw" / "labelsXy"
    for case, predicted, true in (
        ("a", label_map(1), label_map()),
        ("b", label_map(2, tumor=False), label_map()),
        ("c", label_map(0, tumor=False), label_map(1, tumor=False)),
    ):
        write_map(predictions / f"{case}.nii.gz", predicted, SPACING)
        write_map(labels / f"{case}.nii.gz", true, SPACING)
    (labels.parent / "dataset.json").write_text(json.dumps({"labels": NAMES}))
    return predictions, labels


def strict_json(path: Path) -> dict:
    def refuse(constant: str):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_table_has_a_row_a_case_and_class(folders):
    predictions, labels = folders
    result = evaluate(predictions, labels)
    with (predictions / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == csv_columns()
    assert [(row["case"], row["class"]) for row in rows] == [
        (case, name) for case in "abc" for name in ("liver", "tumor")
    ]
    expected = hd95(label_map(1) == 1, label_map() == 1, SPACING)
    assert float(rows[0]["hd95"]) == pytest.approx(expected)
    assert float(rows[3]["hd95"]) == pytest.approx(image_diagonal_mm(SHAPE, SPACING))
    assert [row["missed"] for row in rows] == ["0", "0", "0", "1", "0", "0"]
    assert {row["invented"] for row in rows} == {"0"}
    assert {row["distance_unit"] for row in rows} == {"mm"}
    assert rows[5]["dice"] == rows[5]["asd"] == ""
    assert result.n_cases == 3
    assert not (predictions / "failures.csv").exists()


def test_summary_keeps_the_keys_and_figures_of_nnunet(folders):
    predictions, labels = folders
    evaluate(predictions, labels)
    summary = strict_json(predictions / "summary.json")
    reader = SimpleITKIO()
    theirs = [
        compute_metrics(
            str(labels / f"{c}.nii.gz"), str(predictions / f"{c}.nii.gz"), reader, [1, 2]
        )
        for c in "abc"
    ]
    for ours, nnunet in zip(summary["metric_per_case"], theirs, strict=True):
        assert set(nnunet) <= set(ours)
        for label in (1, 2):
            for name, value in nnunet["metrics"][label].items():
                figure = ours["metrics"][str(label)][name]
                assert figure is None if np.isnan(value) else figure == pytest.approx(value)
    for label in (1, 2):
        for name in theirs[0]["metrics"][label]:
            expected = np.nanmean([case["metrics"][label][name] for case in theirs])
            assert summary["mean"][str(label)][name] == pytest.approx(expected)
    both = [summary["mean"][label]["Dice"] for label in "12"]
    assert summary["foreground_mean"]["Dice"] == pytest.approx(np.mean(both))


def test_summary_says_how_it_was_made(folders):
    predictions, labels = folders
    evaluate(predictions, labels)
    summary = strict_json(predictions / "summary.json")
    tumor = summary["classes"]["tumor"]
    assert {key: tumor[key] for key in ("key", "n", "n_missed", "n_invented")} == {
        "key": "2", "n": 2, "n_missed": 1, "n_invented": 0,
    }  # fmt: skip
    assert tumor["n_absent_in_both"] == 1
    assert tumor["Dice"]["low"] == 0.0
    assert summary["mean_over_classes"]["Dice"]["low"] < summary["foreground_mean"]["Dice"]
    assert summary["protocol"] == "honest"
    assert summary["distance_unit"] == "mm"
    assert summary["is_estimate"] is None
    assert summary["definitions"]["distance unit"] == "mm"
    assert set(summary["versions"]) >= {"graphnn_unet", "numpy", "scipy", "SimpleITK"}


def test_published_protocol_is_marked_everywhere(folders, tmp_path: Path):
    predictions, labels = folders
    result = evaluate(predictions, labels, tmp_path / "out", "published")
    assert {score.as_row()["protocol"] for score in result.scores} == {"published"}
    summary = strict_json(tmp_path / "out" / "summary.json")
    assert summary["protocol"] == "published"
    assert summary["distance_unit"] == result.distance_unit == "voxel"
    assert "voxel" in summary["definitions"]["distance unit"]
    # the missed tumor costs no distance here, and the absent one Dice 0 instead of no value
    assert result.classes[1]["hd95"].value < result.classes[1].where_both["hd95"]
    assert result.classes[1].n == 3


def test_the_two_folders_may_differ_in_format(folders, write_map):
    predictions, labels = folders
    expected = evaluate(predictions, labels)
    (predictions / "a.nii.gz").unlink()
    write_map(predictions / "a_0000.mha", label_map(1), SPACING)
    (labels / "b.nii.gz").unlink()
    write_map(labels / "b.nrrd", label_map(), SPACING)
    assert [repr(score) for score in evaluate(predictions, labels).scores] == [
        repr(score) for score in expected.scores
    ]


def test_workers_find_the_same_in_the_same_order(folders, tmp_path: Path):
    predictions, labels = folders
    for n_workers in (0, 2):
        evaluate(predictions, labels, tmp_path / str(n_workers), n_workers=n_workers)
    here, there = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("0", "2"))
    assert here == there


def test_tolerance_of_the_surface_dice_is_recorded_and_reaches_workers(folders, tmp_path: Path):
    values = []
    for tolerance in (0.0, 5.0):
        result = evaluate(
            *folders, tmp_path / f"out {tolerance}", nsd_tolerance_mm=tolerance, n_workers=2
        )
        assert strict_json(result.summary_json)["nsd_tolerance_mm"] == tolerance
        values.append(result.scores[0]["nsd"])
    assert values[0] < 1.0 == values[1]
    assert strict_json(evaluate(*folders).summary_json)["nsd_tolerance_mm"] == 2.0


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_tolerance_out_of_range_is_refused(folders, tolerance: float):
    with pytest.raises(InputError, match="out of range"):
        evaluate(*folders, nsd_tolerance_mm=tolerance)


def test_without_dataset_json_each_id_is_a_class(folders):
    predictions, labels = folders
    (labels.parent / "dataset.json").unlink()
    result = evaluate(predictions, labels)
    assert [summary.name for summary in result.classes] == ["1", "2"]
    assert [summary.n_absent_in_both for summary in result.classes] == [0, 1]
    assert strict_json(result.summary_json)["inputs"]["dataset_json"] is None


def test_regions_and_ignore_label_of_dataset_json_hold(folders, write_map, tmp_path: Path):
    predictions, labels = folders
    reference = label_map()
    reference[:, 9:] = 3
    wrong_where_ignored = label_map()
    wrong_where_ignored[:, 9:] = 1
    write_map(labels / "a.nii.gz", reference, SPACING)
    write_map(predictions / "a.nii.gz", wrong_where_ignored, SPACING)
    dataset_json = tmp_path / "regions.json"
    names = {"background": 0, "whole": [1, 2], "tumor": 2, "ignore": 3}
    dataset_json.write_text(json.dumps({"labels": names, "regions_class_order": [1, 2]}))
    result = evaluate(predictions, labels, dataset_json=dataset_json, cases=["a"])
    assert [(score.class_name, score["dice"]) for score in result.scores] == [
        ("whole", 1.0), ("tumor", 1.0),
    ]  # fmt: skip
    assert list(strict_json(result.summary_json)["mean"]) == ["(1, 2)", "2"]


def test_all_faults_come_in_one_pass_and_the_rest_is_scored(folders, write_map):
    predictions, labels = folders
    (predictions / "a.nii.gz").unlink()
    write_map(predictions / "b.nii.gz", label_map(), (3.0, 1.0, 0.7))
    for case in "de":
        write_map(labels / f"{case}.nii.gz", label_map(), SPACING)
    write_map(predictions / "d.nii.gz", label_map() * 3, SPACING)
    (predictions / "e.nii.gz").write_bytes((predictions / "c.nii.gz").read_bytes()[:-20])
    with pytest.raises(CasesFailedError) as caught:
        evaluate(predictions, labels)
    faults = {fault.case: fault for fault in caught.value.faults}
    assert set(faults) == set("abde")
    assert "no prediction" in faults["a"].cause
    assert "spacing (3, 1, 0.7) against (3, 1, 0.5) mm" in faults["b"].cause
    assert "values 3, 6" in faults["d"].cause
    assert "truncated" in faults["e"].cause
    assert all(fault.remedy for fault in faults.values())
    assert isinstance(caught.value, PartlyEvaluatedError)
    assert caught.value.result.n_cases == 1
    assert strict_json(predictions / "summary.json")["failed_cases"] == ["a", "b", "d", "e"]
    with (predictions / "failures.csv").open() as file:
        assert sorted(row["case"] for row in csv.DictReader(file)) == ["a", "b", "d", "e"]


def test_list_of_failures_goes_when_all_is_well_again(folders, write_map):
    predictions, labels = folders
    kept = (predictions / "a.nii.gz").rename(predictions.parent / "a.nii.gz")
    with pytest.raises(PartlyEvaluatedError):
        evaluate(predictions, labels)
    kept.rename(predictions / "a.nii.gz")
    evaluate(predictions, labels)
    assert not (predictions / "failures.csv").exists()


def test_nothing_is_written_when_nothing_can_be_scored(folders, write_map):
    predictions, labels = folders
    for case in "abc":
        write_map(predictions / f"{case}.nii.gz", label_map()[:3], SPACING)
    with pytest.raises(FaultsError) as caught:
        evaluate(predictions, labels)
    assert not isinstance(caught.value, CasesFailedError)
    assert all("size (3, 12, 10) against (6, 12, 10) voxels" in line for line in caught.value.lines)
    assert not list(predictions.glob("*.csv")) + list(predictions.glob("*.json"))


def test_names_without_a_pair_are_one_fault(folders):
    predictions, labels = folders
    for path in predictions.iterdir():
        path.rename(path.with_name(f"seg_{path.name}"))
    with pytest.raises(FaultsError, match="seg_a, seg_b, seg_c against a, b, c") as caught:
        evaluate(predictions, labels)
    assert len(caught.value.faults) == 1


def test_a_case_in_two_files_is_a_fault(folders, write_map):
    predictions, labels = folders
    write_map(predictions / "a.mha", label_map(), SPACING)
    with pytest.raises(PartlyEvaluatedError, match=r"twice, as a\.mha and a\.nii\.gz"):
        evaluate(predictions, labels)


def test_spare_predictions_are_named_not_scored(folders, write_map, capsys):
    predictions, labels = folders
    write_map(predictions / "z.nii.gz", label_map(), SPACING)
    assert evaluate(predictions, labels).n_cases == 3
    assert "1 predictions have no label map and are not scored: z" in capsys.readouterr().err


def test_one_folder_given_twice_is_refused(folders):
    with pytest.raises(RefusedError, match="every figure would be perfect"):
        evaluate(folders[1], folders[1])


def test_missing_and_empty_folders_are_named_together(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FaultsError) as caught:
        evaluate(tmp_path / "nowhere", tmp_path / "empty")
    assert ["missing" in line or "no label maps" in line for line in caught.value.lines] == [
        True, True,
    ]  # fmt: skip


def test_output_that_is_a_file_is_refused_before_the_work(folders, tmp_path: Path):
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="cannot take the results"):
        evaluate(*folders, tmp_path / "taken")


def test_images_given_for_label_maps_are_found_out(folders, write_map):
    predictions, labels = folders
    (labels.parent / "dataset.json").unlink()
    image = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    write_map(predictions / "a.nii.gz", image, SPACING)
    with pytest.raises(PartlyEvaluatedError, match="720 different values and looks like an image"):
        evaluate(predictions, labels)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("fold_all", "validation"), False),
        (("fold_2", "validation"), True),
        (("fold_all", "test"), None),
        (("fold_all", "fold_0", "mine"), None),
    ],
)
def test_figures_of_training_cases_are_no_estimate(folders, parts, expected):
    predictions, labels = folders
    place = predictions.parent.joinpath(*parts)
    place.parent.mkdir(parents=True)
    predictions.rename(place)
    result = evaluate(place, labels)
    assert result.is_estimate is expected
    assert strict_json(result.summary_json)["is_estimate"] is expected
    assert evaluate(place, labels, is_estimate=True).is_estimate is True


def test_real_labels_against_themselves_are_perfect(tmp_path: Path):
    data = os.environ.get("GNNUNET_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data"
    labels = Path(data) / "Hippocampus" / "labelsTr"
    if not labels.is_dir():
        pytest.skip("the real data are not here")
    (tmp_path / "predictions").mkdir()
    cases = ["hippocampus_001", "hippocampus_003"]
    for case in cases:
        name = f"{case}.nii.gz"
        (tmp_path / "predictions" / name).write_bytes((labels / name).read_bytes())
    result = evaluate(tmp_path / "predictions", labels, cases=cases)
    assert [summary.name for summary in result.classes] == ["Anterior", "Posterior"]
    assert [(summary["dice"].value, summary["hd95"].value) for summary in result.classes] == [
        (1.0, 0.0),
        (1.0, 0.0),
    ]


def test_ignore_label_in_a_prediction_is_a_fault(folders, write_map, tmp_path: Path):
    predictions, labels = folders
    dataset_json = tmp_path / "names.json"
    dataset_json.write_text(json.dumps({"labels": {**NAMES, "ignore": 3}}))
    predicted = label_map()
    predicted[0, 0, 0] = 3
    write_map(predictions / "a.nii.gz", predicted, SPACING)
    with pytest.raises(PartlyEvaluatedError, match=r"value 3 \(1 voxels\)"):
        evaluate(predictions, labels, dataset_json=dataset_json)


def test_the_ids_of_the_user_count_on_both_sides(folders, write_map, tmp_path: Path):
    """A perfect result scores 1 whichever of the two has the ids inside and which the user's."""
    _, inside = folders
    originals = {"background": 0, "liver": 1, "tumor": 4}
    description = {"labels": NAMES, "original_labels": originals}
    (inside.parent / "dataset.json").write_text(json.dumps(description))
    outside = tmp_path / "elsewhere" / "maps"
    for case, array in (("a", label_map()), ("b", label_map()), ("c", label_map(1, tumor=False))):
        write_map(outside / f"{case}.nii.gz", np.array([0, 1, 4], np.uint8)[array], SPACING)
    for predictions, labels in ((inside, outside), (outside, inside)):
        result = evaluate(predictions, labels, tmp_path / "metrics", overwrite=True)
        assert {score.class_name for score in result.scores} == {"liver", "tumor"}
        assert result.mean["dice"].value == 1.0
    summary = json.loads((tmp_path / "metrics" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["mean"]) == {"1", "4"}


def test_a_prediction_along_other_axes_is_compared_voxel_by_voxel(folders, write_map, tmp_path):
    predictions, labels = folders
    expected = evaluate(predictions, labels, tmp_path / "expected")
    for path in predictions.glob("*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "PIR"), str(path), True)
    assert evaluate(predictions, labels, tmp_path / "turned").scores == expected.scores


def test_a_prediction_with_the_users_name_meets_the_label_map_of_its_case_id(
    tmp_path: Path, write_map, capsys
):
    write_map(tmp_path / "p" / "Fall ü 1.nii.gz", label_map(), SPACING)
    write_map(tmp_path / "g" / "Fall_ue_1.nii.gz", label_map(), SPACING)
    (tmp_path / "p" / "names.csv").touch()
    (tmp_path / "p" / "notes.txt").touch()
    assert evaluate(tmp_path / "p", tmp_path / "g").mean["dice"].value == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("left out")]
    assert line.endswith("notes.txt (no image file)")
