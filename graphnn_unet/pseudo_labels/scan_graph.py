"""Blend the teacher with what labeled scans say through registration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from graphnn_unet.errors import InputError
from graphnn_unet.pseudo_labels.corrector import Corrector, Place, Surroundings, Teaching
from graphnn_unet.scan_graph.fields import Fields
from graphnn_unet.scan_graph.registration import RegistrationSettings
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.scan_graph.vote import Vote
from graphnn_unet.scan_graph.votes import ScanGraphSettings, Voters
from graphnn_unet.storage.processes import default_workers

FOLDER = "scan_graph"


class ScanGraph(Corrector):
    """Votes of the labeled scans on each unlabeled one, blended with the teacher.

    Where no link casts a vote, and in patches that were rotated or scaled, the teacher stays as it
    is. Links are made before the first step and kept beside the preprocessed cases.

    Source: graph of scans; local weighted voting (https://doi.org/10.1109/TMI.2009.2014372).
    """

    sections: ClassVar = {"scan_graph": ScanGraphSettings, "registration": RegistrationSettings}

    def __init__(self, surroundings: Surroundings):
        super().__init__(surroundings)
        if surroundings.overlapping:
            raise InputError(
                "pseudo_label.correct = scan_graph cannot be used",
                "the labels of this data set are regions that overlap",
                "Leave it out",
            )
        if len(surroundings.spacing_mm) != 3:
            raise InputError(
                "pseudo_label.correct = scan_graph cannot be used",
                "scans are registered as volumes, this configuration is 2d",
                "Use 3d_fullres, or leave it out",
            )
        recipe = surroundings.recipe
        self.settings = recipe.of(ScanGraphSettings)
        folder = (surroundings.dataset_folder or Path()) / FOLDER / surroundings.identifier
        fields = Fields(folder, surroundings.spacing_mm, recipe.of(RegistrationSettings))
        self.voters = Voters(fields, (), surroundings.n_classes, self.settings)
        self._scans: dict[str, Scan] = {}
        self._votes: dict[str, Vote | None] = {}

    def prepare(self, labeled: Sequence[Scan], unlabeled: Sequence[Scan]) -> None:
        """Register each unlabeled scan with each labeled one, where that is not done."""
        self.voters = replace(self.voters, labeled=labeled)
        self._scans = {scan.case_id: scan for scan in unlabeled}
        links = self.voters.links(unlabeled)
        self.voters.fields.ensure(links, n_workers=default_workers(len(links)))

    def __call__(self, teaching: Teaching) -> Tensor:
        """Logits ``(b, k, *s)`` of the blended probabilities."""
        probability = teaching.logits.float().softmax(1)
        blended = [
            row if place.is_moved else self._blend(row, case, place)
            for row, case, place in zip(probability, teaching.cases, teaching.places, strict=True)
        ]
        return torch.stack(blended).clamp_min(torch.finfo(torch.float32).tiny).log()

    def _blend(self, teacher: Tensor, case: str, place: Place) -> Tensor:
        if case not in self._votes:
            self._votes[case] = self.voters.vote_on(self._scans[case])
        vote = self._votes[case]
        if vote is None:
            return teacher
        share = torch.from_numpy(cut(vote.share, place, tuple(teacher.shape[1:]))).to(teacher)
        known = share.sum(0, keepdim=True) > 0
        weight = self.settings.blend * known
        return (1 - weight) * teacher + weight * share


def cut(volume: np.ndarray, place: Place, shape: tuple[int, ...]) -> np.ndarray:
    """The part of a case's map that a patch shows, zero where it reaches over the border.

    Args:
        volume: ``(k, z, y, x)`` of the whole case.
        place: Where the patch lies and how it is mirrored.
        shape: Size of the patch.

    Returns:
        ``(k, *shape)``.
    """
    result = np.zeros((len(volume), *shape), volume.dtype)
    inner, outer = [], []
    for start, length, whole in zip(place.start, shape, volume.shape[1:], strict=True):
        low, high = max(start, 0), min(start + length, whole)
        if high <= low:
            return result
        inner.append(slice(low - start, high - start))
        outer.append(slice(low, high))
    result[(slice(None), *inner)] = volume[(slice(None), *outer)]
    for axis in place.mirrored:
        result = np.flip(result, axis + 1)
    return np.ascontiguousarray(result)
