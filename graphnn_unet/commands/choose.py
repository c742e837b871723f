"""``gnnunet_choose``: which method for these data, by cross-validation on the labeled patients."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command
from graphnn_unet.ranges import MAX_WORKERS

_EPILOG = """\
Methods are compared from simple to complex on patients that neither has seen. A later one is
taken only where the 95 % interval of its gain lies above 0; with fewer than 6 labeled patients
nothing can be told, and the first one is taken. Then the largest component of each class is
looked at likewise.

gnnunet_predict -d DATASET takes what was chosen. Trainings are those of gnnunet_train ... cv: folds
that are done are not done again, and the same command goes on where it was stopped.
Exit status: 0 done, 2 refused, 3 a training failed twice, 130 interrupted.
"""


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_choose",
        "Say whether unlabeled scans, graphs, 2D or 3D help on your data, and choose.",
        _EPILOG,
        (
            "gnnunet_choose -d MyStudy",
            "gnnunet_choose -d MyStudy --trainers SupervisedTrainer BCPTrainer GraphCLTrainer "
            "--configurations 3d_fullres 2d --budget-hours 10",
        ),
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="name or id of the data set")
    parser.add_argument(
        "--trainers", nargs="+", metavar="TRAINER",
        help="methods, from simple to complex (SupervisedTrainer GraphCLTrainer)",
    )  # fmt: skip
    parser.add_argument(
        "--configurations", nargs="+", metavar="CONF",
        help="configurations, the one to prefer first (default: all that are preprocessed)",
    )  # fmt: skip
    parser.add_argument("-p", default="gnnunetPlans", metavar="PLANS", help="name of the plan")
    parser.add_argument("--recipe", help="recipe name or TOML file, in place of the plan's")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
        help="recipe values of all trainings",
    )  # fmt: skip
    parser.add_argument(
        "--ensembles", action="store_true",
        help="also average the probabilities of each pair of methods, and take it if that helps",
    )  # fmt: skip
    parser.add_argument(
        "--budget-hours", type=_command.number(float, 0), metavar="H",
        help="begin no training that would probably end later",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=_command.number(int, 1, MAX_WORKERS), default=1, metavar="J",
        help="trainings at the same time (1)",
    )  # fmt: skip
    _command.add_cluster(parser)
    parser.add_argument("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.benchmarking.choose import DEFAULT_TRAINERS, choose

    _command.show_folders()
    result = choose(
        arguments.d,
        trainers=arguments.trainers or DEFAULT_TRAINERS,
        configurations=arguments.configurations,
        recipe=arguments.recipe,
        overrides=arguments.overrides,
        plans=arguments.p,
        ensembles=arguments.ensembles,
        budget_hours=arguments.budget_hours,
        n_jobs=arguments.jobs,
        device=arguments.device,
    )
    rows = [["method, cross-validated", "cases", "Dice"]]
    rows += [[c.name, str(len(c.dice)), f"{100 * c.mean:.1f}"] for c in result.candidates]
    _command.print_table(rows[0], rows[1:])
    for step in result.steps:
        print(step.sentence)
    if result.choice is None:
        print(f"{result.n_left} trainings are left; nothing is chosen yet")
        return
    cleaned = result.choice.largest_component
    more = f", largest component of {', '.join(cleaned)}" if cleaned else ""
    models = " + ".join(model.name for model in result.choice.models)
    print(f"chosen: {models}{more} ({result.path})")
    _command.say_next("gnnunet_predict", "-d", arguments.d, "-i", "NEW_SCANS", "-o", "OUT")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
