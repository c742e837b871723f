"""``gnnunet_demo``: the whole flow on synthetic scans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_demo",
        "Make a small data set (4 labeled, 12 unlabeled, 6 test scans) and run convert, plan, "
        "train,\npredict and evaluate on it, with and without the unlabeled scans. About four "
        "minutes on two cores.",
        examples=("gnnunet_demo", "gnnunet_demo -o my_demo -device cpu"),
    )
    parser.add_argument(
        "-o", default="gnnunet_demo", metavar="DIR", help="new folder (default: ./gnnunet_demo)"
    )
    parser.add_argument("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.progress import say
    from graphnn_unet.report.demo import demo

    result = demo(arguments.o, arguments.device)
    print(f"\nfinished in {result.seconds / 60:.1f} min")
    rows = [
        (
            r.method,
            f"{r.dice.value:.3f}",
            f"{r.dice.low:.3f} to {r.dice.high:.3f}",
            f"{r.hd95_mm.value:.1f}",
            f"{r.hd95_mm.low:.1f} to {r.hd95_mm.high:.1f}",
            f"{r.train_s:.0f}",
        )
        for r in result.results
    ]
    _command.print_table(
        ("method", "Dice", "95 % interval", "95HD mm", "95 % interval", "training s"), rows
    )
    print(
        "\n6 scans, one seed, 400 steps: this shows the way, not which method is better; "
        "gnnunet_choose tells that of your own scans"
    )
    print(f"worst, median and best scan: {result.overlay}")
    print(f"label maps and metrics.csv: {result.folder / 'predictions'}")
    say("next: gnnunet_convert nifti --images SCANS --labels LABELS -d MyStudy --dry-run")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
