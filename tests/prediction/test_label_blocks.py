"""Label maps block by block: whatever rows come, and only competing classes are resampled."""

import itertools

import numpy as np
import pytest
import torch
from skimage.transform import resize

from graphnn_unet.prediction import label_blocks
from graphnn_unet.prediction.label_blocks import BlockLabels

ONES = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
COARSE = ((5.0, 1.0, 1.0), (5.0, 1.0, 1.0))


def whole(logits, shape, spacings=ONES, order=None):
    blocks = BlockLabels(logits.shape[1:], shape, len(logits), spacings, order)
    blocks.add(0, logits)
    return blocks.labels


def random_logits(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, shape).astype(np.float16))


@pytest.mark.parametrize("shape", [(30, 40, 35), (9, 20, 33), (17, 22, 18)])
@pytest.mark.parametrize("spacings", [ONES, COARSE])
@pytest.mark.parametrize("order", [None, (3, 1, 2)])
def test_rows_that_come_in_parts_make_the_same_labels(shape, spacings, order):
    logits = random_logits(3, 17, 22, 18)
    expected = whole(logits, shape, spacings, order)
    for cuts in [(0, 1, 2, 3, 17), (0, 9, 17), (0, 16, 17)]:
        blocks = BlockLabels(logits.shape[1:], shape, 3, spacings, order)
        for first, last in itertools.pairwise(cuts):
            begin = max(0, first - 1)
            blocks.add(begin, logits[:, begin:last].clone())
        np.testing.assert_array_equal(blocks.labels, expected)
    assert len(np.unique(expected)) > 2


def test_resampled_logits_are_those_of_skimage_bit_by_bit_up_to_the_border():
    logits = random_logits(1, 12, 10, 16)
    for shape in [(15, 13, 20), (9, 8, 11), (12, 13, 20)]:
        axes = [
            label_blocks._axis(a, b, nearest=False)
            for a, b in zip(logits.shape[1:], shape, strict=True)
        ]
        corners = [axis.corners(slice(None), 0) for axis in axes]
        expected = resize(logits[0].double().numpy(), shape, 1, mode="edge", anti_aliasing=False)
        ours = label_blocks._interpolated(logits[0], corners)
        np.testing.assert_array_equal(ours, expected.astype(np.float16))


def counted(monkeypatch):
    calls, interpolate = [], label_blocks._interpolated
    monkeypatch.setattr(
        label_blocks, "_interpolated",
        lambda values, corners: calls.append(1) or interpolate(values, corners),
    )  # fmt: skip
    return calls


def test_where_one_class_is_sure_nothing_is_resampled(monkeypatch):
    logits = torch.full((5, 20, 40, 40), -4.0, dtype=torch.half)
    logits[2] = 4
    calls = counted(monkeypatch)
    assert (whole(logits, (30, 60, 60)) == 2).all()
    assert not calls


def test_classes_that_cannot_win_are_not_resampled_beside_those_that_may(monkeypatch):
    logits = random_logits(5, 8, 16, 16)
    logits[3:] -= 100
    calls = counted(monkeypatch)
    labels = whole(logits, (8, 20, 20))  # one block
    assert len(calls) == 3
    assert labels.max() == 2


def test_a_class_that_is_only_as_large_as_another_may_win_by_its_order():
    logits = torch.zeros((2, 8, 16, 16), dtype=torch.half)
    logits[0, :, :, 8:] = -1  # class 1 is 0 everywhere: equal on one side, larger on the other
    labels = whole(logits, (8, 16, 16))
    assert not labels[:, :, :8].any()
    assert labels[:, :, 8:].all()


def test_more_than_256_classes_keep_their_numbers():
    logits = torch.zeros((300, 2, 3, 3), dtype=torch.half)
    logits[299] = 1
    assert (whole(logits, (4, 5, 5)) == 299).all()
