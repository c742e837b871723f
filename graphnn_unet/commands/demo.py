"""``gnnunet_demo``: the whole flow on synthetic scans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command
from graphnn_unet.ranges import MAX_SEED


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_demo",
        "Make a small data set (2 labeled, 20 unlabeled, 10 test scans) and run convert, plan, "
        "train,\npredict and evaluate on it, with and without the unlabeled scans. About seven "
        "minutes on two cores.",
        examples=("gnnunet_demo", "gnnunet_demo -o my_demo -device cpu"),
    )
    parser.add_argument(
        "-o", default="gnnunet_demo", metavar="DIR", help="new folder (default: ./gnnunet_demo)"
    )
    parser.add_argument("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    parser.add_argument(
        "--seed",
        type=_command.number(int, 0, MAX_SEED),
        default=0,
        metavar="N",
        help="other patients (default: 0)",
    )
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.progress import say
    from graphnn_unet.report.demo import demo

    result = demo(arguments.o, arguments.device, seed=arguments.seed)
    print(f"\nfinished in {result.seconds / 60:.1f} min")
    rows = [
        (
            r.trainer,
            f"{r.dice.value:.3f}",
            f"{r.dice.low:.3f} to {r.dice.high:.3f}",
            f"{r.hd95_mm.value:.1f}",
            f"{r.hd95_mm.low:.1f} to {r.hd95_mm.high:.1f}",
            f"{r.train_s:.0f}",
        )
        for r in result.results
    ]
    _command.print_table(
        ("trainer", "Dice", "95 % interval", "95HD mm", "95 % interval", "training s"), rows
    )
    print(
        "\n2 labeled scans, made so that unlabeled ones pay; gnnunet_choose tells what they "
        "bring on your own"
    )
    print(f"worst, median and best scan: {result.overlay}")
    print(f"label maps and metrics.csv: {result.folder / 'predictions'}")
    say("next: gnnunet_convert nifti --images SCANS --labels LABELS -d MyStudy --dry-run")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
