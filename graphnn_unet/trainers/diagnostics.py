"""How good pseudo-labels are, before and after each correction, while a training runs.

Label maps of unlabeled cases are opened for it, for these figures alone: nothing here is read by
the training, whose weights are the same with and without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blosc2
import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import Tensor

from graphnn_unet.data.hidden_labels import HiddenLabels, hidden_files, ids_in
from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.images.label_ids import with_ids
from graphnn_unet.metrics.aggregate import finite_mean
from graphnn_unet.prediction.export_logits import logits_to_labels
from graphnn_unet.prediction.write_case import Outputs, label_colors, write_case
from graphnn_unet.progress import say, track
from graphnn_unet.pseudo_labels.corrector import Place, Teaching
from graphnn_unet.pseudo_labels.pipeline import TEACHER
from graphnn_unet.pseudo_labels.scan_graph import cut
from graphnn_unet.storage.atomic import write_csv
from graphnn_unet.storage.safe_load import load_properties
from graphnn_unet.trainers.batch import Batch
from graphnn_unet.trainers.patch_scores import label_counts
from graphnn_unet.trainers.run_log import PSEUDO_CONFIDENT, PSEUDO_DICE

if TYPE_CHECKING:
    from graphnn_unet.trainers.semi import SemiTrainer

TAUGHT = "taught"
"""Stage of the labels that teach: after all corrections and the clean-up."""
CONFIDENT = 0.9
"""A voxel is confident where the teacher gives a class (or a region or its absence) as much."""
CLASS_DICE = "pseudo_class_"
"""Columns of ``metrics.csv``: a class of a stage; the mean over classes is ``PSEUDO_DICE``."""
EVERY = 5
"""Steps from one that is looked at to the next: a look takes up to a tenth of a step."""
FOLDER, TABLE = "pseudo_labels", "dice.csv"
"""Folder in that of the fold for label maps of whole scans, and its table."""
N_SCANS = 9
"""So many whole scans are labeled at the end, evenly spread over the cases by name."""


@dataclass
class _Look:
    """Images of the current step that are compared, and their true labels."""

    images: list[int]
    target: Tensor


class Diagnostics:
    """Counts voxels of pseudo-labels against hidden labels; an observer of ``PseudoLabels``.

    With several processes the first one counts the images that it loads itself. Patches that were
    rotated or scaled, and those of cases without a hidden label map, are left out and counted.

    Args:
        folder: Label maps of unlabeled cases.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.labels: dict[str, Any] = {}
        self._counts: dict[str, Tensor] = {}
        self._confident: list[Tensor] = []
        self._n_patches = self._n_left_out = 0
        self._look: _Look | None = None
        self._is_due: Callable[[], bool] = lambda: True

    def prepare(self, trainer: SemiTrainer) -> None:
        """Read the label maps, and look at the pseudo-labels of a trainer from now on.

        Raises:
            InputError: None belongs to an unlabeled case, or one cannot be used.
        """
        trainer.pseudo_labels.observer = self
        # scans that are labeled whole are so before the first step of a phase
        self._is_due = lambda: trainer.step % EVERY == 0 or trainer.step == trainer.phase.start
        self._manager = trainer.label_manager
        if self.labels:
            return
        cases = trainer.cases.unlabeled
        files = hidden_files(self.folder, cases, trainer.dataset_json)
        say(
            f"hidden labels of {len(files)} of {len(cases)} unlabeled cases are opened to score "
            "pseudo-labels; the training does not see them"
        )
        reader = HiddenLabels(
            trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
        )
        known = [case for case in cases if case.case_id in files]
        for case in track(known, len(known), "read hidden labels"):
            label = reader.on_grid(files[case.case_id], case)
            # compressed: all cases stay in memory
            self.labels[case.case_id] = blosc2.asarray(label, dparams={"nthreads": 1})  # pyright: ignore[reportArgumentType]  # it takes arrays

    # --------------------------------------------------------------------------- a step

    def see_logits(self, stage: str, logits: Tensor, teaching: Teaching) -> None:
        """Count what a stage says about the images of a step."""
        if stage == TEACHER:
            self._look = self._begin(logits, teaching) if self._is_due() else None
        if self._look is None:
            return
        rows = logits[self._look.images]
        # ten times as fast on a CPU as argmax
        labels = rows > 0 if self._manager.has_regions else rows.max(1, keepdim=True).indices
        self._add(stage, label_counts(labels, self._look.target, self._manager))
        if stage == TEACHER:
            self._confident.append(self._confident_share(rows))

    def see_labels(self, labels: Tensor) -> None:
        """Count the labels that teach."""
        if self._look is not None:
            rows = labels[self._look.images]
            self._add(TAUGHT, label_counts(rows, self._look.target, self._manager))
        self._look = None

    def _begin(self, logits: Tensor, teaching: Teaching) -> _Look | None:
        images = [
            number
            for number, (case, place) in enumerate(
                zip(teaching.cases, teaching.places, strict=True)
            )
            if case in self.labels and not place.is_moved
        ]
        self._n_patches += len(images)
        self._n_left_out += len(teaching.cases) - len(images)
        if not images:
            return None
        patches = [
            label_patch(self.labels[teaching.cases[i]], teaching.places[i], logits.shape[2:])
            for i in images
        ]
        label = torch.from_numpy(np.stack(patches)).to(logits.device)
        return _Look(images, self._as_target(label))

    def _as_target(self, label: Tensor) -> Tensor:
        """Label maps ``(b, *s)`` as ``label_counts`` takes them."""
        label = label.unsqueeze(1)
        if not self._manager.has_regions:
            return label
        regions = [
            torch.isin(label, torch.as_tensor(region, device=label.device))
            for region in self._manager.foreground_regions
        ]
        if self._manager.has_ignore_label:
            regions.append(label == self._manager.ignore_label)
        return torch.cat(regions, 1)

    def _confident_share(self, logits: Tensor) -> Tensor:
        if self._manager.has_regions:
            share = logits.float().sigmoid()
            return (torch.maximum(share, 1 - share) >= CONFIDENT).float().mean()
        return (logits.float().softmax(1).amax(1) >= CONFIDENT).float().mean()

    def _add(self, stage: str, counts: Tensor) -> None:
        before = self._counts.get(stage)
        # those of a checkpoint are on the CPU
        self._counts[stage] = counts if before is None else before.to(counts.device) + counts

    # --------------------------------------------------------------------------- an epoch

    def row(self, class_names: Sequence[str]) -> dict[str, float]:
        """Columns of an epoch, over the voxels of all its patches; counting begins anew."""
        columns: dict[str, float] = {}
        for stage, dice in self._dice().items():
            columns[f"{PSEUDO_DICE}{stage}"] = finite_mean(dice)
            columns |= {
                f"{CLASS_DICE}{stage}_{name}": value
                for name, value in zip(class_names, dice, strict=True)
            }
        if self._confident:
            columns[PSEUDO_CONFIDENT] = float(np.mean([float(share) for share in self._confident]))
        if self._n_patches or self._n_left_out:
            columns["pseudo_patches"] = self._n_patches
            columns["pseudo_patches_left_out"] = self._n_left_out
        self.load_state({})
        return columns

    def _dice(self) -> dict[str, list[float]]:
        return {stage: dice_of(counts) for stage, counts in self._counts.items()}

    def state(self) -> dict[str, Any]:
        """What was counted since the last epoch, as plain values."""
        return {
            "counts": {stage: counts.tolist() for stage, counts in self._counts.items()},
            "confident": [float(share) for share in self._confident],
            "n_patches": [self._n_patches, self._n_left_out],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state`; an empty one begins anew."""
        self._counts = {k: torch.tensor(v) for k, v in state.get("counts", {}).items()}
        self._confident = [torch.tensor(share) for share in state.get("confident", [])]
        self._n_patches, self._n_left_out = state.get("n_patches", (0, 0))

    # --------------------------------------------------------------------------- whole scans

    def label_whole_scans(self, trainer: SemiTrainer) -> None:
        """Label a few unlabeled scans as in training, write the maps and their Dice.

        Teacher and corrections see patches that overlap by half, as they do in training; their
        probabilities are averaged, then the label map is cleaned.
        """
        self.prepare(trainer)
        trainer.pseudo_labels.prepare(trainer.cases.labeled, trainer.cases.unlabeled)
        known = [case for case in trainer.cases.unlabeled if case.case_id in self.labels]
        numbers = np.linspace(0, len(known) - 1, min(N_SCANS, len(known))).round().astype(int)
        folder = Path(trainer.output_folder) / FOLDER
        rows: list[dict[str, Any]] = []
        for number in track(numbers.tolist(), len(numbers), "label unlabeled scans"):
            case = known[number]
            target = self._as_target(torch.from_numpy(self.labels[case.case_id][:])[None])
            maps = whole_maps(trainer, case)
            dice = {
                stage: finite_mean(dice_of(label_counts(labels, target, self._manager)))
                for stage, labels in maps.items()
            }
            rows.append({"case": case.case_id, **dice})
            for stage in (TEACHER, TAUGHT):
                self._write(trainer, case, maps[stage], folder / stage)
        columns = list(rows[0])
        table = [{k: v if k == "case" else f"{v:.4f}" for k, v in row.items()} for row in rows]
        write_csv(folder / TABLE, table, columns)
        means = ", ".join(f"{k} {finite_mean([row[k] for row in rows]):.4f}" for k in columns[1:])
        trainer.log.line(f"Dice of pseudo-labels of {len(rows)} whole scans: {means}")

    def _write(self, trainer: SemiTrainer, case: StoredCase, labels: Tensor, folder: Path) -> None:
        """A label map on the grid of the image file, with the ids of the hidden ones."""
        properties = load_properties(case.folder / f"{case.case_id}.pkl")
        if self._manager.has_regions:
            scores = labels[0].float() * 2 - 1
        else:
            n_outputs = self._manager.num_segmentation_heads
            scores = (labels == torch.arange(n_outputs).view(1, -1, 1, 1, 1))[0].float()
        result = logits_to_labels(
            scores.numpy(), properties, trainer.plans_manager, trainer.configuration_manager,
            self._manager,
        )  # fmt: skip
        ids = ids_in(self.folder, trainer.dataset_json)
        outputs = Outputs(
            trainer.dataset_json["file_ending"], colors=label_colors(trainer.dataset_json)
        )
        result = type(result)(with_ids(result.labels, ids))
        write_case(result, folder, case.case_id, properties, trainer.plans_manager, outputs)


def label_patch(label: Any, place: Place, size: Sequence[int]) -> np.ndarray:
    """The part of a case's label map that a patch shows, background outside.

    Args:
        label: ``(z, y, x)`` of the case, sliceable.
        place: Where the patch lies and how it is mirrored.
        size: ``(z, y, x)``, or ``(y, x)`` of a patch of a slice.

    Returns:
        ``size`` int16.
    """
    n_flat = 3 - len(size)
    place = Place(place.start, tuple(axis + n_flat for axis in place.mirrored))
    patch = cut(
        lambda box: label[tuple(box)][np.newaxis], label.shape, place, (1, *[1] * n_flat, *size)
    )
    assert patch is not None  # noqa: S101  # there is a label map
    return patch.reshape(tuple(size)).astype(np.int16)


def dice_of(counts: Tensor) -> list[float]:
    """Dice of each class from :func:`label_counts`; NaN where neither map has it."""
    both, predicted, true = counts.double()
    return (2 * both / (predicted + true)).tolist()


@torch.no_grad()
def whole_maps(trainer: SemiTrainer, case: StoredCase) -> dict[str, Tensor]:
    """Label maps of a case after each stage, ``(1, 1, z, y, x)`` or ``(1, k, z, y, x)`` bool."""
    overlapping = trainer.label_manager.has_regions
    sums: dict[str, Tensor] = {}
    whole = tuple(int(n) for n in case.image().shape[1:])
    patch_size = tuple(int(n) for n in trainer.configuration_manager.patch_size)
    size = (*[1] * (3 - len(patch_size)), *patch_size)
    weight = compute_gaussian(size, 1 / 8, 10, torch.float32, torch.device("cpu"))
    for starts in _batches(list(_tiles(whole, size)), trainer.recipe.batch.unlabeled):
        for stage, logits in _stages_at(trainer, case, starts, patch_size):
            logits = logits.float().reshape(*logits.shape[:2], *size)
            share = (logits.sigmoid() if overlapping else logits.softmax(1)).cpu()
            total = sums.setdefault(stage, torch.zeros(share.shape[1], *whole))
            for part, start in zip(share, starts, strict=True):
                inner, outer = _overlap(start, size, whole)
                total[(slice(None), *outer)] += (part * weight)[(slice(None), *inner)]
    # weights are equal for all classes; regions compare with their own absence
    maps: dict[str, Tensor] = {}
    logits = torch.empty(0)
    for stage, total in sums.items():
        logits = total - _weights(whole, size, weight) / 2 if overlapping else total
        maps[stage] = logits[None] > 0 if overlapping else logits.argmax(0)[None, None]
    return {**maps, TAUGHT: trainer.pseudo_labels.clean_scan(logits)[None]}


def _weights(whole: Sequence[int], size: Sequence[int], weight: Tensor) -> Tensor:
    """Sum of the weights of all patches at each voxel."""
    total = torch.zeros(*whole)
    for start in _tiles(whole, size):
        inner, outer = _overlap(start, size, whole)
        total[outer] += weight[inner]
    return total


def _stages_at(
    trainer: SemiTrainer, case: StoredCase, starts: Sequence[tuple[int, ...]], size: Sequence[int]
) -> Iterator[tuple[str, Tensor]]:
    """What the teacher says of patches of a case, stage by stage."""
    image = case.image()
    shape = (image.shape[0], *[1] * (3 - len(size)), *size)
    places = [Place(start) for start in starts]
    patches = [
        cut(lambda box: image[(slice(None), *box)], image.shape[1:], place, shape)
        for place in places
    ]
    images = torch.from_numpy(np.stack([patch for patch in patches if patch is not None]))
    images = images.reshape(len(patches), image.shape[0], *size).to(trainer.device)
    nothing = images[:0]
    batch = Batch(
        nothing, nothing[:, :1].to(torch.int16), images, [case.case_id] * len(places),
        torch.Generator(), places,
    )  # fmt: skip
    with torch.autocast("cuda") if trainer.device.type == "cuda" else nullcontext():
        yield from trainer.pseudo_labels.stages(trainer.teach(batch))


def _tiles(whole: Sequence[int], size: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Starts of patches that cover a volume and overlap by half."""
    axes: list[list[int]] = []
    for length, edge in zip(whole, size, strict=True):
        if length <= edge:
            axes.append([-((edge - length) // 2)])
            continue
        n_steps = -(-(length - edge) // max(1, edge // 2)) + 1
        axes.append(np.linspace(0, length - edge, n_steps).round().astype(int).tolist())
    yield from product(*axes)


def _batches(items: list[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _overlap(
    start: Sequence[int], size: Sequence[int], whole: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a patch that lies in its case, and the part of the case that it covers."""
    inner: list[slice] = []
    outer: list[slice] = []
    for first, edge, length in zip(start, size, whole, strict=True):
        low, high = max(first, 0), min(first + edge, length)
        inner.append(slice(low - first, high - first))
        outer.append(slice(low, high))
    return tuple(inner), tuple(outer)
