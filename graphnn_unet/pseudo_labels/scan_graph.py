"""Blend the teacher with what labeled scans say through registration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from graphnn_unet.errors import RecipeError
from graphnn_unet.pseudo_labels.corrector import Corrector, Place, Surroundings, Teaching
from graphnn_unet.scan_graph.blend import blend
from graphnn_unet.scan_graph.fields import fields_of
from graphnn_unet.scan_graph.registration import RegistrationSettings
from graphnn_unet.scan_graph.rounds import solve_round
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.scan_graph.solve import SolveSettings
from graphnn_unet.scan_graph.votes import ScanGraphSettings, StoredVotes, Voters, read_shares
from graphnn_unet.storage.atomic import write_text
from graphnn_unet.storage.processes import default_workers

ROUND_DONE = "done"
"""File in the folder of a round whose results are whole."""


class ScanGraph(Corrector):
    """Votes of the labeled scans on each unlabeled one, blended with the teacher.

    Where no link casts a vote, and in patches that were rotated or scaled, the teacher stays as it
    is. Links and votes are made before the first step and kept beside the preprocessed cases; a
    step reads the part of a vote that its patch shows. With ``scan_graph.rounds`` the vote gives
    way to the solution of the whole graph, in which the teacher's answers are data.

    Source: graph of scans; local weighted voting (https://doi.org/10.1109/TMI.2009.2014372).
    """

    takes_regions: ClassVar = False

    def __init__(self, surroundings: Surroundings):
        super().__init__(surroundings)
        if len(surroundings.spacing_mm) != 3:
            raise RecipeError(
                "pseudo_label.correct = 'scan_graph' cannot be used",
                "scans are registered as volumes, this configuration is 2d",
                "Use 3d_fullres, or leave it out",
            )
        recipe = surroundings.recipe
        self.settings = recipe.of(ScanGraphSettings)
        fields = fields_of(
            surroundings.dataset_folder or Path(), surroundings.identifier,
            surroundings.spacing_mm, recipe.of(RegistrationSettings),
        )  # fmt: skip
        self.voters = Voters(fields, (), surroundings.n_classes, self.settings)
        self.votes = StoredVotes(self.voters)
        self._scans: dict[str, Scan] = {}
        self.n_rounds = self.settings.rounds
        self._round: Path | None = None

    def prepare(self, labeled: Sequence[Scan], unlabeled: Sequence[Scan]) -> None:
        """Let each labeled scan vote on each unlabeled one, where that is not done."""
        n_workers = default_workers(len(labeled) * len(unlabeled))
        voters = replace(self.voters, labeled=labeled)
        self.voters = voters.chosen_for(unlabeled, n_workers=n_workers)
        self.votes = StoredVotes(self.voters)
        self._scans = {scan.case_id: scan for scan in unlabeled}
        self.votes.ensure(unlabeled, n_workers=n_workers)

    def begin_round(self, folder: Path, answer: Callable[[Scan], np.ndarray]) -> None:
        """Solve the whole graph with the teacher's answers; from now on its shares are blended."""
        unlabeled = list(self._scans.values())
        marker = folder / ROUND_DONE
        if not marker.is_file():
            settings = self.surroundings.recipe.of(SolveSettings)
            n_workers = default_workers(len(unlabeled))
            solve_round(self.voters, unlabeled, answer, settings, folder, n_workers=n_workers)
            write_text(marker, "")
        self._round = folder

    def _read(self, scan: Scan, box: Sequence[slice]) -> np.ndarray | None:
        """Shares of a part of a scan: of the round, or of the vote before the first one."""
        if self._round is None:
            return self.votes.read(scan, box)
        path = self._round / f"{scan.case_id}.b2nd"
        return read_shares(path, box, f"Remove {self._round}")

    def __call__(self, teaching: Teaching) -> Tensor:
        """Logits ``(b, k, *s)`` of the blended probabilities."""
        probability = teaching.logits.float().softmax(1)
        blended = [
            row if place.is_moved else self._blend(row, case, place)
            for row, case, place in zip(probability, teaching.cases, teaching.places, strict=True)
        ]
        return torch.stack(blended).clamp_min(torch.finfo(torch.float32).tiny).log()

    def _blend(self, teacher: Tensor, case: str, place: Place) -> Tensor:
        scan = self._scans[case]
        read = partial(self._read, scan)
        share = cut(read, tuple(scan.image().shape[1:]), place, tuple(teacher.shape))
        if share is None:
            return teacher
        return blend(teacher, torch.from_numpy(share).to(teacher), self.settings.blend)


def cut(
    read: Callable[[Sequence[slice]], np.ndarray | None],
    whole: Sequence[int],
    place: Place,
    shape: Sequence[int],
) -> np.ndarray | None:
    """The part of a case's map that a patch shows, zero where it reaches over the border.

    Args:
        read: Box of voxels to that part of the map, ``(k, ...)``; ``None`` if there is no map.
        whole: Size of the case, z, y, x.
        place: Where the patch lies and how it is mirrored.
        shape: ``(k, z, y, x)`` of the result.

    Returns:
        ``(k, z, y, x)``, or ``None`` if there is no map.
    """
    result = np.zeros(tuple(shape), np.float32)
    inner: list[slice] = []
    outer: list[slice] = []
    for start, length, end in zip(place.start, shape[1:], whole, strict=True):
        low, high = max(start, 0), min(start + length, end)
        if high <= low:
            return result
        inner.append(slice(low - start, high - start))
        outer.append(slice(low, high))
    part = read(outer)
    if part is None:
        return None
    result[(slice(None), *inner)] = part
    for axis in place.mirrored:
        result = np.flip(result, axis + 1)
    return np.ascontiguousarray(result)
