"""A round: what the teacher says about every scan goes through the whole graph.

Labels are fixed, the teacher's answers weigh as much as they are certain, and unlabeled scans are
linked to each other too, so that a label can reach a scan through one that lies between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from graphnn_unet.progress import Progress
from graphnn_unet.scan_graph.fields import Link
from graphnn_unet.scan_graph.neighbors import choose_neighbors, similarity_of
from graphnn_unet.scan_graph.scan import Scan, intensities, one_hot
from graphnn_unet.scan_graph.solve import Data, SolveSettings, Tie, solve_scans
from graphnn_unet.scan_graph.votes import Voters
from graphnn_unet.storage.arrays import write_array


def solve_round(
    voters: Voters,
    unlabeled: Sequence[Scan],
    answer: Callable[[Scan], np.ndarray],
    settings: SolveSettings,
    folder: Path,
    *,
    n_workers: int = 0,
) -> None:
    """Solve the graph of all scans; write ``CASE.b2nd`` with the shares of the classes.

    Each unlabeled scan is linked to its ``scan_graph.neighbors`` most alike scans, all labeled
    ones first. Links that are missing are made. Zero where no path leads to a label or an answer.

    Args:
        voters: Labeled scans, links and how far they are trusted.
        unlabeled: Scans that the teacher answers for.
        answer: Probabilities ``(k, z, y, x)`` of a whole scan.
        settings: Weights inside a scan, and when to stop.
        folder: Where the shares go.
        n_workers: Processes for registrations.
    """
    scans = [*voters.labeled, *unlabeled]
    neighbors = _neighbors(voters, scans, n_workers)
    links = [Link(scans[i], scans[j]) for i in range(len(voters.labeled), len(scans))
             for j in neighbors[i]]  # fmt: skip
    voters.fields.ensure(links, n_workers=n_workers)

    @cache
    def ties_of(number: int) -> list[Tie]:
        if number < len(voters.labeled):
            return []
        ties = [(j, voters.tie(Link(scans[number], scans[j]))) for j in neighbors[number]]
        return [Tie(j, *tie) for j, tie in ties if tie is not None]

    data = [_drawn(scan, voters.n_classes) for scan in voters.labeled]
    with Progress(len(unlabeled), "graph of scans", "answer") as progress:
        for scan in unlabeled:
            data.append(_answered(answer(scan), voters.settings.certainty))
            progress.update(scan.case_id)
    images = [intensities(scan) for scan in scans]
    solved = solve_scans(images, data, ties_of, voters.fields.spacing_mm, settings)
    for number, scan in enumerate(unlabeled, start=len(voters.labeled)):
        write_array(folder / f"{scan.case_id}.b2nd", solved.share[number].astype(np.float16))


def _neighbors(voters: Voters, scans: Sequence[Scan], n_workers: int) -> list[list[int]]:
    """Scan numbers that each scan is linked to."""
    limit = voters.settings.neighbors
    if limit >= len(scans) - 1:
        return [[j for j in range(len(scans)) if j != i] for i in range(len(scans))]
    n_labeled = len(voters.labeled)
    if limit == n_labeled:  # nothing to choose
        return [list(range(n_labeled)) for _ in scans]
    similarity = similarity_of(voters.fields, scans, n_workers=n_workers)
    is_labeled = [number < n_labeled for number in range(len(scans))]
    return choose_neighbors(similarity, is_labeled, limit)


def _drawn(scan: Scan, n_classes: int) -> Data:
    """A label map, fixed where it says something."""
    share = one_hot(scan, n_classes)
    return Data(share, np.where(share.sum(0) > 0, np.float32(np.inf), np.float32(0)))


def _answered(probability: np.ndarray, weight: float) -> Data:
    """An answer that weighs ``weight (1 - entropy / log k)``."""
    safe = np.maximum(probability, np.finfo(np.float32).tiny)
    entropy = -(safe * np.log(safe)).sum(0) / np.log(len(probability))
    return Data(probability, (weight * np.clip(1 - entropy, 0, 1)).astype(np.float32))
