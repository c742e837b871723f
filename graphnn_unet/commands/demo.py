"""``gnnunet_demo``: the whole flow on synthetic scans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_demo",
        "Make a small data set (4 labeled, 12 unlabeled, 6 test scans) and run convert, plan, "
        "train,\npredict and evaluate on it, with and without the unlabeled scans.",
        examples=("gnnunet_demo", "gnnunet_demo -o my_demo -device cpu"),
    )
    parser.add_argument(
        "-o", default="gnnunet_demo", metavar="DIR", help="new folder (default: ./gnnunet_demo)"
    )
    parser.add_argument("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.report.demo import demo

    result = demo(arguments.o, arguments.device)
    print(
        f"\nfinished in {result.seconds / 60:.1f} min; 6 test scans, one seed: a try-out, no proof"
    )
    rows = [
        (r.trainer, f"{r.dice:.3f}", f"{r.hd95_mm:.1f}", f"{r.train_s:.0f}") for r in result.results
    ]
    _command.print_table(("trainer", "Dice", "95HD mm", "training s"), rows)
    for trainer_result in result.results:
        print(f"\n{trainer_result.trainer}")
        print(f"  predictions {trainer_result.predictions}")
        print(f"  metrics     {trainer_result.metrics}")
        print(f"  overlay     {trainer_result.overlay}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
