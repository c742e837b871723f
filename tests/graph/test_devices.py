"""The same numbers on every device, and nothing that deterministic mode forbids."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from graph.oracles import thresholded

from graphnn_unet import graph
from graphnn_unet.graph.propagation import thresholded_convolution

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def inputs(device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 600, 9, generator=generator, dtype=torch.float64)
    member = torch.randn(2, 600, 4, generator=generator, dtype=torch.float64).softmax(-1)
    return (
        feature.to(device, dtype).requires_grad_(),
        member.to(device, dtype).requires_grad_(),
    )


def diffuse_sparse(feature: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    affinity = graph.knn_affinity(feature[0], n_neighbors=6)
    return graph.diffuse_labels(member[0], affinity=affinity, alpha=0.9)


def sparse_modularity(feature: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    return graph.modularity_loss_from(graph.knn_affinity(feature[0], n_neighbors=6), member[0])


def align(feature: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    block = graph.StructureAlignment(9, 2, hidden=8).to(feature)
    with torch.no_grad():
        block.gate.fill_(0.5)
    return block(feature.transpose(1, 2).reshape(2, 9, 20, 30))


def cluster(feature: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    head = graph.CorrelationClusterHead(9, dropout=0.0).to(feature)
    return head(feature)


def dense_network(feature: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    network = graph.GraphClusterer(9, 3, "unsegmedgat").to(feature).eval()
    return network(feature[:, :50], thresholded(graph.unit_rows(feature[:, :50].detach())))


def correct(feature: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    sure = graph.is_confident(member, graph.class_thresholds(member, sigma=0.5))
    steps = [graph.VoteStep(), graph.VoteStep()]
    states = graph.correct_labels(member, graph.unit_rows(feature), sure, steps)
    # rows have unit length, so that their plain squares would carry no gradient
    return torch.cat([states[-1].probability, states[-1].embedding[..., :3]], dim=-1)


CALLS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "correlation": graph.correlation_clustering_loss,
    "cut": graph.normalized_cut_loss,
    "modularity": graph.modularity_loss,
    "sparse modularity": sparse_modularity,
    "pairs": lambda f, s: graph.pair_loss(graph.unit_rows(f), s.detach().argmax(-1)),
    "gram": graph.gram_convolution,
    "blocks": lambda f, s: thresholded_convolution(f, s, block_rows=128),
    "classes": lambda f, s: graph.class_graph_propagate(s, f, detach_graph=False),
    "woodbury": lambda f, s: graph.diffuse_labels(s, node_feature=f, alpha=0.9),
    "sparse diffusion": diffuse_sparse,
    "correct": correct,
    "align": align,
    "cluster": cluster,
    "network": dense_network,
}


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def run(name: str, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    given = inputs(device, dtype)
    value = CALLS[name](*given)
    gradients = torch.autograd.grad(value.square().mean(), given, allow_unused=True)
    return [value.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("deterministic")
def test_float32_follows_float64_of_the_cpu_and_repeats_bit_for_bit(name: str, device: str):
    exact = run(name, "cpu", torch.float64)
    results = run(name, device, torch.float32)
    again = run(name, device, torch.float32)
    for reference, once, twice in zip(exact, results, again, strict=True):
        assert once.device.type == device
        assert torch.equal(once, twice)
        scale = reference.abs().max()
        torch.testing.assert_close(
            once.cpu().double() / scale, reference / scale, atol=1e-3, rtol=0
        )
