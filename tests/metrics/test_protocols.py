import math

import numpy as np
import pytest
from medpy.metric import binary

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.metrics import (
    METRICS,
    CaseScore,
    Presence,
    csv_columns,
    image_diagonal_mm,
    nsd,
    score_case,
)

SPACING = (3.0, 1.0, 0.5)
SHAPE = (6, 8, 10)


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Class 1 in both, 2 missed, 3 invented, 4 in neither."""
    prediction, reference = np.zeros((2, *SHAPE), dtype=np.uint8)
    prediction[2:5, 1:5, 1:5] = 1
    reference[1:4, 2:6, 1:6] = 1
    reference[5, 7, 7:] = 2
    prediction[0, 0, 8:] = 3
    return prediction, reference


LABELS = {"both": 1, "missed": 2, "invented": 3, "neither": 4}


def scores(protocol: str) -> dict[str, CaseScore]:
    records = score_case(*maps(), SPACING, LABELS, protocol, case="a")
    return {score.class_name: score for score in records}


def test_presence_of_each_class_is_told_apart():
    assert {name: score.presence for name, score in scores("honest").items()} == {
        "both": Presence.BOTH,
        "missed": Presence.MISSED,
        "invented": Presence.INVENTED,
        "neither": Presence.NEITHER,
    }


def test_found_organ_scores_as_medpy_in_mm():
    prediction, reference = (label_map == 1 for label_map in maps())
    score = scores("honest")["both"]
    assert score["dice"] == pytest.approx(binary.dc(prediction, reference))
    assert score["jaccard"] == pytest.approx(binary.jc(prediction, reference))
    assert score["hd95"] == pytest.approx(binary.hd95(prediction, reference, SPACING))
    assert score["asd"] == pytest.approx(binary.asd(prediction, reference, SPACING))
    row = score.as_row()
    assert (row["missed"], row["invented"], row["distance_unit"]) == (0, 0, "mm")


def test_found_organ_has_the_other_measures_of_medpy():
    prediction, reference = (label_map == 1 for label_map in maps())
    score = scores("honest")["both"]
    assert score["precision"] == pytest.approx(binary.precision(prediction, reference))
    assert score["recall"] == pytest.approx(binary.recall(prediction, reference))
    assert score["volume_error"] == pytest.approx(binary.ravd(prediction, reference))
    assert score["nsd"] == nsd(prediction, reference, SPACING, 2.0)


def test_tolerance_of_the_surface_dice_can_be_chosen():
    prediction, reference = maps()
    for tolerance in (0.5, 3.0):
        (score,) = score_case(prediction, reference, SPACING, {"a": 1}, nsd_tolerance_mm=tolerance)
        assert score["nsd"] == nsd(prediction == 1, reference == 1, SPACING, tolerance)
    assert score["nsd"] > scores("honest")["both"]["nsd"]


@pytest.mark.parametrize(("name", "volume_error"), [("missed", -1.0), ("invented", math.nan)])
def test_missed_and_invented_organs_have_the_worst_of_the_other_measures(name, volume_error):
    score = scores("honest")[name]
    assert [score[m] for m in ("nsd", "precision", "recall")] == [0.0] * 3
    assert score["volume_error"] == pytest.approx(volume_error, nan_ok=True)


@pytest.mark.parametrize("name", ["missed", "invented"])
def test_missed_and_invented_organs_cost_the_image_diagonal(name: str):
    score = scores("honest")[name]
    assert (score["dice"], score["jaccard"]) == (0.0, 0.0)
    assert score["hd95"] == score["asd"] == pytest.approx(image_diagonal_mm(SHAPE, SPACING))
    row = score.as_row()
    assert (row["missed"], row["invented"]) == (int(name == "missed"), int(name == "invented"))


def test_organ_absent_in_both_has_no_value():
    score = scores("honest")["neither"]
    assert math.isnan(score["dice"])
    assert math.isnan(score["hd95"])
    row = score.as_row()
    assert {row[name] for name in METRICS} == {""}
    assert (row["missed"], row["invented"]) == (0, 0)


def test_published_protocol_measures_in_voxels():
    prediction, reference = (label_map == 1 for label_map in maps())
    score = scores("published")["both"]
    assert score["hd95"] == pytest.approx(binary.hd95(prediction, reference))
    assert score["asd"] == pytest.approx(binary.asd(prediction, reference))
    assert score["hd95"] != pytest.approx(scores("honest")["both"]["hd95"])
    row = score.as_row()
    assert (row["protocol"], row["distance_unit"]) == ("published", "voxel")


def test_published_protocol_has_the_measures_of_its_programs_alone():
    for score in scores("published").values():
        for metric in METRICS.values():
            assert metric.is_published or math.isnan(score[metric.name])


def test_published_protocol_gives_an_empty_prediction_zeros():
    for name, missed in (("missed", 1), ("neither", 0)):
        score = scores("published")[name]
        assert [score[m] for m in ("dice", "jaccard", "hd95", "asd")] == [0.0] * 4
        assert score.as_row()["missed"] == missed


def test_published_protocol_gives_an_invented_organ_no_distance():
    score = scores("published")["invented"]
    assert (score["dice"], score.as_row()["missed"], score.as_row()["invented"]) == (0.0, 0, 1)
    assert math.isnan(score["hd95"])
    assert math.isnan(score["asd"])


def test_region_is_the_union_of_its_ids():
    prediction, reference = maps()
    swapped = np.where(prediction == 1, 2, prediction).astype(np.uint8)
    (region,) = score_case(swapped, reference, SPACING, {"whole": (1, 2)})
    (union,) = score_case(
        (swapped % 3 > 0).astype(np.uint8), (reference > 0).astype(np.uint8), SPACING, {"whole": 1}
    )
    assert region["dice"] == union["dice"] > 0.4
    assert region["hd95"] == union["hd95"]


@pytest.mark.parametrize("protocol", ["honest", "published"])
def test_ignored_voxels_change_nothing(protocol: str):
    prediction, reference = maps()
    reference[:, :, 5] = 9
    changed = prediction.copy()
    changed[:, :, 5] = 1
    arguments = (reference, SPACING, LABELS, protocol)
    before = score_case(prediction, *arguments, ignore_label=9)
    after = score_case(changed, *arguments, ignore_label=9)
    assert [repr(score) for score in before] == [repr(score) for score in after]
    counts = after[0].counts
    assert counts.tp + counts.fp + counts.fn + counts.tn == 6 * 8 * 9


def test_an_organ_under_the_ignore_label_is_not_invented():
    reference = np.full((3, 3, 3), 9, dtype=np.uint8)
    prediction = np.ones_like(reference)
    (score,) = score_case(prediction, reference, (1, 1, 1), {"a": 1}, ignore_label=9)
    assert score.presence is Presence.NEITHER


def test_background_as_a_class_counts_the_whole_image():
    prediction, reference = maps()
    (score,) = score_case(prediction, reference, SPACING, {"background": 0})
    expected = binary.dc(prediction == 0, reference == 0)
    assert score["dice"] == pytest.approx(expected)


def test_rows_have_the_columns_of_the_file():
    assert tuple(scores("honest")["both"].as_row()) == csv_columns()


def test_unknown_protocol_is_refused():
    with pytest.raises(InputError, match=r"no protocol 'fair'\. Use honest or published"):
        score_case(*maps(), SPACING, LABELS, "fair")


def test_maps_of_two_sizes_are_refused():
    prediction, reference = maps()
    with pytest.raises(ShapeError):
        score_case(prediction[:1], reference, SPACING, LABELS)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_is_measured_as_a_picture(axis):
    prediction, reference = np.zeros((2, 20, 24), np.uint8)
    prediction[5:13, 4:12] = reference[5:13, 7:15] = 1
    (flat,) = score_case(prediction, reference, (1.0, 1.5), {"disc": 1})
    steps = [1.0, 1.5]
    steps.insert(axis, 3.0)
    thin = [np.expand_dims(array, axis) for array in (prediction, reference)]
    (volume,) = score_case(*thin, steps, {"disc": 1})
    assert volume.values == flat.values
    assert flat["nsd"] < 0.6, "much of the outline is off"
    (published,) = score_case(*thin, steps, {"disc": 1}, "published")
    assert published["asd"] < flat["asd"], "whose programs count all voxels as surface"
