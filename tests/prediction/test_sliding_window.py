"""The sliding window: nnU-Net's logits bit by bit, row by row, with less work."""

from types import SimpleNamespace

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn
from torch.profiler import ProfilerActivity, profile

from graphnn_unet.errors import InputError
from graphnn_unet.prediction.sliding_window import SlidingWindow

CPU = torch.device("cpu")


def exact_network(n_axes, seed=0):
    """Two convolutions whose sums are exact in float32, in whatever order they are made."""
    torch.manual_seed(seed)
    convolution = nn.Conv3d if n_axes == 3 else nn.Conv2d
    network = nn.Sequential(
        convolution(2, 4, 3, padding=1), nn.LeakyReLU(0.5), convolution(4, 3, 3, padding=1)
    )
    for parameter in network.parameters():
        parameter.data = torch.randint(-4, 5, parameter.shape) / 8
    return network


def image(*shape, seed=1):
    torch.manual_seed(seed)
    return torch.randint(-8, 9, (2, *shape)) / 8


def stock_logits(network, patch, data, mirror_axes, step_size=0.5):
    engine = nnUNetPredictor(
        tile_step_size=step_size, use_mirroring=mirror_axes is not None, device=CPU,
        perform_everything_on_device=False, allow_tqdm=False,
    )  # fmt: skip
    engine.network, engine.allowed_mirroring_axes = network, mirror_axes
    engine.configuration_manager = SimpleNamespace(patch_size=patch)
    engine.label_manager = SimpleNamespace(num_segmentation_heads=3)
    return engine.predict_sliding_window_return_logits(data)


def window(network, patch, mirror_axes=None, step_size=0.5):
    return SlidingWindow(
        network, patch, 3, step_size=step_size, mirror_axes=mirror_axes, device=CPU
    )


def assembled(rows, shape):
    """Rows of logits as one array; each row but the first repeats the last one before it."""
    logits = torch.full((3, *shape), torch.nan, dtype=torch.half)
    for number, (first, part) in enumerate(rows):
        if number:
            assert torch.equal(logits[:, first], part[:, 0])
        assert torch.isnan(logits[:, first + bool(number) :]).all()
        logits[:, first : first + part.shape[1]] = part
    return logits


@pytest.mark.parametrize(
    ("patch", "shape", "mirror_axes"),
    [
        ((8, 8, 8), (19, 17, 9), (0, 1, 2)),
        ((8, 8, 8), (30, 8, 11), (0, 2)),
        ((8, 8, 8), (13, 17, 20), None),
        ((8, 8, 8), (5, 17, 6), (1,)),  # smaller than the patch: padded
        ((6, 10), (19, 21, 10), (0, 1)),
        ((6, 10), (3, 20, 17), None),
        ((6, 10), (8, 4, 7), (0,)),
    ],
)
@pytest.mark.parametrize("step_size", [0.5, 0.75])
def test_logits_are_those_of_nnunets_predictor(patch, shape, mirror_axes, step_size):
    network, data = exact_network(len(patch)), image(*shape)
    data[:, :, : shape[1] // 2] = 0.25  # some tiles of one value
    expected = stock_logits(network, patch, data, mirror_axes, step_size)
    ours = window(network, patch, mirror_axes, step_size)
    rows = ours.rows(data, network.state_dict())
    assert torch.equal(assembled(rows, shape), expected)


def test_rows_are_never_more_than_a_tile_and_one():
    network = exact_network(3)
    parts = window(network, (8, 8, 8)).rows(image(40, 8, 8), network.state_dict())
    heights = [part.shape[1] for _, part in parts]
    assert len(heights) > 5
    assert max(heights) <= 9


class Counting(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.batches = network, []

    def forward(self, images):
        self.batches.append(len(images))
        return self.network(images)


def test_tiles_of_one_value_go_through_the_network_once():
    network = Counting(exact_network(3))
    data = torch.full((2, 24, 24, 24), -1.0)
    logits = assembled(window(network, (8, 8, 8)).rows(data, network.state_dict()), data.shape[1:])
    assert sum(network.batches) == 1
    data[:, 0, 0, 0] = 1
    network.batches.clear()
    others = assembled(window(network, (8, 8, 8)).rows(data, network.state_dict()), data.shape[1:])
    assert sum(network.batches) == 2
    assert torch.equal(others[:, 12:], logits[:, 12:])


def test_single_tiles_are_convolved_by_onednn():
    network = exact_network(3)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        list(window(network, (8, 8, 8), (0,)).rows(image(8, 8, 12), network.state_dict()))
    counts = {event.key: event.count for event in profiled.key_averages()}
    assert counts["aten::mkldnn_convolution"] == 8  # two tiles, two copies, two layers
    assert "aten::slow_conv3d" not in counts


def test_other_weights_of_the_same_network_are_used_from_their_first_row_on():
    network, other = exact_network(3), exact_network(3, seed=5)
    data, alone = image(20, 8, 8), []
    states = [{k: v.clone() for k, v in n.state_dict().items()} for n in (network, other)]
    for state in states:
        rows = window(network, (8, 8, 8)).rows(data, state)
        alone.append(assembled(rows, data.shape[1:]))
    both = window(network, (8, 8, 8))
    pairs = list(zip(*(_copied(both.rows(data, state)) for state in states), strict=True))
    for expected, rows in zip(alone, zip(*pairs, strict=True), strict=True):
        assert torch.equal(assembled(rows, data.shape[1:]), expected)
    assert not torch.equal(*alone)


def _copied(rows):
    for first, part in rows:
        yield first, part.clone()


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e6])
def test_logits_that_are_not_finite_are_refused(value):
    network = exact_network(3)
    network[2].bias.data[1] = value
    with pytest.raises(InputError, match="the network's output is not finite"):
        list(window(network, (8, 8, 8)).rows(image(8, 8, 8), network.state_dict()))


def test_the_rest_of_an_image_is_bfloat16_once_float16_is_too_narrow():
    """As on a GPU, where autocast is entered; the CPU has it too."""
    network, data = exact_network(3), image(24, 8, 8)
    network.append(nn.Conv3d(3, 3, 1, bias=False))
    network[0].weight.data *= 2.0**16
    network[3].weight.data = 2.0**-16 * torch.eye(3)[..., None, None, None]
    data[:, :8] = 0  # the first tile stays within float16
    state, seen = network.state_dict(), []
    exact = assembled(window(network, (8, 8, 8)).rows(data, state), data.shape[1:])
    network.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    half = window(network, (8, 8, 8))
    half._first_precision = torch.float16
    for _ in range(2):  # each image begins in float16
        ours = assembled(half.rows(data, state), data.shape[1:])
        assert (ours - exact).abs().max() < 0.02 * exact.abs().max()
    one = [torch.float16] * 2 + [torch.bfloat16] * 4
    assert seen == one * 2
