"""Losses of clustering: values by hand, and each form of the registry against the definition."""

import pytest
import torch
from graph.oracles import written_out

from graphnn_unet.clustering.losses import LOSSES
from graphnn_unet.clustering.settings import make_settings
from graphnn_unet.graph import correlation_clustering_loss_from, modularity_loss_from
from graphnn_unet.graph.affinity import GramAffinity


def test_two_blocks_by_hand_prefer_collapse_under_the_released_loss():
    half = torch.kron(torch.eye(2), torch.ones(20, 20))
    split = torch.kron(torch.eye(2), torch.ones(20, 1))
    collapsed = torch.stack([torch.ones(40), torch.zeros(40)], dim=1)
    for across, true_split, released in ((0.2, 1 / 3, (0.291667, 0.25)),
                                         (0.5, 1 / 6, (0.208333, 0.25))):  # fmt: skip
        weight = half + across * (1 - half)
        values = [
            -modularity_loss_from(weight, member, collapse=False, variant=variant).item()
            for variant in ("true", "released")
            for member in (split, collapsed)
        ]
        assert values == pytest.approx([true_split, 0, *released], abs=1e-6)


def test_correlation_clustering_by_hand():
    weight = torch.tensor([[1, 0.8, 0.1, 0], [0.8, 1, 0, 0.1], [0.1, 0, 1, 0.6], [0, 0.1, 0.6, 1]])
    hard = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    collapsed = torch.tensor([[1.0, 0]] * 4)
    soft = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]])
    losses = [
        16 * correlation_clustering_loss_from(weight - 0.2, member).item()
        for member in (hard, collapsed, soft)
    ]
    assert losses == pytest.approx([-5.2, -4.0, -3.204], abs=1e-5)


def inputs(n_nodes: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(n_nodes, 5, generator=generator, dtype=torch.float64)
    return feature, torch.rand(n_nodes, 2, generator=generator, dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("name", LOSSES)
def test_linear_form_is_the_explicit_one_on_the_complete_graph(name: str):
    feature, member = inputs()
    settings = make_settings(loss=name, alpha=4.0, balance_weight=0.3)
    shifted = written_out(GramAffinity.of(feature[None], "shifted"))[0]
    # correlation clustering works on the cosine less a threshold, the others on shifted cosines
    affinity = 2 * shifted - 1 - 1 / settings.alpha if name == "cc" else shifted
    linear = LOSSES[name].linear(feature, settings)(member)
    torch.testing.assert_close(linear, LOSSES[name].explicit(affinity, settings)(member))


def test_published_graphs_are_those_of_the_papers():
    feature, _ = inputs()
    feature[3] = 0
    product, cosine = feature @ feature.T, torch.nn.functional.normalize(feature, dim=1)
    cosine = cosine @ cosine.T
    links, affinity = LOSSES["ncut"].graph(feature, make_settings(loss="ncut"))
    torch.testing.assert_close(affinity, product.clamp(min=0))
    torch.testing.assert_close(links, affinity / product.max())
    links, affinity = LOSSES["cc"].graph(feature, make_settings(loss="cc", alpha=4.0))
    torch.testing.assert_close(affinity, product / product.max() - 1 / 4)
    assert torch.equal(links, affinity)
    for edges, expected in (("binary", torch.ones_like(cosine)), ("cosine", cosine)):
        settings = make_settings(loss="dmon", tau=0.4, edges=edges)
        links, affinity = LOSSES["dmon"].graph(feature, settings)
        wanted = torch.where(cosine >= 0.4, expected, 0.0)
        wanted[3, 3] = 1  # a zero row keeps its self-edge
        torch.testing.assert_close(affinity.double(), wanted)
        assert torch.equal(links, affinity)
