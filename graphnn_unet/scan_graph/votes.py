"""The vote of a run's labeled scans on each of its unlabeled ones, and on each other.

Votes are made once and kept on disk, as large as label maps of probabilities are; a patch reads its
part of one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from pydantic import Field

from graphnn_unet.progress import Progress, say
from graphnn_unet.scan_graph.fields import Fields, Link
from graphnn_unet.scan_graph.neighbors import choose_neighbors, similarity_of
from graphnn_unet.scan_graph.patch_vote import MEMORY_BYTES, patch_vote
from graphnn_unet.scan_graph.registration import Displacement
from graphnn_unet.scan_graph.scan import Scan, intensities, one_hot
from graphnn_unet.scan_graph.vote import Vote, link_weight, weighted_vote
from graphnn_unet.settings import Section
from graphnn_unet.storage.arrays import open_array, write_array
from graphnn_unet.storage.processes import default_workers, run_jobs


class ScanGraphSettings(Section):
    """Labels that travel between patients: how far they are trusted."""

    blend: float = Field(
        0.5, ge=0, le=1,
        description="share of the vote where there is one; the rest is the network. Up to 0.5 a "
        "network that is certain keeps its class",
    )  # fmt: skip
    search: int = Field(
        1, ge=0, le=3, description="voxels around the end of a link that vote too, each as alike "
        "as the patches around it are; 0 asks the end alone, trusted by the local correlation"
    )  # fmt: skip
    patch: int = Field(1, ge=0, le=5, description="radius of these patches, in voxels")
    bandwidth: float = Field(
        2.0, gt=0, description="squared difference of two patches at which trust has fallen to "
        "1/e, as a multiple of that of the most alike ones"
    )  # fmt: skip
    power: float = Field(
        4.0, ge=0, le=32, description="exponent of the local correlation (rounds, and search = 0)"
    )  # fmt: skip
    radius: int = Field(2, ge=1, le=10, description="cube of the local correlation, in voxels")
    pairs: float = Field(
        0.0, ge=0, le=1, description="share of the labeled patches that show a labeled scan in the "
        "shape of an unlabeled one"
    )  # fmt: skip
    neighbors: int = Field(
        10, ge=1, le=1000, description="labeled scans that vote on a scan at most; of more, those "
        "that are most alike after affine registration"
    )  # fmt: skip
    rounds: int = Field(
        0, ge=0, le=100, description="times that the whole graph is solved with the teacher's "
        "answers on whole scans, at equal distances in self-training; 0 uses the vote alone"
    )  # fmt: skip
    certainty: float = Field(
        1.0, ge=0, description="weight of the teacher in the whole graph where it is sure, against "
        "the links; it falls to 0 with the entropy of its answer"
    )  # fmt: skip
    return_tolerance: float = Field(
        0.0, ge=0, description="return error of a link in voxels at which its weight has fallen to "
        "1/e; 0 does not look at the way back (and needs half of the registrations)"
    )  # fmt: skip


@dataclass(frozen=True)
class Voters:
    """Labeled scans that vote.

    Attributes:
        fields: Their links.
        labeled: The scans, whose label maps may be read.
        n_classes: Classes, background included.
        settings: How far they are trusted.
        chosen: Case id to those that vote on it; cases that are not in it hear all.
        patient_of: Case id to patient, where they differ: scans of one patient do not vote on
            each other, as for a verdict on new patients.
    """

    fields: Fields
    labeled: Sequence[Scan]
    n_classes: int
    settings: ScanGraphSettings
    chosen: Mapping[str, frozenset[str]] = field(default_factory=dict)
    patient_of: Mapping[str, str] = field(default_factory=dict)

    def chosen_for(self, scans: Sequence[Scan], *, n_workers: int = 0) -> Voters:
        """The same, with the most alike ones chosen for each scan where there are too many."""
        known = {voter.case_id for voter in self.labeled}
        others = [scan for scan in scans if scan.case_id not in known]
        limit = self.settings.neighbors
        if len(self.labeled) - (not others) <= limit:
            return self
        everyone = [*self.labeled, *others]
        similarity = similarity_of(self.fields, everyone, n_workers=n_workers)
        patients = np.array([self._patient(scan) for scan in everyone])
        if self.patient_of:
            similarity = np.where(patients[:, None] == patients, -np.inf, similarity)
        n_labeled = len(self.labeled)
        flags = [True] * n_labeled + [False] * len(others)
        chosen = choose_neighbors(similarity, flags, limit)
        names = {
            scan.case_id: frozenset(everyone[j].case_id for j in numbers if j < n_labeled)
            for scan, numbers in zip(everyone, chosen, strict=True)
        }
        return replace(self, chosen=names)

    def voters_of(self, scan: Scan) -> list[Scan]:
        """Those that vote on a scan; neither it nor others of its patient do."""
        chosen = self.chosen.get(scan.case_id)
        return [
            voter
            for voter in self.labeled
            if self._patient(voter) != self._patient(scan)
            and (chosen is None or voter.case_id in chosen)
        ]

    def _patient(self, scan: Scan) -> str:
        return self.patient_of.get(scan.case_id, scan.case_id)

    def links(self, scans: Sequence[Scan]) -> list[Link]:
        """Registrations that votes on these scans need."""
        with_return = self.settings.return_tolerance > 0
        links = [
            link
            for scan in scans
            for link in links_of(scan, self.voters_of(scan), with_return=with_return)
        ]
        return list({(link.fixed.case_id, link.moving.case_id): link for link in links}.values())

    def vote_on(self, scan: Scan) -> Vote | None:
        """What the labeled scans but itself say about a scan; ``None`` if no link leads to one."""
        return vote_through(scan, self.voters_of(scan), self._field, self.n_classes, self.settings)

    def tie(self, link: Link) -> tuple[Displacement, np.ndarray] | None:
        """A link and how far it is trusted at each voxel; ``None`` if it was not made."""
        return trusted(link, self._field, self.settings)

    def _field(self, link: Link) -> Displacement | None:
        return self.fields.load(link) if self.fields.has(link) else None


def links_of(scan: Scan, voters: Sequence[Scan], *, with_return: bool) -> list[Link]:
    """Registrations that a vote on a scan needs; a scan does not vote on itself."""
    links: list[Link] = []
    for voter in voters:
        if voter.case_id != scan.case_id:
            links += [Link(scan, voter), Link(voter, scan)] if with_return else [Link(scan, voter)]
    return links


def trusted(
    link: Link, field_of: Callable[[Link], Displacement | None], settings: ScanGraphSettings
) -> tuple[Displacement, np.ndarray] | None:
    """A link and how far it is trusted at each voxel; ``None`` if there is none."""
    field = field_of(link)
    if field is None:
        return None
    back = field_of(Link(link.moving, link.fixed)) if settings.return_tolerance > 0 else None
    weight = link_weight(
        intensities(link.fixed), intensities(link.moving), field.places(),
        None if back is None else back.places(),
        power=settings.power, radius=settings.radius, tolerance=settings.return_tolerance or 1.0,
    )  # fmt: skip
    return field, weight


def vote_through(
    scan: Scan,
    voters: Sequence[Scan],
    field_of: Callable[[Link], Displacement | None],
    n_classes: int,
    settings: ScanGraphSettings,
) -> Vote | None:
    """What labeled scans but itself say about a scan; ``None`` if no link leads to one.

    Args:
        scan: The scan that is voted on.
        voters: Labeled scans.
        field_of: A link to where voxels lie; ``None`` where it was not made.
        n_classes: Classes, background included.
        settings: How far the voters are trusted.
    """
    asked = [voter for voter in voters if voter.case_id != scan.case_id]
    # among several places patches are compared; that says more than a correlation around one
    of_links = settings.model_copy(update={"power": 0.0}) if settings.search else settings
    ties = [trusted(Link(scan, voter), field_of, of_links) for voter in asked]
    linked = [(voter, *tie) for voter, tie in zip(asked, ties, strict=True) if tie is not None]
    if not linked:
        return None
    weights = [weight for _, _, weight in linked]
    if not settings.search:
        return weighted_vote(
            (one_hot(voter, n_classes) for voter, _, _ in linked),
            (field.places() for _, field, _ in linked), weights,
        )  # fmt: skip
    return patch_vote(
        [np.asarray(voter.label()[0]) for voter, _, _ in linked],
        [field.places for _, field, _ in linked],
        intensities(scan), [intensities(voter) for voter, _, _ in linked], weights, n_classes,
        search=settings.search, radius=settings.patch, bandwidth=settings.bandwidth,
    )  # fmt: skip


class StoredVotes:
    """Votes on unlabeled scans, kept beside the links.

    Args:
        voters: Who votes.
    """

    def __init__(self, voters: Voters):
        self.voters = voters
        self._paths: dict[str, Path] = {}

    def ensure(self, scans: Sequence[Scan], *, n_workers: int = 0) -> None:
        """Make the links and votes that are missing; a scan without any link gets no vote."""
        self.voters.fields.ensure(self.voters.links(scans), n_workers=n_workers)
        missing = [scan for scan in scans if not self.path(scan).is_file() and self._links(scan)]
        if not missing:
            return
        n_workers = min(n_workers, default_workers(len(missing), self._memory_gb(missing)))
        make = partial(_make_vote, self.voters)
        jobs = [(scan, self.path(scan)) for scan in missing]
        with Progress(len(jobs), "graph of scans", "vote") as progress:
            for outcome in run_jobs(make, jobs, n_workers=n_workers):
                progress.update()
                if not outcome.ok:
                    say(f"warning: no vote on {outcome.job[0].case_id}: {outcome.error}")

    def _memory_gb(self, scans: Sequence[Scan]) -> float:
        """What the vote on the largest scan takes: shares, and images and trusts of the voters."""
        n_voxels = max(math.prod(scan.image().shape[1:]) for scan in scans)
        n_voters = min(len(self.voters.labeled), self.voters.settings.neighbors)
        per_voxel = 4 * self.voters.n_classes + 12 * n_voters
        return (n_voxels * per_voxel + 3 * MEMORY_BYTES) / 2**30 + 0.5

    def read(self, scan: Scan, box: Sequence[slice]) -> np.ndarray | None:
        """Shares ``(k, *box)`` float32 of a part of a scan; ``None`` where nobody votes.

        Raises:
            InputError: The file is damaged.
        """
        # links do not change while patches are read
        if scan.case_id not in self._paths:
            self._paths[scan.case_id] = self.path(scan)
        path = self._paths[scan.case_id]
        if not path.is_file():
            return None
        return read_shares(path, box, f"Remove {path}")

    def path(self, scan: Scan) -> Path:
        """File of a vote, named by its links, the label maps and how far they are trusted."""
        settings = self.voters.settings
        facts = [path.name for path in self._links(scan)]
        decides = (settings.search, settings.patch, settings.bandwidth, settings.power,
                   settings.radius, settings.return_tolerance)  # fmt: skip
        facts += [self._labels, repr(decides)]
        key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
        return self.voters.fields.folder / "votes" / f"{scan.case_id}__{key}.b2nd"

    def _links(self, scan: Scan) -> list[Path]:
        links = self.voters.links([scan])
        return sorted(
            self.voters.fields.path(link) for link in links if self.voters.fields.has(link)
        )

    @cached_property
    def _labels(self) -> str:
        """Hash of the label maps that vote."""
        digest = hashlib.sha256(str(self.voters.n_classes).encode())
        for voter in self.voters.labeled:
            digest.update(np.ascontiguousarray(voter.label()[0]).tobytes())
        return digest.hexdigest()


def read_shares(path: Path, box: Sequence[slice], remedy: str) -> np.ndarray:
    """Shares ``(k, *box)`` float32 of a part of a scan.

    Raises:
        InputError: The file is damaged.
    """
    stored = open_array(path, remedy)
    return np.asarray(stored[(slice(None), *box)], dtype=np.float32)


def _make_vote(voters: Voters, job: tuple[Scan, Path]) -> None:
    scan, path = job
    vote = voters.vote_on(scan)
    if vote is None:
        return
    write_array(path, vote.share.astype(np.float16))  # right to 0.0005
