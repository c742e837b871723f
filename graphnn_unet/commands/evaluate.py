"""``gnnunet_evaluate``: score a folder of predictions against a folder of label maps."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphnn_unet.commands import _command

if TYPE_CHECKING:
    from graphnn_unet.metrics.registry import Metric
    from graphnn_unet.metrics.result import EvaluationResult
    from graphnn_unet.metrics.unsupervised import UnsupervisedResult

_EPILOG = """\
Label maps of pictures (PNG, TIFF, BMP) are measured in pixels.

honest     mm; a structure that is missed or invented scores 0 and costs the diagonal of the
           image; one that is in neither map is left out and counted ("absent")
published  as the programs behind the published tables do it: voxels, an empty prediction
           scores 0 in everything; only for comparison with those tables. They have dice,
           jaccard, hd95 and asd; the other measures stay empty

--unsupervised scores clusters, which have no names: as foreground and background, or matched one
to one to the classes of the reference (hungarian); IoU and Dice as means over images. There,
published selects the foreground by the reference, as the published programs do: an oracle.

Writes metrics.csv and summary.json, and failures.csv where cases could not be scored. Those of
another evaluation stay: give another DIR, or --overwrite.
Exit status: 0 done, 2 nothing could be scored, 3 some cases could not.
"""


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_evaluate",
        "Score predicted label maps: overlaps, surface distances and volumes, with intervals.",
        _EPILOG,
        (
            "gnnunet_evaluate -p predictions -g labels",
            "gnnunet_evaluate -p predictions -g labels -o scores --measures dice nsd "
            "--nsd-tolerance 1",
            "gnnunet_evaluate -p clusters -g masks --unsupervised hungarian",
        ),
    )
    parser.add_argument("-p", required=True, metavar="PREDICTIONS", help="folder of predictions")
    parser.add_argument(
        "-g", required=True, metavar="LABELS", help="folder of reference label maps (ground truth)"
    )
    parser.add_argument("-o", metavar="DIR", help="folder for the results (default: PREDICTIONS)")
    parser.add_argument(
        "--protocol",
        choices=("honest", "published"),
        default="honest",
        help="how missing structures and distances count (default: honest)",
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        metavar="NAME",
        help="measures to print, by their columns in metrics.csv, which holds all of them: nsd, "
        "volume_error ... (default: dice jaccard hd95 asd)",
    )
    parser.add_argument(
        "--nsd-tolerance",
        type=_command.number(float, 0, above=False),
        metavar="MM",
        help="tolerance of the surface Dice (nsd) in mm (default: 2)",
    )
    parser.add_argument(
        "-djfile",
        metavar="FILE",
        help="dataset.json with the names of the classes (default: the nearest of PREDICTIONS, "
        "else of LABELS, up to two folders above; without any, each id is a class)",
    )
    parser.add_argument(
        "--unsupervised",
        nargs="?",
        const="foreground",
        choices=("foreground", "hungarian"),
        help="score label maps of gnnunet_cluster, PNG among them (default way: foreground)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="take the place of another evaluation in DIR"
    )
    _command.add_workers(parser, low=1, cluster=True)
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.metrics.distance import NSD_TOLERANCE_MM
    from graphnn_unet.metrics.evaluate import PartlyEvaluatedError, evaluate
    from graphnn_unet.metrics.registry import SHOWN, metrics_of
    from graphnn_unet.progress import say

    measures = metrics_of(arguments.measures or SHOWN)
    output = arguments.o or arguments.p
    say(f"folders: predictions={arguments.p} labels={arguments.g} output={output}")
    if arguments.unsupervised:
        _work_unsupervised(arguments)
        return
    tolerance = arguments.nsd_tolerance
    try:
        result = evaluate(
            arguments.p,
            arguments.g,
            arguments.o,
            arguments.protocol,
            dataset_json=arguments.djfile,
            n_workers=0 if arguments.np == 1 else arguments.np,
            nsd_tolerance_mm=NSD_TOLERANCE_MM if tolerance is None else tolerance,
            overwrite=arguments.overwrite,
        )
    except PartlyEvaluatedError as error:
        _show(error.result, measures)
        raise
    _show(result, measures)


def _work_unsupervised(arguments: argparse.Namespace) -> None:
    from graphnn_unet.errors import InputError
    from graphnn_unet.metrics.unsupervised import PartlyPredictedError, evaluate_unsupervised

    for flag, value, why in (
        ("-djfile", arguments.djfile, "clusters have no names"),
        ("--measures", arguments.measures, "it prints IoU and Dice"),
        ("--nsd-tolerance", arguments.nsd_tolerance, "it measures no surfaces"),
        ("--cluster", arguments.cluster, "overlaps take no time"),
    ):
        if value is not None:
            raise InputError(f"{flag} does not go with --unsupervised", why)
    try:
        result = evaluate_unsupervised(
            arguments.p,
            arguments.g,
            arguments.o,
            arguments.protocol,
            matching=arguments.unsupervised,
            overwrite=arguments.overwrite,
        )
    except PartlyPredictedError as error:
        _show_unsupervised(error.result)
        raise
    _show_unsupervised(result)


def _show_unsupervised(result: UnsupervisedResult) -> None:
    from graphnn_unet.progress import counted, say

    oracle = (
        ", foreground selected by the reference (oracle)" if result.protocol == "published" else ""
    )
    print(
        f"protocol {result.protocol}, {result.matching}, {counted(result.n_cases, 'image')}{oracle}"
    )
    rows = [
        [name, _number(value, 4), *(_number(end, 4) for end in interval)]
        for name, value, interval in (
            ("mIoU", result.mean_iou, result.iou_interval),
            ("Dice", result.mean_dice, result.dice_interval),
        )
    ]
    _command.print_table(["mean over images", "value", "95 % from", "to"], rows)
    _show_few(result.n_cases, "image")
    if result.faults:
        print(f"{len(result.faults)} without a usable prediction count with 0 (failures.csv)")
    say(f"wrote {result.metrics_csv} and summary.json")


def _show(result: EvaluationResult, measures: Sequence[Metric]) -> None:
    from graphnn_unet.progress import say

    unit = result.distance_unit
    n_cases = f"{result.n_cases} case{'s' * (result.n_cases != 1)}"
    tolerance = f"{result.nsd_tolerance_mm:g} {'pixel' if unit == 'pixel' else 'mm'}"
    nsd = f", nsd at {tolerance}" * any(m.name == "nsd" for m in measures)
    print(f"protocol {result.protocol}, {n_cases}, distances in {unit}{nsd}")
    print(_table(result, measures))
    _show_few(result.n_cases, "case")
    if result.is_estimate is False:
        print("These cases trained the model: the figures do not estimate its quality.")
    if result.faults:
        failed = len({fault.case for fault in result.faults})
        print(
            f"{failed} case{'s' * (failed != 1)} could not be scored and "
            f"{'are' if failed != 1 else 'is'} in none of these figures (failures.csv)"
        )
    say(f"wrote {result.metrics_csv} and {result.summary_json.name}")


def _show_few(n: int, noun: str) -> None:
    """A line under the table where its interval is one of few cases; a single one has none."""
    from graphnn_unet.metrics.intervals import MIN_PATIENTS, too_few

    if 1 < n < MIN_PATIENTS:
        print(f"The 95 % interval decides nothing: {too_few(n, noun)}.")


def _table(result: EvaluationResult, measures: Sequence[Metric]) -> str:
    head = ["class", "n", *(metric.heading(result.distance_unit) for metric in measures)]
    rows = [[*head, "missed", "invented", "absent"]]
    for summary in (*result.classes, result.mean):
        values = [_number(summary[metric.name].value, metric.digits) for metric in measures]
        counts = (summary.n_missed, summary.n_invented, summary.n_absent_in_both)
        rows.append([summary.name, str(summary.n), *values, *map(str, counts)])
    for end, word in (("low", "from"), ("high", "to")):
        estimates = [(getattr(result.mean[metric.name], end), metric.digits) for metric in measures]
        ends = [_number(value, digits) for value, digits in estimates]
        rows.append([f"95 % interval {word}", "", *ends, "", "", ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-3], rule, *lines[-3:]])


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
