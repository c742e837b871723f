"""Memory of a training step: every method with four student patches, nnU-Net with two and four.

What is counted are tensors: weights, gradients, the state of the optimizer and what a step keeps
and makes, at its peak. That does not depend on the device but for the workspace of its library and
half precision, which all sides share. The planner chooses the patch for which nnU-Net's step of two
patches needs 1 / 1.75 of the target: the largest ratio that is printed here.

Run: python tests/benchmarks/step_memory.py [--quick] [--json FILE]
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from _bench import Bench, arguments
from _study import study
from steps import QUICK, SPACING, our_step, stock_step
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FULL_WIDTH = ["plan.patch_size=[64,96,96]"]
METHODS = (
    "SupervisedTrainer",
    "MeanTeacherTrainer",
    "UncertaintyMeanTeacherTrainer",
    "BCPTrainer",
    "GraphCLTrainer",
    "FilterMatchTrainer",
    "MLLCTrainer",
)
"""PseudoLabelTrainer trains one of its networks at a time, as SupervisedTrainer does."""


class PeakOfTensors(TorchDispatchMode):
    """Bytes of all tensors that are made inside and still alive, and the most they were."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count the storages of its outputs."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            # sparse tensors have none of their own: indices and values were counted when made
            if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def peak_mb(make: Callable[[], Callable[[], None]]) -> float:
    """Peak of the tensors of a trainer that is made and does two steps, in MB."""
    gc.collect()
    with PeakOfTensors() as tensors:
        step = make()
        for _ in range(2):  # from the second on the optimizer has its state
            step()
    return tensors.peak / 1e6


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__)
    bench = Bench(options)
    with study([SPACING, *(QUICK if options.quick else FULL_WIDTH)]) as small_study:
        two = peak_mb(lambda: stock_step(small_study, options.device, patches=2))
        four = peak_mb(lambda: stock_step(small_study, options.device))
        bench.add("nnUNetTrainer, 4 patches / nnUNetTrainer, 2 patches", four / two, "x", MB=four)
        for name in METHODS:
            peak = peak_mb(lambda name=name: our_step(small_study, name, options.device))
            bench.add(f"{name}, 4 patches / nnUNetTrainer, 2 patches", peak / two, "x", MB=peak)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
