import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as oracle

from graphnn_unet.errors import ShapeError
from graphnn_unet.metrics.classification import (
    calibration_error,
    score_classification,
)

NAMES = ("a", "b", "c")


def example(n: int = 200, seed: int = 0):
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=(0.6, 0.3, 0.1))
    score = rng.random((n, 3)) + 0.4 * np.eye(3)[truth]
    probability = (score / score.sum(1, keepdims=True)).round(2)  # some ties
    probability /= probability.sum(1, keepdims=True)
    return truth, probability.argmax(1), probability


def test_figures_are_those_of_scikit_learn():
    truth, predicted, probability = example()
    score = score_classification(truth, predicted, probability, NAMES)
    assert score.accuracy == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert score.balanced_accuracy == pytest.approx(
        oracle.balanced_accuracy_score(truth, predicted)
    )
    assert score.macro_f1 == pytest.approx(oracle.f1_score(truth, predicted, average="macro"))
    assert score.auc == pytest.approx(
        oracle.roc_auc_score(truth, probability, multi_class="ovr", average="macro")
    )
    assert np.array_equal(score.confusion[:, :3], oracle.confusion_matrix(truth, predicted))
    recall = oracle.recall_score(truth, predicted, average=None)
    precision = oracle.precision_score(truth, predicted, average=None)
    assert [class_score.recall for class_score in score.classes] == pytest.approx(list(recall))
    assert [class_score.precision for class_score in score.classes] == pytest.approx(
        list(precision)
    )


def test_interval_holds_the_accuracy_and_narrows_with_n():
    widths = []
    for n in (50, 800):
        low, high = score_classification(*example(n), NAMES).accuracy_interval
        accuracy = score_classification(*example(n), NAMES).accuracy
        assert low <= accuracy <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("n", [1, 2, 20, 300])
@pytest.mark.parametrize("right", [0, 1])
def test_interval_of_a_perfect_test_has_a_width(n, right):
    """Twenty right of twenty is no certainty: the interval is Wilson's."""
    truth = np.zeros(n, int)
    predicted = truth if right else truth + 1
    score = score_classification(truth, predicted, np.eye(3)[predicted], NAMES)
    expected = stats.binomtest(n * right, n).proportion_ci(method="wilson")
    assert score.accuracy_interval == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert score.accuracy in score.accuracy_interval
    assert score.accuracy_interval[1] - score.accuracy_interval[0] > 0.01


def test_interval_of_cases_is_that_of_wilson():
    truth, predicted, probability = example()
    n_right = int((truth == predicted).sum())
    expected = stats.binomtest(n_right, 200).proportion_ci(method="wilson")
    score = score_classification(truth, predicted, probability, NAMES, np.arange(200))
    assert score.accuracy_interval == pytest.approx((expected.low, expected.high))
    assert score.as_dict()["n_patients"] is None


def test_cases_of_a_patient_are_not_independent():
    """Ten patients with twenty images each, all right or all wrong, are ten cases."""
    patient = np.arange(10).repeat(20)
    truth = np.zeros(200, int)
    predicted = (patient < 3).astype(int)
    probability = np.eye(3)[predicted]
    alone = score_classification(truth, predicted, probability, NAMES)
    together = score_classification(truth, predicted, probability, NAMES, patient)
    assert together.accuracy == alone.accuracy
    width_alone, width = (float(np.diff(s.accuracy_interval)[0]) for s in (alone, together))
    assert width > 3 * width_alone
    assert together.as_dict()["n_patients"] == 10
    # all right: as wide as ten cases of one image each
    perfect = score_classification(truth, truth, np.eye(3)[truth], NAMES, patient)
    expected = stats.binomtest(10, 10).proportion_ci(method="wilson")
    assert perfect.accuracy_interval == pytest.approx((expected.low, expected.high))
    one = score_classification(truth, truth, np.eye(3)[truth], NAMES, np.zeros(200, int))
    assert one.accuracy_interval[0] < 0.3


@settings(deadline=None)  # scikit-learn is imported in the first call
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_area_counts_ties_half(pairs):
    score = np.array([value / 5 for value, _ in pairs])
    positive = np.array([flag for _, flag in pairs])
    probability = np.stack([1 - score, score], axis=1)
    area = score_classification(positive.astype(int), probability.argmax(1), probability, "ab").auc
    if positive.all() or not positive.any():
        assert math.isnan(area)
        return
    apart = score[positive][:, None] - score[~positive][None]
    assert area == pytest.approx(float(((apart > 0) + 0.5 * (apart == 0)).mean()))


def test_class_without_cases_is_left_out_of_the_means():
    truth = np.array([0, 0, 1, 1])
    predicted = np.array([0, 2, 1, 1])
    probability = np.eye(3)[predicted]
    score = score_classification(truth, predicted, probability, NAMES)
    assert score.balanced_accuracy == pytest.approx(0.75)
    assert math.isnan(score.classes[2].recall)
    assert score.as_dict()["skipped_in_macro"] == ["c"]
    assert score.as_dict()["classes"]["c"]["auc"] is None


def test_case_of_an_unknown_class_is_wrong_and_counted():
    truth, predicted = np.array([0, 1, 3]), np.array([0, 1, 2])
    score = score_classification(truth, predicted, np.eye(3)[predicted], NAMES)
    assert score.accuracy == pytest.approx(2 / 3)
    assert score.n_unknown == 1
    assert score.confusion.sum() == 2
    assert score.balanced_accuracy == 1
    alone = score_classification(np.array([3, 3]), np.array([0, 1]), np.eye(3)[:2], NAMES)
    assert (alone.accuracy, alone.n_unknown, alone.confusion.sum()) == (0, 2, 0)
    assert math.isnan(alone.auc)


def test_class_that_is_never_named_has_precision_0():
    truth, predicted = np.array([0, 0, 1, 2]), np.array([0, 0, 0, 2])
    (_, second, third) = score_classification(truth, predicted, np.eye(3)[predicted], NAMES).classes
    assert (second.precision, second.recall, second.f1) == (0, 0, 0)
    assert third.as_dict() == {"n": 1, "recall": 1, "precision": 1, "f1": 1, "auc": 1}


def test_brier_score_by_hand():
    truth, probability = np.array([0, 1, 3]), np.array([[0.8, 0.2, 0], [0.5, 0.5, 0], [0, 0, 1.0]])
    score = score_classification(truth, probability.argmax(1), probability, NAMES)
    assert score.brier == pytest.approx((0.08 + 0.5 + 1) / 3)


def test_missing_decision_is_wrong_and_has_a_column():
    score = score_classification(
        np.array([0, 1]), np.array([0, -1]), np.array([[1.0, 0, 0], [0, 0, 0]]), NAMES
    )
    assert score.accuracy == 0.5
    assert score.confusion[1].tolist() == [0, 0, 0, 1]


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.65, 0.65])
    right = np.array([1.0, 1, 0, 1])
    assert calibration_error(confidence, right) == pytest.approx((2 * 0.05 + 2 * 0.15) / 4)
    assert calibration_error(np.ones(5), np.ones(5)) == 0


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError):
        score_classification(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3)), NAMES)
    with pytest.raises(ShapeError):
        score_classification(np.zeros(2, int), np.zeros(3, int), np.zeros((2, 3)), NAMES)
