"""The result of an evaluation, and the files it is kept in."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphnn_unet._version import __version__
from graphnn_unet.deprecation import deprecated_name
from graphnn_unet.errors import Fault, MissingFileError
from graphnn_unet.images.find import all_parts
from graphnn_unet.metrics import intervals
from graphnn_unet.metrics.aggregate import ClassSummary, finite_or_none
from graphnn_unet.metrics.labels import LabelTable, summary_key
from graphnn_unet.metrics.protocols import (
    CaseScore,
    Protocol,
    check_protocol,
    csv_columns,
    definitions,
    distance_unit,
)
from graphnn_unet.metrics.registry import METRICS
from graphnn_unet.storage.atomic import fingerprint, write_csv, write_json
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.failures import FAILURES, write_failures
from graphnn_unet.storage.safe_load import read_table

SCHEMA_VERSION = 1
STAGE = "evaluate"
"""Of faults of an evaluation."""
SUMMARY_JSON = "summary.json"

_NNUNET_KEYS = {"Jaccard": "IoU"}
_OLD_COLUMNS = {"hd95_mm": "hd95", "asd_mm": "asd"}
_OLD_COLUMN = deprecated_name(
    "column hd95_mm",
    since="0.1",
    removed="0.3",
    use="hd95 and distance_unit, which gnnunet_evaluate writes",
)


@dataclass(frozen=True)
class CaseFiles:
    """The two files of one case."""

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of one folder of predictions.

    Attributes:
        protocol: ``honest`` or ``published``.
        nsd_tolerance_mm: Tolerance of the surface Dice.
        scores: One record a case and class, as in ``metrics.csv``.
        classes: One summary a class.
        mean: The mean over classes.
        n_cases: Cases that were scored.
        faults: Cases that were not, and why.
        is_estimate: Whether the figures estimate the quality on new cases: ``False`` when the
            scored cases trained the model, ``None`` when that cannot be told from here.
        metrics_csv: Where the records stand.
        summary_json: Where means, counts, intervals and definitions stand.
    """

    protocol: Protocol
    nsd_tolerance_mm: float
    scores: tuple[CaseScore, ...]
    classes: tuple[ClassSummary, ...]
    mean: ClassSummary
    n_cases: int
    faults: tuple[Fault, ...]
    is_estimate: bool | None
    metrics_csv: Path
    summary_json: Path

    @property
    def distance_unit(self) -> str:
        """Unit of all distances: ``mm``, ``voxel`` (published protocol) or ``pixel`` (pictures)."""
        units = {score.distance_unit for score in self.scores}
        return units.pop() if len(units) == 1 else distance_unit(self.protocol)


def read_metrics_csv(path: Path | str) -> list[dict[str, str]]:
    """Rows of a ``metrics.csv``, or of a table of several with more columns; cells as text.

    A file of before version 0.1 comes back with today's columns and a ``FutureWarning``. Its
    distances were in voxels under the published protocol, whatever its columns said, and its
    ``missed`` counted invented structures too: where it is 1, ``invented`` is empty (not known).

    Raises:
        MissingFileError: There is no such file.
        ExpiredError: Columns of before version 0.1, from version 0.3 on.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} is missing")
    rows = read_csv(path)
    if not rows or not _OLD_COLUMNS.keys() & rows[0].keys():
        return rows
    _OLD_COLUMN.warn(str(path))
    return [_renewed(row) for row in rows]


def _renewed(old: Mapping[str, str]) -> dict[str, str]:
    row = {_OLD_COLUMNS.get(name, name): cell for name, cell in old.items()}
    row["distance_unit"] = distance_unit(check_protocol(row["protocol"]))
    row["invented"] = "" if int(row["missed"]) else "0"
    columns = csv_columns()
    more = {name: cell for name, cell in row.items() if name not in columns}
    return more | {name: row.get(name, "") for name in columns}


def changed_since_scored(folder: Path) -> list[str]:
    """Label maps of a folder that are others than those of which its scores are.

    Args:
        folder: Of label maps, with ``summary.json`` where they were scored.

    Returns:
        Names of files; none where the summary of a former version has no checksums.

    Raises:
        InputError: The summary is damaged.
    """
    known = _scored(folder, "prediction")
    there = ((name, folder / name) for name in known)
    return [name for name, file in there if file.is_file() and _checksum(file) != known[name]]


def _checksum(label_map: Path) -> int:
    """CRC-32 of a label map, of all its files where it has several (``.mhd`` and ``.raw``)."""
    return fingerprint(all_parts([label_map]))["crc32"]


def scored_references(folder: Path) -> dict[str, int]:
    """File name to CRC-32 of the label maps that predictions were scored on.

    Args:
        folder: With ``summary.json``; none where there is none, or one of a former version.

    Raises:
        InputError: The summary is damaged.
    """
    return _scored(folder, "reference")


def _scored(folder: Path, kind: Literal["prediction", "reference"]) -> dict[str, int]:
    """File name to CRC-32 of one side of what was scored; none of a former version."""
    path, file, crc32 = folder / SUMMARY_JSON, f"{kind}_file", f"{kind}_crc32"
    scored: list[dict[str, Any]] = (
        read_table(path).get("metric_per_case", []) if path.is_file() else []
    )
    return {Path(row[file]).name: row[crc32] for row in scored if {file, crc32} <= row.keys()}


def write_result(
    result: EvaluationResult,
    files: Sequence[CaseFiles],
    table: LabelTable,
    folders: Mapping[str, Path],
    reason: str,
) -> None:
    """Write ``metrics.csv``, ``summary.json`` and, where cases failed, ``failures.csv``.

    ``reason`` says why ``is_estimate`` is what it is.
    """
    write_csv(result.metrics_csv, (score.as_row() for score in result.scores), csv_columns())
    scored = {score.case for score in result.scores}
    target = result.metrics_csv.with_name(FAILURES)
    write_failures(target, result.faults, stage=STAGE, done=scored)
    write_json(
        result.summary_json,
        {
            **_nnunet_part(result, files, table),
            "schema_version": SCHEMA_VERSION,
            "protocol": result.protocol,
            "distance_unit": result.distance_unit,
            "nsd_tolerance_mm": result.nsd_tolerance_mm,
            "is_estimate": result.is_estimate,
            "is_estimate_because": reason,
            "n_cases": result.n_cases,
            "failed_cases": sorted({fault.case for fault in result.faults}),
            "classes": {
                summary.name: {
                    "key": summary_key(table.classes[summary.name]),
                    **summary.as_dict(),
                }
                for summary in result.classes
            },
            "mean_over_classes": result.mean.as_dict(),
            "intervals": {
                "level": intervals.LEVEL,
                "method": intervals.METHOD,
                "n_resamples": intervals.N_RESAMPLES,
                "seed": intervals.SEED,
            },
            "measures": {
                metric.key: {
                    "column": metric.name,
                    "unit": result.distance_unit if metric.unit == "distance" else metric.unit,
                    "best": metric.best,
                    "worst": "diagonal of the image" if metric.worst is None else metric.worst,
                }
                for metric in METRICS.values()
            },
            "definitions": definitions(result.protocol) | _pixels(result),
            "inputs": {
                **{name: str(path) for name, path in folders.items()},
                "dataset_json": str(table.source) if table.source else None,
                "ignore_label": table.ignore,
            },
            "versions": _versions(),
        },
    )


def _pixels(result: EvaluationResult) -> dict[str, str]:
    """What distances mean for pictures."""
    if result.distance_unit != "pixel":
        return {}
    return {"distance unit": "pixels, nsd_tolerance_mm too: pictures have no size in mm"}


def _nnunet_part(
    result: EvaluationResult, files: Sequence[CaseFiles], table: LabelTable
) -> dict[str, object]:
    """The keys of nnU-Net's own ``summary.json``, so that its readers find what they look for.

    A figure that does not exist is null here and NaN in nnU-Net's file, which is not valid JSON.
    """
    keys = {name: summary_key(ids) for name, ids in table.classes.items()}
    by_case: dict[str, dict[str, dict[str, float | None]]] = {}
    for score in result.scores:
        by_case.setdefault(score.case, {})[keys[score.class_name]] = _nnunet_figures(score)
    per_case = [
        {
            "metrics": by_case[pair.case],
            "prediction_file": str(pair.prediction),
            "prediction_crc32": _checksum(pair.prediction),
            "reference_file": str(pair.reference),
            "reference_crc32": _checksum(pair.reference),
        }
        for pair in files
    ]
    means = {
        key: _mean_by_name([metrics[key] for metrics in by_case.values()]) for key in keys.values()
    }
    return {
        "foreground_mean": _mean_by_name([*means.values()]),
        "mean": means,
        "metric_per_case": per_case,
    }


def _nnunet_figures(score: CaseScore) -> dict[str, float | None]:
    counts = score.counts
    return {
        **{_NNUNET_KEYS.get(m.key, m.key): finite_or_none(score[m.name]) for m in METRICS.values()},
        "TP": counts.tp,
        "FP": counts.fp,
        "FN": counts.fn,
        "TN": counts.tn,
        "n_pred": counts.n_pred,
        "n_ref": counts.n_ref,
    }


def _mean_by_name(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in figures[0]:
        values = [row[name] for row in figures if row[name] is not None]
        means[name] = float(np.mean(np.array(values, dtype=float))) if values else None
    return means


def _versions() -> dict[str, str]:
    libraries = ("numpy", "scipy", "nibabel", "SimpleITK")
    return {
        "graphnn_unet": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in libraries},
    }
