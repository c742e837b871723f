"""PyG's layers as matrix products: two nodes by hand (whole networks: ``test_clusterer.py``)."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.nn import ARMAConv, GATConv, GCNConv

from graphnn_unet.graph.graph_layers import dense_arma, dense_gat, dense_gcn, dense_step

PAIR = [[1.0, 0.5], [0.5, 1.0]]


def filled(layer: torch.nn.Module, **values: float) -> torch.nn.Module:
    for name, parameter in layer.named_parameters():
        last = name.split(".")[-1]
        value = 0.0 if "bias" in name else values.get(last, values.get(name, 1.0))
        torch.nn.init.constant_(parameter, value)
    return layer.double()


def test_two_nodes_by_hand():
    feature = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    weight = torch.tensor([PAIR], dtype=torch.float64)
    cases = [
        (dense_gcn(filled(GCNConv(1, 1)), feature, weight), (0.666667, 0.333333)),
        (
            dense_arma(filled(ARMAConv(1, 1, act=torch.relu)), feature, weight),
            (1.666667, 0.333333),
        ),
        (
            dense_arma(filled(ARMAConv(1, 1, num_layers=2, act=torch.relu)), feature, weight),
            (2.222222, 0.777778),
        ),
        (
            dense_gat(filled(GATConv(1, 1), att_dst=1.0, att_src=-1.0), feature, weight),
            (0.268941, 0.450166),
        ),
    ]
    for output, expected in cases:
        torch.testing.assert_close(
            output.flatten(), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
        )


def test_a_step_runs_the_layer_of_its_name():
    feature, weight = torch.rand(1, 2, 1), torch.tensor([PAIR])
    for name, layer, direct in (
        ("gcn", GCNConv(1, 2), dense_gcn),
        ("arma", ARMAConv(1, 2), dense_arma),
        ("gat", GATConv(1, 2), dense_gat),
        ("gat_series", GATConv(1, 2), dense_gat),
    ):
        layer.eval()
        assert torch.equal(dense_step(name, weight)(layer, feature), direct(layer, feature, weight))


def test_lonely_nodes_keep_their_self_edge_in_gcn_and_get_no_message_in_arma():
    feature, alone = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    assert dense_gcn(filled(GCNConv(1, 1)).float(), feature, alone).item() == pytest.approx(1)
    arma = filled(ARMAConv(1, 1, act=None), weight=5.0).float()
    assert dense_arma(arma, feature, alone).item() == pytest.approx(1)  # the root weight alone
