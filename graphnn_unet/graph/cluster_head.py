"""The head of GraphCL: soft clusters of the positions of one deep feature map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import as_batch, check_choice, check_positive, full_precision
from graphnn_unet.graph.affinity import ROWS, Rows, prepared_rows
from graphnn_unet.graph.propagation import gram_convolution, thresholded_convolution
from graphnn_unet.graph.shared_batch import BatchDropout


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

    Example:
        >>> head = CorrelationClusterHead(in_channels=16, n_clusters=5)
        >>> feature = torch.randn(2, 100, 16)
        >>> assignment = head(feature)
        >>> assignment.shape
        torch.Size([2, 100, 5])
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
                mixed = gram_convolution(ready.detach(), signal)
            assignment = self.head(functional.elu(mixed + self.bias)).softmax(dim=-1)
        return assignment[0] if single else assignment
