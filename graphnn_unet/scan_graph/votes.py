"""The vote of a run's labeled scans on each of its unlabeled ones, and on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from graphnn_unet.scan_graph.fields import Fields, Link
from graphnn_unet.scan_graph.scan import Scan, intensities, one_hot
from graphnn_unet.scan_graph.vote import Vote, link_weight, weighted_vote
from graphnn_unet.settings import Section


class ScanGraphSettings(Section):
    """Labels that travel between patients: how far they are trusted."""

    blend: float = Field(
        0.5, ge=0, le=1, description="share of the vote where there is one; the rest is the teacher"
    )
    power: float = Field(4.0, ge=0, le=32, description="exponent of the local correlation")
    radius: int = Field(2, ge=1, le=10, description="cube of the local correlation, in voxels")
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
    """

    fields: Fields
    labeled: Sequence[Scan]
    n_classes: int
    settings: ScanGraphSettings

    def links(self, scans: Sequence[Scan]) -> list[Link]:
        """Registrations that votes on these scans need; a scan does not vote on itself."""
        links = []
        for scan in scans:
            for voter in self.labeled:
                if voter.case_id != scan.case_id:
                    links.append(Link(scan, voter))
                    if self.settings.return_tolerance > 0:
                        links.append(Link(voter, scan))
        return list({(link.fixed.case_id, link.moving.case_id): link for link in links}.values())

    def vote_on(self, scan: Scan) -> Vote | None:
        """What the labeled scans but itself say about a scan; ``None`` if no link leads to one."""
        image = intensities(scan)
        labels, points, weights = [], [], []
        for voter in self.labeled:
            link, back = Link(scan, voter), Link(voter, scan)
            if voter.case_id == scan.case_id or not self.fields.has(link):
                continue
            point = self.fields.load(link)
            settings = self.settings
            returned = settings.return_tolerance > 0 and self.fields.has(back)
            weights.append(
                link_weight(
                    image, intensities(voter), point, self.fields.load(back) if returned else None,
                    power=settings.power, radius=settings.radius,
                    tolerance=settings.return_tolerance or 1.0,
                )
            )  # fmt: skip
            labels.append(one_hot(voter, self.n_classes))
            points.append(point)
        return weighted_vote(labels, points, weights) if labels else None


def leave_one_out(voters: Voters) -> Mapping[str, Sequence[float]]:
    """Dice of the vote of the others on each labeled scan, a value a class, background left out.

    A class that neither the label map nor the vote has counts as ``nan``.

    Returns:
        Case id to Dice of class 1, 2, ...; scans without any link are left out.
    """
    result: dict[str, list[float]] = {}
    for scan in voters.labeled:
        vote = voters.vote_on(scan)
        if vote is None:
            continue
        decided, label = vote.share.argmax(0), np.asarray(scan.label()[0])
        dice = []
        for number in range(1, voters.n_classes):
            both = np.count_nonzero((decided == number) & (label == number))
            size = np.count_nonzero(decided == number) + np.count_nonzero(label == number)
            dice.append(2 * both / size if size else float("nan"))
        result[scan.case_id] = dice
    return result
