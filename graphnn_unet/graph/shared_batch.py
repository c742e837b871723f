"""A batch whose images are shared by several processes, and what runs over all of it.

With distributed training each process holds some of the images of a step. Whatever looks at the
whole batch (a graph between its images, a sum over it) needs those of the others, with gradients
that flow back to them. In a single process every function here is the identity.

Process r of R holds the pairs r, r + R, r + 2 R ... of a step: image p of the first and image p of
the second half of the batch (one for the inward, one for the outward mixed image).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from graphnn_unet.graph._untyped import gathered, summed

_n_alone = 0  # a number, as torch.compile can read no context variable


@contextmanager
def alone() -> Generator[None]:
    """For what one process does while the others wait: its batch is not shared.

    Sums over processes would wait in it for those that never come.
    """
    global _n_alone  # of this process, like the state of torch.distributed
    _n_alone += 1
    try:
        yield
    finally:
        _n_alone -= 1


def process_count() -> int:
    """Number of processes that share a batch."""
    if _n_alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if process_count() > 1 else 0


def shared_images(n_images: int) -> list[int]:
    """Images of a whole batch that this process holds, in its own order.

    Args:
        n_images: Images of the whole batch, a multiple of twice the number of processes.

    Example:
        >>> shared_images(4)
        [0, 1, 2, 3]
    """
    half = n_images // 2
    pairs = range(process_rank(), half, process_count())
    return [*pairs, *(half + pair for pair in pairs)]


def all_images(tensor: Tensor) -> Tensor:
    """The images ``(b, ...)`` of all processes, one process after the other, ``(R b, ...)``.

    They have the same shape in every process; the gradient is summed over the processes.
    """
    return tensor if process_count() == 1 else gathered(tensor)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Elementwise sum of the tensors of all processes; the gradient is summed likewise.

    A loss made of such sums is that of the whole batch in every process. The mean over processes
    that distributed training takes of the gradients then gives that loss's own gradient.
    """
    return tensor if process_count() == 1 else summed(tensor)


class BatchDropout(nn.Dropout):
    """Dropout that draws for the whole batch and keeps the part of this process.

    The global generator must have the same state in all processes. Each image is then treated as
    it would be in a single process that holds the whole batch.
    """

    def forward(self, input: Tensor) -> Tensor:  # torch's own name of the argument
        """Dropped values; images in the order of :func:`shared_images`."""
        if process_count() == 1 or not self.training or self.p == 0:
            return super().forward(input)
        n_images = len(input) * process_count()
        whole = input.new_ones((n_images, *input.shape[1:]))
        return input * functional.dropout(whole, self.p)[shared_images(n_images)]
