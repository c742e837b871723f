"""``gnnunet_plan_and_preprocess``: check, fingerprint, plan, preprocess."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_plan_and_preprocess",
        "Check a raw data set, plan patch size, network and batch, and preprocess labeled and "
        "unlabeled cases.",
        examples=(
            "gnnunet_plan_and_preprocess -d MyStudy",
            "gnnunet_plan_and_preprocess -d 501 -c 3d_fullres --recipe quick -np 4",
        ),
    )
    parser.add_argument(
        "-d", nargs="+", action="extend", required=True, metavar="DATASET", help="names or ids"
    )
    parser.add_argument(
        "-c", nargs="+", action="extend", metavar="CONF",
        help="configurations to preprocess: 2d 3d_fullres 3d_lowres (default: all planned, or the "
        "recipe's own)",
    )  # fmt: skip
    parser.add_argument("--recipe", help="recipe name (la, acdc, pancreas, quick ...) or TOML file")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
        help="single recipe values, e.g. --set plan.patch_size=[64,96,96]",
    )  # fmt: skip
    parser.add_argument(
        "--planner", default="default", choices=["default", "resenc_m", "resenc_l", "resenc_xl"],
        help="nnU-Net's plain U-Net or its residual encoder planners",
    )  # fmt: skip
    _command.add_workers(parser, cluster=True)
    parser.add_argument(
        "--skip-faulty", action="store_true", help="leave faulty cases out instead of stopping"
    )
    parser.add_argument(
        "--allow-origin-mismatch", action="store_true",
        help="accept label maps whose origin differs from the image's",
    )  # fmt: skip
    parser.add_argument(
        "--scan-graph", action="store_true",
        help="register the scans with each other (seconds a pair) and let the labeled ones vote on "
        "each other, one left out at a time; where that works, trainings use the votes",
    )  # fmt: skip
    parser.add_argument(
        "--replan", action="store_true",
        help="plan anew although the data set has corrected cases, for which its plan is kept",
    )  # fmt: skip
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.storage.processes import import_for_workers

    n_workers = None if arguments.np is None else (0 if arguments.np == 1 else arguments.np)
    import_for_workers(n_workers)
    from graphnn_unet.data.plan_and_preprocess import plan_and_preprocess

    _command.show_folders()
    result = None
    for dataset in arguments.d:
        result = plan_and_preprocess(
            dataset,
            configurations=arguments.c,
            recipe=arguments.recipe,
            overrides=arguments.overrides,
            planner=arguments.planner,
            n_workers=n_workers,
            skip_faulty=arguments.skip_faulty,
            allow_origin_mismatch=arguments.allow_origin_mismatch,
            scan_graph=arguments.scan_graph,
            replan=arguments.replan,
        )
        print(
            f"{result.dataset}: {result.n_labeled} labeled and {result.n_unlabeled} unlabeled "
            f"cases, plan {result.plans_file}"
        )
        head = ("configuration", "spacing (mm)", "patch", "batch", "stages", "GPU memory", "ready")
        rows = [
            (
                c.name,
                "x".join(f"{s:.3g}" for s in c.spacing),
                "x".join(map(str, c.patch_size)),
                f"{c.batch[0]}+{c.batch[1]}",
                str(c.n_stages),
                f"{c.memory_gb:.1f} GB",
                "yes" if c.preprocessed else "no",
            )
            for c in result.configurations
        ]
        _command.print_table(head, rows)
        for note in result.notes:
            print(f"  {note}")
    if result is not None and result.configurations:
        ready = [c.name for c in result.configurations if c.preprocessed]
        _command.say_next(
            "gnnunet_train",
            result.dataset.partition("_")[2],
            "3d_fullres" if "3d_fullres" in ready else ready[0],
            "GraphCLTrainer" if result.n_unlabeled else "SupervisedTrainer",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
