"""Graph networks that assign the nodes of an image to clusters, from PyG's layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import as_batch, check_choice, full_precision
from graphnn_unet.graph.affinity import GramAffinity
from graphnn_unet.graph.clusterer_settings import ACTIVATIONS, PRESETS, ClustererSettings
from graphnn_unet.graph.explicit import checked_affinity, is_sparse
from graphnn_unet.graph.graph_layers import (
    ARMAConv,
    GATConv,
    GCNConv,
    Step,
    complete_step,
    dense_step,
)


class GraphClusterer(nn.Module):
    """Soft clusters of the nodes of a given graph, by PyG's layers and a small head.

        H = layer(F, W);    S = softmax(Linear(Dropout(act2(Linear(act(H))))))    over clusters

    Edges are the pairs of positive affinity, both directions, self-edges among them; under
    ``signed`` all that are not 0. The layers run as matrix products for a whole batch, with the
    same numbers as PyG's message passing.

    Args:
        in_channels: Channels of the node features.
        n_clusters: Number of clusters ``k``.
        settings: Settings, or the name of a published network: ``deepcut``, ``unseggnet``,
            ``unsegarmanet``, ``unsegmedgat``, ``grid_gcn``, ``grid_gat``, ``grid_arma``.

    Raises:
        InputError: A size or a name is wrong.

    Source: DeepCut, UnSegGNet, UnSeGArmaNet, UnSegMedGAT, as their released programs build them.

    Example:
        >>> network = GraphClusterer(in_channels=6, n_clusters=3, settings="unseggnet").eval()
        >>> feature = torch.randn(10, 6)
        >>> affinity = (feature @ feature.T).clamp(min=0)
        >>> network(feature, affinity).shape
        torch.Size([10, 3])
    """

    def __init__(
        self, in_channels: int, n_clusters: int, settings: ClustererSettings | str = "deepcut"
    ):
        super().__init__()
        if isinstance(settings, str):
            check_choice("settings", settings, tuple(PRESETS))
            settings = PRESETS[settings]
        if min(in_channels, n_clusters) < 1:
            raise InputError(f"in_channels={in_channels}, n_clusters={n_clusters}", "start at 1")
        self.in_channels, self.n_clusters, self.settings = in_channels, n_clusters, settings
        self.activation = ACTIVATIONS[settings.activation]()
        widths = settings.widths if settings.layer == "gat_series" else (settings.hidden,)
        self.series = nn.ModuleList(nn.ModuleList(self._layers(width)) for width in widths)
        self.project = nn.ModuleList(
            nn.Linear(width, settings.hidden)
            if width != settings.hidden or (settings.project_all and len(widths) > 1)
            else nn.Identity()
            for width in widths
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Sequential(
            ACTIVATIONS[settings.activation](),
            nn.Linear(settings.hidden, settings.hidden // 2),
            ACTIVATIONS[settings.head_activation](),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden // 2, n_clusters),
        )

    def forward(self, node_feature: Tensor, affinity: Tensor | GramAffinity) -> Tensor:
        """Assignment of each node.

        Args:
            node_feature: ``(n, c)`` or ``(b, n, c)``.
            affinity: Symmetric and dense, ``(n, n)`` or ``(b, n, n)``; or a complete graph of
                feature products, which is never built: time and memory are linear in ``n``.
                Attention then runs over all pairs, whatever their weight.

        Returns:
            ``(n, k)`` or ``(b, n, k)`` float32 or wider, rows on the simplex.

        Raises:
            ShapeError: Features and affinity do not fit each other or the network.
            InputError: A sparse affinity, or attention dropout on a complete graph, which has no
                linear form.
        """
        self._check_shapes(node_feature, affinity)
        with full_precision(node_feature):
            feature, single = as_batch(node_feature, "node_feature")
            assignment = self.head(self._mix(feature, self._step(affinity))).softmax(dim=-1)
        return assignment[0] if single else assignment

    def _check_shapes(self, node_feature: Tensor, affinity: Tensor | GramAffinity) -> None:
        if isinstance(affinity, GramAffinity):
            shown = f"a graph of {affinity.n_nodes} nodes"
            fits = node_feature.shape[-2] == affinity.n_nodes
        else:
            shown = f"affinity {tuple(affinity.shape)}"
            fits = node_feature.shape[:-1] == affinity.shape[:-1]
        if node_feature.shape[-1] != self.in_channels or not fits:
            raise ShapeError(
                f"node_feature {tuple(node_feature.shape)} and {shown} do not fit",
                f"both name the same nodes, and the network was made for {self.in_channels} "
                "channels",
            )

    def _step(self, affinity: Tensor | GramAffinity) -> Step:
        """How a layer runs on the graph."""
        settings = self.settings
        if isinstance(affinity, GramAffinity):
            is_attention = settings.layer in ("gat", "gat_series")
            if is_attention and self.training and settings.attention_dropout:
                raise InputError(
                    "attention dropout on a complete graph of feature products",
                    "dropout of single pairs has no linear form",
                    "Set attention_dropout=0, or pass an explicit affinity",
                )
            return complete_step(settings.layer, affinity, signed=settings.signed)
        if is_sparse(affinity):
            raise InputError(
                "the affinity is stored sparse",
                "the networks run as products with a dense matrix",
                "Pass affinity.to_dense()",
            )
        weight = checked_affinity(affinity)
        weight = weight if settings.signed else weight.clamp(min=0)
        return dense_step(settings.layer, weight if weight.dim() == 3 else weight[None])

    def _layers(self, width: int) -> list[nn.Module]:
        """The graph layers of one series."""
        settings = self.settings
        if settings.layer == "gcn":
            is_plain = not settings.signed
            return [GCNConv(self.in_channels, width, normalize=is_plain, add_self_loops=is_plain)]
        if settings.layer == "arma":
            return [
                ARMAConv(
                    self.in_channels,
                    width,
                    num_stacks=settings.n_stacks,
                    num_layers=settings.n_layers,
                    act=ACTIVATIONS[settings.activation](),
                    dropout=settings.input_dropout,
                )
            ]
        depth = 2 if settings.layer == "gat_series" else 1
        return [
            GATConv(
                self.in_channels if index == 0 else width,
                width // settings.n_heads,
                heads=settings.n_heads,
                dropout=settings.attention_dropout,
            )
            for index in range(depth)
        ]

    def _mix(self, feature: Tensor, step: Step) -> Tensor:
        """Run every series and add them up."""
        outputs: list[Tensor] = []
        for layers, project in zip(self.series, self.project, strict=True):
            state = feature
            for index, layer in enumerate(layers.children()):
                if index:
                    state = self.dropout(self.activation(state))
                state = step(layer, state)
            if not isinstance(project, nn.Identity):
                state = self.dropout(self.activation(project(state)))
            outputs.append(state)
        return torch.stack(outputs).sum(dim=0) if len(outputs) > 1 else outputs[0]
