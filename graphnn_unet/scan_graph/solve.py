"""The whole graph of voxels: labels, the teacher and the neighborhood of every scan at once.

The scans are the blocks of :func:`graphnn_unet.graph.random_walker_by_blocks`: edges of one scan
and of the links that touch it are in memory at a time, and the values of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.graph.lattice import lattice_affinity, link_affinity
from graphnn_unet.graph.random_walker import random_walker_by_blocks
from graphnn_unet.scan_graph.registration import Displacement
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
        field: Where the voxels lie in it.
        weight: ``(z, y, x)``.
    """

    scan: int
    field: Displacement
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
    sizes = [image.size for image in images]
    blocks = list(torch.arange(sum(sizes)).split(sizes))
    into = _starts(len(images), ties_of)

    def rows_of(number: int) -> Tensor:
        return _edges(number, images, blocks, ties_of, into[number], spacing_mm, settings)

    walk = random_walker_by_blocks(
        rows_of,
        blocks,
        torch.cat([_columns(known.share) for known in data]),
        torch.cat([_flat(known.certainty) for known in data]),
        tolerance=settings.tolerance,
        max_sweeps=settings.max_sweeps,
    )
    parts = walk.value.split(sizes)
    share = {
        number: np.ascontiguousarray(part.T.reshape(-1, *images[number].shape).numpy())
        for number, part in enumerate(parts)
    }
    return Solved(share, walk.n_iterations, walk.residual)


def _starts(n_scans: int, ties_of: Callable[[int], Sequence[Tie]]) -> list[list[int]]:
    """For each scan the scans whose links end in it."""
    into: list[list[int]] = [[] for _ in range(n_scans)]
    for start in range(n_scans):
        for tie in ties_of(start):
            into[tie.scan].append(start)
    return into


def _edges(
    number: int,
    images: Sequence[np.ndarray],
    blocks: Sequence[Tensor],
    ties_of: Callable[[int], Sequence[Tie]],
    into: Sequence[int],
    spacing_mm: Sequence[float],
    settings: SolveSettings,
) -> Tensor:
    """Edges of a scan's voxels: inside it, along the links that start in it, and that end in it."""
    intensity = torch.from_numpy(np.ascontiguousarray(images[number], dtype=np.float32))
    inside = settings.inside * lattice_affinity(intensity[None], settings.bandwidth, spacing_mm)
    parts = [(number, inside.to_sparse_coo())]
    parts += [(tie.scan, _link(tie, images[tie.scan].shape)) for tie in ties_of(number)]
    parts += [
        (start, _link(tie, images[number].shape).t())
        for start in into
        for tie in ties_of(start)
        if tie.scan == number
    ]
    parts = [(int(blocks[scan][0]), part.coalesce()) for scan, part in parts]
    shift = [torch.tensor([[0], [first]]) for first, _ in parts]
    places = [part.indices() + step for step, (_, part) in zip(shift, parts, strict=True)]
    return torch.sparse_coo_tensor(
        torch.cat(places, dim=1),
        torch.cat([part.values() for _, part in parts]),
        (images[number].size, sum(map(len, blocks))),
        check_invariants=False,
    )


def _link(tie: Tie, shape: tuple[int, ...]) -> Tensor:
    point = torch.from_numpy(np.ascontiguousarray(tie.field.places().reshape(3, -1).T))
    return link_affinity(point, _flat(tie.weight), shape).to_sparse_coo()


def _flat(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).flatten()


def _columns(share: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(share.reshape(len(share), -1).T, dtype=np.float32))
