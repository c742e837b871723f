import math

import pytest

from graphnn_unet.metrics import METRICS, CaseScore, OverlapCounts, Presence, summarize

NAN = math.nan


def score(case: str, name: str, dice: float, hd95: float, presence: Presence) -> CaseScore:
    """Half the Dice for all other fractions, half the distance for all other distances."""
    values = {m.name: dice / 2 if m.unit == "fraction" else hd95 / 2 for m in METRICS.values()}
    values |= {"dice": dice, "hd95": hd95}
    return CaseScore(case, name, values, "honest", presence, OverlapCounts(1, 1, 1, 1))


SCORES = [
    score("a", "liver", 0.9, 2.0, Presence.BOTH),
    score("a", "tumor", NAN, NAN, Presence.NEITHER),
    score("b", "liver", 0.7, 4.0, Presence.BOTH),
    score("b", "tumor", 0.0, 100.0, Presence.MISSED),
    score("c", "liver", 0.8, 3.0, Presence.BOTH),
    score("c", "tumor", 0.5, 6.0, Presence.BOTH),
    score("d", "liver", 0.6, 7.0, Presence.BOTH),
    score("d", "tumor", 0.0, 100.0, Presence.INVENTED),
    score("e", "liver", 0.0, 100.0, Presence.INVENTED),
    score("e", "tumor", 0.0, 100.0, Presence.INVENTED),
]


def test_means_go_over_cases_then_over_classes():
    summary = summarize(SCORES)
    liver, tumor = summary.classes
    assert liver["dice"].value == pytest.approx(0.6)
    assert tumor["dice"].value == pytest.approx(0.5 / 4)
    # not the mean of all nine values, which the class with more cases would rule
    assert summary.mean["dice"].value == pytest.approx((0.6 + 0.5 / 4) / 2)
    assert summary.mean["hd95"].value == pytest.approx((116 / 5 + 306 / 4) / 2)


def test_counts_stand_beside_every_mean():
    liver, tumor = summarize(SCORES).classes
    assert (liver.n, liver.n_missed, liver.n_invented, liver.n_absent_in_both) == (5, 0, 1, 0)
    assert (tumor.n, tumor.n_missed, tumor.n_invented, tumor.n_absent_in_both) == (4, 1, 2, 1)
    mean = summarize(SCORES).mean
    assert (mean.n, mean.n_missed, mean.n_invented, mean.n_absent_in_both) == (5, 1, 3, 1)


def test_distances_where_both_leave_the_missed_out():
    tumor = summarize(SCORES).classes[1]
    assert tumor.where_both == {"hd95": pytest.approx(6.0), "asd": pytest.approx(3.0)}


def test_class_that_is_nowhere_spoils_no_mean():
    nowhere = [score(case, "cyst", NAN, NAN, Presence.NEITHER) for case in "abcde"]
    summary = summarize([*SCORES, *nowhere])
    assert math.isnan(summary.classes[2]["dice"].value)
    assert summary.classes[2].as_dict()["Dice"] == {"mean": None, "low": None, "high": None}
    assert summary.mean["dice"].value == summarize(SCORES).mean["dice"].value
    assert summary.mean["dice"].low == summarize(SCORES).mean["dice"].low


def test_intervals_hold_their_means():
    summary = summarize(SCORES)
    for part in (*summary.classes, summary.mean):
        for estimate in part.estimates.values():
            assert estimate.low < estimate.value < estimate.high


def test_plain_values_have_the_keys_of_the_file():
    plain = summarize(SCORES).mean.as_dict()
    assert plain["n_missed"] == 1
    assert plain["n_invented"] == 3
    assert plain["HD95_where_both"] == pytest.approx((4 + 6) / 2)
    assert set(plain) >= {metric.key for metric in METRICS.values()}
