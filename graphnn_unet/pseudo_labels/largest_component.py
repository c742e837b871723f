"""Labels from a teacher, cleaned before they teach.

Source: BCP (CVPR 2023), section 3.2 and its programs: only the largest connected component of a
class is kept, in volumes with all 26 neighbors, in 2D slice by slice with 8. The planner asks for
it only where the labeled cases show one component; it would destroy multi-focal lesions.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from graphnn_unet.images.components import keep_largest_components


class PseudoLabeler:
    """Turns teacher logits into label maps while the device goes on with other work.

    ``start`` queues the arg max and its copy to the host; ``finish`` waits for that copy alone,
    cleans the maps in a thread pool and sends them back. Between the two the caller queues the
    student's forward pass, so a GPU does not stand still.

    Args:
        largest_component: Class key to whether only its largest component is kept; keys are label
            ids as text, or region names in the order of the outputs where outputs overlap.
        overlapping: Sigmoid outputs (one binary map an output) instead of softmax.
    """

    def __init__(self, largest_component: Mapping[str, bool], overlapping: bool = False):
        self.overlapping = overlapping
        if overlapping:
            self._classes = [i for i, keep in enumerate(largest_component.values()) if keep]
        else:
            self._classes = [int(key) for key, keep in largest_component.items() if keep]
        self._threads = ThreadPoolExecutor(max_workers=4) if self._classes else None

    def start(self, logits: Tensor) -> PendingLabels:
        """Queue the labels of ``(b, k, *s)`` logits."""
        # ten times as fast on a CPU as argmax
        labels = logits > 0 if self.overlapping else logits.max(1, keepdim=True).indices
        labels = labels.to(torch.uint8)
        if not self._classes:
            return PendingLabels(labels, None, None)
        if labels.device.type != "cuda":
            return PendingLabels(labels, labels, None)
        host = torch.empty(labels.shape, dtype=labels.dtype, pin_memory=True)
        host.copy_(labels, non_blocking=True)
        event = torch.cuda.Event()
        # the current stream is that of the current device, which may be another one
        event.record(torch.cuda.current_stream(labels.device))
        return PendingLabels(labels, host, event)

    def finish(self, pending: PendingLabels) -> Tensor:
        """Label maps ``(b, 1, *s)`` int16, or ``(b, k, *s)`` bool, on the device of the logits."""
        labels = pending.labels
        if self._threads is not None and pending.host is not None:
            if pending.event is not None:
                pending.event.synchronize()
            maps = list(pending.host.numpy())
            cleaned = np.stack(list(self._threads.map(self._clean, maps)))
            labels = torch.from_numpy(cleaned).to(labels.device, non_blocking=True)
        return labels.bool() if self.overlapping else labels.to(torch.int16)

    def _clean(self, maps: np.ndarray) -> np.ndarray:
        if self.overlapping:
            result = maps.copy()
            for channel in self._classes:
                result[channel] = keep_largest_components(maps[channel], [1])
            return result
        return keep_largest_components(maps[0], self._classes)[None]


class PendingLabels:
    """Labels on their way to the host."""

    def __init__(self, labels: Tensor, host: Tensor | None, event: torch.cuda.Event | None):
        self.labels, self.host, self.event = labels, host, event
