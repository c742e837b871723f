"""``gnnunet_train``: train a method on a planned data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    made = _command.parser(
        "gnnunet_train",
        "Train a segmentation model on labelled and unlabelled cases.",
        "trainers:\n"
        "  SupervisedTrainer  labelled cases alone, with copy-paste among them (the baseline)\n"
        "  BCPTrainer         mean teacher on images mixed from labelled and unlabelled cases\n"
        "  GraphCLTrainer     BCP with graph alignment in the encoder and a clustering loss\n"
        "  path/to/file.py:MyTrainer, or a trainer of an installed package",
    )
    made.add_argument("dataset", help="name or id of the data set")
    made.add_argument("configuration", help="2d, 3d_fullres or 3d_lowres")
    made.add_argument("trainer", help="see below")
    made.add_argument(
        "fold", nargs="?", default="all", help="0-4, all (default) or cv (all folds, then summary)"
    )
    made.add_argument(
        "--labeled", type=int, metavar="N", help="count N labelled cases as labelled, the rest not"
    )
    made.add_argument(
        "--draw", type=int, default=0, metavar="K", help="which N: 0 = published order (default)"
    )
    made.add_argument("--seed", type=int, default=0, help="seed of weights and batches (0)")
    made.add_argument("--recipe", help="recipe name or TOML file, in place of the plan's")
    made.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
        help="single recipe values, e.g. --set schedule.selftrain_steps=5000",
    )  # fmt: skip
    made.add_argument("-p", default="gnnunetPlans", metavar="PLANS", help="name of the plan")
    mode = made.add_mutually_exclusive_group()
    mode.add_argument("--c", action="store_true", help="continue an interrupted training")
    mode.add_argument(
        "--restart", action="store_true", help="train anew; old results are set aside"
    )
    mode.add_argument("--val", action="store_true", help="only predict and score validation cases")
    made.add_argument("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    made.add_argument("-num_gpus", type=int, default=1, help="GPUs of this machine to use (1)")
    made.add_argument(
        "--output", metavar="DIR", help="model folder, instead of the usual one in nnUNet_results"
    )
    made.add_argument("--workers", type=int, metavar="N", help="processes that make batches")
    made.add_argument("--deterministic", action="store_true", help="bitwise repeatable on CUDA")
    return made


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.trainers.run import train, validation_means
    from graphnn_unet.trainers.run_spec import parse_fold

    _command.show_folders()
    mode = "continue" if arguments.c else "restart" if arguments.restart else "new"
    result = train(
        arguments.dataset,
        arguments.configuration,
        arguments.trainer,
        parse_fold(arguments.fold),
        n_labeled=arguments.labeled,
        draw=arguments.draw,
        seed=arguments.seed,
        recipe=arguments.recipe,
        overrides=arguments.overrides,
        plans=arguments.p,
        mode="validate" if arguments.val else mode,
        device=arguments.device,
        num_gpus=arguments.num_gpus,
        n_loader_workers=arguments.workers,
        deterministic=arguments.deterministic,
        output=arguments.output,
    )
    print(f"model: {result.model}")
    for summary in result.summaries:
        dice = validation_means(summary)["Dice"]
        print(f"{summary}  mean Dice {dice:.4f}{_caution(summary)}")


def _caution(summary: object) -> str:
    from graphnn_unet.storage.safe_load import read_json

    if read_json(summary)["is_estimate"] is False:
        return " on the training cases themselves: no estimate of quality on new scans"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
