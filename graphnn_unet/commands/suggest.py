"""``gnnunet_suggest``: which scans to label next."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_suggest",
        "Suggest unlabeled scans to label next, and name as many at random beside them. Without a "
        "model: scans\nthat stand for the others. With one: scans that it is uncertain about, "
        "class by class.",
        "Whether the suggested list is better than the random one depends on the data; nothing is "
        "promised.\nWrites OUT/suggestions.csv and, with a model, OUT/predictions, to be "
        "corrected.\n",
        (
            "gnnunet_suggest -d MyStudy --count 5",
            "gnnunet_suggest -d MyStudy -m MODEL --count 5 --slices 8 -o next_round",
        ),
    )
    add = parser.add_argument
    add("-d", required=True, metavar="DATASET", help="name or id of the data set")
    add("-m", metavar="MODEL", help="model folder; without it scans are chosen by their images")
    add("--count", type=_command.number(int, 1), required=True, metavar="N", help="scans of each "
        "list")  # fmt: skip
    add("--slices", type=_command.number(int, 1), metavar="K",
        help="also name K slices of each scan, at equal distances across the axis with the largest "
        "spacing (gnnunet_convert --sparse-slices takes the table)")  # fmt: skip
    text = "folder to write to (default: DATASET_suggestions, in later rounds with _round_2 ...)"
    add("-o", metavar="OUT", help=text)
    add("--round", type=_command.number(int, 1), metavar="R",
        help="round of labeling, from 1; noise on the model's scores decays with it (default: by "
        "the corrected masks of the data set)")  # fmt: skip
    add("--disable_tta", action="store_true", help="the model predicts without mirrored copies "
        "(8 x faster)")  # fmt: skip
    add("--seed", type=_command.number(int), default=0, help="of the random list and of the noise")
    add("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    _command.add_workers(parser)
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.images.as_predicted import EDITING
    from graphnn_unet.models.suggest import suggest
    from graphnn_unet.progress import counted, say

    _command.show_folders()
    result = suggest(
        arguments.d,
        count=arguments.count,
        model=arguments.m,
        slices=arguments.slices,
        output=arguments.o,
        round_number=arguments.round,
        mirroring=not arguments.disable_tta,
        seed=arguments.seed,
        device=arguments.device,
        n_workers=arguments.np,
    )
    head = ["list", "rank", "case", "score", "why"]
    head += ["axis", "slices"] if arguments.slices else []
    rows = [
        [
            row.list,
            str(row.rank),
            row.case,
            "-" if row.score is None else f"{row.score:.4g}",
            row.why,
            *([row.axis, " ".join(map(str, row.slices))] if arguments.slices else []),
        ]
        for row in result.suggestions
    ]
    _command.print_table(head, rows)
    scans = counted(arguments.count, "scan")
    print(f"{result.dataset}: {scans} suggested, as many at random: {result.table}")
    if in_both := [case for case in result.cases() if case in result.cases("random")]:
        print(f"{counted(len(in_both), 'scan')} in both lists: {', '.join(in_both)}")
    say("neither list is promised to be the better one")
    name = result.dataset.partition("_")[2]
    edited = "EDITED_MASKS" if result.predictions is None else result.predictions / EDITING
    _command.say_next("gnnunet_convert", "--add-corrected", edited, "-d", name)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
