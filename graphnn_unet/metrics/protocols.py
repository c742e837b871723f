"""What a structure scores in one case, under the two protocols.

Honest: a structure that is in neither map is left out and counted; one that is missed or invented
scores 0 in all overlaps and costs the diagonal of the image in mm. Published: the conventions of
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
    NSD_TOLERANCE_MM,
    bounding_box,
    check_spacing,
    image_diagonal_mm,
)
from graphnn_unet.metrics.overlap import (
    BoolVolume,
    OverlapCounts,
    check_same_shape,
    count_overlap,
)
from graphnn_unet.metrics.registry import METRICS, Comparison, Metric

Protocol = Literal["honest", "published"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
LabelIds = int | Sequence[int]
"""One id, or the ids that make up a region."""


class Presence(Enum):
    """In which of the two maps a structure is."""

    BOTH = "both"
    MISSED = "missed"
    INVENTED = "invented"
    NEITHER = "neither"


@dataclass(frozen=True)
class CaseScore:
    """One structure in one case: a row of ``metrics.csv``. ``score["dice"]`` is one value.

    Attributes:
        case: Case id.
        class_name: Name of the class or region.
        values: Measure of :data:`~graphnn_unet.metrics.registry.METRICS` to its value; NaN without
            one. Distances are in mm, under the published protocol in voxels.
        protocol: ``honest`` or ``published``.
        presence: In which of the two maps the structure is.
        counts: Voxels by agreement.
        is_picture: Whether the maps are pictures, whose pixels have no size in mm.
    """

    case: str
    class_name: str
    values: Mapping[str, float]
    protocol: Protocol
    presence: Presence
    counts: OverlapCounts
    is_picture: bool = False

    @property
    def distance_unit(self) -> str:
        """``mm``, ``voxel`` under the published protocol, ``pixel`` of pictures."""
        return "pixel" if self.is_picture else distance_unit(self.protocol)

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def as_row(self) -> dict[str, str | float | int]:
        """The columns of ``metrics.csv``; a cell without a value is empty."""
        return {
            "case": self.case,
            "class": self.class_name,
            **{name: "" if math.isnan(value) else value for name, value in self.values.items()},
            "distance_unit": self.distance_unit,
            "missed": int(self.presence is Presence.MISSED),
            "invented": int(self.presence is Presence.INVENTED),
            "protocol": self.protocol,
        }


def csv_columns() -> tuple[str, ...]:
    """Columns of ``metrics.csv``: one a measure, after case and class.

    Example:
        >>> csv_columns()[:3], csv_columns()[-4:]
        (('case', 'class', 'dice'), ('distance_unit', 'missed', 'invented', 'protocol'))
    """
    return ("case", "class", *METRICS, "distance_unit", "missed", "invented", "protocol")


def distance_unit(protocol: Protocol) -> str:
    """Unit of all distances: ``mm``, or ``voxel`` under the published protocol."""
    return "mm" if protocol == "honest" else "voxel"


def definitions(protocol: Protocol) -> dict[str, str]:
    """What each figure means, as it stands in ``summary.json``."""
    texts = {metric.key: metric.definition for metric in METRICS.values()} | {
        "surface": "voxels inside with a face neighbor outside; beyond the image is outside",
        "ignore": "voxels with the ignore label in the reference are taken out of both maps",
        "mean": "over cases, then over classes",
    }
    if protocol == "honest":
        return texts | {
            "distance unit": "mm",
            "absent in both": "no value; left out of the mean of that class and counted",
            "missed or invented": "the worst value of each measure: overlaps 0, distances the "
            "diagonal of the image, VolumeError -1 where missed and no value where invented",
        }
    return texts | {
        "distance unit": "voxels (the papers' programs pass no spacing)",
        "empty prediction": "Dice, Jaccard, HD95 and ASD 0, whatever the reference holds; "
        "this lowers the mean distance",
        "invented": "Dice 0, Jaccard 0, no distance",
        "other measures": "no value: the papers' programs do not report them",
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
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
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
        nsd_tolerance_mm: Tolerance of the surface Dice.

    Returns:
        One record a class, in the order of ``labels``.

    Raises:
        ShapeError: The two maps differ in shape, or ``spacing`` does not fit them.
        InputError: There is no such protocol.

    Example:
        >>> prediction, reference = np.zeros((2, 4, 4), dtype=np.uint8)
        >>> prediction[1, 1:3] = reference[1, 1:4] = 1
        >>> reference[3] = 2
        >>> liver, tumor = score_case(
        ...     prediction, reference, spacing=(3.0, 1.0), labels={"liver": 1, "tumor": 2}
        ... )
        >>> liver["dice"], liver["recall"].__round__(3), tumor["hd95"], tumor.presence.value
        (0.8, 0.667, 12.649110640673518, 'missed')
    """
    protocol = check_protocol(protocol)
    check_same_shape(prediction, reference)
    steps = check_spacing(spacing, reference.ndim)
    diagonal = image_diagonal_mm(reference.shape, steps)
    n_voxels = reference.size
    if protocol == "honest":
        prediction, reference, steps = _without_single_slice(prediction, reference, steps)
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
        if (presence := presence_of(counts)) is Presence.BOTH:
            spacing_or_none = steps if protocol == "honest" else None
            structure = Comparison(*masks, spacing_or_none, counts, nsd_tolerance_mm)
            values = {
                m.name: m.function(structure)
                if protocol == "honest" or m.is_published
                else math.nan
                for m in METRICS.values()
            }
        else:
            values = _without_measuring(presence, protocol, diagonal)
        scores.append(CaseScore(case, name, values, protocol, presence, counts))
    return scores


def _without_single_slice(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], steps: tuple[float, ...]
) -> tuple[NDArray[np.integer], NDArray[np.integer], tuple[float, ...]]:
    """The plane of a volume of one slice, all of whose voxels would be surface."""
    size = reference.shape
    if len(size) < 3 or sorted(size)[:2].count(1) != 1:
        return prediction, reference, steps
    axis = size.index(1)
    flat = steps[:axis] + steps[axis + 1 :]
    return prediction.squeeze(axis), reference.squeeze(axis), flat


def mask_of(label_map: NDArray[np.integer], ids: LabelIds) -> BoolVolume:
    """Where a ``(z, y, x)`` map holds the id, or any of the ids; same shape.

    Example:
        >>> mask_of(np.array([[0, 1, 2, 3]]), [1, 2])
        array([[False,  True,  True, False]])
    """
    wanted = _id_list(ids)
    return label_map == wanted[0] if len(wanted) == 1 else np.isin(label_map, wanted)


def _id_list(ids: LabelIds) -> list[int]:
    return [ids] if isinstance(ids, int) else [int(value) for value in ids]


def presence_of(counts: OverlapCounts) -> Presence:
    """In which of the two maps the structure is.

    Example:
        >>> presence_of(OverlapCounts(tp=0, fp=0, fn=5, tn=10))
        <Presence.MISSED: 'missed'>
    """
    if counts.n_pred and counts.n_ref:
        return Presence.BOTH
    if counts.n_ref:
        return Presence.MISSED
    return Presence.INVENTED if counts.n_pred else Presence.NEITHER


def absent_score(case: str, class_name: str, n_voxels: int, protocol: Protocol) -> CaseScore:
    """The record of a structure that is in neither map of a case with ``n_voxels`` voxels."""
    values = _without_measuring(Presence.NEITHER, protocol, math.nan)
    counts = OverlapCounts(0, 0, 0, n_voxels)
    return CaseScore(case, class_name, values, protocol, Presence.NEITHER, counts)


def _without_measuring(presence: Presence, protocol: Protocol, diagonal: float) -> dict[str, float]:
    """Values of a structure that is in one map or in none."""
    convention = _honest if protocol == "honest" else _published
    return {name: convention(metric, presence, diagonal) for name, metric in METRICS.items()}


def _honest(metric: Metric, presence: Presence, diagonal: float) -> float:
    if presence is Presence.NEITHER or (presence is Presence.INVENTED and metric.needs_reference):
        return math.nan
    return diagonal if metric.worst is None else metric.worst


def _published(metric: Metric, presence: Presence, diagonal: float) -> float:
    if not metric.is_published:
        return math.nan
    # the papers' programs look at the prediction alone: `if sum(prediction) == 0: 0, 0, 0, 0`;
    # their MedPy raises where the reference is empty: Dice is 0 and there is no distance
    return math.nan if presence is Presence.INVENTED and metric.unit == "distance" else 0.0
