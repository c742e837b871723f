"""What two processes do in ``test_shared_batch.py``; importable by the processes."""

import os
from pathlib import Path

import torch
from torch import distributed as dist

from graphnn_unet.graph import StructureAlignment
from graphnn_unet.graph.shared_batch import (
    BatchDropout,
    all_images,
    alone,
    process_rank,
    shared_images,
    sum_over_processes,
)

N_IMAGES = 8


def run(rank: int, world: int, port: int, name: str, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        torch.save(JOBS[name](), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def whole_batch(seed: int = 0) -> torch.Tensor:
    return torch.randn(N_IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def alignment() -> StructureAlignment:
    torch.manual_seed(1)
    block = StructureAlignment(3, 2)
    with torch.no_grad():
        block.gate.fill_(0.7)
        block.weight.copy_(torch.randn(3, 3))
    return block.train()


def aligned_share() -> dict:
    """Output and gradients of the images of this process."""
    block, images = alignment(), whole_batch()[shared_images(N_IMAGES)].requires_grad_()
    output = block(images)
    weights = whole_batch(5)[shared_images(N_IMAGES)]
    (output * weights).sum().backward()
    gradients = {name: p.grad for name, p in block.named_parameters()}
    for gradient in gradients.values():
        dist.all_reduce(gradient)
    return {"output": output.detach(), "image": images.grad, **gradients}


def ratio_of_sums() -> dict:
    """A loss of sums over the whole batch, and its gradient after the mean over processes."""
    weight = torch.tensor(2.0, requires_grad=True)
    images = weight * whole_batch()[shared_images(N_IMAGES)]
    loss = sum_over_processes(images.square().sum()) / sum_over_processes(images.abs().sum())
    loss.backward()
    dist.all_reduce(weight.grad)
    return {"loss": loss.detach(), "gradient": weight.grad / dist.get_world_size()}


def dropped() -> dict:
    torch.manual_seed(3)
    return {"output": BatchDropout(0.5).train()(whole_batch()[shared_images(N_IMAGES)])}


def order() -> dict:
    return {"images": all_images(torch.tensor(shared_images(N_IMAGES))[:, None].float())[:, 0]}


def alone_in_the_first() -> dict:
    """What the first process sums while the other one does nothing, then what both do."""
    before = torch.zeros(())
    if process_rank() == 0:
        with alone():
            before = sum_over_processes(torch.ones(()))
            assert shared_images(N_IMAGES) == list(range(N_IMAGES))
    return {"alone": before, "together": sum_over_processes(torch.ones(()))}


JOBS = {f.__name__: f for f in (aligned_share, ratio_of_sums, dropped, order, alone_in_the_first)}
