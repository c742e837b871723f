"""Is the graph of scans worth anything here? Labeled scans are asked, one left out at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphnn_unet.scan_graph.votes import Voters

MIN_DICE = 0.7
"""Mean Dice of the vote from which on it may be taken."""
WITHIN = 0.02
"""So far below the network's Dice the vote is still of use (docs/methods/scan_graph.md has the
figures): both err elsewhere, so a vote that is about as good adds something."""


@dataclass(frozen=True)
class Verdict:
    """What labeled scans say about each other.

    Attributes:
        dice: Class id to the mean Dice of the vote of the others.
        n_scans: Labeled scans that were voted on.
        is_worth: Whether the vote is near enough to be of use.
        reason: Why, in a sentence.
    """

    dice: Mapping[int, float]
    n_scans: int
    is_worth: bool
    reason: str

    def as_dict(self) -> dict[str, object]:
        """For the plan."""
        return {
            "dice": {
                str(number): round(value, 4) if math.isfinite(value) else None
                for number, value in self.dice.items()
            },
            "n_scans": self.n_scans,
            "is_worth": self.is_worth,
            "reason": self.reason,
        }


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
        label = np.asarray(scan.label()[0])
        drawn = (label >= 0) & (label < voters.n_classes)  # neither ignored nor outside
        decided, label = vote.share.argmax(0)[drawn], label[drawn]
        dice = []
        for number in range(1, voters.n_classes):
            both = np.count_nonzero((decided == number) & (label == number))
            size = np.count_nonzero(decided == number) + np.count_nonzero(label == number)
            dice.append(2 * both / size if size else float("nan"))
        result[scan.case_id] = dice
    return result


def judge(
    voters: Voters,
    *,
    network_dice: float | None = None,
    how_to_know: str = "",
    patient_of: Mapping[str, str] | None = None,
    n_workers: int = 0,
) -> Verdict:
    """Make the links among the labeled scans that are missing, and let them vote on each other.

    The vote is taken if its mean Dice over classes and scans reaches ``MIN_DICE`` (an organ that
    lies at about the same place in every scan does, a lesion does not) and is at most ``WITHIN``
    below that of a network, cross-validated on the same scans.

    Args:
        voters: The labeled scans and what links them.
        network_dice: Cross-validated mean Dice of a network; ``None`` where it is not known, and
            the vote is not taken then.
        how_to_know: What to do to know it, for the reason.
        patient_of: Case id to patient, where they differ. Whole patients are left out, as the
            network's folds hold them out.
        n_workers: Processes.
    """
    voters = replace(voters, patient_of=patient_of or {})
    voters = voters.chosen_for(voters.labeled, n_workers=n_workers)
    voters.fields.ensure(voters.links(voters.labeled), n_workers=n_workers)
    dice = leave_one_out(voters)
    if not dice:
        reason = "no two labeled scans are linked"
        if not any(voters.voters_of(scan) for scan in voters.labeled):
            single = len(voters.labeled) < 2
            reason = f"one labeled {'scan' if single else 'patient'} tells nothing"
        return Verdict({}, 0, False, reason)
    table = np.array(list(dice.values()), dtype=np.float64)
    means = {
        number: float(np.nanmean(column)) if np.isfinite(column).any() else float("nan")
        for number, column in enumerate(table.T, start=1)
    }
    mean = float(np.nanmean(list(means.values())))
    said = f"the vote of the others on {len(dice)} labeled scans has Dice {mean:.3f}, which"
    is_worth = False
    if mean < MIN_DICE:
        reason = f"{said} is below {MIN_DICE}"
    elif network_dice is None:
        reason = f"{said} reaches {MIN_DICE}, but may still be below the network's. {how_to_know}"
    else:
        is_worth = mean >= network_dice - WITHIN
        words = "is" if is_worth else "is not"
        reason = f"{said} {words} within {WITHIN} of the network's {network_dice:.3f}"
    return Verdict(means, len(dice), is_worth, reason.rstrip())
