"""The random walker with priors: hand-solved chains, dense algebra, and other programs."""

import itertools

import numpy as np
import pytest
import torch
from graph.oracles import joined
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph.diffusion import NotConvergedWarning
from graphnn_unet.graph.lattice import lattice_affinity, link_affinity
from graphnn_unet.graph.random_walker import random_walker, random_walker_by_blocks

INF = float("inf")


def problem(seed: int, n: int = 12, q: int = 3, density: float = 0.3):
    """A random graph in float64, some nodes fixed, some with a certainty, some with none."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand((n, n), generator=generator, dtype=torch.float64)
    weight = weight * (torch.rand((n, n), generator=generator) < density)
    weight = weight.triu(1)
    target = torch.rand((n, q), generator=generator, dtype=torch.float64)
    target = target / target.sum(1, keepdim=True)
    kind = torch.randint(0, 3, (n,), generator=generator)
    certainty = torch.rand(n, generator=generator, dtype=torch.float64)
    certainty = torch.where(kind == 0, 0.0, torch.where(kind == 1, certainty, INF))
    return weight + weight.T, target, certainty


def dense_solution(weight, target, certainty):
    """(L + M) F = M Y by a dense solve of the free nodes; unreached nodes are zero."""
    n = len(target)
    reach = torch.linalg.matrix_power(torch.eye(n, dtype=torch.float64) + (weight > 0), n) > 0
    reached = (reach & (certainty > 0)).any(1)
    fixed = torch.isinf(certainty)
    value = torch.where(fixed[:, None], target, 0.0)
    free = reached & ~fixed
    mass = torch.where(fixed, 0.0, certainty)
    laplacian = torch.diag(weight.sum(1)) - weight + torch.diag(mass)
    right = mass[:, None] * target + weight @ value
    value[free] = torch.linalg.solve(laplacian[free][:, free], right[free])
    return value, reached


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_equals_a_dense_solve(seed, layout):
    weight, target, certainty = problem(seed)
    expected, reached = dense_solution(weight, target, certainty)
    given_graph = weight if layout == "dense" else weight.to_sparse()
    walk = random_walker(given_graph, target, certainty)
    torch.testing.assert_close(walk.value, expected, atol=1e-7, rtol=0)
    assert torch.equal(walk.reached, reached)
    assert walk.converged


def test_hand_solved_chains():
    """Weights 2 and 1, ends fixed to 1 and 0: 2/3; with certainty 3 for 0.5: (2 + 1.5) / 6."""
    chain = torch.tensor([[0.0, 2, 0], [2, 0, 1], [0, 1, 0]], dtype=torch.float64)
    target = torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
    for middle, expected in ((0.0, 2 / 3), (3.0, 3.5 / 6)):
        walk = random_walker(chain, target, torch.tensor([INF, middle, INF], dtype=torch.float64))
        assert float(walk.value[1]) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 10_000), density=st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_maximum_principle_and_row_sums(seed, density):
    weight, target, certainty = problem(seed, density=density)
    walk = random_walker(weight, target, certainty)
    given_rows = target[certainty > 0]
    value = walk.value[walk.reached]
    if len(given_rows):
        assert bool((value >= given_rows.min(0).values - 1e-7).all())
        assert bool((value <= given_rows.max(0).values + 1e-7).all())
        torch.testing.assert_close(value.sum(1), torch.ones(len(value), dtype=torch.float64))
    assert bool((walk.value[~walk.reached] == 0).all())


@pytest.mark.parametrize("seed", range(4))
def test_order_of_nodes_does_not_matter(seed):
    weight, target, certainty = problem(seed)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    moved = random_walker(weight[order][:, order], target[order], certainty[order])
    torch.testing.assert_close(
        moved.value, random_walker(weight, target, certainty).value[order], atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_blocks", [1, 2, 5])
def test_block_sweeps_equal_the_direct_solve(seed, n_blocks):
    weight, target, certainty = problem(seed, n=20, density=0.15)
    blocks = list(torch.randperm(20, generator=torch.Generator().manual_seed(seed)).chunk(n_blocks))
    whole = random_walker(weight, target, certainty, tolerance=1e-12)
    swept = random_walker_by_blocks(
        lambda number: weight[blocks[number]].to_sparse(), blocks, target, certainty,
        tolerance=1e-9, max_sweeps=5000,
    )  # fmt: skip
    assert swept.converged
    assert torch.equal(swept.reached, whole.reached)
    torch.testing.assert_close(swept.value, whole.value, atol=1e-6, rtol=0)


def test_blocks_must_cover_every_node_once():
    weight, target, certainty = problem(0)
    with pytest.raises(ShapeError, match="partition"):
        random_walker_by_blocks(lambda number: weight, [torch.arange(11)], target, certainty)


def test_links_from_labeled_nodes_alone_give_the_weighted_vote():
    generator = torch.Generator().manual_seed(3)
    shape, labels = (4, 5), torch.randint(0, 3, (2, 20), generator=generator)
    points = torch.rand((2, 20, 2), generator=generator, dtype=torch.float64) * 3
    weights = torch.rand((2, 20), generator=generator, dtype=torch.float64)
    links = [link_affinity(points[n], weights[n], shape) for n in range(2)]
    one_hot = torch.nn.functional.one_hot(labels, 3).to(torch.float64)
    vote = sum(link @ one_hot[n] for n, link in enumerate(links)) / weights.sum(0)[:, None]
    empty = torch.zeros(20, 20, dtype=torch.float64).to_sparse()
    graph = joined([empty] * 3, [(0, 1, links[0]), (0, 2, links[1])])
    target = torch.cat([torch.zeros(20, 3, dtype=torch.float64), one_hot[0], one_hot[1]])
    certainty = torch.cat([torch.zeros(20), torch.full((40,), INF)]).to(torch.float64)
    walk = random_walker(graph, target, certainty)
    torch.testing.assert_close(walk.value[:20], vote, atol=1e-7, rtol=0)


def test_without_links_it_is_gradys_random_walker():
    skimage = pytest.importorskip("skimage.segmentation")
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.3, (10, 12)) + (np.arange(12) > 5)
    seeds = np.zeros((10, 12), int)
    seeds[2, 1], seeds[7, 10] = 1, 2
    beta = 3.0  # its weights: exp(-beta d^2 / (10 std)) + 1e-10
    theirs = skimage.random_walker(
        image, seeds, beta=beta, mode="bf", tol=1e-10, return_full_prob=True
    )
    bandwidth = float(np.sqrt(10 * image.std() / beta))
    weight = lattice_affinity(torch.from_numpy(image)[None], bandwidth)
    target = torch.zeros(120, 2, dtype=torch.float64)
    target[2 * 12 + 1, 0] = target[7 * 12 + 10, 1] = 1
    certainty = torch.where(torch.from_numpy(seeds.ravel()) > 0, INF, 0.0).to(torch.float64)
    ours = random_walker(weight, target, certainty).value.T.reshape(2, 10, 12)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_no_data_is_unknown_and_a_lone_node_keeps_its_own():
    empty = torch.zeros(2, 2)
    walk = random_walker(empty, torch.tensor([[0.3, 0.7], [1.0, 0.0]]), torch.tensor([2.0, 0.0]))
    assert walk.reached.tolist() == [True, False]
    assert walk.value.tolist()[1] == [0, 0]
    torch.testing.assert_close(walk.value[0], torch.tensor([0.3, 0.7]))


def test_rows_without_certainty_are_not_read():
    weight, target, certainty = problem(1)
    spoiled = torch.where((certainty > 0)[:, None], target, torch.nan)
    torch.testing.assert_close(
        random_walker(weight, spoiled, certainty).value,
        random_walker(weight, target, certainty).value,
    )


def test_what_cannot_be_solved_is_told():
    weight, target, certainty = problem(2)
    with pytest.raises(InputError, match="negative or NaN"):
        random_walker(-weight, target, certainty)
    with pytest.raises(InputError, match="negative or NaN"):
        random_walker(weight, target, certainty - 1)
    with pytest.raises(ShapeError, match="do not fit"):
        random_walker(weight, target[:3], certainty)
    chain = lattice_affinity(torch.zeros(1, 300, dtype=torch.float64), 1.0)
    ends = torch.zeros(300, dtype=torch.float64)
    ends[0] = ends[-1] = INF
    target = torch.linspace(0, 1, 300, dtype=torch.float64)[:, None]
    with pytest.warns(NotConvergedWarning, match="raise max_iterations"):
        assert not random_walker(chain, target, ends, max_iterations=3).converged
    torch.testing.assert_close(random_walker(chain, target, ends).value, target, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("alone", "other"), itertools.product((True, False), repeat=2))
def test_dtype_of_the_answer(alone, other):
    weight, target, certainty = problem(0)
    weight = weight.float() if alone else weight
    target = target.float() if other else target
    walk = random_walker(weight, target, certainty)
    assert walk.value.dtype == (torch.float32 if alone and other else torch.float64)


def test_a_weight_of_zero_is_no_edge_in_blocks_either():
    """Node 2 hangs on a stored zero: no path leads to it."""
    indices = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    chain = torch.sparse_coo_tensor(
        indices, torch.tensor([1.0, 1.0, 0.0, 0.0]), (3, 3), check_invariants=True
    )
    target, certainty = torch.ones(3, 1), torch.tensor([torch.inf, 0.0, 0.0])
    walk = random_walker_by_blocks(lambda _: chain, [torch.arange(3)], target, certainty)
    assert walk.reached.tolist() == [True, True, False]
    torch.testing.assert_close(
        walk.value, torch.tensor([[1.0], [1.0], [0.0]], dtype=walk.value.dtype)
    )


def test_blocks_whose_neighbors_rest_are_not_solved_again():
    """Blocks 1 and 2 pull at each other over sweeps; block 3 hangs on the fixed block alone."""
    edges = {(0, 1): 1.0, (1, 2): 1.0, (0, 3): 2.0}
    affinity = torch.zeros(4, 4, dtype=torch.float64)
    for (i, j), weight in edges.items():
        affinity[i, j] = affinity[j, i] = weight
    target = torch.tensor([[1.0], [0], [0], [0]], dtype=torch.float64)
    certainty = torch.tensor([torch.inf, 0, 1, 1], dtype=torch.float64)
    calls = []
    blocks = [torch.tensor([number]) for number in range(4)]

    def rows_of(number):
        calls.append(number)
        return affinity[blocks[number]]

    walk = random_walker_by_blocks(rows_of, blocks, target, certainty, tolerance=1e-9)
    assert walk.converged
    assert walk.n_iterations > 5
    assert calls.count(3) == 1
    assert calls.count(1) > 5
    assert 0 not in calls
    whole = random_walker(affinity, target, certainty)
    assert torch.allclose(walk.value, whole.value, atol=1e-8)
