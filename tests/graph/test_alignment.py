from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import StructureAlignment, normalized_sample_graph

SHAPES = {1: (7,), 2: (5, 4), 3: (4, 3, 1)}


def block(dim: int = 3, channels: int = 6, gate: float = 0.7) -> StructureAlignment:
    torch.manual_seed(3)
    alignment = StructureAlignment(channels, dim, hidden=8)
    with torch.no_grad():
        alignment.gate.fill_(gate)
        alignment.weight.copy_(torch.randn(channels, channels))
    return alignment


def feature(n_images: int, dim: int = 3, channels: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, channels, *SHAPES[dim], generator=generator)


def with_scores(alignment: StructureAlignment, scores: torch.Tensor) -> StructureAlignment:
    alignment.scores = lambda _: scores  # type: ignore[method-assign]
    return alignment


def test_hand_worked_batch_of_three():
    scores = torch.tensor([[1.0, 0], [1, 1], [0, 2]], dtype=torch.float64)
    graph = normalized_sample_graph(scores)
    expected_graph = [[0.5, 0.316228, 0], [0.316228, 0.4, 0.365148], [0, 0.365148, 0.666667]]
    torch.testing.assert_close(
        graph, torch.tensor(expected_graph, dtype=torch.float64), atol=1e-6, rtol=0
    )
    alignment = StructureAlignment(2, 1).double()
    with torch.no_grad():
        alignment.gate.fill_(1.0)
        alignment.weight.copy_(torch.tensor([[1.0, 0], [1, 1]]))
    sample = torch.tensor([[1.0, 2], [3, 4], [5, 6]], dtype=torch.float64).unsqueeze(-1)
    message = with_scores(alignment, scores)(sample) - sample
    expected = [[3.713594, 2.264911], [7.765315, 4.423346], [9.889372, 5.460593]]
    torch.testing.assert_close(
        message.squeeze(-1), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )
    alone = alignment.eval()(sample) - sample
    torch.testing.assert_close(
        alone.squeeze(-1), torch.tensor([[3.0, 2], [7, 4], [11, 6]], dtype=torch.float64)
    )


def test_images_without_positive_affinity_stand_alone():
    scores = torch.tensor([[1.0, 0], [0, 0], [-1, 0.5]], requires_grad=True)
    graph = normalized_sample_graph(scores)
    torch.testing.assert_close(graph, torch.eye(3))
    graph.square().sum().backward()
    assert torch.isfinite(scores.grad).all()


def test_all_zero_scores_give_identity_and_finite_gradient():
    scores = torch.zeros(4, 3, requires_grad=True)
    graph = normalized_sample_graph(scores)
    graph.sum().backward()
    assert torch.equal(graph, torch.eye(4))
    assert torch.isfinite(scores.grad).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 10**6), st.floats(0.01, 100))
def test_sample_graph_laws(n_images: int, hidden: int, seed: int, factor: float):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n_images, hidden, generator=generator, dtype=torch.float64) + 1e-3
    graph = normalized_sample_graph(scores)
    torch.testing.assert_close(graph, graph.T)
    torch.testing.assert_close(graph, normalized_sample_graph(scores * factor))
    values = torch.linalg.eigvalsh(graph)
    assert values.min() > -1e-12
    assert values.max() < 1 + 1e-12
    root = (scores @ scores.T).sum(1).sqrt()
    torch.testing.assert_close(graph @ root, root)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gate_zero_changes_no_bit(dim: int, training: bool, dtype: torch.dtype):
    alignment = block(dim, gate=0.0).train(training)
    sample = feature(3, dim).to(dtype)
    aligned = alignment(sample)
    assert aligned.dtype == dtype
    assert torch.equal(aligned, sample)


def test_fresh_block_is_closed_and_learns_through_its_gate_first():
    alignment = StructureAlignment(6, 3)
    assert alignment.gate.item() == 0
    assert torch.equal(alignment.weight, torch.eye(6))
    alignment(feature(2)).square().sum().backward()
    assert alignment.gate.grad.abs() > 0
    assert alignment.weight.grad.abs().max() == 0
    with torch.no_grad():
        alignment.gate.add_(0.1)
    alignment(feature(2)).square().sum().backward()
    assert alignment.weight.grad.abs().max() > 0
    assert alignment.score_in.weight.grad.abs().max() > 0


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("n_images", [1, 2, 5])
def test_in_evaluation_each_image_stands_alone(dim: int, n_images: int):
    alignment = block(dim).eval()
    sample = feature(n_images, dim)
    one_by_one = torch.cat([alignment(image[None]) for image in sample])
    torch.testing.assert_close(alignment(sample), one_by_one, atol=1e-5, rtol=1e-5)


def test_in_training_images_depend_on_each_other():
    alignment = block().train()
    sample = feature(3)
    changed = sample.clone()
    changed[2] += 1
    assert (alignment(sample)[0] - alignment(changed)[0]).abs().max() > 1e-4


def test_one_image_in_training_equals_evaluation():
    alignment, sample = block(), feature(1)
    torch.testing.assert_close(alignment.train()(sample), alignment.eval()(sample))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)))
def test_order_of_images_does_not_matter_in_training(order: list[int]):
    alignment = block().double().train()
    sample = feature(5).double()
    torch.testing.assert_close(alignment(sample[order]), alignment(sample)[order])


def test_equal_images_get_equal_messages():
    alignment = block().train()
    sample = feature(3)
    sample[2] = sample[0]
    aligned = alignment(sample)
    torch.testing.assert_close(aligned[0], aligned[2])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_channel_matrix_is_the_evaluation_as_a_convolution(dim: int):
    alignment = block(dim).eval()
    sample = feature(2, dim)
    kernel = alignment.channel_matrix().reshape(6, 6, *(1,) * dim)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dim - 1]
    torch.testing.assert_close(convolve(sample, kernel), alignment(sample), atol=1e-5, rtol=1e-5)


def test_narrow_features_are_worked_in_float32_inside_autocast():
    alignment = block(channels=6).train()
    sample = feature(3).half() * 400  # products of scores and of channels leave float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = alignment(sample)
    torch.testing.assert_close(inside, alignment(sample), atol=0, rtol=0)
    assert torch.isfinite(alignment.scores(sample)).all()
    assert alignment.scores(sample).dtype == torch.float32


def test_a_network_cast_to_half_still_runs():
    alignment = block().half()
    assert alignment.train()(feature(3).half()).dtype == torch.float16
    assert alignment.eval()(feature(3).half()).dtype == torch.float16


def test_gradients_agree_with_finite_differences():
    alignment = block(2, channels=2).double().train()
    sample = feature(3, 2, channels=2).double()[:, :, :2, :2].requires_grad_()
    assert torch.autograd.gradcheck(alignment, (sample,))


def test_deterministic_algorithms_are_enough():
    alignment = block().train()
    torch.use_deterministic_algorithms(True)
    try:
        alignment(feature(3)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert alignment.gate.grad is not None
    assert torch.isfinite(alignment.gate.grad)


def test_compiled_block_gives_the_same_numbers():
    alignment = block(2).train()
    compiled = torch.compile(alignment, backend="eager", fullgraph=True)
    sample = feature(3, 2)
    torch.testing.assert_close(compiled(sample), alignment(sample))
    alignment.eval()
    torch.testing.assert_close(compiled(sample), alignment(sample))


def test_gate_is_kept_out_of_weight_decay_and_in_the_state():
    alignment = block()
    assert alignment.no_weight_decay() == {"gate"}
    assert alignment.no_weight_decay() <= dict(alignment.named_parameters()).keys()
    again = StructureAlignment(6, 3, hidden=8)
    again.load_state_dict(alignment.state_dict())
    assert again.gate.item() == pytest.approx(0.7)


def test_wrong_features_and_sizes_are_refused():
    with pytest.raises(ShapeError, match="6, 3 spatial axes"):
        block()(feature(2, 2))
    with pytest.raises(ShapeError, match="6"):
        block()(feature(2, channels=5))
    with pytest.raises(InputError, match="dim=4"):
        StructureAlignment(3, 4)
