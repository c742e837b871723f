"""Which scans a model is asked about: classes in turn, noise that decays."""

import numpy as np
import pytest

from graphnn_unet.models.queries import ScanScore, choose_queries, noise_scale, score_scan

SCORES = {f"c{i}": ScanScore(0.1 + 0.01 * i, {"organ": 0.5 - 0.05 * i}) for i in range(6)}
SCORES["c5"] = ScanScore(0.0, {"organ": 0.01, "lesion": 0.9})


def ask(count: int, round_number: int = 9, seed: int = 0, scores=SCORES):
    generator = np.random.default_rng(seed)
    return choose_queries(scores, count, round_number=round_number, generator=generator)


def test_classes_take_turns_and_the_rest_goes_to_all_voxels():
    queries = ask(3)
    assert [query.case for query in queries] == ["c5", "c0", "c4"]
    assert [query.why.split()[-1] for query in queries] == ["lesion", "organ", "voxels"]
    assert [query.score for query in queries] == [0.9, 0.5, 0.14]


def test_each_scan_is_asked_for_once_and_as_many_as_wanted():
    for count in range(1, 7):
        cases = [query.case for query in ask(count, round_number=1)]
        assert len(set(cases)) == len(cases) == count
    assert len(ask(20)) == 6


def test_a_model_that_predicts_nothing_is_asked_about_all_voxels():
    scores = {case: ScanScore(score.whole, {}) for case, score in SCORES.items()}
    assert [query.case for query in ask(2, scores=scores)] == ["c4", "c3"]


def test_noise_decays_over_the_rounds():
    """Early lists differ between seeds, late ones do not."""
    lists = {n: {tuple(q.case for q in ask(3, n, seed)) for seed in range(20)} for n in (1, 2, 3)}
    assert len(lists[1]) > len(lists[2]) >= len(lists[3])
    assert len(lists[1]) > 10
    assert noise_scale(7) == noise_scale(3)


def test_early_noise_still_prefers_high_scores():
    scores = {"low": ScanScore(0.01, {}), "high": ScanScore(0.2, {})}
    first = [ask(1, 1, seed, scores)[0].case for seed in range(300)]
    # with noise of scale 1 a case is taken in proportion to its score
    assert first.count("high") / 300 == pytest.approx(20 / 21, abs=0.05)


def test_entropy_is_measured_where_a_class_is_predicted():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0] = 4
    entropy = np.where(labels == 4, 0.5, 0.1)
    assert score_scan(labels, entropy, {4: "organ", 5: "none"}) == ScanScore(0.3, {"organ": 0.5})
