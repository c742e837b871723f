"""Tells of a teacher that has found nothing for long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

N_STEPS = 500
"""Source: the faults that BCP's specification lists."""


def warning_of_empty_labels(rows: Sequence[Mapping[str, Any]]) -> str:
    """A warning in the epoch in which pseudo-labels have been empty for ``N_STEPS`` steps.

    Args:
        rows: Of all epochs, as in ``metrics.csv``.

    Returns:
        The warning; empty in all other epochs.
    """
    empty: list[int] = []
    for row in reversed(rows):
        if row.get("pseudo_foreground") != 0:
            break
        empty.append(row["step"])
    begin = rows[-len(empty) - 1]["step"] if len(rows) > len(empty) else 0
    lasted = [step - begin for step in empty[:2]]  # until now, and until the epoch before
    if not lasted or lasted[0] < N_STEPS or (lasted[1:] and lasted[1] >= N_STEPS):
        return ""
    return (
        f"warning: pseudo-labels have been empty for {lasted[0]} steps, so the unlabeled scans "
        "teach that there is nothing. Train longer before (schedule.pretrain_steps), or look "
        "whether these scans are unlike the labeled ones"
    )
