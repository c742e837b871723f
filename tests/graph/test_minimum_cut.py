import itertools
import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from graphnn_unet import graph
from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph.minimum_cut import CutProblem

PATH = {(0, 1): 3.0, (1, 2): 1.0, (2, 3): 2.0, (3, 4): 3.0, (1, 4): 0.5}


def affinity_of(edges: dict[tuple[int, int], float], n: int) -> torch.Tensor:
    weight = torch.zeros(n, n, dtype=torch.float64)
    for (i, j), w in edges.items():
        weight[i, j] = weight[j, i] = w
    return weight


def labels(n: int, ones, zeros) -> torch.Tensor:
    label = torch.full((n,), torch.nan, dtype=torch.float64)
    label[list(ones)], label[list(zeros)] = 1.0, 0.0
    return label


def random_problem(seed: int, n: int, density: float = 0.3, n_labels: int = 3):
    generator = np.random.default_rng(seed)
    upper = np.triu(generator.random((n, n)) < density, 1) * generator.integers(1, 10, (n, n))
    # a ring keeps the graph in one piece
    for i in range(n):
        a, b = sorted((i, (i + 1) % n))
        upper[a, b] = max(upper[a, b], 1)
    labeled = generator.permutation(n)[: 2 * n_labels]
    weight = torch.tensor(upper + upper.T, dtype=torch.float64)
    return weight, labels(n, labeled[:n_labels], labeled[n_labels:])


def max_flow(weight: torch.Tensor, label: torch.Tensor) -> int:
    """Flow from a source tied to all labels 1 to a sink tied to all labels 0."""
    n = len(weight)
    capacity = np.zeros((n + 2, n + 2), dtype=np.int32)
    capacity[:n, :n] = weight.numpy().astype(np.int32)
    capacity[n, np.flatnonzero(label.numpy() == 1)] = 10**6
    capacity[np.flatnonzero(label.numpy() == 0), n + 1] = 10**6
    return maximum_flow(csr_matrix(capacity), n, n + 1).flow_value


def cut_of(weight: torch.Tensor, indicator: torch.Tensor) -> float:
    inside = indicator > 0.5
    return float(weight[inside][:, ~inside].sum())


def quotient_of(weight: torch.Tensor, indicator: torch.Tensor) -> float:
    degree = weight.sum(1)
    inside = float(degree[indicator > 0.5].sum())
    return cut_of(weight, indicator) / min(inside, float(degree.sum()) - inside)


def test_worked_example_has_its_cut_and_set():
    cut = graph.minimum_cut(affinity_of(PATH, 5), labels(5, [0], [4]), edge_norm="none")
    assert cut.indicator.tolist() == [1, 1, 0, 0, 0]
    assert cut.value == pytest.approx(1.5, abs=1e-9)
    assert cut.bound == pytest.approx(1.5, abs=1e-5)
    assert cut.converged


@pytest.mark.parametrize("seed", range(20))
def test_value_is_the_maximum_flow(seed):
    weight, label = random_problem(seed, 40)
    flow = max_flow(weight, label)
    cut = graph.minimum_cut(weight, label, edge_norm="none")
    assert cut.converged
    assert cut.value == pytest.approx(flow, abs=1e-6)
    assert cut_of(weight, cut.indicator) == pytest.approx(flow, abs=1e-6)
    assert cut.bound <= flow + 1e-9
    agrees = ~torch.isnan(label)
    assert torch.equal(cut.indicator[agrees], label[agrees])


@pytest.mark.parametrize("steps", [25, 50, 200])
def test_bound_never_exceeds_the_flow_however_early_it_stops(steps):
    for seed in range(5):
        weight, label = random_problem(seed, 30)
        cut = graph.minimum_cut(weight, label, edge_norm="none", max_iterations=steps)
        assert cut.bound <= max_flow(weight, label) + 1e-9 <= cut.value + 2e-9
        assert cut.n_iterations <= steps


def test_every_threshold_of_the_solution_is_a_minimum_cut():
    weight, label = random_problem(3, 30)
    flow = max_flow(weight, label)
    problem = CutProblem(weight, label, "none")
    signal = problem.minimize(tolerance=1e-13, max_iterations=20000).signal
    for level in (0.25, 0.5, 0.75):
        assert cut_of(weight, (signal > level).double()) == pytest.approx(flow, abs=1e-6)


def test_exchanged_labels_give_the_same_value_and_the_other_side():
    weight, label = random_problem(5, 40)
    first, other = (
        graph.minimum_cut(weight, each, edge_norm="none") for each in (label, 1 - label)
    )
    assert first.value == pytest.approx(other.value, abs=1e-6)
    assert cut_of(weight, 1 - other.indicator) == pytest.approx(first.value, abs=1e-6)


def test_linear_cost_is_minimized_exactly():
    for seed in range(5):
        weight, label = random_problem(seed, 10, n_labels=1)
        cost = torch.tensor(np.random.default_rng(seed).normal(0, 5, 10))
        cut = CutProblem(weight, label, "none").minimize(linear=cost, max_iterations=20000)
        best = min(
            cut_of(weight, each) + float((cost * each).sum()) for each in feasible_sets(label)
        )
        assert cut.value == pytest.approx(best, abs=1e-6)
        assert cut.bound <= best + 1e-9


def feasible_sets(label: torch.Tensor):
    free = torch.isnan(label).nonzero().flatten()
    for bits in itertools.product((0.0, 1.0), repeat=len(free)):
        changed = label.clone()
        changed[free] = torch.tensor(bits, dtype=torch.float64)
        yield changed


def test_normalized_weights_are_the_default():
    weight, label = random_problem(1, 30)
    root = weight.sum(1).rsqrt()
    by_hand = graph.minimum_cut(root[:, None] * weight * root, label, edge_norm="none")
    assert graph.minimum_cut(weight, label).value == pytest.approx(by_hand.value, abs=1e-6)


def test_sparse_and_dense_graphs_agree():
    weight, label = random_problem(2, 40)
    dense = graph.minimum_cut(weight, label)
    sparse = graph.minimum_cut(weight.to_sparse_csr(), label)
    assert dense.value == pytest.approx(sparse.value, abs=1e-12)
    assert torch.equal(dense.indicator, sparse.indicator)


@pytest.mark.parametrize("ones_and_zeros", [([0], []), ([], [0]), ([], [])])
def test_labels_of_one_kind_are_refused(ones_and_zeros):
    with pytest.raises(InputError, match="labels 0 and 1"):
        graph.minimum_cut(affinity_of(PATH, 5), labels(5, *ones_and_zeros))


def test_negative_weights_and_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="negative"):
        graph.minimum_cut(-affinity_of(PATH, 5), labels(5, [0], [4]))
    with pytest.raises(ShapeError):
        graph.minimum_cut(affinity_of(PATH, 5), labels(4, [0], [3]))


def test_node_without_edges_does_not_disturb_the_others():
    cut = graph.minimum_cut(affinity_of(PATH, 6), labels(6, [0], [4]), edge_norm="none")
    assert cut.value == pytest.approx(1.5, abs=1e-9)
    assert torch.isfinite(cut.signal).all()


def test_balanced_worked_example():
    weight, label = affinity_of(PATH, 5), labels(5, [0], [4])
    start = torch.tensor([1.0, 0.6, 0.4, 0.3, 0.0])
    cut = graph.balanced_cut(weight, label, [start])
    assert cut.indicator.tolist() == [1, 1, 0, 0, 0]
    assert cut.quotient == pytest.approx(0.2, abs=1e-9)


def starts_for(weight: torch.Tensor, label: torch.Tensor, n_random: int):
    code = torch.nan_to_num(label, nan=-1)
    target = torch.stack([(code == 1).double(), (code == 0).double()], dim=1)
    for alpha in (0.5, 0.9, 0.99):
        score = graph.diffuse_labels(target, affinity=weight, alpha=alpha)
        yield score[:, 0] / score.sum(1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_random):
        yield torch.rand(len(label), generator=generator, dtype=torch.float64)


def test_balanced_quotient_is_close_to_the_best_of_all_sets():
    for seed in range(20):
        weight, label = random_problem(seed, 12, n_labels=1)
        cut = graph.balanced_cut(weight, label, list(starts_for(weight, label, 8)))
        best = min(quotient_of(weight, each) for each in feasible_sets(label))
        assert best - 1e-9 <= cut.quotient <= 1.5 * best
        assert quotient_of(weight, cut.indicator) == pytest.approx(cut.quotient, abs=1e-9)
        assert cut.worst >= cut.quotient


def two_clusters(separation: float):
    """600 points in two Gaussian clusters, three labels each, ten neighbors."""
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(600) < 300
    point = torch.randn(600, 2, generator=generator, dtype=torch.float64)
    point[:, 0] += torch.where(side, separation, -separation)
    distance = torch.cdist(point, point)
    distance.fill_diagonal_(torch.inf)
    near = distance.topk(10, largest=False)
    weight = torch.zeros(600, 600, dtype=torch.float64)
    weight.scatter_(1, near.indices, torch.exp(-near.values.square()))
    label = labels(600, range(3), range(597, 600))
    return weight + weight.T, label, side


def test_plain_cut_collapses_with_few_labels_and_the_balanced_one_does_not():
    weight, label, side = two_clusters(2.0)
    plain = graph.minimum_cut(weight, label, edge_norm="none").indicator
    share = float(plain.mean())
    assert min(share, 1 - share) < 0.05
    target = torch.nan_to_num(label, nan=-1)
    both = torch.stack([(target == 1).double(), (target == 0).double()], dim=1)
    score = graph.diffuse_labels(both, affinity=weight, alpha=0.99)
    balanced = graph.balanced_cut(weight, label, [score[:, 0] / score.sum(1)])
    right = float(((balanced.indicator > 0.5) == side).double().mean())
    assert right > 0.9


def test_literal_formula_of_the_paper_says_nothing():
    """``|W D^-1 u|_1 / |u|_1`` is 1 for every ``u >= 0``: why a cut is solved in its place."""
    weight, _ = random_problem(0, 30)
    for seed in range(5):
        u = torch.rand(30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ratio = (weight @ (u / weight.sum(0))).abs().sum() / u.abs().sum()
        assert float(ratio) == pytest.approx(1.0, abs=1e-12)


def test_start_without_contrast_is_refused():
    weight = torch.zeros(4, 4, dtype=torch.float64)
    weight[1, 2] = weight[2, 1] = 1.0  # both labeled nodes are isolated
    with pytest.raises(InputError, match="contrast"):
        graph.balanced_cut(weight, labels(4, [0], [3]), [torch.full((4,), 0.5)])
    assert math.isfinite(graph.minimum_cut(weight, labels(4, [0], [3])).value)
