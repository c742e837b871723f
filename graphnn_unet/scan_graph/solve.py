"""The whole graph of voxels: labels, the teacher and the neighborhood of every scan at once.

One scan is solved exactly while its neighbors are held, and the scans take turns until nothing
changes (block Gauss-Seidel). Only one scan and the links that touch it are in memory, so the
number of scans has no bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.graph.lattice import lattice_affinity, link_affinity
from graphnn_unet.graph.random_walker import random_walker
from graphnn_unet.settings import Section


class SolveSettings(Section):
    """The graph of voxels within and between scans."""

    bandwidth: float = Field(
        0.1, gt=0, le=10, description="difference of intensity, between 0 and 1, at which the edge "
        "of two neighboring voxels has fallen to 1/e"
    )  # fmt: skip
    inside: float = Field(
        1.0, ge=0, description="weight of edges inside a scan, against links between scans"
    )
    tolerance: float = Field(1e-3, gt=0, lt=1, description="largest change of the last sweep")
    max_sweeps: int = Field(30, ge=1, le=1000, description="sweeps over all scans at most")


@dataclass(frozen=True)
class Data:
    """What is known about a scan itself.

    Attributes:
        share: ``(k, z, y, x)``: its label map one-hot, or what the teacher says.
        certainty: ``(z, y, x)``, at least 0: ``inf`` for drawn labels, 0 where nothing is known.
    """

    share: np.ndarray
    certainty: np.ndarray


@dataclass(frozen=True)
class Tie:
    """A link of the graph: places in another scan, and how far each is trusted.

    Attributes:
        scan: Number of the other scan.
        point: ``(3, z, y, x)`` voxels of the other scan.
        weight: ``(z, y, x)``.
    """

    scan: int
    point: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Solved:
    """Result of the graph.

    Attributes:
        share: Scan number to ``(k, z, y, x)`` float32; zero where no path leads to data.
        n_sweeps: Turns that were taken.
        change: Largest change of the last one.
    """

    share: Mapping[int, np.ndarray]
    n_sweeps: int
    change: float


def solve_scans(
    images: Sequence[np.ndarray],
    data: Sequence[Data],
    ties_of: Callable[[int], Sequence[Tie]],
    spacing_mm: Sequence[float],
    settings: SolveSettings | None = None,
) -> Solved:
    """Solve ``(L + M) F = M Y`` over the voxels of all scans.

    Args:
        images: Intensities ``(z, y, x)`` of each scan.
        data: What is known of each.
        ties_of: Links that start in a scan; called once a sweep for each scan.
        spacing_mm: Voxel size, z, y, x.
        settings: Weights and when to stop.

    Source: graph of scans; Grady's random walker with priors inside a scan.
    """
    settings = settings or SolveSettings.model_validate({})
    state = [torch.where(_rows(d.certainty)[:, None] > 0, _columns(d.share), 0.0) for d in data]
    known = [_rows(d.certainty) > 0 for d in data]
    into = _starts(len(images), ties_of)
    sweep, change = 0, float("inf")
    while sweep < settings.max_sweeps and change > settings.tolerance:
        sweep, change = sweep + 1, 0.0
        for number, image in enumerate(images):
            if bool(torch.isinf(_rows(data[number].certainty)).all()):
                continue
            pull, flow = _pull(number, images, state, known, ties_of, into[number])
            new, reached = _solve_one(image, data[number], pull, flow, spacing_mm, settings)
            fresh = bool((reached & ~known[number]).any())
            step = float((new - state[number]).abs().max())
            change = max(change, float("inf") if fresh else step)
            state[number], known[number] = new, reached
    share = {
        number: np.ascontiguousarray(value.T.reshape(-1, *images[number].shape).float().numpy())
        for number, value in enumerate(state)
    }
    return Solved(share, sweep, change)


def _starts(n_scans: int, ties_of: Callable[[int], Sequence[Tie]]) -> list[list[int]]:
    """For each scan the scans whose links end in it."""
    into: list[list[int]] = [[] for _ in range(n_scans)]
    for start in range(n_scans):
        for tie in ties_of(start):
            into[tie.scan].append(start)
    return into


def _pull(
    number: int,
    images: Sequence[np.ndarray],
    state: Sequence[Tensor],
    known: Sequence[Tensor],
    ties_of: Callable[[int], Sequence[Tie]],
    into: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Weights and weighted values that all links bring to the voxels of a scan."""
    n_voxels, n_classes = state[number].shape
    pull, flow = torch.zeros(n_voxels), torch.zeros(n_voxels, n_classes)
    for tie in ties_of(number):
        matrix = _link(tie, images[tie.scan].shape)
        live = known[tie.scan].float()
        pull += matrix @ live
        flow += matrix @ (live[:, None] * state[tie.scan])
    for start in into:
        for tie in ties_of(start):
            if tie.scan == number:
                matrix = _link(tie, images[number].shape).to_sparse_coo().t()
                live = known[start].float()
                pull += torch.sparse.mm(matrix, live[:, None])[:, 0]
                flow += torch.sparse.mm(matrix, live[:, None] * state[start])
    return pull, flow


def _link(tie: Tie, shape: tuple[int, ...]) -> Tensor:
    point = torch.from_numpy(np.ascontiguousarray(tie.point.reshape(3, -1).T, dtype=np.float32))
    return link_affinity(point, _rows(tie.weight), shape)


def _solve_one(
    image: np.ndarray,
    data: Data,
    pull: Tensor,
    flow: Tensor,
    spacing_mm: Sequence[float],
    settings: SolveSettings,
) -> tuple[Tensor, Tensor]:
    """One scan with everything that it is tied to held: links become part of the data term."""
    intensity = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    affinity = settings.inside * lattice_affinity(intensity[None], settings.bandwidth, spacing_mm)
    certain = _rows(data.certainty)
    finite = torch.where(torch.isinf(certain), 0.0, certain)
    certainty = certain + pull
    total = finite + pull
    values = torch.where((finite > 0)[:, None], finite[:, None] * _columns(data.share), 0.0) + flow
    target = values / torch.where(total > 0, total, 1.0)[:, None]
    target = torch.where(torch.isinf(certain)[:, None], _columns(data.share), target)
    walk = random_walker(affinity, target, certainty)
    return walk.value, walk.reached


def _rows(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).flatten()


def _columns(share: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(share.reshape(len(share), -1).T, dtype=np.float32))
