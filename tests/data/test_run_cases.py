"""Which cases a training has, and in which folder they lie."""

import json

import pytest
from tiny_study import DATASET

from graphnn_unet.data.run_cases import select_cases
from graphnn_unet.errors import InputError, MissingFileError

IDENTIFIER = "gnnunetPlans_3d_fullres"
LABELED = [f"case_{n:02d}" for n in range(4)]
UNLABELED = [f"case_{n:02d}" for n in range(4, 7)]


@pytest.fixture
def folder(tiny_home):
    return tiny_home / "preprocessed" / DATASET


@pytest.fixture
def with_metadata(tiny_copy):
    """Folder of a copy whose metadata a test may change."""
    target = tiny_copy / "preprocessed" / DATASET

    def change(**keys):
        path = target / "gnnunet.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **keys}))
        return target

    return change


def select(folder, n_labeled=None, draw=0, fold="all") -> dict[str, list[str]]:
    return select_cases(
        folder, IDENTIFIER, n_labeled=n_labeled, draw=draw, fold=fold
    ).as_dict()  # fmt: skip


def test_all_cases_train(folder):
    assert select(folder) == {"labeled": LABELED, "unlabeled": UNLABELED, "held_out": []}


def test_labeled_cases_outside_the_draw_are_unlabeled(folder):
    selected = select_cases(folder, IDENTIFIER, n_labeled=2, draw=0, fold="all")
    assert selected.as_dict()["labeled"] == LABELED[:2]
    assert selected.as_dict()["unlabeled"] == LABELED[2:] + UNLABELED
    for case in selected.unlabeled:
        assert not case.use_label
        with pytest.raises(PermissionError, match=case.case_id):
            case.label()
        with pytest.raises(PermissionError, match=case.case_id):
            case.properties()
        assert case.image().shape[0] == 1


def test_every_case_is_opened_in_its_own_folder(folder):
    selected = select_cases(folder, IDENTIFIER, n_labeled=2, draw=0, fold="all")
    for case in (*selected.labeled, *selected.unlabeled):
        ending = "" if case.case_id in LABELED else "__unlabeled"
        assert case.folder == folder / f"{IDENTIFIER}{ending}"


def test_development_cases_have_no_role_and_are_the_same_in_every_draw(folder):
    for draw in range(3):
        selected = select_cases(
            folder, IDENTIFIER, n_labeled=1, draw=draw, fold="all", development=2
        ).as_dict()
        assert selected["development"] == LABELED[2:]
        assert set(selected["labeled"]) <= set(LABELED[:2])
        assert sorted(selected["labeled"] + selected["unlabeled"]) == LABELED[:2] + UNLABELED


def test_scans_of_a_development_patient_do_not_train_unlabeled(with_metadata):
    folder = with_metadata(patients={LABELED[3]: "eve", UNLABELED[0]: "eve"})
    selected = select_cases(
        folder, IDENTIFIER, n_labeled=None, draw=0, fold="all", development=1
    ).as_dict()
    assert selected["development"] == LABELED[3:]
    assert selected["unlabeled"] == UNLABELED[1:]


def test_a_case_must_be_left_to_train(folder):
    with pytest.raises(InputError, match="--development 4 is not possible"):
        select_cases(folder, IDENTIFIER, n_labeled=None, draw=0, fold="all", development=4)


def test_held_out_cases_train_in_no_role(folder):
    for fold in range(4):
        selected = select(folder, fold=fold)
        assert len(selected["held_out"]) == 1
        assert sorted(selected["labeled"] + selected["held_out"]) == LABELED
        assert selected["unlabeled"] == UNLABELED


def test_the_published_order_decides_draw_zero(with_metadata):
    folder = with_metadata(label_order=["case_03", "case_01", "case_00", "case_02"])
    assert select(folder, n_labeled=2)["labeled"] == ["case_03", "case_01"]


def test_cases_without_a_place_in_the_order_come_last_and_unknown_ones_are_ignored(with_metadata):
    folder = with_metadata(label_order=["case_03", "case_99", "case_05"])
    assert select(folder)["labeled"] == ["case_03", "case_00", "case_01", "case_02"]


def test_other_scans_of_a_held_out_patient_do_not_train(with_metadata):
    """case_04 is an unlabeled scan of the patient of case_00."""
    folder = with_metadata(patients={"case_00": "p", "case_04": "p"})
    seen = 0
    for fold in range(4):
        selected = select(folder, fold=fold)
        seen += selected["held_out"] == ["case_00"]
        assert ("case_04" in selected["unlabeled"]) == (selected["held_out"] != ["case_00"])
    assert seen == 1
    assert "case_04" in select(folder)["unlabeled"]


def test_a_draw_may_not_part_a_patient(with_metadata):
    folder = with_metadata(patients={"case_00": "p", "case_01": "p"})
    assert select(folder, n_labeled=2)["labeled"] == ["case_00", "case_01"]
    with pytest.raises(InputError, match="would part the scans of patient p"):
        select(folder, n_labeled=1)


def test_a_study_of_stock_nnunet_has_no_own_description(tiny_copy):
    folder = tiny_copy / "preprocessed" / DATASET
    (folder / "gnnunet.json").unlink()
    assert select(folder)["labeled"] == LABELED


def test_a_set_that_was_never_finished_is_refused(tiny_copy):
    folder = tiny_copy / "preprocessed" / DATASET
    with pytest.raises(MissingFileError, match="not preprocessed for gnnunetPlans_3d_lowres"):
        select_cases(folder, "gnnunetPlans_3d_lowres", n_labeled=None, draw=0, fold="all")


@pytest.mark.parametrize("name", ["case_01.b2nd", "case_01_seg.b2nd", "case_01.pkl"])
@pytest.mark.parametrize("cut", [True, False])
def test_missing_and_cut_files_are_all_named_before_training(tiny_copy, name, cut):
    folder = tiny_copy / "preprocessed" / DATASET
    path = folder / IDENTIFIER / name
    if cut:
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    (folder / f"{IDENTIFIER}__unlabeled" / "case_05.b2nd").unlink()
    with pytest.raises(InputError, match=r"2 of 7 .*damaged or missing: case_01, case_05"):
        select(folder)


def test_corrected_cases_train_and_are_kept_for_nothing(with_metadata):
    """case_00 and case_02 were corrected; the development cases are those of the others."""
    folder = with_metadata(
        corrected={"case_02": {"round": 2}, "case_00": {"round": 1}},
        patients={"case_00": "p", "case_03": "p"},
    )
    chosen = select_cases(folder, IDENTIFIER, n_labeled=None, draw=0, fold="all", development=1)
    # case_00 is of the patient whose scan is kept
    assert chosen.as_dict()["development"] == ["case_03"]
    assert [case.case_id for case in chosen.labeled] == ["case_01", "case_02"]
    assert chosen.corrected == ["case_02"]
    assert "case_00" not in chosen.as_dict()["unlabeled"]
    assert select(folder, n_labeled=2)["labeled"] == ["case_01", "case_03"]
    for fold in range(2):
        chosen = select(folder, fold=fold)
        assert "case_02" in chosen["labeled"]
        assert ("case_00" in chosen["labeled"]) == (chosen["held_out"] != ["case_03"])
        assert "case_00" not in chosen["unlabeled"]
