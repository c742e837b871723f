"""Folds by patient, and which labeled cases a run has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.crossval_split import generate_crossval_split

from graphnn_unet.data.splits import choose_labeled, describe_splits, held_out, make_splits
from graphnn_unet.errors import InputError


def cases(n: int) -> list[str]:
    return [f"case_{i:02d}" for i in range(n)]


def own_patients(n: int) -> dict[str, str]:
    return {case: case for case in cases(n)}


def two_scans(n_patients: int) -> dict[str, str]:
    return {f"p{p}_{scan}": f"p{p}" for p in range(n_patients) for scan in ("ED", "ES")}


@pytest.mark.parametrize("n", [5, 8, 20, 33])
def test_with_one_scan_a_patient_the_folds_are_those_of_nnunet(n):
    theirs = generate_crossval_split(cases(n))
    ours = make_splits(own_patients(n))
    assert [{k: sorted(v) for k, v in fold.items()} for fold in theirs] == ours


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 12), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_every_case_is_held_out_once_and_patients_stay_together(table):
    patients = {case: f"p{number}" for case, number in table.items()}
    splits = make_splits(patients)
    n_patients = len(set(patients.values()))
    assert len(splits) == (0 if n_patients < 2 else min(5, n_patients))
    for fold in splits:
        assert sorted([*fold["train"], *fold["val"]]) == sorted(patients)
        assert not {patients[c] for c in fold["train"]} & {patients[c] for c in fold["val"]}
        assert fold["train"]
        assert fold["val"]
    if splits:
        assert sorted(case for fold in splits for case in fold["val"]) == sorted(patients)


def test_the_order_of_the_cases_does_not_matter():
    table = two_scans(7)
    assert make_splits(table) == make_splits(dict(reversed(table.items())))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_below_five_patients_each_is_left_out_once(n):
    splits = make_splits(own_patients(n))
    assert len(splits) == n
    assert all(len(fold["val"]) == 1 for fold in splits)


def test_a_single_patient_cannot_be_held_out():
    assert make_splits({"a": "p", "b": "p"}) == []
    assert make_splits({"a": "a"}) == []


@pytest.mark.parametrize(
    ("patients", "words"),
    [
        (own_patients(20), ["20 labeled cases: 5-fold cross-validation"]),
        (own_patients(5), ["5-fold leave-one-out"]),
        (own_patients(3), ["3-fold leave-one-out", "fewer than 5: 3 patients"]),
        (own_patients(1), ["nothing can be held out", "fold 'all'"]),
        (two_scans(4), ["8 labeled cases of 4 patients", "4-fold", "stay together"]),
    ],
)
def test_one_sentence_says_what_can_be_held_out(patients, words):
    line = describe_splits(patients, make_splits(patients))
    assert all(word in line for word in words)
    assert "\n" not in line


# ------------------------------------------------------------------------------ draws


def test_draw_zero_takes_the_first_ones_in_published_order():
    order = list(reversed(cases(9)))
    assert choose_labeled(order, 3, 0) == order[:3]
    assert choose_labeled(order, None, 0) == order


def test_other_draws_are_random_and_always_the_same():
    order = cases(20)
    draws = [choose_labeled(order, 4, draw) for draw in range(1, 6)]
    assert draws == [choose_labeled(order, 4, draw) for draw in range(1, 6)]
    assert len({tuple(sorted(draw)) for draw in draws}) == 5
    assert all(len(set(draw)) == 4 and set(draw) <= set(order) for draw in draws)


def test_a_larger_subset_of_a_draw_holds_the_smaller_one():
    order = cases(20)
    for draw in range(4):
        assert choose_labeled(order, 8, draw)[:4] == choose_labeled(order, 4, draw)


@pytest.mark.parametrize("draw", range(6))
def test_a_draw_never_parts_a_patient(draw):
    table = two_scans(6)
    labeled = choose_labeled(list(table), 6, draw, table)
    assert len({table[case] for case in labeled}) == 3


@pytest.mark.parametrize("draw", [0, 1])
def test_a_subset_that_would_part_a_patient_is_refused_with_sizes_that_fit(draw):
    table = two_scans(6)
    with pytest.raises(InputError, match=r"--labeled 5 would part.*Use --labeled 4 or 6"):
        choose_labeled(list(table), 5, draw, table)


@pytest.mark.parametrize("n", [0, -1, 10])
def test_an_impossible_number_is_refused(n):
    with pytest.raises(InputError, match=rf"--labeled {n} is not possible.*has 9 labeled"):
        choose_labeled(cases(9), n, 0)


# ------------------------------------------------------------------------------ folds


def test_folds_are_made_of_the_cases_of_the_run():
    labeled = cases(20)[:6]
    held = [held_out(labeled, own_patients(20), fold) for fold in range(5)]
    assert sorted(case for _, val in held for case in val) == labeled
    assert all(sorted([*train, *val]) == labeled for train, val in held)


def test_a_fold_holds_out_whole_patients():
    table = two_scans(4)
    for fold in range(4):
        train, val = held_out(list(table), table, fold)
        assert len({table[case] for case in val}) == 1
        assert not {table[case] for case in val} & {table[case] for case in train}


def test_fold_all_holds_nothing_out():
    assert held_out(cases(4), own_patients(4), "all") == (cases(4), [])


@pytest.mark.parametrize("fold", [4, -1, 7, "x", None])
def test_a_fold_that_does_not_exist_is_refused_with_those_that_do(fold):
    with pytest.raises(InputError, match=r"folds of these cases: 0, 1, 2, 3, all"):
        held_out(cases(4), own_patients(4), fold)


def test_one_case_has_fold_all_alone():
    with pytest.raises(InputError, match="folds of these cases: all"):
        held_out(cases(1), own_patients(1), 0)


# ------------------------------------------------------------------------------ corrected cases


def test_corrected_cases_follow_in_every_draw():
    order, corrected = cases(9), ["new_1", "new_0"]
    for draw in range(4):
        before = choose_labeled(order, 9, draw)
        assert choose_labeled(order, 5, draw, corrected=corrected) == before[:5]
        assert choose_labeled(order, 10, draw, corrected=corrected) == [*before, "new_1"]
        assert choose_labeled(order, None, draw, corrected=corrected) == [*before, *corrected]
    with pytest.raises(InputError, match="has 11 labeled cases"):
        choose_labeled(order, 12, 0, corrected=corrected)


def test_a_corrected_scan_of_a_labeled_patient_does_not_part_him():
    table = {**own_patients(4), "new": own_patients(4)[cases(4)[0]]}
    assert choose_labeled(cases(4), 2, 0, table, ["new"]) == cases(4)[:2]


def test_corrected_cases_leave_the_folds_as_they_were():
    table = own_patients(7)
    before = make_splits(table)
    more = {**table, "new_0": "someone", "new_1": table[cases(7)[0]]}
    after = make_splits(more, corrected=["new_0", "new_1"])
    assert [fold["val"] for fold in after] == [fold["val"] for fold in before]
    for old, new in zip(before, after, strict=True):
        same_patient = [] if cases(7)[0] in old["val"] else ["new_1"]
        assert new["train"] == sorted([*old["train"], "new_0", *same_patient])


def test_corrected_cases_alone_hold_nothing_out():
    assert make_splits({"a": "a", "new": "b"}, corrected=["new"]) == []
