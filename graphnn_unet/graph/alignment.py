"""Structure-aware alignment: one graph convolution whose nodes are the images of a batch.

Source: GraphCL, eqs. 12-14. The paper publishes neither the score network nor how space and the
merging with the plain feature are treated; the choices made here stand in the class docstring.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph._tensors import full_precision, widen
from graphnn_unet.graph.average_pool import average_to
from graphnn_unet.graph.explicit import normalized_affinity
from graphnn_unet.graph.shared_batch import all_images, process_count, process_rank


def normalized_sample_graph(scores: Tensor) -> Tensor:
    """Symmetrically normalized affinity between the images of a batch.

        A = max(0, T T^T),    d_i = sum_j A_ij,    G_ij = A_ij / sqrt(d_i d_j)

    An image without any positive affinity, to itself included, stands alone: ``G_ii = 1``.

    Args:
        scores: ``(w, h)`` structure scores ``T``, one row an image.

    Returns:
        ``(w, w)`` symmetric, non-negative, eigenvalues in [-1, 1]. Scaling all scores by one
        factor changes nothing.

    Source: GraphCL eqs. 13 and 14; the clamp and the lonely image are ours.

    Example:
        >>> normalized_sample_graph(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    with full_precision(scores):
        work = widen(scores)
        affinity = (work @ work.T).clamp(min=0)
        lonely = affinity.sum(dim=1) <= 0
        return normalized_affinity(affinity) + torch.diag(lonely.to(work.dtype))


class StructureAlignment(nn.Module):
    """Mix the features of the images of a batch by structural likeness, behind a gate.

    With features ``F_j`` and scores ``T`` (two linear layers on 2 pooled cells per axis):

        training, w > 1:   Y_i = F_i + g * sum_j G_ij W^T F_j,    G = normalized(T T^T)
        otherwise:         Y_i = F_i + g * W^T F_i

    at each position, over the images of all processes that share the batch. In evaluation every
    image stands alone, so that tiles, mirrored copies and
    pseudo-labels never depend on what shares the batch. ``g`` starts at 0 and ``W`` at the
    identity: a fresh block leaves the network as it is, and its gradient then reaches ``g`` only.

    Args:
        channels: Number of feature channels ``C``.
        dim: Number of spatial axes, 1, 2 or 3.
        hidden: Width of the score network.

    Attributes:
        gate: Scalar parameter ``g``; keep it out of weight decay, see :meth:`no_weight_decay`.
        weight: ``(C, C)`` parameter ``W``.

    Raises:
        InputError: ``dim`` is not 1, 2 or 3, or a size is not positive.

    Source: GraphCL eqs. 12-14. Ours: messages at equal positions with one ``W`` for all of them,
    the gated residual merge, pooling to halves (behind an instance norm the plain mean carries
    almost nothing), and the rule for evaluation. See ``docs/explanation/graph_core.md``.
    Cost: ``w C^2 |S|`` multiply-adds and, in training, ``w^2 C |S|``.

    Example:
        >>> block = StructureAlignment(channels=8, dim=3)
        >>> feature = torch.randn(4, 8, 6, 6, 4)
        >>> torch.equal(block(feature), feature)  # the gate starts closed
        True
    """

    def __init__(self, channels: int, dim: int, hidden: int = 64):
        super().__init__()
        if dim not in (1, 2, 3):
            raise InputError(f"dim={dim} cannot be used", "features have 1, 2 or 3 spatial axes")
        if channels < 1 or hidden < 1:
            raise InputError(f"channels={channels}, hidden={hidden}", "both must be positive")
        self.channels, self.dim = channels, dim
        self.gate = nn.Parameter(torch.zeros(()))
        self.weight = nn.Parameter(torch.eye(channels))
        self.score_in = nn.Linear(channels * 2**dim, hidden)
        self.score_out = nn.Linear(hidden, hidden)

    def scores(self, feature: Tensor) -> Tensor:
        """Structure scores of each image ``(w, C, *S)``, positive, ``(w, hidden)``."""
        with full_precision(feature):
            # parameters may be narrower than the feature if a whole network was cast
            cells = average_to(widen(feature), [2] * self.dim).flatten(1)
            hidden = functional.relu(self.score_in(cells.to(self.score_in.weight.dtype)))
            return functional.softplus(self.score_out(hidden))

    def forward(self, feature: Tensor) -> Tensor:
        """Aligned feature of the same shape and dtype, for the images ``(w, C, *S)`` of one call.

        Raises:
            ShapeError: Another number of channels or axes.
        """
        if feature.dim() != self.dim + 2 or feature.shape[1] != self.channels:
            raise ShapeError(
                f"feature has shape {tuple(feature.shape)}",
                f"the block was made for (image, {self.channels}, {self.dim} spatial axes)",
            )
        with full_precision(feature):
            work = widen(feature)
            message = work.flatten(2)
            if self.training and feature.shape[0] * process_count() > 1:
                graph = normalized_sample_graph(all_images(self.scores(work))).to(work.dtype)
                here = graph.chunk(process_count())[process_rank()]
                message = (here @ all_images(message).flatten(1)).view(message.shape)
            message = self.weight.to(work.dtype).T @ message
            aligned = work + self.gate.to(work.dtype) * message.view(work.shape)
        return aligned.to(feature.dtype)

    def channel_matrix(self) -> Tensor:
        """``I + g W^T``, ``(C, C)``: the 1x1 convolution this block is in evaluation.

        Row = output channel, column = input channel, as in a convolution's weight.
        """
        identity = torch.eye(self.channels, dtype=self.weight.dtype, device=self.weight.device)
        return identity + self.gate * self.weight.T

    def no_weight_decay(self) -> set[str]:
        """Names of own parameters that an optimizer must not decay."""
        return {"gate"}
