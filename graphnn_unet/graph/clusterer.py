"""Graph networks that assign the nodes of a feature map to clusters."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import as_batch, check_choice, check_positive, full_precision
from graphnn_unet.graph.affinity import (
    ROWS,
    Rows,
    gram_degree,
    inverse_root,
    largest_affinity,
    positive_block,
    prepared_rows,
    revive_diagonal,
    shifted_cosine,
    thresholded_affinity,
)

# Rows of the affinity held at a time; up to this many nodes the whole matrix is kept for backward.
BLOCK_ROWS = 512


def thresholded_product(
    feature: Tensor, threshold: Tensor, signal: Tensor, block_rows: int = BLOCK_ROWS
) -> Tensor:
    """Product of a thresholded affinity with a signal, holding a block of its rows at a time.

        y_i = sum_j w_ij x_j,    w_ij = max(0, f_i.f_j - threshold), w_ii = 1 where that is 0

    The matrix is symmetric, so each block above the diagonal serves twice, and the gradient with
    respect to the signal is the same product again; the features and the threshold get none.

    Args:
        feature: ``(b, n, c)`` float32 or float64.
        threshold: ``(b,)``.
        signal: ``(b, n, q)`` of the same dtype.
        block_rows: Rows held at a time; the value depends on it only through rounding.

    Returns:
        ``(b, n, q)``.

    Cost: ``n^2 (c/2 + q)`` multiply-adds a call, ``block_rows n`` memory.
    """
    return _ThresholdedProduct.apply(feature.detach(), threshold.detach(), signal, block_rows)


class _ThresholdedProduct(torch.autograd.Function):
    """Symmetric operator in ``signal``; everything else is constant."""

    @staticmethod
    def forward(
        ctx: Any, feature: Tensor, threshold: Tensor, signal: Tensor, block_rows: int
    ) -> Tensor:
        ctx.save_for_backward(feature, threshold)
        ctx.block_rows = block_rows
        n_nodes = feature.shape[1]
        result = torch.zeros_like(signal)
        for start in range(0, n_nodes, block_rows):
            stop = min(start + block_rows, n_nodes)
            block = positive_block(feature[:, start:stop], feature[:, start:], threshold)
            revive_diagonal(block[:, :, : stop - start])
            result[:, start:stop] += block @ signal[:, start:]
            if stop < n_nodes:
                right = block[:, :, stop - start :].transpose(1, 2)
                result[:, stop:] += right @ signal[:, start:stop]
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, None]:
        feature, threshold = ctx.saved_tensors
        back = _ThresholdedProduct.apply(feature, threshold, gradients[0], ctx.block_rows)
        return None, None, back, None


def positive_graph_convolution(
    feature: Tensor, signal: Tensor, *, tau: float = 2.0, block_rows: int = BLOCK_ROWS
) -> Tensor:
    """Normalized product with the thresholded graph: ``D^(-1/2) W+ D^(-1/2) X``.

    Equals PyG's ``GCNConv`` without weight and bias on the explicit graph of positive affinities
    (:func:`graphnn_unet.graph.affinity.thresholded_affinity` with raw rows).

    Args:
        feature: ``(b, n, c)`` rows that span the graph; no gradient reaches them.
        signal: ``(b, n, q)``.
        tau: Threshold divisor, see :func:`correlation_clustering_loss`.
        block_rows: Up to this many nodes the matrix is kept, beyond it is made again in blocks for
            the degrees, the product and its gradient.

    Returns:
        ``(b, n, q)``.

    Source: GraphCL eq. 16, edges where the affinity is positive.
    """
    fixed = feature.detach()
    if fixed.shape[1] <= block_rows:
        affinity = thresholded_affinity(fixed, tau=tau, rows="raw")
        root = inverse_root(affinity.sum(dim=-1, keepdim=True))
        return root * (affinity @ (root * signal))
    threshold = largest_affinity(fixed) / tau
    one = torch.ones_like(fixed[..., :1])
    root = inverse_root(thresholded_product(fixed, threshold, one, block_rows))
    return root * thresholded_product(fixed, threshold, root * signal, block_rows)


def shifted_graph_convolution(feature: Tensor, signal: Tensor) -> Tensor:
    """Normalized product with the shifted cosine graph, linear in the number of nodes.

        w_ij = (1 + u_i.u_j) / 2,    y = D^(-1/2) W D^(-1/2) x

    Args:
        feature: ``(b, n, c)`` rows that span the graph; no gradient reaches them.
        signal: ``(b, n, q)``.

    Returns:
        ``(b, n, q)``.

    Source: LF-15 in LF-5. Cost: ``n c q``.
    """
    phi = shifted_cosine(feature.detach())
    root = inverse_root(gram_degree(phi)).unsqueeze(-1)
    return root * (phi @ (phi.transpose(1, 2) @ (root * signal)))


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
            nn.Dropout(dropout),
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
                mixed = positive_graph_convolution(ready, signal, tau=self.tau)
            else:
                mixed = shifted_graph_convolution(ready, signal)
            assignment = self.head(functional.elu(mixed + self.bias)).softmax(dim=-1)
        return assignment[0] if single else assignment

    def extra_repr(self) -> str:
        """Sizes and options, for printing."""
        return (
            f"in_channels={self.in_channels}, n_clusters={self.n_clusters}, tau={self.tau}, "
            f"rows={self.rows!r}, graph={self.graph!r}"
        )
