"""Links between scans on disk: made once, in parallel, kept by content.

A link is a file of its own, whole or not there; a stopped run goes on where it was, and a scan or
a setting that changes gives other files.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphnn_unet.progress import Progress, say
from graphnn_unet.scan_graph.registration import Displacement, RegistrationSettings, register
from graphnn_unet.scan_graph.scan import Scan, intensities
from graphnn_unet.storage.arrays import facts_of, open_array, write_array
from graphnn_unet.storage.processes import run_jobs

_VERSION = 3
FOLDER = "scan_graph"
"""Folder of links and votes in that of a preprocessed data set."""


@dataclass(frozen=True)
class Link:
    """One registration to be made: every voxel of ``fixed`` gets a place in ``moving``."""

    fixed: Scan
    moving: Scan


class Fields:
    """Displacements between scans of one preprocessed configuration.

    Args:
        folder: Where the links are kept.
        spacing_mm: Voxel size of the scans, z, y, x.
        settings: How scans are registered.
    """

    def __init__(
        self,
        folder: Path,
        spacing_mm: Sequence[float],
        settings: RegistrationSettings | None = None,
    ):
        self.folder = folder
        self.spacing_mm = tuple(float(step) for step in spacing_mm)
        self.settings = settings or RegistrationSettings.model_validate({})
        self._digests: dict[str, str] = {}

    def ensure(self, links: Sequence[Link], *, n_workers: int = 0) -> list[str]:
        """Make the links that are missing.

        Returns:
            A line for each link that cannot be made, with the reason; the others are there.
        """
        missing = [link for link in links if not self.has(link)]
        if not missing:
            return []
        # several processes that need the same links begin at different ones and share the work
        random.Random(os.getpid()).shuffle(missing)
        failed = []
        jobs = [_Job(link, self.path(link), self.spacing_mm, self.settings) for link in missing]
        with Progress(len(jobs), "graph of scans", "registration") as progress:
            for outcome in run_jobs(_make, jobs, n_workers=n_workers):
                progress.update()
                if not outcome.ok:
                    link = outcome.job.link
                    failed.append(
                        f"{link.fixed.case_id} and {link.moving.case_id}: {outcome.error}"
                    )
        for line in failed:
            say(f"warning: no link between {line}")
        return failed

    def load(self, link: Link) -> Displacement:
        """Where the voxels of ``fixed`` lie in ``moving``.

        Raises:
            InputError: The link was not made, or its file is damaged.
        """
        return read_field(self.path(link))

    def has(self, link: Link) -> bool:
        """Whether the link is there."""
        return self.path(link).is_file()

    def path(self, link: Link) -> Path:
        """File of a link, named by the contents of both scans and the settings."""
        facts = (
            str(_VERSION), self.digest(link.fixed), self.digest(link.moving),
            repr(self.spacing_mm), self.settings.model_dump_json(),
        )  # fmt: skip
        key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
        return self.folder / f"{link.fixed.case_id}__{link.moving.case_id}__{key}.b2nd"

    def digest(self, scan: Scan) -> str:
        """Hash of a scan's first channel."""
        if scan.case_id not in self._digests:
            content = np.ascontiguousarray(scan.image()[0]).tobytes()
            self._digests[scan.case_id] = hashlib.sha256(content).hexdigest()
        return self._digests[scan.case_id]


def read_field(path: Path) -> Displacement:
    """A stored link.

    Raises:
        InputError: It was not made, or its file is damaged.
    """
    stored = open_array(path, f"Remove {path}")
    facts = facts_of(stored)
    return Displacement(np.asarray(stored[:]), tuple(facts["stride"]), tuple(facts["shape"]))


def fields_of(
    dataset_folder: Path,
    identifier: str,
    spacing_mm: Sequence[float],
    settings: RegistrationSettings,
) -> Fields:
    """Links between the preprocessed cases of a configuration, kept beside them."""
    return Fields(dataset_folder / FOLDER / identifier, spacing_mm, settings)


@dataclass(frozen=True)
class _Job:
    link: Link
    path: Path
    spacing_mm: tuple[float, ...]
    settings: RegistrationSettings


def _make(job: _Job) -> None:
    """Register and write; half precision keeps displacements of up to 128 voxels to 1/16 voxel."""
    if job.path.is_file():  # another process was faster
        return
    fixed, moving = intensities(job.link.fixed), intensities(job.link.moving)
    field = register(fixed, moving, job.spacing_mm, job.settings)
    facts = {"stride": list(field.stride), "shape": list(field.shape)}
    write_array(job.path, field.shift.astype(np.float16), facts)
