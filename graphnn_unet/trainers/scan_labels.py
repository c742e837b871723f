"""Label maps of whole unlabeled scans, made by the network in training, that count as drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from pydantic import Field

from graphnn_unet.data.augment import outside_mask
from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.errors import RecipeError
from graphnn_unet.networks.hook import one_output
from graphnn_unet.progress import say, track
from graphnn_unet.pseudo_labels.confidence import expected_dice
from graphnn_unet.pseudo_labels.corrector import Place, Teaching
from graphnn_unet.pseudo_labels.pipeline import PseudoLabels
from graphnn_unet.settings import Section
from graphnn_unet.storage.arrays import facts_of, open_array, write_array
from graphnn_unet.trainers.batch import Phase
from graphnn_unet.trainers.confidence_table import FOLDER, TABLE, Confidence, write_confidences
from graphnn_unet.trainers.frozen_labels import WHOLE, LabelsOnDisk
from graphnn_unet.trainers.losses import logits_of, probabilities

if TYPE_CHECKING:
    from graphnn_unet.trainers.semi import SemiTrainer

_REMEDY = "Use --restart to train anew"
_ENDING = "_seg.b2nd"
_CONFIDENCE = "confidence"


class ScanLabelsSettings(Section):
    """Label maps of whole scans in self-training."""

    rounds: int | None = Field(
        None,
        ge=0,
        le=100,
        description="times in self-training that the network labels all unlabeled scans whole; "
        "until the next time they are cases like the labeled ones. 0: the teacher labels patches, "
        "step by step. Empty: 1 for GraphCLTrainer where pseudo_label.correct is empty too, else 0",
    )
    min_confidence: float = Field(
        0.9,
        ge=0,
        le=1,
        description="scans are left out of a round where the Dice that the network itself expects "
        "of its label map is below this share of the median of all scans; 0 keeps all",
    )


@dataclass(frozen=True)
class ScanWithLabels(StoredCase):
    """An unlabeled scan with the label map of a network.

    Attributes:
        labels: File of the label map.
        classes: Labels or regions that patches are centered on.
    """

    labels: Path = Path()
    classes: tuple[Any, ...] = ()

    def label(self) -> Any:
        """Blosc2 array ``(1, z, y, x)``."""
        return open_array(self.labels, _REMEDY)

    def properties(self) -> dict[str, Any]:
        """Positions of the voxels of each class, as nnU-Net's preprocessor notes them."""
        sample = DefaultPreprocessor._sample_foreground_locations
        return {"class_locations": sample(np.asarray(self.label()[:]), list(self.classes))}


class ScanLabels(LabelsOnDisk):
    """The label maps of one round.

    Args:
        folder: Where they are, or will be.
        classes: Labels or regions that patches are centered on.
    """

    def __init__(self, folder: Path, classes: Sequence[Any]):
        super().__init__(folder, _ENDING)
        self.classes = classes

    def write(self, scan: StoredCase, labels: np.ndarray, confidence: float | None) -> None:
        """Store the map ``(1, z, y, x)`` of a scan, and what Dice the network expects of it."""
        write_array(self.path(scan), labels.astype(np.int16), {_CONFIDENCE: confidence})

    def confidences(self, scans: Sequence[StoredCase], share: float) -> dict[str, Confidence]:
        """What Dice the network expects of each map; used from a share of the median on.

        Maps without a class have no figure and are used: were they counted as sure, scans with
        lesions would be left out wherever most scans have none.

        The median makes it a question of single scans: what a network expects of all of them
        depends on the organ and on how long it has been trained, more than on how good they are.
        """
        # maps of a training that was begun with an earlier version have no note
        facts = [facts_of(open_array(self.path(scan), _REMEDY)) for scan in scans]
        values = [of_map.get(_CONFIDENCE, 1.0) for of_map in facts]
        known = [float(value) for value in values if value is not None]
        least = share * median(known) if known else 0.0
        return {scan.case_id: Confidence(value, value is None or value >= least)
                for scan, value in zip(scans, values, strict=True)}  # fmt: skip

    def cases(self, scans: Sequence[StoredCase], share: float = 0.0) -> list[StoredCase]:
        """The scans as cases with a label map, without those that are not used."""
        known = self.confidences(scans, share)
        return [
            ScanWithLabels(scan.case_id, scan.folder, True, self.path(scan), tuple(self.classes))
            for scan in scans
            if known[scan.case_id].used
        ]


def refuse_features(pseudo_labels: PseudoLabels) -> None:
    """Raise ``RecipeError`` for corrections that need more than the answer for a whole scan."""
    if any(c.feature_scales or c.n_rounds for c in pseudo_labels.correctors):
        raise RecipeError(
            "pseudo_label.correct cannot be used with labels of whole scans as it is",
            "it reads features of a network or has rounds of its own",
            "Use 'blur', or 'scan_graph' with scan_graph.rounds=0, or set scan_labels.rounds=0",
        )


def labels_of(trainer: SemiTrainer, phase: Phase) -> ScanLabels:
    """The label maps that a phase begins with."""
    labels = trainer.label_manager
    classes = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    return ScanLabels(Path(trainer.output_folder) / FOLDER / phase.name, classes)


def label_scans(trainer: SemiTrainer, phase: Phase) -> None:
    """Label all unlabeled scans with the network as it is, each process some of them.

    A stopped run comes here again with the same weights, and finds the scans that it has labeled.
    """
    # the checkpoint before the latest may be of the phase before
    trainer.on_first_process(lambda: remove_labels(trainer, keep=1))
    labels = labels_of(trainer, phase)
    states = [trainer.student.network.state_dict()]
    knows_outside = any(trainer.configuration_manager.use_mask_for_norm)
    shown = [case.properties()["class_locations"] for case in trainer.cases.labeled]
    always = [i for i, c in enumerate(labels.classes) if all(len(s.get(c, ())) for s in shown)]
    for scan, logits in answers(trainer, phase, states, labels.has):
        label_map, classes = _labels_of(trainer, scan, logits)
        share = probabilities(logits[None], overlapping=trainer.label_manager.has_regions)[0]
        confidence = expected_dice(share[-len(classes) :].cpu(), classes.cpu(), always)
        if knows_outside:  # as in stored label maps: augmentation puts these voxels back to 0
            outside = outside_mask(np.asarray(scan.image()[:])) < 0
            label_map = np.where(outside & (label_map == 0), -1, label_map)
        labels.write(scan, label_map, confidence)
    trainer.on_first_process(lambda: _finish(trainer, labels))


def _finish(trainer: SemiTrainer, labels: ScanLabels) -> None:
    """Note how good the network expects its label maps to be, and that all are there."""
    share = trainer.recipe.of(ScanLabelsSettings).min_confidence
    known = labels.confidences(trainer.cases.unlabeled, share)
    write_confidences(labels.folder, known)
    labels.finish()
    values = {case: c.expected_dice for case, c in known.items() if c.expected_dice is not None}
    if known and not any(values.values()):
        warning = (
            f"warning: the network has found no class in any of {len(known)} unlabeled scans, and "
            "now learns from empty label maps. Train longer before (schedule.pretrain_steps), or "
            "look whether these scans are unlike the labeled ones"
        )
        say(warning)
        trainer.log.line(warning)
    elif known:
        lowest = min(values, key=lambda case: values[case])
        n_empty, n_left_out = len(known) - len(values), sum(not c.used for c in known.values())
        trainer.log.line(
            f"labels of {len(known)} whole scans: the network expects a Dice of "
            f"{median(values.values()):.2f} (median) and {values[lowest]:.2f} ({lowest}, the "
            f"lowest){f', {n_empty} show no class' if n_empty else ''}; "
            f"{n_left_out} left out, see {TABLE}"
        )


def answers(
    trainer: SemiTrainer,
    phase: Phase,
    states: Sequence[Mapping[str, torch.Tensor]],
    has: Callable[[StoredCase], bool],
) -> Iterator[tuple[StoredCase, torch.Tensor]]:
    """What networks say about whole unlabeled scans: sliding windows, mirrored as in prediction.

    Args:
        trainer: Its scans; each process takes some of them.
        phase: The phase that begins, for the progress line.
        states: Weights of the networks, whose probabilities are averaged.
        has: Whether a scan is labeled already.

    Yields:
        Scan, and logits ``(k, z, y, x)`` of the mean probabilities.
    """
    network, overlapping = trainer.new_network(), trainer.label_manager.has_regions
    scans = [scan for scan in trainer.cases.unlabeled[trainer.local_rank :: trainer.world_size]
             if not has(scan)]  # fmt: skip
    with one_output(network):
        for scan in track(scans, len(scans), f"label scans for {phase.name}"):
            image = torch.from_numpy(np.asarray(scan.image()[:], dtype=np.float32))
            total = torch.zeros(())
            with torch.no_grad():
                for state in states:
                    network.load_state_dict(state)
                    logits = trainer.predictor_of(network, mirroring=True).logits(image)[None]
                    total = total + probabilities(logits, overlapping=overlapping)
            yield scan, logits_of(total / len(states), overlapping=overlapping)[0]


def remove_labels(trainer: SemiTrainer, keep: int = 0) -> None:
    """Remove the label maps of all but the last phases that have all of theirs."""
    folder = Path(trainer.output_folder) / FOLDER
    names = [phase.name for phase in trainer.phases() if phase.labels_scans]
    whole = [folder / name for name in names if (folder / name / WHOLE).is_file()]
    for old in whole[: len(whole) - keep] if keep else [folder]:
        shutil.rmtree(old, ignore_errors=True)


def _labels_of(
    trainer: SemiTrainer, scan: StoredCase, logits: torch.Tensor
) -> tuple[np.ndarray, torch.Tensor]:
    """Label map ``(1, z, y, x)`` of corrected and cleaned logits, and its classes one by one."""
    pseudo_labels = trainer.pseudo_labels
    images = pseudo_labels.as_images(logits)
    places = [Place((i, 0, 0)) for i in range(len(images))]
    teaching = Teaching(images.float(), {}, [scan.case_id] * len(images), places)
    cleaned = pseudo_labels.as_scan(pseudo_labels.finish(pseudo_labels.start(teaching)))
    if not trainer.label_manager.has_regions:
        classes = torch.tensor(trainer.label_manager.foreground_labels, device=cleaned.device)
        return cleaned.cpu().numpy(), cleaned == classes[:, None, None, None]
    convert = trainer.label_manager.convert_probabilities_to_segmentation
    return np.asarray(convert(cleaned.float()))[None], cleaned
