"""What is wrong with a data set as a whole: copies of a case, spacings that cannot be right.

One case's files are judged elsewhere; here cases are compared with each other, in the raw folder
and on their way to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphnn_unet.data.check_files import fault
from graphnn_unet.errors import Fault
from graphnn_unet.images.grid import numbers

MAX_RESAMPLED_VOXELS = 1_000_000_000
"""A case that would be larger than this at the data set's median spacing (4 GB a channel in
float32) has a wrong spacing far more often than it is such a large scan."""

UNUSUAL_SPACING_RATIO = 8.0
"""Voxels this many times larger or smaller than the median are worth a warning."""


@dataclass(frozen=True)
class Scan:
    """What is compared of a case.

    Attributes:
        role: ``labeled``, ``unlabeled`` or ``test``.
        shape: Voxels along the axes of the data set's orientation, z y x.
        spacing: mm, likewise.
        content: Hash of the voxels of each channel; empty where they were not all read.
        files: Hash of the bytes of each channel's file.
    """

    role: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    content: tuple[str, ...]
    files: tuple[str, ...] = ()


def copies(
    cases: Mapping[str, Scan], constant: Collection[str], place: Mapping[str, str]
) -> list[Fault]:
    """Cases with the same voxels.

    A warning where no score can suffer: where both are unlabeled, or where both train and their
    files differ, as headers do that were written by several programs. Such scans are kept together
    (:func:`same_scans`).

    Args:
        cases: By id.
        constant: Cases of one value, which says nothing about their origin.
        place: Role to where its cases are, for messages.
    """
    faults: list[Fault] = []
    for case, first in same_scans(cases, constant).items():
        here, there = cases[case], cases[first]
        cause = f"its images equal those of {first} ({place[there.role]})"
        severity, remedy = "error", "Remove one of them, or scores are measured on training data"
        if {here.role, there.role} == {"unlabeled"}:
            severity, remedy = "warning", "Remove one of them"
        elif "test" not in (here.role, there.role) and here.files != there.files:
            cause += ", in files that differ"
            severity, remedy = "warning", "Remove one of them; both are kept in one fold"
        faults.append(fault(case, "I31", cause, remedy, severity))
    return faults


def same_scans(cases: Mapping[str, Scan], constant: Collection[str] = ()) -> dict[str, str]:
    """Cases to the first case with the same voxels, which is no key itself.

    Args:
        cases: By id.
        constant: Cases of one value, which says nothing about their origin.
    """
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for case, scan in cases.items():
        if scan.content and case not in constant:
            groups[scan.content].append(case)
    return {case: first for first, *others in groups.values() for case in others}


def unlikely_spacings(cases: Mapping[str, Scan]) -> list[Fault]:
    """Cases whose spacing cannot be right beside that of the others.

    Args:
        cases: By id.
    """
    cases = {case: scan for case, scan in cases.items() if scan.content}
    training = [scan.spacing for scan in cases.values() if scan.role != "test"]
    if not training:
        return []
    median = np.median(np.asarray(training), axis=0)
    faults: list[Fault] = []
    for case, scan in cases.items():
        ratio = np.asarray(scan.spacing) / median
        size = np.rint(np.asarray(scan.shape) * ratio)
        spacing, usual = numbers(scan.spacing), numbers(median.tolist())
        mm = f"its spacing is {spacing} mm (z, y, x), the median {usual}"
        if size.prod() > MAX_RESAMPLED_VOXELS:
            cause = f"{mm}: it would have {size.prod():.3g} voxels after resampling"
            faults.append(fault(case, "I49", cause, "Correct the spacing in its header"))
        elif size.min() < 1:
            cause = f"{mm}: nothing of it would be left after resampling"
            faults.append(fault(case, "I50", cause, "Correct the spacing in its header"))
        elif max(ratio.max(), 1 / ratio.min()) > UNUSUAL_SPACING_RATIO:
            code = "I49" if ratio.max() > UNUSUAL_SPACING_RATIO else "I50"
            faults.append(fault(case, code, mm, "Look whether the header is right", "warning"))
    return faults


def report_of(faults: list[Fault], **facts: Any) -> dict[str, Any]:
    """What stands in ``dataset_report.json``: all faults, each with its case, and other facts."""
    n_errors = sum(fault.severity == "error" for fault in faults)
    return {
        **facts,
        "n_errors": n_errors,
        "n_warnings": len(faults) - n_errors,
        "faults": [fault.as_dict() for fault in faults],
    }
