"""Average pooling against PyTorch's adaptive one, values and gradients."""

import pytest
import torch
from torch.nn import functional

from graphnn_unet.graph.average_pool import average_to

ADAPTIVE = (
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1,), (2,)), ((2,), (2,)), ((5,), (2,)), ((7,), (3,)), ((4, 1), (2, 2)),
        ((5, 7), (2, 2)), ((90, 50), (45, 50)), ((1, 1, 1), (2, 2, 2)), ((3, 4, 5), (2, 2, 2)),
        ((9, 8, 6), (5, 4, 6)),
    ],
)  # fmt: skip
def test_it_is_adaptive_pooling(shape, size):
    theirs = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    ours = theirs.detach().clone().requires_grad_()
    weights = torch.randn(2, 3, *size, dtype=torch.float64)
    expected, pooled = ADAPTIVE[len(shape) - 1](theirs, size), average_to(ours, size)
    torch.testing.assert_close(pooled, expected)
    (expected * weights).sum().backward()
    (pooled * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
