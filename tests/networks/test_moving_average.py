import pytest
import torch
from torch import nn

from graphnn_unet.networks.moving_average import update_average


def batch_norm(value: float, count: int) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(2)
    for tensor in (layer.weight, layer.running_mean):
        nn.init.constant_(tensor, value)
    layer.num_batches_tracked += count
    return layer


def test_weights_and_float_buffers_are_averaged_and_counts_copied():
    average = batch_norm(1.0, 3)
    update_average(average, batch_norm(3.0, 7), 0.9, 0)
    assert average.weight.tolist() == pytest.approx([1.2, 1.2])
    assert average.running_mean.tolist() == pytest.approx([1.2, 1.2])
    assert int(average.num_batches_tracked) == 7


def test_many_updates_are_the_geometric_sum():
    average, expected = nn.Linear(1, 1, bias=False), 0.0
    nn.init.constant_(average.weight, 0.0)
    for step in range(5):
        source = nn.Linear(1, 1, bias=False)
        nn.init.constant_(source.weight, step + 1.0)
        update_average(average, source, 0.8, step)
        expected = 0.8 * expected + 0.2 * (step + 1)
    assert float(average.weight.detach()) == pytest.approx(expected)


def test_source_is_left_alone_and_no_gradient_is_kept():
    source, average = batch_norm(3.0, 1), batch_norm(1.0, 0)
    before = {key: value.clone() for key, value in source.state_dict().items()}
    update_average(average, source, 0.5, 0)
    assert all(torch.equal(before[key], value) for key, value in source.state_dict().items())
    assert average.weight.grad_fn is None
