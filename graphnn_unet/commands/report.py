"""``gnnunet_report``: one page about a training, predictions, a comparison or a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command
from graphnn_unet.ranges import MAX_COUNT

_EPILOG = """\
SOURCE is one of
  a fold or a model     what was trained on what, its curves, scores and warnings
  a folder of label maps, as gnnunet_predict writes it; scored where gnnunet_evaluate was
  a comparison          the folder of gnnunet_benchmark
  a data set            its folder (raw or preprocessed), name or id: sizes, intensities, label
                        volumes, and what stands out

The page holds all it needs and asks no host for anything: it can be mailed and archived, with the
scans that are in it. Tables sort and filter, and chosen cases can be looked at in three planes.
"""


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_report",
        "Write one page that opens offline: what was done, what came out, what looks wrong.",
        _EPILOG,
        (
            "gnnunet_report LA -o data.html",
            "gnnunet_report predictions --images scans --labels labels",
            "gnnunet_report comparison --against BCPTrainer",
        ),
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, or the name of a data set")
    parser.add_argument(
        "-o", default="report.html", metavar="FILE", help="the page (default: report.html)"
    )
    parser.add_argument(
        "--cases", type=_command.number(int, 0, 100), default=3, metavar="N",
        help="cases in the viewer: worst, median, best, then the next worst; of a data set, what "
        "stands out (3; 0 for none)",
    )  # fmt: skip
    parser.add_argument(
        "--megabytes", type=_command.number(float, 0, MAX_COUNT), default=20.0, metavar="M",
        help="largest size of the page: volumes are thinned or left out beyond it (20)",
    )  # fmt: skip
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images (default: of the raw data set)"
    )
    parser.add_argument(
        "--labels", metavar="DIR", help="folder of the label maps (default: of the raw data set)"
    )
    parser.add_argument(
        "--against", metavar="ROW", help="row of a comparison that the others are compared with"
    )
    _command.add_workers(parser, "worker processes that read a data set (default: by its size)")
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.report.make import make_report

    _command.show_folders()
    page = make_report(
        arguments.source,
        arguments.o,
        cases=arguments.cases,
        megabytes=arguments.megabytes,
        images=arguments.images,
        labels=arguments.labels,
        against=arguments.against,
        n_workers=arguments.np,
    )
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
