from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from graph.oracles import shifted_cosine
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.semi_supervised import LabelSpreading

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import (
    DiffusionSystem,
    affinity_product,
    diffuse_labels,
    knn_affinity,
    normalized_affinity,
    similar_labels,
)
from graphnn_unet.graph.diffusion import NotConvergedWarning, conjugate_gradients


def rows(n: int, c: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, generator=generator, dtype=torch.float64)


def path(n: int) -> torch.Tensor:
    link = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    return link + link.T


def dense_solution(weight: torch.Tensor, label: torch.Tensor, alpha: float) -> torch.Tensor:
    spread = normalized_affinity(weight)
    eye = torch.eye(weight.shape[-1], dtype=weight.dtype)
    return torch.linalg.solve(eye - alpha * spread, label)


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_hand_worked_triangle_and_path(layout: str):
    triangle = torch.ones(3, 3, dtype=torch.float64).fill_diagonal_(0)
    ends = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 1]], dtype=torch.float64)
    for weight, label, expected in (
        (triangle, torch.eye(3)[:, :2], [[1.2, 0.4], [0.4, 1.2], [0.4, 0.4]]),
        (
            path(4),
            ends,
            [[1.155556, 0.044444], [0.439978, 0.125708],
             [0.125708, 0.439978], [0.044444, 1.155556]],
        ),
    ):  # fmt: skip
        graph = weight if layout == "dense" else weight.to_sparse_csr()
        diffused = diffuse_labels(label.double(), affinity=graph, alpha=0.5)
        torch.testing.assert_close(diffused, torch.tensor(expected).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 0.99])
def test_conjugate_gradients_equal_a_dense_solve(alpha: float):
    graph = knn_affinity(rows(200), n_neighbors=5)
    label = torch.nn.functional.one_hot(torch.arange(200) % 7, 7).double()
    label[50:] = 0
    diffused = diffuse_labels(label, affinity=graph, alpha=alpha)
    expected = dense_solution(graph.to_dense(), label, alpha)
    torch.testing.assert_close(diffused, expected, atol=1e-7, rtol=0)
    assert diffused.min() >= -1e-12
    # linear in the labels: all columns at once equal one at a time
    alone = diffuse_labels(label[:, 2:3], affinity=graph, alpha=alpha)
    torch.testing.assert_close(diffused[:, 2:3], alone, atol=1e-7, rtol=0)


def test_iterations_stay_below_their_bound():
    system = DiffusionSystem(path(400).to_sparse_csr(), 0.99)
    label = torch.zeros(400, 1, dtype=torch.float64)
    label[0] = 1
    diffused = system.solve(label)
    bound = 1 + (1.99 / 0.01) ** 0.5 * np.log(2 / 1e-8) / 2
    assert 20 < diffused.n_iterations <= bound
    assert diffused.converged
    assert diffused.residual <= 1e-8


def test_the_true_residual_is_the_reported_one():
    system = DiffusionSystem(knn_affinity(rows(100), n_neighbors=4), 0.9)
    label = rows(100, 3, seed=1)
    diffused = system.solve(label, tolerance=1e-5)
    true = ((system(diffused.value) - label).norm(dim=0) / label.norm(dim=0)).max()
    assert diffused.residual == pytest.approx(true.item(), rel=1e-3)


def test_a_reach_too_near_one_for_the_precision_is_refused():
    told = set()
    for seed in range(20):  # rounding decides whether the system is definite
        feature, label = rows(200, seed=seed), rows(200, 3, seed=1)
        try:
            diffuse_labels(label.float(), node_feature=feature.float(), alpha=0.9999999)
        except InputError as error:
            told.add(error.what)
        assert torch.isfinite(diffuse_labels(label, node_feature=feature, alpha=0.9999999)).all()
    assert told == {"alpha=0.9999999 cannot be used with float32"}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("n_nodes", [50, 300])
def test_woodbury_equals_a_dense_solve(alpha, n_nodes):
    feature = torch.stack([rows(n_nodes), rows(n_nodes).flip(1)])
    label = torch.stack([rows(n_nodes, 3, seed=1)] * 2)
    phi = shifted_cosine(feature)
    weight = phi @ phi.transpose(1, 2)
    diffused = diffuse_labels(label, node_feature=feature, alpha=alpha)
    torch.testing.assert_close(diffused, dense_solution(weight, label, alpha), rtol=1e-8, atol=1e-8)
    if alpha < 0.99:
        by_steps = diffuse_labels(label, affinity=weight, alpha=alpha)
        torch.testing.assert_close(diffused, by_steps, rtol=1e-6, atol=1e-6)


def test_dense_and_sparse_equal_label_spreading_of_scikit_learn():
    feature = rows(60)
    given = np.full(60, -1)
    given[:12] = np.arange(12) % 3
    phi = shifted_cosine(feature)
    reference = LabelSpreading(
        kernel=lambda x, y: (phi @ phi.T).numpy(), alpha=0.8, max_iter=2000, tol=1e-14
    ).fit(feature.numpy(), given)
    label = torch.zeros(60, 3, dtype=torch.float64)
    label[torch.arange(12), torch.arange(12) % 3] = 1
    weight = (phi @ phi.T).fill_diagonal_(0)
    for diffused in (
        diffuse_labels(label, affinity=weight, alpha=0.8),
        diffuse_labels(label, affinity=weight.to_sparse_csr(), alpha=0.8),
    ):
        share = (diffused / diffused.sum(1, keepdim=True)).numpy()
        np.testing.assert_allclose(share, reference.label_distributions_, atol=1e-6)
        np.testing.assert_array_equal(share.argmax(1), reference.transduction_)


def test_gradients():
    feature, label = rows(12, 3), rows(12, 2, seed=1)
    assert torch.autograd.gradcheck(
        lambda y, f: diffuse_labels(y, node_feature=f, alpha=0.7),
        (label.requires_grad_(), feature.requires_grad_()),
    )
    graph = knn_affinity(feature, n_neighbors=3)
    system = DiffusionSystem(graph, 0.7)
    assert torch.autograd.gradcheck(lambda y: system.solve(y, tolerance=1e-13).value, (label,))
    assert torch.autograd.gradgradcheck(lambda y: system.solve(y, tolerance=1e-13).value, (label,))


def test_isolated_nodes_and_unlabeled_components_keep_their_rows():
    graph = torch.zeros(6, 6, dtype=torch.float64)
    graph[0, 1] = graph[1, 0] = graph[2, 3] = graph[3, 2] = 1
    label = torch.zeros(6, 2, dtype=torch.float64)
    label[0, 0] = label[4, 1] = 1
    diffused = diffuse_labels(label, affinity=graph.to_sparse_csr())
    assert diffused[1, 0] > 10
    assert torch.equal(diffused[2:4], torch.zeros(2, 2, dtype=torch.float64))
    assert torch.equal(diffused[4:], label[4:])


def test_a_graph_without_edges_returns_the_labels():
    label = rows(4, 2)
    empty = torch.zeros(4, 4, dtype=torch.float64)
    assert torch.equal(diffuse_labels(label, affinity=empty), label)
    assert torch.equal(diffuse_labels(label, affinity=empty.to_sparse_csr()), label)


def test_zero_rows_and_one_node_stay_finite():
    for n_nodes in (1, 5):
        feature = torch.zeros(n_nodes, 3)
        assert torch.isfinite(diffuse_labels(torch.ones(n_nodes, 2), node_feature=feature)).all()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(11)))
def test_order_of_nodes_does_not_matter(order: list[int]):
    feature, label = rows(11), rows(11, 2, seed=1)
    graph = knn_affinity(feature, n_neighbors=3)
    moved = knn_affinity(feature[order], n_neighbors=3)
    torch.testing.assert_close(
        diffuse_labels(label[order], affinity=moved),
        diffuse_labels(label, affinity=graph)[order],
        atol=1e-6,
        rtol=1e-6,
    )
    torch.testing.assert_close(
        diffuse_labels(label[order], node_feature=feature[order]),
        diffuse_labels(label, node_feature=feature)[order],
    )


def test_float32_meets_its_own_tolerance_without_warning():
    graph = knn_affinity(rows(300).float(), n_neighbors=6)
    label = torch.eye(300)[:, :4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diffused = diffuse_labels(label, affinity=graph)
    assert diffused.dtype == torch.float32
    expected = dense_solution(graph.to_dense().double(), label.double(), 0.99)
    torch.testing.assert_close(diffused.double(), expected, atol=1e-3, rtol=1e-3)


def test_half_precision_inside_autocast_is_worked_in_float32():
    feature = (rows(40, 320) * 50).half()
    label = torch.eye(40)[:, :3].half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        diffused = diffuse_labels(label, node_feature=feature)
    assert diffused.dtype == torch.float32
    torch.testing.assert_close(
        diffused, diffuse_labels(label.float(), node_feature=feature.float())
    )


def test_too_few_steps_are_not_silent():
    label = torch.zeros(100, 1, dtype=torch.float64)
    label[0] = 1
    with pytest.warns(NotConvergedWarning, match="3 steps"):
        diffused = diffuse_labels(label, affinity=path(100), max_iterations=3)
    assert torch.isfinite(diffused).all()


def test_columns_that_have_converged_stay_as_they_are():
    weight = path(30)
    label = torch.zeros(30, 3, dtype=torch.float64)
    label[0, 0] = label[15, 1] = 1  # third column is zero
    system = DiffusionSystem(weight, 0.9)
    diffused = conjugate_gradients(system, label, tolerance=1e-10, max_iterations=200)
    assert torch.equal(diffused.value[:, 2], label[:, 2])
    torch.testing.assert_close(system(diffused.value), label, atol=1e-9, rtol=0)
    assert torch.equal(affinity_product(weight, label), weight @ label)


def test_wrong_arguments_are_refused():
    label, feature = rows(5, 2), rows(5)
    for alpha in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="alpha"):
            diffuse_labels(label, node_feature=feature, alpha=alpha)
    with pytest.raises(InputError, match="one graph"):
        diffuse_labels(label)
    with pytest.raises(InputError, match="one graph"):
        diffuse_labels(label, node_feature=feature, affinity=path(5))
    with pytest.raises(InputError, match="negative"):
        diffuse_labels(label, affinity=-path(5))
    with pytest.raises(ShapeError, match="do not fit"):
        diffuse_labels(label, affinity=path(6))
    with pytest.raises(ShapeError, match="do not fit"):
        diffuse_labels(label, node_feature=rows(6))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_labels_of_similar_nodes_are_those_of_the_dense_graph(alpha):
    generator = torch.Generator().manual_seed(0)
    feature = torch.rand(2, 40, 5, generator=generator, dtype=torch.float64)
    label = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64).softmax(-1)
    value = similar_labels(label, node_feature=feature, alpha=alpha)
    weight = feature @ feature.mT
    degree = weight.sum(-1)
    operator = weight / (degree[:, :, None] * degree[:, None, :]).sqrt()
    values, vectors = torch.linalg.eigh(operator)
    torch.testing.assert_close(values[:, -1], torch.ones(2, dtype=torch.float64))
    gain = 1 / (1 - alpha * values / values[:, -2:-1]) - 1
    gain[:, -1] = 1.0
    torch.testing.assert_close(value, vectors @ (gain[..., None] * (vectors.mT @ label)))
    root = degree.sqrt().unsqueeze(-1)
    torch.testing.assert_close((root * value).sum(1), (root * label).sum(1))
    torch.testing.assert_close(
        similar_labels(label[0], node_feature=feature[0], alpha=alpha), value[0]
    )


def test_separate_groups_have_their_own_means():
    """The eigenvalue 1 is there once a group; which of its vectors is stationary must be told."""
    feature = torch.eye(3)[torch.arange(12) % 3]
    label = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    means = torch.stack([label[i::3].mean(0) for i in range(3)])
    value = similar_labels(label, node_feature=feature)
    torch.testing.assert_close(value, means[torch.arange(12) % 3], atol=1e-5, rtol=0)


def test_equal_and_nearly_equal_features_say_the_mean_label():
    label = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    noise = 1e-4 * torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    for feature in (torch.ones(30, 4), torch.ones(30, 1), 1 + noise):
        value = similar_labels(label, node_feature=feature, alpha=0.9)
        torch.testing.assert_close(value, label.mean(0).expand(30, 3), atol=1e-3, rtol=0)


def test_labels_of_similar_nodes_need_a_reach_below_one_and_positive_degrees():
    label = torch.eye(2)
    with pytest.raises(InputError, match="alpha=1"):
        similar_labels(label, node_feature=torch.eye(2), alpha=1.0)
    with pytest.raises(InputError, match="no positive degree"):
        similar_labels(label, node_feature=torch.tensor([[1.0], [-1.0]]), alpha=0.5)
