"""Which scans are alike: the links that are worth a registration.

Every scan is brought to one of them by an affine registration, so a data set of N scans costs N
cheap registrations and N^2 products of small images, not N^2 registrations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from graphnn_unet.errors import InputError
from graphnn_unet.progress import Progress
from graphnn_unet.scan_graph.fields import Fields
from graphnn_unet.scan_graph.registration import RegistrationSettings, align
from graphnn_unet.scan_graph.scan import Scan, intensities
from graphnn_unet.storage.arrays import open_array, write_array
from graphnn_unet.storage.processes import run_jobs

_LONGEST = 32
"""Voxels of the longest axis of the small images that are compared."""


def similarity_of(fields: Fields, scans: Sequence[Scan], *, n_workers: int = 0) -> np.ndarray:
    """Correlation of all pairs of scans after affine registration to the first of them.

    Kept on disk beside the links, by content.

    Args:
        fields: Where links are kept and how scans are registered.
        scans: N scans.
        n_workers: Processes.

    Returns:
        ``(N, N)`` in [-1, 1], symmetric, 1 on the diagonal. A scan that cannot be registered is
        -1 to all others.
    """
    digests = "\n".join(fields.digest(scan) for scan in scans)
    facts = f"{digests}\n{fields.spacing_mm}\n{fields.settings.model_dump_json()}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:16]
    path = fields.folder / f"similarity__{key}.b2nd"
    if path.is_file():
        return np.asarray(open_array(path, f"Remove {path}")[:])
    jobs = [
        _Job(n, scans[0], scan, fields.spacing_mm, fields.settings) for n, scan in enumerate(scans)
    ]
    rows: list[np.ndarray | None] = [None] * len(scans)
    with Progress(len(jobs), "graph of scans", "scan") as progress:
        for outcome in run_jobs(_profile, jobs, n_workers=n_workers):
            progress.update()
            rows[outcome.job.number] = outcome.value if outcome.ok else None
    result = np.full((len(scans), len(scans)), -1.0)
    known = [number for number, row in enumerate(rows) if row is not None]
    if known:
        small = np.stack([row for row in rows if row is not None])
        result[np.ix_(known, known)] = np.clip(small @ small.T, -1, 1)
    np.fill_diagonal(result, 1.0)
    write_array(path, result)
    return result


@dataclass(frozen=True)
class _Job:
    number: int
    reference: Scan
    scan: Scan
    spacing_mm: tuple[float, ...]
    settings: RegistrationSettings


def _profile(job: _Job) -> np.ndarray | None:
    target = intensities(job.reference) if job.number else None
    return profile(job.scan, target, job.spacing_mm, job.settings)


def profile(
    scan: Scan,
    target: np.ndarray | None,
    spacing_mm: Sequence[float],
    settings: RegistrationSettings | None = None,
) -> np.ndarray | None:
    """What of a scan is compared: the product of two profiles is their correlation.

    Args:
        scan: The scan.
        target: Intensities of the scan that all are brought to; ``None`` for that scan itself.
        spacing_mm: Voxel size, z, y, x.
        settings: How scans are registered.

    Returns:
        Voxels of a small image, mean 0 and length 1; ``None`` for a scan that cannot be registered.
    """
    moved = intensities(scan)
    try:
        moved = align(moved if target is None else target, moved, spacing_mm, settings)
    except InputError:
        return None
    return compared(moved)


def compared(moved: np.ndarray) -> np.ndarray | None:
    """What of an image is compared: voxels of a small one, mean 0 and length 1; see ``profile``.

    Args:
        moved: ``(z, y, x)`` intensities between 0 and 1, in a place and size that all share.
    """
    factor = min(1.0, _LONGEST / max(moved.shape))
    small = np.asarray(ndimage.zoom(ndimage.gaussian_filter(moved, 0.5 / factor), factor, order=1))
    row = small.ravel() - small.mean()
    length = float(np.linalg.norm(row))
    return row / length if length > 0 else None


def choose_neighbors(similarity: np.ndarray, is_labeled: Sequence[bool], k: int) -> list[list[int]]:
    """The k scans that each scan is linked to.

    All labeled scans are among them where there are at most ``k``; the most alike unlabeled ones
    fill up. With more labeled scans than ``k`` the most alike labeled ones are taken.

    Args:
        similarity: ``(N, N)``.
        is_labeled: N flags.
        k: Neighbors of a scan.

    Returns:
        Scan numbers for each scan, most alike first; never the scan itself.

    Example:
        >>> similarity = np.array([[1, 0.5, 0.9], [0.5, 1, 0.2], [0.9, 0.2, 1]])
        >>> choose_neighbors(similarity, [True, True, False], k=1)
        [[1], [0], [0]]
    """
    flags = np.asarray(is_labeled, dtype=bool)
    neighbors = []
    for number in range(len(similarity)):
        order = [int(j) for j in np.argsort(-similarity[number], kind="stable") if j != number]
        labeled = [j for j in order if flags[j]][:k]
        others = [j for j in order if not flags[j]][: k - len(labeled)]
        neighbors.append(sorted([*labeled, *others], key=order.index))
    return neighbors
