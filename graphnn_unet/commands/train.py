"""``gnnunet_train``: train a method on a planned data set."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from graphnn_unet.commands import _command
from graphnn_unet.ranges import MAX_SEED

_HELP = ("-h", "--help")


def _epilog(arguments: Sequence[str]) -> str:
    """The trainers; where help is asked for and a trainer named, the keys of its recipe too."""
    from graphnn_unet.trainers import summaries

    lines = ["trainers:"]
    lines += [f"  {name:<29} {text}" for name, text in summaries().items()]
    lines += ["  path/to/file.py:MyTrainer, or a trainer of an installed package", ""]
    if not set(_HELP) & set(arguments):
        return "\n".join(lines)
    named = [text for text in arguments if text.endswith("Trainer") or ".py:" in text]
    if not named:
        return "\n".join([*lines, "Recipe keys for --set: gnnunet_train TRAINER --help"])
    return "\n".join([*lines, *_recipe_keys(named[0])])


def _recipe_keys(trainer: str) -> list[str]:
    from graphnn_unet.plans.recipe import key_table, training_sections
    from graphnn_unet.trainers.registry import sections_of, trainer_class

    sections = training_sections(sections_of(trainer_class(trainer)))
    rows = key_table(sections)
    width = max(len(key) for key, _, _ in rows)
    lines = [f"recipe keys of {trainer} for --set KEY=VALUE and recipe files:"]
    for key, default, description in rows:
        text = f"{description} ({default})" if default else description
        lines += textwrap.wrap(
            f"  {key:<{width}}  {text}", 100, subsequent_indent=" " * (width + 4)
        )
    return lines


def _parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_train",
        "Train a segmentation model on labeled and unlabeled cases.",
        _epilog(arguments),
        (
            "gnnunet_train MyStudy 3d_fullres GraphCLTrainer",
            "gnnunet_train MyStudy 3d_fullres SupervisedTrainer cv --labeled 8 --seed 1",
            "gnnunet_train MyStudy 3d_fullres GraphCLTrainer --c",
        ),
    )
    parser.add_argument("dataset", help="name or id of the data set")
    parser.add_argument("configuration", help="2d, 3d_fullres or 3d_lowres")
    parser.add_argument("trainer", help="see below")
    parser.add_argument(
        "fold", nargs="?", default="all", help="0-4, all (default) or cv (all folds, then summary)"
    )
    parser.add_argument(
        "--labeled",
        type=_command.number(int, 1),
        metavar="N",
        help="count N labeled cases as labeled, the rest not",
    )
    parser.add_argument(
        "--draw",
        type=_command.number(int, 0, MAX_SEED),
        default=0,
        metavar="K",
        help="which N: 0 = published order (default)",
    )
    parser.add_argument(
        "--seed",
        type=_command.number(int, 0, MAX_SEED),
        default=0,
        help="seed of weights and batches (0)",
    )
    parser.add_argument(
        "--development",
        type=_command.number(int, 0),
        default=0,
        metavar="N",
        help="keep N labeled cases apart, for choosing between methods: they train in no role (0)",
    )
    parser.add_argument("--recipe", help="recipe name or TOML file, in place of the plan's")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
        help="single recipe values, e.g. --set schedule.selftrain_steps=5000",
    )  # fmt: skip
    parser.add_argument("-p", default="gnnunetPlans", metavar="PLANS", help="name of the plan")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--c", action="store_true", help="continue an interrupted training")
    mode.add_argument(
        "--restart", action="store_true", help="train anew; old results are set aside"
    )
    mode.add_argument(
        "--val",
        action="store_true",
        help="only predict and score validation cases; "
        "of fold all every training case, of which a training predicts 5 for a look",
    )
    parser.add_argument("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    parser.add_argument(
        "-num_gpus",
        type=_command.number(int, 1, 1024),
        default=1,
        help="GPUs of this machine to use (1); torchrun starts the command on several",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="model folder, instead of the usual one in nnUNet_results"
    )
    parser.add_argument(
        "--workers",
        type=_command.number(int, 0, 1024),
        metavar="N",
        help="processes that make batches",
    )
    parser.add_argument(
        "--time-limit", type=_command.duration, metavar="TIME",
        help="stop after 90m, 2h, 1d12h with the state saved, before a queue does (exit status "
        "130); --c goes on",
    )  # fmt: skip
    parser.add_argument(
        "--hidden-labels", metavar="DIR",
        help="score pseudo-labels in every epoch with label maps of unlabeled cases; the training "
        "itself does not see them",
    )  # fmt: skip
    parser.add_argument(
        "--logger", nargs="+", action="extend", default=[], dest="loggers",
        choices=["tensorboard", "mlflow", "wandb"], metavar="NAME",
        help="tensorboard, mlflow, wandb: also get the numbers of metrics.csv",
    )  # fmt: skip
    parser.add_argument("--deterministic", action="store_true", help="bitwise repeatable on CUDA")
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.data.paths import resolve_dataset, use_folders
    from graphnn_unet.data.plan_files import read_plan
    from graphnn_unet.errors import InputError
    from graphnn_unet.trainers import TRAINERS

    _command.show_folders()
    if arguments.configuration in TRAINERS:
        raise InputError(
            f"{arguments.configuration} is a trainer, no configuration", "",
            "The order is DATASET CONFIGURATION TRAINER",
        )  # fmt: skip
    # names with a slip are told before the seconds that the imports below take
    preprocessed = use_folders().preprocessed / resolve_dataset(arguments.dataset)
    read_plan(preprocessed, arguments.p, arguments.configuration)
    from graphnn_unet.trainers.distributed import is_first
    from graphnn_unet.trainers.run import train, validation_means
    from graphnn_unet.trainers.run_spec import parse_fold

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
        development=arguments.development,
        plans=arguments.p,
        mode="validate" if arguments.val else mode,
        device=arguments.device,
        num_gpus=arguments.num_gpus,
        n_loader_workers=arguments.workers,
        deterministic=arguments.deterministic,
        output=arguments.output,
        hidden_labels=arguments.hidden_labels,
        loggers=arguments.loggers,
    )
    if not is_first():
        return
    print(f"model: {result.model}")
    for summary in result.summaries:
        dice = validation_means(summary)["Dice"]
        print(f"{summary}  mean Dice {dice:.4f}{_caution(summary)}")
    if arguments.hidden_labels:
        _draw(result.model, result.folds, arguments.hidden_labels)
    _command.say_next("gnnunet_predict", "-i", "NEW_SCANS", "-o", "OUT", "-m", result.model)


def _draw(model: Path, folds: Sequence[int | str], hidden_labels: str) -> None:
    """Pictures of pseudo-labels; a training that is done does not fail for them."""
    from graphnn_unet.errors import GraphnnError
    from graphnn_unet.progress import say
    from graphnn_unet.report.pseudo_labels import draw_pseudo_labels

    for fold in folds:
        try:
            print(f"pseudo-labels: {draw_pseudo_labels(model / f'fold_{fold}', hidden_labels)}")
        except GraphnnError as error:
            say(f"warning: no picture of pseudo-labels: {error}")


def _caution(summary: Path) -> str:
    from graphnn_unet.storage.schemas import read_summary

    if read_summary(summary)["is_estimate"] is False:
        return " on the training cases themselves: no estimate of quality on new scans"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    given = sys.argv[1:] if argv is None else argv
    return _command.main(_work, _parser(given), argv)
