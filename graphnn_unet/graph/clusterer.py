"""Graph networks that assign the nodes of a feature map to clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import as_batch, check_choice, check_positive, full_precision
from graphnn_unet.graph.affinity import ROWS, GramAffinity, Rows, prepared_rows
from graphnn_unet.graph.explicit import checked_affinity, edge_list, is_sparse
from graphnn_unet.graph.propagation import gram_convolution, thresholded_convolution
from graphnn_unet.graph.shared_batch import BatchDropout

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIVATIONS = {"elu": nn.ELU, "silu": nn.SiLU, "selu": nn.SELU, "relu": nn.ReLU, "gelu": nn.GELU}
LAYERS = ("gcn", "gat", "arma", "gat_series")


class CorrelationClusterHead(nn.Module):
    """Soft clusters of the positions of one deep feature map, one graph an image.

    With rows ``f_i`` of unit length and the graph ``A`` chosen by ``graph``:

        H = ELU(D^(-1/2) A D^(-1/2) F Theta + bias)
        S = softmax(Linear(Dropout(ELU(Linear(H)))))          over clusters

    The graph counts as a constant; gradient reaches the features through ``F`` and the loss.

    Args:
        in_channels: Channels ``c`` of the feature map.
        n_clusters: Upper bound ``k`` of clusters; unused ones die out.
        hidden: Width behind the graph convolution; the head continues with half of it.
        tau: Threshold divisor of the graph, the same as in the loss.
        rows: ``unit``, ``raw`` or ``centred``, as in :func:`correlation_clustering_loss`.
        graph: ``positive``: the paper's graph, edges where the affinity exceeds the threshold, in
            blocks of rows (``n^2`` time). ``shifted``: the shifted cosine, linear, for any ``n``.
        dropout: Probability in the head.

    Raises:
        InputError: A size is not positive, or a word is not known.

    Source: GraphCL eqs. 15-17; head after DeepCut in its correlation mode. Unit rows, the constant
    graph and the shifted one are ours.
    """

    def __init__(
        self,
        in_channels: int,
        n_clusters: int = 10,
        hidden: int = 64,
        *,
        tau: float = 2.0,
        rows: Rows = "unit",
        graph: Literal["positive", "shifted"] = "positive",
        dropout: float = 0.25,
    ):
        super().__init__()
        check_positive("tau", tau)
        check_choice("rows", rows, ROWS)
        check_choice("graph", graph, ("positive", "shifted"))
        if min(in_channels, n_clusters) < 1 or hidden < 2:
            raise InputError(
                f"in_channels={in_channels}, n_clusters={n_clusters}, hidden={hidden}",
                "channels and clusters start at 1, hidden at 2",
            )
        self.in_channels, self.n_clusters = in_channels, n_clusters
        self.tau, self.graph = float(tau), graph
        self.rows: Rows = rows
        self.theta = nn.Linear(in_channels, hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden // 2),
            nn.ELU(),
            BatchDropout(dropout),
            nn.Linear(hidden // 2, n_clusters),
        )
        nn.init.xavier_uniform_(self.theta.weight)

    def forward(self, node_feature: Tensor) -> Tensor:
        """Assignment of each node.

        Args:
            node_feature: ``(b, n, c)`` or ``(n, c)``; half precision is widened.

        Returns:
            ``(b, n, k)`` or ``(n, k)`` float32 or wider, rows on the simplex.

        Raises:
            ShapeError: Another number of channels.
        """
        if node_feature.shape[-1] != self.in_channels:
            raise ShapeError(
                f"node_feature has shape {tuple(node_feature.shape)}",
                f"the head was made for {self.in_channels} channels, which come last",
            )
        with full_precision(node_feature):
            feature, single = as_batch(node_feature, "node_feature")
            ready = prepared_rows(feature, self.rows)
            # Theta first: its output is narrower than the features
            signal = self.theta(ready)
            if self.graph == "positive":
                mixed = thresholded_convolution(ready, signal, tau=self.tau)
            else:
                mixed = gram_convolution(ready.detach(), signal, affinity="shifted")
            assignment = self.head(functional.elu(mixed + self.bias)).softmax(dim=-1)
        return assignment[0] if single else assignment

    def extra_repr(self) -> str:
        """Sizes and options, for printing."""
        return (
            f"in_channels={self.in_channels}, n_clusters={self.n_clusters}, tau={self.tau}, "
            f"rows={self.rows!r}, graph={self.graph!r}"
        )


@dataclass(frozen=True)
class ClustererSettings:
    """What a :class:`GraphClusterer` is made of.

    Attributes:
        layer: ``gcn``, ``gat``, ``arma``, or ``gat_series``: parallel series of two attention
            layers, one for each of ``widths``, summed.
        hidden: Width behind the graph layers; the head continues with half of it.
        activation: Behind (and between) the graph layers.
        head_activation: Inside the head.
        dropout: In the head and between the layers of a series.
        signed: ``gcn``: keep negative edges and leave out the normalization, which they break.
        n_heads: ``gat``: attention heads, which share ``hidden``.
        attention_dropout: ``gat``: of the attention.
        edge_weight: ``gat``: let the attention see the affinity; by default it sees only which
            nodes are linked.
        n_stacks: ``arma``: parallel stacks, averaged.
        n_layers: ``arma``: steps of each stack.
        input_dropout: ``arma``: of the features that enter each step.
        widths: ``gat_series``: widths of the series; one equal to ``hidden`` is added as it is.
        project_all: ``gat_series``: project that one as well.
    """

    layer: Literal["gcn", "gat", "arma", "gat_series"] = "gcn"
    hidden: int = 64
    activation: str = "elu"
    head_activation: str = "elu"
    dropout: float = 0.25
    signed: bool = False
    n_heads: int = 1
    attention_dropout: float = 0.0
    edge_weight: bool = False
    n_stacks: int = 1
    n_layers: int = 1
    input_dropout: float = 0.0
    widths: tuple[int, ...] = (128, 64)
    project_all: bool = False

    def check(self) -> None:
        """Refuse what cannot be built.

        Raises:
            InputError: Naming the first setting that is wrong.
        """
        check_choice("layer", self.layer, LAYERS)
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("head_activation", self.head_activation, tuple(ACTIVATIONS))
        if self.signed and self.layer != "gcn":
            raise InputError(
                f"signed edges with layer={self.layer!r}",
                "only a gcn without normalization keeps their sign",
            )
        if self.hidden < 2 or self.n_heads < 1 or self.hidden % self.n_heads:
            raise InputError(
                f"hidden={self.hidden}, n_heads={self.n_heads}",
                "hidden starts at 2 and the heads share it evenly",
            )
        if min(self.n_stacks, self.n_layers, *self.widths) < 1 or not self.widths:
            raise InputError("n_stacks, n_layers and widths", "each starts at 1")


PRESETS = {
    "deepcut": ClustererSettings(),
    "unseggnet": ClustererSettings(activation="silu", head_activation="silu"),
    "unsegarmanet": ClustererSettings(
        layer="arma",
        activation="silu",
        head_activation="silu",
        n_stacks=2,
        n_layers=4,
        input_dropout=0.4,
    ),
    "unsegmedgat": ClustererSettings(
        layer="gat_series",
        activation="silu",
        head_activation="silu",
        dropout=0.2,
        attention_dropout=0.2,
    ),
    "grid_gcn": ClustererSettings(activation="silu", dropout=0.0),
    "grid_gat": ClustererSettings(layer="gat", activation="silu", dropout=0.0),
    "grid_arma": ClustererSettings(layer="arma", activation="silu", dropout=0.0),
}


class GraphClusterer(nn.Module):
    """Soft clusters of the nodes of a given graph, by PyG's layers and a small head.

        H = layer(F, W);    S = softmax(Linear(Dropout(act2(Linear(act(H))))))    over clusters

    Edges are the pairs of positive affinity, both directions, self-edges among them; under
    ``signed`` all that are not 0. On a dense affinity the layers run as matrix products for a whole
    batch, on a sparse one edge by edge in PyG; the numbers are the same.

    Args:
        in_channels: Channels of the node features.
        n_clusters: Number of clusters ``k``.
        settings: Settings, or the name of a published network: ``deepcut``, ``unseggnet``,
            ``unsegarmanet``, ``unsegmedgat``, ``grid_gcn``, ``grid_gat``, ``grid_arma``.

    Raises:
        InputError: A setting, size or name is wrong.

    Source: DeepCut, UnSegGNet, UnSeGArmaNet, UnSegMedGAT, as their released programs build them.
    """

    def __init__(
        self, in_channels: int, n_clusters: int, settings: ClustererSettings | str = "deepcut"
    ):
        super().__init__()
        if isinstance(settings, str):
            check_choice("settings", settings, tuple(PRESETS))
            settings = PRESETS[settings]
        settings.check()
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
            node_feature: ``(n, c)``, or ``(b, n, c)`` with a dense affinity.
            affinity: Symmetric ``(n, n)`` dense or sparse, or ``(b, n, n)`` dense; or a complete
                graph of feature products, which is never built: time and memory are linear in
                ``n``. Attention then runs over all pairs, whatever their weight.

        Returns:
            ``(n, k)`` or ``(b, n, k)`` float32 or wider, rows on the simplex.

        Raises:
            ShapeError: Features and affinity do not fit each other or the network.
            InputError: Attention dropout on a complete graph, which has no linear form.
        """
        if isinstance(affinity, GramAffinity):
            return self._on_complete_graph(node_feature, affinity)
        fits = node_feature.dim() == affinity.dim() and (
            node_feature.shape[:-1] == affinity.shape[:-1]
        )
        if node_feature.shape[-1] != self.in_channels or not fits:
            raise ShapeError(
                f"node_feature {tuple(node_feature.shape)} and affinity {tuple(affinity.shape)} do "
                "not fit",
                f"both name the same nodes, and the network was made for {self.in_channels} "
                "channels",
            )
        with full_precision(node_feature):
            feature, single = as_batch(node_feature, "node_feature")
            weight = checked_affinity(affinity)
            if is_sparse(weight):
                step = self._along_edges(weight)
                mixed = self._mix(feature[0], step).unsqueeze(0)
            else:
                weight = weight if self.settings.signed else weight.clamp(min=0)
                step = self._through_matrix(weight.unsqueeze(0) if single else weight)
                mixed = self._mix(feature, step)
            assignment = self.head(mixed).softmax(dim=-1)
        return assignment[0] if single else assignment

    def _on_complete_graph(self, node_feature: Tensor, graph: GramAffinity) -> Tensor:
        """Assignment on a graph of feature products."""
        if node_feature.shape[-1] != self.in_channels or (node_feature.shape[-2] != graph.n_nodes):
            raise ShapeError(
                f"node_feature {tuple(node_feature.shape)} does not fit",
                f"the graph has {graph.n_nodes} nodes, the network {self.in_channels} channels",
            )
        if self.settings.layer in ("gat", "gat_series") and (
            self.settings.edge_weight or (self.training and self.settings.attention_dropout)
        ):
            raise InputError(
                "attention on a complete graph of feature products",
                "edge weights and dropout of single pairs have no linear form",
                "Set attention_dropout=0 and edge_weight=False, or pass an explicit affinity",
            )
        from graphnn_unet.graph.complete_layers import complete_layer

        with full_precision(node_feature):
            feature, single = as_batch(node_feature, "node_feature")
            mixed = self._mix(feature, complete_layer(self.settings, graph))
            assignment = self.head(mixed).softmax(dim=-1)
        return assignment[0] if single else assignment

    def _layers(self, width: int) -> list[nn.Module]:
        """The graph layers of one series."""
        from torch_geometric.nn import ARMAConv, GATConv, GCNConv

        chosen = self.settings
        if chosen.layer == "gcn":
            return [
                GCNConv(
                    self.in_channels,
                    width,
                    normalize=not chosen.signed,
                    add_self_loops=not chosen.signed,
                )
            ]
        if chosen.layer == "arma":
            return [
                ARMAConv(
                    self.in_channels,
                    width,
                    num_stacks=chosen.n_stacks,
                    num_layers=chosen.n_layers,
                    act=ACTIVATIONS[chosen.activation](),
                    dropout=chosen.input_dropout,
                )
            ]
        depth = 2 if chosen.layer == "gat_series" else 1
        return [
            GATConv(
                self.in_channels if index == 0 else width,
                width // chosen.n_heads,
                heads=chosen.n_heads,
                dropout=chosen.attention_dropout,
                edge_dim=1 if chosen.edge_weight else None,
            )
            for index in range(depth)
        ]

    def _mix(self, feature: Tensor, step: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """Run every series and add them up."""
        total: Tensor | None = None
        for layers, project in zip(self.series, self.project, strict=True):
            state = feature
            for index, layer in enumerate(layers):  # type: ignore[arg-type]  # a ModuleList
                if index:
                    state = self.dropout(self.activation(state))
                state = step(layer, state)
            if not isinstance(project, nn.Identity):
                state = self.dropout(self.activation(project(state)))
            total = state if total is None else total + state
        return total  # type: ignore[return-value]  # there is at least one series

    def _along_edges(self, weight: Tensor) -> Callable[[nn.Module, Tensor], Tensor]:
        """PyG's own message passing on a sparse affinity."""
        edges, values = edge_list(weight, positive=not self.settings.signed)

        def step(layer: nn.Module, state: Tensor) -> Tensor:
            if self.settings.layer in ("gcn", "arma"):
                return layer(state, edges, values.to(state.dtype))
            return layer(
                state,
                edges,
                edge_attr=values.to(state.dtype) if self.settings.edge_weight else None,
            )

        return step

    def _through_matrix(self, weight: Tensor) -> Callable[[nn.Module, Tensor], Tensor]:
        """Matrix products with a dense affinity ``(b, n, n)``."""
        from graphnn_unet.graph.graph_layers import dense_arma, dense_gat, dense_gcn

        chosen = {"gcn": dense_gcn, "arma": dense_arma}.get(self.settings.layer, dense_gat)

        def step(layer: nn.Module, state: Tensor) -> Tensor:
            return chosen(layer, state, weight.to(state.dtype))  # type: ignore[arg-type]

        return step

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_channels={self.in_channels}, n_clusters={self.n_clusters}"
