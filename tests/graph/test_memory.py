"""No linear form holds anything of the size of a matrix between all nodes."""

from __future__ import annotations

import pytest
import torch

from graphnn_unet import graph

N_NODES, CHANNELS, CLUSTERS = 20_000, 32, 10

FORMS = {
    "unit": lambda f, s: graph.correlation_clustering_loss(f, s),
    "centred": lambda f, s: graph.correlation_clustering_loss(f, s, rows="centred"),
    "cut": graph.normalized_cut_loss,
    "modularity": graph.modularity_loss,
    "convolution": graph.gram_convolution,
    "classes": lambda f, s: graph.class_graph_propagate(s[:, :4].softmax(-1), f),
    "pairs": lambda f, s: graph.pair_loss(f, s.detach().argmax(-1)),
    "diffusion": lambda f, s: graph.diffuse_labels(s, node_feature=f),
    "shifted head": lambda f, s: graph.CorrelationClusterHead(CHANNELS, graph="shifted")(f),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_largest_allocation_grows_with_the_nodes_only(name: str):
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(N_NODES, CHANNELS, generator=generator).requires_grad_()
    member = torch.randn(N_NODES, CLUSTERS, generator=generator).softmax(-1).requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        FORMS[name](feature, member).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    # the head is 64 wide; nothing else needs more than the features themselves
    assert 0 < largest <= 4 * N_NODES * max(CHANNELS + 1, 64)


def test_neighbors_hold_a_block_of_rows(monkeypatch):
    monkeypatch.setattr(graph.knn, "BLOCK_ROWS", 64)
    feature = torch.randn(4000, 8)
    with torch.profiler.profile(profile_memory=True) as profile:
        graph.knn_affinity(feature, n_neighbors=5)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 4 * 4000 * 64 + 4096
