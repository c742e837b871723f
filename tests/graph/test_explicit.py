from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import affinity_product, normalized_affinity
from graphnn_unet.graph.explicit import affinity_degree, checked_affinity, edge_list


def graph(n: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(n, n, generator=generator, dtype=torch.float64)
    weight = torch.where(weight > 0.6, weight, 0.0)
    weight = weight + weight.T
    weight[2] = weight[:, 2] = 0
    return weight


@pytest.mark.parametrize("layout", ["csr", "coo"])
def test_sparse_equals_dense(layout: str):
    dense = graph()
    stored = dense.to_sparse_csr() if layout == "csr" else dense.to_sparse_coo()
    signal = torch.randn(8, 3, dtype=torch.float64)
    torch.testing.assert_close(affinity_product(stored, signal), dense @ signal)
    torch.testing.assert_close(affinity_degree(stored), dense.sum(1))
    torch.testing.assert_close(normalized_affinity(stored).to_dense(), normalized_affinity(dense))


def test_normalization_by_hand_leaves_an_isolated_node_at_zero():
    # directed weights .8 (both ways), .6 one way, one node without link: D = (1.6, 2.2, .6, 0)
    weight = torch.zeros(4, 4)
    weight[0, 1] = weight[1, 0] = 1.6
    weight[1, 2] = weight[2, 1] = 0.6
    normalized = normalized_affinity(weight)
    assert normalized[0, 1].item() == pytest.approx(0.852803, abs=1e-6)
    assert normalized[1, 2].item() == pytest.approx(0.522233, abs=1e-6)
    assert torch.equal(normalized[3], torch.zeros(4))
    assert torch.linalg.eigvalsh(normalized).abs().max() <= 1 + 1e-6


def test_gradient_reaches_the_signal_through_sparse_and_the_weights_through_dense():
    signal = torch.randn(8, 2, dtype=torch.float64).requires_grad_()
    stored = graph().to_sparse_csr()
    assert torch.autograd.gradcheck(lambda x: affinity_product(stored, x), (signal,))
    assert torch.autograd.gradgradcheck(lambda x: affinity_product(stored, x), (signal,))
    assert torch.autograd.gradcheck(affinity_product, (graph().requires_grad_(), signal))


def test_integer_and_half_weights_are_widened():
    counts = torch.eye(3, dtype=torch.int64).to_sparse_csr()
    assert affinity_product(counts, torch.ones(3, 1)).dtype == torch.float32
    half = torch.eye(3, dtype=torch.float16)
    assert affinity_product(half, torch.ones(3, 1).half()).dtype == torch.float32


def test_compressed_rows_equal_those_of_scipy():
    dense = graph()
    mine = checked_affinity(dense.to_sparse_coo())
    theirs = sparse.csr_matrix(dense.numpy())
    np.testing.assert_array_equal(mine.crow_indices().numpy(), theirs.indptr)
    np.testing.assert_array_equal(mine.col_indices().numpy(), theirs.indices)
    np.testing.assert_array_equal(mine.values().numpy(), theirs.data)


def test_edges_are_the_nonzero_entries_sorted_by_target():
    dense = graph() - 0.7 * (graph(seed=1) + torch.eye(8))
    edge_lists = [edge_list(stored) for stored in (dense, dense.to_sparse_csr())]
    for edges, weight in edge_lists:
        assert (edges[1].diff() >= 0).all()
        rebuilt = torch.zeros_like(dense)
        rebuilt[edges[1], edges[0]] = weight
        assert torch.equal(rebuilt, dense)


def test_wrong_arguments_are_refused():
    with pytest.raises(ShapeError, match="must be"):
        checked_affinity(torch.ones(3, 4))
    with pytest.raises(ShapeError, match="do not fit"):
        affinity_product(graph(), torch.ones(7, 2))
    with pytest.raises(InputError, match="constant"):
        checked_affinity(graph().to_sparse_csr().requires_grad_())
