"""Scans that stand for the others."""

from itertools import combinations

import numpy as np
import pytest

from graphnn_unet.scan_graph.coverage import choose_medoids, n_covered


def similarity(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def cost(alike: np.ndarray, medoids) -> float:
    return float((1 - alike)[:, list(medoids)].min(axis=1).sum())


@pytest.mark.parametrize("seed", range(5))
def test_one_medoid_is_the_best_and_more_are_close_to_it(seed):
    """One is chosen exactly; exchanges end at most a few percent above the best of all pairs."""
    alike = similarity(9, seed)
    labeled = [0, 1]
    (single,) = choose_medoids(alike, range(2, 9), 1, labeled)
    assert cost(alike, [single, *labeled]) == min(
        cost(alike, [m, *labeled]) for m in range(2, 9)
    )  # fmt: skip
    pair = choose_medoids(alike, range(2, 9), 2, labeled)
    best = min(cost(alike, [*p, *labeled]) for p in combinations(range(2, 9), 2))
    assert cost(alike, [*pair, *labeled]) <= 1.05 * best


def test_exchanges_mend_a_greedy_start():
    """The middle of two groups is the best single scan and in no best pair."""
    places = np.array([0.0, 0.1, 0.2, 1.0, 1.8, 1.9, 2.0])
    alike = 1 - np.abs(places[:, None] - places) / 2
    assert choose_medoids(alike, range(7), 1, []) == [3]
    assert sorted(choose_medoids(alike, range(7), 2, [])) == [1, 5]


def test_only_candidates_are_chosen_and_no_more_than_there_are():
    alike = similarity(6, 0)
    assert sorted(choose_medoids(alike, [1, 3], 5, [0])) == [1, 3]
    assert choose_medoids(alike, [], 2, [0]) == []


def test_what_labeled_scans_cover_needs_no_other():
    alike = np.kron(np.eye(2), np.ones((3, 3)))
    assert choose_medoids(alike, [1, 2, 3, 4, 5], 1, [0])[0] in (3, 4, 5)
    assert n_covered(alike, [3], [0]) == {3: 3}


def test_the_scan_that_stands_for_the_most_comes_first():
    alike = np.eye(5)
    alike[:3, :3] = 1
    alike[3:, 3:] = 1
    assert choose_medoids(alike, [4, 0], 2, []) == [0, 4]
