"""Which positions are nodes, and how their correction reaches every voxel."""

from __future__ import annotations

import pytest
import torch

from graphnn_unet.errors import RecipeError
from graphnn_unet.graph import CorrectedNodes
from graphnn_unet.networks.hook import stage_shapes
from graphnn_unet.plans.recipe import resolve
from graphnn_unet.pseudo_labels import corrector_class
from graphnn_unet.pseudo_labels.corrector import Surroundings, Teaching
from graphnn_unet.pseudo_labels.mllc import MLLC
from graphnn_unet.pseudo_labels.mllc_graphs import MLLCSettings, NodeGrid, corrected_logits


def grid_of(patch: tuple[int, ...], n_stages: int) -> NodeGrid:
    """The grid of a network whose coarsest decoder output has no weight."""
    sizes = stage_shapes(patch, [1, *[2] * (n_stages - 1)])
    return NodeGrid.choose([tuple(size) for size in sizes[: n_stages - 2]], 512, 4096)


@pytest.mark.parametrize(
    ("patch", "n_stages", "scale", "size"),
    [
        ((128, 128, 128), 6, 3, (16, 16, 16)),  # stride 16 has 512 positions, but no weight
        ((80, 112, 112), 5, 2, (10, 14, 14)),  # stride 4 with 15 680 positions, averaged once
        ((256, 256), 7, 3, (32, 32)),  # stride 16 has 256
        ((32, 48, 32), 3, 0, (8, 12, 8)),  # the finest of a small network, averaged twice
        ((16, 16), 4, 0, (16, 16)),  # never 512: the finest
    ],
)
def test_nodes_are_the_coarsest_trained_scale_of_512_positions(patch, n_stages, scale, size):
    assert grid_of(patch, n_stages) == NodeGrid(scale, size)


def test_averaging_keeps_probabilities_and_pairs_of_positions():
    share = torch.randn(2, 3, 20, 20, 20).softmax(1)
    nodes = NodeGrid(0, (10, 10, 10)).nodes(share)
    expected = share.unflatten(4, (10, 2)).unflatten(3, (10, 2)).unflatten(2, (10, 2))
    torch.testing.assert_close(nodes, expected.mean((3, 5, 7)).flatten(2).transpose(1, 2))
    torch.testing.assert_close(nodes.sum(-1), torch.ones(2, 1000))
    assert NodeGrid(0, (6, 5)).nodes(torch.rand(1, 3, 11, 9)).shape == (1, 30, 3)
    same = NodeGrid(0, (20, 20, 20)).nodes(share)
    assert torch.equal(same, share.flatten(2).transpose(1, 2))


def test_nodes_spread_back_to_their_places():
    grid = NodeGrid(0, (4, 6))
    values = torch.randn(2, 3, 4, 6)
    assert torch.equal(grid.spread(grid.nodes(values), (4, 6)), values)
    wide = grid.spread(grid.nodes(values), (12, 18))
    torch.testing.assert_close(wide[..., 1::3, 1::3], values)


def test_no_change_leaves_the_plain_label_and_a_change_is_added():
    grid = NodeGrid(0, (4, 4))
    logits = torch.randn(1, 3, 8, 8)
    start = torch.randn(1, 16, 3).softmax(-1)
    assert torch.equal(corrected_logits(logits, start, [], grid), logits)
    states = [CorrectedNodes(start, start)] * 2
    torch.testing.assert_close(
        corrected_logits(logits, start, states, grid).softmax(1), logits.softmax(1)
    )
    moved = [CorrectedNodes(torch.tensor([0.0, 0.0, 1.0]).expand(1, 16, 3), start),
             CorrectedNodes(start, start)]  # fmt: skip
    change = (moved[0].probability - start) / 2
    expected = logits.softmax(1) + grid.spread(change, (8, 8))
    torch.testing.assert_close(expected.sum(1), torch.ones(1, 8, 8))
    result = corrected_logits(logits, start, moved, grid)
    assert torch.isfinite(result).all()
    assert torch.equal(result.argmax(1), expected.argmax(1))


# ------------------------------------------------------------------------------ the corrector


def corrector(overlapping=False, sizes=((24, 24), (12, 12)), **settings) -> MLLC:
    recipe = resolve({"mllc": {"min_nodes": 100, **settings}})
    return MLLC(Surroundings(recipe, (1.0, 1.0), overlapping, scale_sizes=sizes))


def patchy(flipped: float = 0.6):
    """Two halves, told apart by their features; blocks of each are given to the other, unsurely."""
    truth = torch.zeros(1, 24, 24, dtype=torch.int64)
    truth[..., 12:] = 1
    wrong = torch.zeros(1, 24, 24, dtype=torch.bool)
    wrong[:, 4:8, 4:8] = wrong[:, 16:20, 14:18] = True
    given = torch.where(wrong, 1 - truth, truth)
    largest = torch.where(wrong, flipped, 0.97)
    share = torch.stack([1 - largest, largest], 1)
    share = torch.where(given[:, None] == 1, share, share.flip(1))
    generator = torch.Generator().manual_seed(0)
    coarse = truth[:, None, ::2, ::2].float()
    feature = torch.cat([coarse, 1 - coarse, torch.zeros(1, 6, 12, 12)], 1)
    feature = feature + 0.15 * torch.randn(1, 8, 12, 12, generator=generator)
    return share.log(), feature, truth


def test_file_of_the_room_is_the_correction():
    assert corrector_class("mllc") is MLLC


def test_unsure_blocks_take_the_class_of_similar_positions():
    logits, feature, truth = patchy()
    assert (logits.argmax(1) != truth).sum() == 32
    assert corrector().feature_scales == (1,)
    result = corrector()(Teaching(logits, {1: feature}))
    assert (result.argmax(1) != truth).sum() <= 2
    controls = [
        (corrector(neighbor_share=0.8), {1: feature}),
        (corrector(neighbors=0), {1: feature}),
        (corrector(), {1: torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(1))}),
    ]
    for control, features in controls:
        assert (control(Teaching(logits, features)).argmax(1) != truth).sum() >= 12


def test_sure_blocks_stay():
    logits, feature, truth = patchy(flipped=0.97)
    result = corrector()(Teaching(logits, {1: feature}))
    assert (result.argmax(1) != truth).sum() == 32


def test_no_iterations_change_nothing_and_need_no_features():
    logits, _, _ = patchy()
    idle = corrector(iterations=0)
    assert idle.feature_scales == ()
    assert torch.equal(idle(Teaching(logits)), logits)


def test_thresholds_are_the_recipes():
    share = torch.cat([torch.tensor([[0.99, 0.01]]).expand(9, 2), torch.tensor([[0.4, 0.6]])])
    share = torch.cat([share, torch.tensor([[0.01, 0.99]])])[None]
    count, rate, warm = (
        resolve({"mllc": table}).of(MLLCSettings).thresholds(share)
        for table in ({}, {"threshold": "rate"}, {"threshold_warmup": True})
    )
    assert count.tolist() == pytest.approx([0.95, 0.95 / 9])
    assert rate.tolist() == pytest.approx([0.95, 0.95 / 2])
    assert torch.equal(warm, count)  # few are unsure


def test_overlapping_regions_are_refused():
    with pytest.raises(RecipeError, match="overlapping regions"):
        corrector(overlapping=True)
