"""What a structure scores in one case, under the two protocols.

Honest: a structure that is in neither map is left out and counted; one that is missed or invented
scores Dice and Jaccard 0 and costs the diagonal of the image in mm. Published: the conventions of
the programs behind the published tables (UA-MT, SSL4MIS, BCP and their successors), whose figures
can be compared with those tables and with nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from graphnn_unet.errors import InputError
from graphnn_unet.metrics.distance import (
    bounding_box,
    check_spacing,
    image_diagonal_mm,
    surface_distances,
)
from graphnn_unet.metrics.overlap import (
    BoolVolume,
    OverlapCounts,
    check_same_shape,
    count_overlap,
)

Protocol = Literal["honest", "published"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
LabelIds = int | Sequence[int]
"""One id, or the ids that make up a region."""

COLUMNS = ("case", "class", "dice", "jaccard", "hd95_mm", "asd_mm", "missed", "protocol")
"""Columns of ``metrics.csv``."""

_COMMON_DEFINITIONS = {
    "Dice": "2 |P and R| / (|P| + |R|), a fraction, on the whole volume",
    "Jaccard": "|P and R| / |P or R|, a fraction, on the whole volume; IoU is the same",
    "surface": "voxels inside with a face neighbour outside; beyond the image is outside",
    "HD95": "95th percentile (linear) of the distances of both surfaces to the other one, "
    "both directions put together",
    "ASD": "mean distance from the prediction's surface to the reference's, one direction only",
    "ignore": "voxels with the ignore label in the reference are taken out of both maps",
    "mean": "over cases, then over classes",
}
DEFINITIONS: dict[str, dict[str, str]] = {
    "honest": {
        **_COMMON_DEFINITIONS,
        "distance unit": "mm",
        "absent in both": "no value; left out of the mean of that class and counted",
        "missed or invented": "Dice 0, Jaccard 0, HD95 and ASD the diagonal of the image; missed 1",
    },
    "published": {
        **_COMMON_DEFINITIONS,
        "distance unit": "voxels (the papers' programs pass no spacing), also in the columns "
        "hd95_mm and asd_mm of metrics.csv",
        "empty prediction": "Dice, Jaccard, HD95 and ASD 0, whatever the reference holds; "
        "this lowers the mean distance",
        "invented": "Dice 0, Jaccard 0, no distance; missed 1",
    },
}
"""What each figure means, as it stands in ``summary.json``."""


class Presence(Enum):
    """In which of the two maps a structure is."""

    BOTH = "both"
    MISSED = "missed"
    INVENTED = "invented"
    NEITHER = "neither"


@dataclass(frozen=True)
class CaseScore:
    """One structure in one case: a row of ``metrics.csv``.

    Attributes:
        case: Case id.
        class_name: Name of the class or region.
        dice: Fraction; NaN without a value.
        jaccard: Fraction; NaN without a value.
        hd95_mm: mm, under the published protocol voxels; NaN without a value.
        asd_mm: As ``hd95_mm``, from prediction to reference.
        missed: 1 where one of the two maps lacks the structure, else 0.
        protocol: ``honest`` or ``published``.
        presence: In which of the two maps the structure is.
        counts: Voxels by agreement.
    """

    case: str
    class_name: str
    dice: float
    jaccard: float
    hd95_mm: float
    asd_mm: float
    missed: int
    protocol: Protocol
    presence: Presence
    counts: OverlapCounts

    def as_row(self) -> dict[str, str | float | int]:
        """The columns of ``metrics.csv``; a cell without a value is empty."""
        figures = {
            name: "" if math.isnan(value) else value
            for name, value in (
                ("dice", self.dice),
                ("jaccard", self.jaccard),
                ("hd95_mm", self.hd95_mm),
                ("asd_mm", self.asd_mm),
            )
        }
        return {
            "case": self.case,
            "class": self.class_name,
            **figures,
            "missed": self.missed,
            "protocol": self.protocol,
        }


def check_protocol(protocol: str) -> Protocol:
    """Return ``protocol`` if there is one of this name, else raise ``InputError``."""
    for known in PROTOCOLS:
        if protocol == known:
            return protocol  # type: ignore[return-value]  # narrowed by the comparison
    raise InputError(f"there is no protocol {protocol!r}", "", f"Use {' or '.join(PROTOCOLS)}")


def score_case(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    spacing: Sequence[float],
    labels: Mapping[str, LabelIds],
    protocol: Protocol = "honest",
    *,
    case: str = "",
    ignore_label: int | None = None,
) -> list[CaseScore]:
    """Score all classes of one case.

    Args:
        prediction: ``(z, y, x)`` or ``(y, x)`` label map.
        reference: Same shape.
        spacing: mm in the order of the axes.
        labels: Class name to id, or to the ids of a region, as in ``dataset.json`` without
            background and ignore.
        protocol: ``honest`` or ``published``.
        case: Case id for the records.
        ignore_label: Voxels with this id in the reference are taken out of both maps.

    Returns:
        One record a class, in the order of ``labels``.

    Raises:
        ShapeError: The two maps differ in shape, or ``spacing`` does not fit them.
        InputError: There is no such protocol.
    """
    protocol = check_protocol(protocol)
    check_same_shape(prediction, reference)
    steps = check_spacing(spacing, reference.ndim)
    diagonal = image_diagonal_mm(reference.shape, steps)
    n_voxels = reference.size
    foreground = (prediction != 0) | (reference != 0)
    if ignore_label is not None:
        valid = reference != ignore_label
        n_voxels = int(np.count_nonzero(valid))
        foreground &= valid
        prediction, reference = prediction * valid, reference * valid
    if not any(0 in _id_list(ids) for ids in labels.values()):
        box = bounding_box(foreground)
        prediction, reference = prediction[box], reference[box]
    scores: list[CaseScore] = []
    for name, ids in labels.items():
        masks = mask_of(prediction, ids), mask_of(reference, ids)
        counts = count_overlap(*masks, n_voxels)
        figures = (
            _honest(*masks, counts, steps, diagonal)
            if protocol == "honest"
            else _published(*masks, counts)
        )
        presence = presence_of(counts)
        missed = int(presence in (Presence.MISSED, Presence.INVENTED))
        scores.append(CaseScore(case, name, *figures, missed, protocol, presence, counts))
    return scores


def mask_of(label_map: NDArray[np.integer], ids: LabelIds) -> BoolVolume:
    """Where the map holds the id, or any of the ids."""
    wanted = _id_list(ids)
    return label_map == wanted[0] if len(wanted) == 1 else np.isin(label_map, wanted)


def _id_list(ids: LabelIds) -> list[int]:
    return [ids] if isinstance(ids, int) else [int(value) for value in ids]


def presence_of(counts: OverlapCounts) -> Presence:
    """In which of the two maps the structure is."""
    if counts.n_pred and counts.n_ref:
        return Presence.BOTH
    if counts.n_ref:
        return Presence.MISSED
    return Presence.INVENTED if counts.n_pred else Presence.NEITHER


def absent_score(case: str, class_name: str, n_voxels: int, protocol: Protocol) -> CaseScore:
    """The record of a structure that is in neither map of a case with ``n_voxels`` voxels."""
    counts = OverlapCounts(0, 0, 0, n_voxels)
    value = math.nan if protocol == "honest" else 0.0
    return CaseScore(
        case, class_name, value, value, value, value, 0, protocol, Presence.NEITHER, counts
    )


def _honest(
    prediction: BoolVolume,
    reference: BoolVolume,
    counts: OverlapCounts,
    spacing: Sequence[float],
    diagonal: float,
) -> tuple[float, float, float, float]:
    presence = presence_of(counts)
    if presence is Presence.NEITHER:
        return math.nan, math.nan, math.nan, math.nan
    if presence is not Presence.BOTH:
        return 0.0, 0.0, diagonal, diagonal
    distances = surface_distances(prediction, reference, spacing)
    return counts.dice, counts.jaccard, distances.hd95, distances.asd


def _published(
    prediction: BoolVolume, reference: BoolVolume, counts: OverlapCounts
) -> tuple[float, float, float, float]:
    # the papers' programs look at the prediction alone: `if sum(prediction) == 0: 0, 0, 0, 0`
    if not counts.n_pred:
        return 0.0, 0.0, 0.0, 0.0
    if not counts.n_ref:  # their MedPy raises here; Dice is 0 and there is no distance
        return 0.0, 0.0, math.nan, math.nan
    distances = surface_distances(prediction, reference)
    return counts.dice, counts.jaccard, distances.hd95, distances.asd
