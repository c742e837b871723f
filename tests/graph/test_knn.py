from __future__ import annotations

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import knn, knn_affinity, nearest_neighbors, unit_rows


def rows(n: int, c: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, generator=generator, dtype=torch.float64)


def signs(n: int, c: int = 4, seed: int = 0) -> torch.Tensor:
    """Rows of +-1 and 0, c = 4: all norms and cosines exact, most of them tied."""
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randint(0, 2, (n, c), generator=generator).double() * 2 - 1
    feature[::7] = 0
    return feature


def by_sorting(feature: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All other nodes sorted by falling cosine, then by index."""
    cosine = (unit_rows(feature) @ unit_rows(feature).T).numpy()
    index = []
    for node, row in enumerate(cosine):
        order = sorted((j for j in range(len(row)) if j != node), key=lambda j: (-row[j], j))
        index.append(order[:k])
    return np.array(index), np.take_along_axis(cosine, np.array(index), axis=1)


@pytest.mark.parametrize("make", [rows, signs])
@pytest.mark.parametrize(("n_nodes", "k"), [(2, 1), (9, 3), (200, 17), (30, 29), (30, 80)])
def test_neighbors_equal_a_full_sort_with_ties_by_index(make, n_nodes: int, k: int):
    feature = make(n_nodes)
    neighbors = nearest_neighbors(feature, k)
    index, cosine = by_sorting(feature, k)
    np.testing.assert_array_equal(neighbors.index.numpy(), index)
    np.testing.assert_allclose(neighbors.cosine.numpy(), cosine, atol=1e-12)
    assert neighbors.index.dtype == torch.int32


def test_neighbors_equal_those_of_scikit_learn():
    feature = rows(150)
    reference = NearestNeighbors(n_neighbors=8, metric="cosine").fit(feature.numpy())
    distance, index = reference.kneighbors()
    neighbors = nearest_neighbors(feature, 8)
    np.testing.assert_array_equal(neighbors.index.numpy(), index)
    np.testing.assert_allclose(1 - neighbors.cosine.numpy(), distance, atol=1e-12)


@pytest.mark.parametrize("make", [rows, signs])
def test_size_of_blocks_does_not_matter(make, monkeypatch):
    feature = make(100)
    expected = knn_affinity(feature, n_neighbors=5).to_dense()
    for block_rows in (1, 7, 64, 1000):
        monkeypatch.setattr(knn, "BLOCK_ROWS", block_rows)
        neighbors = knn_affinity(feature, n_neighbors=5).to_dense()
        torch.testing.assert_close(neighbors, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", [rows, signs])
@pytest.mark.parametrize("symmetrize", ["sum", "max", "mutual"])
@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_affinity_equals_its_dense_definition(make, symmetrize: str, gamma: float):
    feature = make(60)
    index, cosine = by_sorting(feature, 6)
    directed = np.zeros((60, 60))
    np.put_along_axis(directed, index, np.clip(cosine, 0, None) ** gamma, axis=1)
    expected = {
        "sum": directed + directed.T,
        "max": np.maximum(directed, directed.T),
        "mutual": np.where((directed > 0) & (directed.T > 0), (directed + directed.T) / 2, 0),
    }[symmetrize]
    neighbors = knn_affinity(feature, n_neighbors=6, gamma=gamma, symmetrize=symmetrize)
    assert neighbors.layout == torch.sparse_csr
    assert neighbors.crow_indices().dtype == neighbors.col_indices().dtype == torch.int32
    dense = neighbors.to_dense()
    np.testing.assert_allclose(dense.numpy(), expected, atol=1e-12)
    assert torch.equal(dense, dense.T)
    assert dense.diagonal().abs().max() == 0
    assert (neighbors.values() > 0).all()
    for row in range(60):
        column = neighbors.col_indices()[
            neighbors.crow_indices()[row] : neighbors.crow_indices()[row + 1]
        ]
        assert (column.diff() > 0).all()


def test_hand_worked_links_and_an_isolated_node():
    feature = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]])
    dense = knn_affinity(feature, n_neighbors=1).to_dense()
    expected = torch.zeros(4, 4)
    expected[0, 1] = expected[1, 0] = 1.6
    expected[1, 2] = expected[2, 1] = 0.6
    torch.testing.assert_close(dense, expected)


def test_spectral_radius_of_the_normalized_graph_is_at_most_one():
    from graphnn_unet.graph import normalized_affinity

    for seed in range(50):
        graph = normalized_affinity(knn_affinity(rows(30, 3, seed), n_neighbors=3)).to_dense()
        assert torch.linalg.eigvalsh(graph).abs().max() <= 1 + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)), st.floats(0.1, 50))
def test_order_of_nodes_and_length_of_rows_do_not_matter(order: list[int], factor: float):
    feature = rows(12)
    expected = knn_affinity(feature, n_neighbors=3).to_dense()
    other = feature[order].clone()
    other[0] *= factor
    torch.testing.assert_close(
        knn_affinity(other, n_neighbors=3).to_dense(), expected[order][:, order]
    )


def test_all_neighbors_make_the_complete_graph_of_positive_cosines():
    feature = rows(12)
    cosine = unit_rows(feature) @ unit_rows(feature).T
    expected = (2 * cosine.clamp(min=0)).fill_diagonal_(0)
    torch.testing.assert_close(knn_affinity(feature, n_neighbors=99).to_dense(), expected)


def test_zero_opposed_and_equal_rows():
    assert knn_affinity(torch.zeros(5, 3), n_neighbors=2).values().numel() == 0
    opposed = torch.tensor([[1.0, 0], [-1, 0]])
    assert knn_affinity(opposed, n_neighbors=1).values().numel() == 0
    equal = knn_affinity(torch.ones(6, 4), n_neighbors=2).to_dense()
    assert set(nearest_neighbors(torch.ones(6, 4), 2).index[3].tolist()) == {0, 1}
    assert networkx.is_connected(networkx.from_numpy_array(equal.numpy()))


def test_half_precision_inside_autocast_is_worked_in_float32():
    feature = (rows(40, 320) * 50).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        neighbors = knn_affinity(feature, n_neighbors=4)
    assert neighbors.dtype == torch.float32
    torch.testing.assert_close(
        neighbors.to_dense(), knn_affinity(feature.float(), n_neighbors=4).to_dense()
    )


def test_no_gradient_and_no_change_of_the_input():
    feature = rows(10).requires_grad_()
    before = feature.detach().clone()
    assert not knn_affinity(feature, n_neighbors=2).requires_grad
    assert torch.equal(feature.detach(), before)


def test_wrong_arguments_are_refused():
    with pytest.raises(ShapeError, match="two nodes"):
        knn_affinity(rows(1), n_neighbors=1)
    with pytest.raises(ShapeError, match="two nodes"):
        knn_affinity(rows(4)[None], n_neighbors=1)
    with pytest.raises(InputError, match="n_neighbors=0"):
        knn_affinity(rows(4), n_neighbors=0)
    with pytest.raises(InputError, match="gamma"):
        knn_affinity(rows(4), n_neighbors=1, gamma=0)
    with pytest.raises(InputError, match="symmetrize"):
        knn_affinity(rows(4), n_neighbors=1, symmetrize="min")  # type: ignore[arg-type]
    broken = rows(9)
    broken[[2, 5]] = torch.nan
    with pytest.raises(InputError, match="2, 5"):
        knn_affinity(broken, n_neighbors=1)
