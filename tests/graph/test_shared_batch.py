"""A batch shared by two processes is treated as in one process that holds all of it."""

import socket

import pytest
import torch
from graph.shared_batch_jobs import N_IMAGES, alignment, run, whole_batch

from graphnn_unet.graph.shared_batch import (
    BatchDropout,
    all_images,
    shared_images,
    sum_over_processes,
)

WORLD = 2
SHARES = ([0, 2, 4, 6], [1, 3, 5, 7])
"""Pairs (image p of each half) go round: processes hold 0, 2 and 1, 3 of both halves."""


@pytest.fixture
def in_two_processes(tmp_path):
    def call(name: str) -> list[dict]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(run, (WORLD, port, name, str(tmp_path)), nprocs=WORLD)
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]

    return call


def test_alignment_graph_spans_the_images_of_both_processes(in_two_processes):
    results = in_two_processes("aligned_share")
    block, images = alignment(), whole_batch().requires_grad_()
    output = block(images)
    (output * whole_batch(5)).sum().backward()
    alone = block(images[list(SHARES[0])])
    assert not torch.allclose(alone, output[list(SHARES[0])])  # a graph of the half is another
    for result, share in zip(results, SHARES, strict=True):
        torch.testing.assert_close(result["output"], output[share].detach())
        torch.testing.assert_close(result["image"], images.grad[share])
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(result[name], parameter.grad, msg=name)


def test_loss_of_sums_is_that_of_the_whole_batch_with_its_gradient(in_two_processes):
    weight = torch.tensor(2.0, requires_grad=True)
    images = weight * whole_batch()
    loss = images.square().sum() / images.abs().sum()
    loss.backward()
    for result in in_two_processes("ratio_of_sums"):
        torch.testing.assert_close(result["loss"], loss.detach())
        torch.testing.assert_close(result["gradient"], weight.grad)


def test_dropout_treats_each_image_as_in_one_process(in_two_processes):
    torch.manual_seed(3)
    expected = BatchDropout(0.5).train()(whole_batch())
    assert (expected == 0).any()
    for result, share in zip(in_two_processes("dropped"), SHARES, strict=True):
        assert torch.equal(result["output"], expected[share])


def test_images_come_one_process_after_the_other(in_two_processes):
    for result in in_two_processes("order"):
        assert result["images"].tolist() == [*SHARES[0], *SHARES[1]]


def test_what_one_process_does_alone_waits_for_no_other(in_two_processes):
    first, second = in_two_processes("alone_in_the_first")
    assert (first["alone"], second["alone"]) == (1, 0)
    assert first["together"] == second["together"] == WORLD


def test_in_one_process_nothing_is_shared():
    images = whole_batch()
    assert shared_images(N_IMAGES) == list(range(N_IMAGES))
    assert all_images(images) is images
    assert sum_over_processes(images) is images
