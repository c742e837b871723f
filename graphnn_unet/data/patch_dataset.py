"""Batches whose content depends on the seed and the step alone.

A map-style data set is indexed by (step, slot): which case, which crop and which augmentation
follow from the seed and this index. Any number of workers therefore gives the same batches, a run
can be continued at any step, and a worker that dies is replaced without a trace.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch.utils.data import DataLoader, Dataset

from graphnn_unet.data.augment import MIRRORED_AXES, outside_mask
from graphnn_unet.errors import GraphnnError, InputError
from graphnn_unet.scan_graph.pairs import WarpedPairs
from graphnn_unet.seeds import Stream
from graphnn_unet.seeds import generator as numpy_generator
from graphnn_unet.storage.arrays import open_array
from graphnn_unet.storage.processes import leave_with_parent
from graphnn_unet.storage.safe_load import load_properties

_log = logging.getLogger(__name__)

Index = tuple[int, int]
"""(step, slot); slots count the labeled images of a step first, then the unlabeled ones."""

MAX_WORKER_RESTARTS = 3
_REMEDY = "Run gnnunet_plan_and_preprocess again"


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case on disk.

    Attributes:
        case_id: Name of the case.
        folder: Folder of its files.
        use_label: Whether its label map may be opened. Nothing but ``CASE.b2nd`` is read otherwise
            (the properties hold positions of foreground voxels, so they count as label).
    """

    case_id: str
    folder: Path
    use_label: bool

    def image(self) -> Any:
        """Blosc2 array ``(c, z, y, x)``, read on access."""
        return open_array(self.folder / f"{self.case_id}.b2nd", _REMEDY)

    def label(self) -> Any:
        """Blosc2 array ``(1, z, y, x)``."""
        self._require_label()
        return open_array(self.folder / f"{self.case_id}_seg.b2nd", _REMEDY)

    def properties(self) -> dict[str, Any]:
        """What nnU-Net's preprocessor noted about the case."""
        self._require_label()
        return load_properties(self.folder / f"{self.case_id}.pkl")

    def _require_label(self) -> None:
        if not self.use_label:
            raise PermissionError(f"{self.case_id} is unlabeled in this run")


@dataclass(frozen=True)
class PatchSettings:
    """What a patch looks like.

    Attributes:
        patch_size: Final size, two axes for 2D.
        initial_patch_size: Size of the crop before augmentation, as many axes.
        transform: Augmentation of one image and its label map.
        foreground_share: Share of labeled patches that must hold foreground.
        annotated_key: Key of annotated voxels in ``class_locations`` when the data set has an
            ignore label, else ``None``.
        mask_outside: Whether augmentation needs to know the voxels outside the image content.
        unlabeled_transform: Augmentation of unlabeled patches that starts from a crop of the final
            size; ``None``: the same as for labeled ones.
    """

    patch_size: tuple[int, ...]
    initial_patch_size: tuple[int, ...]
    transform: Callable[..., dict[str, Any]]
    foreground_share: float = 0.33
    annotated_key: tuple[int, ...] | None = None
    mask_outside: bool = False
    unlabeled_transform: Callable[..., dict[str, Any]] | None = None


class PatchDataset(Dataset[dict[str, Any]]):
    """Augmented patches of labeled and unlabeled cases, indexed by (step, slot).

    Args:
        labeled: Cases with label maps.
        unlabeled: Cases without.
        n_labeled: Labeled slots of a step.
        n_unlabeled: Unlabeled slots of a step.
        settings: Patch and augmentation.
        seed: Seed of the run.
        pairs: Labeled cases in the shape of unlabeled ones, which take a share of the labeled
            slots.
    """

    def __init__(
        self,
        labeled: Sequence[StoredCase],
        unlabeled: Sequence[StoredCase],
        n_labeled: int,
        n_unlabeled: int,
        settings: PatchSettings,
        seed: int,
        pairs: WarpedPairs | None = None,
    ):
        self.labeled, self.unlabeled = list(labeled), list(unlabeled)
        self.n_labeled, self.n_unlabeled = n_labeled, n_unlabeled
        self.settings, self.seed, self.pairs = settings, seed, pairs
        self._properties: dict[str, dict[str, Any]] = {}

    def __len__(self) -> int:
        return 2**62  # steps are bounded by the sampler

    def __getitem__(self, index: Index) -> dict[str, Any]:
        step, slot = index
        is_labeled = slot < self.n_labeled
        stream = Stream.LABELED_PATCH if is_labeled else Stream.UNLABELED_PATCH
        generator = numpy_generator(self.seed, stream, step, slot)
        case = self.case_at(step, slot)
        image, label, start = (
            self._labeled_crop(case, generator, self._wants_foreground(step, slot))
            if is_labeled
            else self._unlabeled_crop(case, generator)
        )
        in_place = None if is_labeled else self.settings.unlabeled_transform
        with seeded(int(generator.integers(2**31))), torch.no_grad():
            sample = (in_place or self.settings.transform)(image=image, segmentation=label)
        return {
            "image": sample["image"].float(),
            "target": sample["segmentation"] if is_labeled else None,
            "case": case.case_id,
            "place": (start, sample.get(MIRRORED_AXES, ()), in_place is None),
        }

    def case_at(self, step: int, slot: int) -> StoredCase:
        """The case of a slot, in an order of the seed.

        Over all slots of the steps every case comes once before any comes again; a method that
        loads half of the slots skips the cases of the others.
        """
        is_labeled = slot < self.n_labeled
        cases = self.labeled if is_labeled else self.unlabeled
        per_step = self.n_labeled if is_labeled else self.n_unlabeled
        position = step * per_step + (slot if is_labeled else slot - self.n_labeled)
        turn, place = divmod(position, len(cases))
        order = numpy_generator(self.seed, Stream.CASE_ORDER, int(is_labeled), turn)
        return cases[int(order.permutation(len(cases))[place])]

    def _wants_foreground(self, step: int, slot: int) -> bool:
        """As many slots as in nnU-Net, taking turns, so that no slot is always the one.

        A method that loads half of them gets its share over the steps, not in each step.
        """
        n_random = round(self.n_labeled * (1 - self.settings.foreground_share))
        return (slot + step) % self.n_labeled >= n_random

    def _labeled_crop(
        self, case: StoredCase, generator: np.random.Generator, foreground: bool
    ) -> _Crop:
        if case.case_id not in self._properties:
            self._properties[case.case_id] = case.properties()["class_locations"]
        warped = self.pairs.draw(case, generator) if self.pairs is not None else None
        center = self._center(self._properties[case.case_id], generator, foreground)
        size = self.settings.initial_patch_size
        if warped is None:
            image = case.image()
            box = self._box(image.shape[1:], size, center, generator)
            return self._cut(image, box, 0), self._cut(case.label(), box, -1), _start_of(box)
        center = None if center is None else warped.voxel_of(center.tolist())
        box = self._box(warped.shape, size, center, generator)
        parts = warped.cut([slice(low, high) for low, high in box])
        image, label = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
        return image, label, _start_of(box)

    def _unlabeled_crop(self, case: StoredCase, generator: np.random.Generator) -> _Crop:
        image, settings = case.image(), self.settings
        size = settings.patch_size if settings.unlabeled_transform else settings.initial_patch_size
        box = self._box(image.shape[1:], size, None, generator)
        cut = self._cut(image, box, 0)
        if settings.mask_outside:
            return cut, torch.from_numpy(outside_mask(cut.numpy())), _start_of(box)
        return cut, torch.zeros((1, *cut.shape[1:]), dtype=torch.int16), _start_of(box)

    def _center(
        self, locations: dict[Any, Any], generator: np.random.Generator, foreground: bool
    ) -> np.ndarray | None:
        """A voxel the crop must hold: foreground, annotated, or none."""
        annotated = self.settings.annotated_key
        if foreground:
            classes = [k for k in locations if len(locations[k]) and k != annotated]
            classes = classes or [k for k in locations if len(locations[k])]
        else:
            classes = [annotated] if annotated and len(locations.get(annotated, ())) else []
        if not classes:
            return None
        voxels = locations[classes[generator.integers(len(classes))]]
        return np.asarray(voxels[generator.integers(len(voxels))])[1:]

    def _box(
        self,
        shape: Sequence[int],
        size: Sequence[int],
        center: np.ndarray | None,
        generator: np.random.Generator,
    ) -> list[list[int]]:
        """Crop of ``size``; it may reach over the border as far as the final patch fits."""
        initial, final = self._spatial(size), self._spatial(self.settings.patch_size)
        box = []
        for axis, length in enumerate(shape):
            padding = max(initial[axis] - final[axis], initial[axis] - length, 0)
            low = -(padding // 2)
            high = length + padding // 2 + padding % 2 - initial[axis]
            start = int(generator.integers(low, high + 1))
            if center is not None:
                start = int(np.clip(center[axis] - initial[axis] // 2, low, high))
            box.append([start, start + initial[axis]])
        return box

    @staticmethod
    def _spatial(size: Sequence[int]) -> tuple[int, ...]:
        return tuple(size) if len(size) == 3 else (1, *size)

    def _cut(self, array: Any, box: list[list[int]], fill: int) -> torch.Tensor:
        cut = crop_and_pad_nd(array, box, fill)
        if len(self.settings.patch_size) == 2:
            cut = cut[:, 0]
        return torch.from_numpy(np.ascontiguousarray(cut))


_Crop = tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]
"""Image ``(c, *s)``, label map ``(1, *s)`` and the first voxel in the case."""


def _start_of(box: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(int(low) for low, _ in box)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that batchgeneratorsv2 draws from, and put them back."""
    numpy_state = np.random.get_state()  # noqa: NPY002  # the transforms use numpy's global generator
    before = random.getstate(), numpy_state, torch.get_rng_state()
    n_threads = torch.get_num_threads()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    if n_threads > 1:  # sums must not depend on the number of threads
        torch.set_num_threads(1)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
        if n_threads > 1:
            torch.set_num_threads(n_threads)


class StepSampler:
    """The indices of steps ``start`` to ``stop``, those of one rank.

    Args:
        slots_of: Step to the slots that this process needs.
        start: First step.
        stop: Step after the last one.
    """

    def __init__(self, slots_of: Callable[[int], Sequence[int]], start: int, stop: int):
        self.slots_of, self.start, self.stop = slots_of, start, stop

    def __iter__(self) -> Iterator[list[Index]]:
        for step in range(self.start, self.stop):
            yield [(step, slot) for slot in self.slots_of(step)]

    def __len__(self) -> int:
        return self.stop - self.start


class _ErrorsAsItems(Dataset[dict[str, Any] | GraphnnError]):
    """Returns errors that a user can fix; raised in a worker they would lose their one line."""

    def __init__(self, dataset: PatchDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Index) -> dict[str, Any] | GraphnnError:
        try:
            return self.dataset[index]
        except GraphnnError as error:
            return error


def collate(samples: list[dict[str, Any] | GraphnnError]) -> dict[str, Any] | GraphnnError:
    """Stack samples: ``data (b, c, *s)``, ``target`` of the labeled ones, ``keys``, ``places``."""
    loaded: list[dict[str, Any]] = []
    for sample in samples:
        if isinstance(sample, GraphnnError):
            return sample
        loaded.append(sample)
    targets = [sample["target"] for sample in loaded if sample["target"] is not None]
    return {
        "data": torch.stack([sample["image"] for sample in loaded]),
        "target": torch.stack(targets) if targets else None,
        "keys": [sample["case"] for sample in loaded],
        "places": [sample["place"] for sample in loaded],
    }


class StepLoader:
    """Iterates over the batches of a range of steps, replacing workers that die.

    Args:
        dataset: The patches.
        slots_of: Step to the slots that this process needs.
        start: First step.
        stop: Step after the last one.
        n_workers: Worker processes; 0 loads in this process.
        pin_memory: Batches in page-locked memory, for a GPU.

    Attributes:
        waited_s: Seconds the consumer has waited for batches so far.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        slots_of: Callable[[int], Sequence[int]],
        start: int,
        stop: int,
        *,
        n_workers: int,
        pin_memory: bool = False,
    ):
        self.dataset, self.slots_of = dataset, slots_of
        self.start, self.stop = start, stop
        self.n_workers, self.pin_memory = n_workers, pin_memory
        self.waited_s = 0.0

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step, restarts = self.start, 0
        while step < self.stop:
            with _usual_child_signal():
                batches = iter(self._loader(step))
            try:
                while step < self.stop:
                    began = time.perf_counter()
                    batch = next(batches)
                    self.waited_s += time.perf_counter() - began
                    if isinstance(batch, GraphnnError):
                        raise batch
                    yield batch
                    step += 1
            except RuntimeError as error:
                if "DataLoader worker" not in str(error) or restarts == MAX_WORKER_RESTARTS:
                    raise
                restarts += 1
                _log.warning(
                    "a loader worker died (%s); workers are started again at step %d",
                    str(error).splitlines()[0],
                    step,
                )
            finally:
                del batches

    def _loader(self, start: int) -> DataLoader:
        return DataLoader(
            _ErrorsAsItems(self.dataset),
            batch_sampler=StepSampler(self.slots_of, start, self.stop),
            num_workers=self.n_workers,
            collate_fn=collate,
            pin_memory=self.pin_memory,
            prefetch_factor=3 if self.n_workers else None,
            persistent_workers=False,
            worker_init_fn=partial(_start_worker, os.getpid()),
            # a loader draws a number when it starts, from the global generator if it has none
            generator=torch.Generator().manual_seed(self.dataset.seed),
        )


def _start_worker(parent: int, _worker_id: int) -> None:
    leave_with_parent(parent)


@contextmanager
def _usual_child_signal() -> Iterator[None]:
    """Keep the handling of SIGCHLD as it is while workers are started.

    PyTorch's own handler raises at whatever line the training is when a worker dies; without it the
    loader finds the dead worker within 5 s, when it next waits for a batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # None: set by other than Python code
            signal.signal(signal.SIGCHLD, before)


def default_loader_workers(device: torch.device, world_size: int) -> int:
    """Loader processes: ``nnUNet_n_proc_DA``, or enough for a GPU and one beside a computing CPU.

    Raises:
        InputError: The variable is no number of processes.
    """
    if (variable := os.environ.get("nnUNet_n_proc_DA")) is not None:
        if not variable.strip().isdecimal():
            raise InputError(
                f"nnUNet_n_proc_DA = {variable!r} cannot be used",
                "it is the number of loader processes",
                "Set it to 0 or more, or unset it",
            )
        return int(variable)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    if device.type == "cpu":
        return min(1, cores - 1)
    return max(1, min(12, cores // world_size - 1))
