"""``gnnunet_benchmark``: compare methods on one data set, over draws of labeled cases and seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command
from graphnn_unet.ranges import MAX_SEED, MAX_WORKERS

_EPILOG = """\
All methods get the same draws and seeds, plan, network, augmentation and patches a step; the last
checkpoint is scored. --development keeps labeled cases apart for choosing; test cases stay closed
until --final.

OUT/benchmark.csv holds a row a case and class, runs.csv the minutes, device and peak memory of each
run, benchmark.md and report.html the tables with intervals, commands.sh the trainings by hand.
What is done is not done again: the same command goes on, and another one adds rows or draws.
Exit status: 0 done, 2 refused, 3 some runs failed twice (runs.csv), 130 interrupted.
"""


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_benchmark",
        "Compare methods honestly on one data set.",
        _EPILOG,
        (
            "gnnunet_benchmark -d MyStudy --labeled 4 8 all --trainers SupervisedTrainer "
            "BCPTrainer GraphCLTrainer --draws 3 --development 20 -o comparison",
            "gnnunet_benchmark -d MyStudy --labeled 4 --trainers GraphCLTrainer "
            "--sweep graph.kappa=0,0.01,0.1 --development 20 -o kappa",
            "gnnunet_benchmark -d MyStudy --labeled 4 --trainers SupervisedTrainer --row 'with "
            "pairs' SupervisedTrainer scan_graph.pairs=0.5 --draws 3 --final -o comparison",
        ),
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="name or id of the data set")
    parser.add_argument("-o", required=True, metavar="OUT", help="folder of the comparison")
    parser.add_argument(
        "--trainers", nargs="+", action="extend", default=[], metavar="TRAINER",
        help="methods, a row each: names as for gnnunet_train, or FILE.py:CLASS",
    )  # fmt: skip
    parser.add_argument(
        "--row", nargs="+", action="append", default=[], metavar="WORD", dest="rows",
        help="another row: NAME TRAINER [KEY=VALUE ...]; may be given several times. "
        "prediction.KEY (scan_graph, scan_graph_blend, mirroring, step_size) changes how its "
        "models predict",
    )  # fmt: skip
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="KEY=V,V",
        help="a row for each value, of the trainers that know the key; several are crossed",
    )  # fmt: skip
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
        help="recipe values of all rows",
    )  # fmt: skip
    parser.add_argument(
        "--labeled", nargs="+", action="extend", type=_count, metavar="N",
        help="counts of labeled cases; all stands for every one (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=_command.number(int, 0, MAX_SEED), default=5, metavar="N",
        help="draws of labeled cases, numbered from 1; 0 takes the published order alone (5)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=_command.number(int, 1, MAX_SEED), default=1, metavar="N",
        help="seeds, crossed with the draws (1)",
    )  # fmt: skip
    parser.add_argument(
        "--development", type=_command.number(int, 0), default=0, metavar="N",
        help="keep N labeled cases apart and score them, for choosing (0)",
    )  # fmt: skip
    parser.add_argument(
        "--final", action="store_true", help="open and score the test cases, for what was chosen"
    )
    parser.add_argument("-c", metavar="CONFIGURATION", help="configuration (default: as planned)")
    parser.add_argument("-p", default="gnnunetPlans", metavar="PLANS", help="name of the plan")
    parser.add_argument("--recipe", help="recipe name or TOML file, in place of the plan's")
    parser.add_argument(
        "--against", metavar="ROW",
        help="row that the others are compared with (default: SupervisedTrainer, else the first)",
    )  # fmt: skip
    parser.add_argument(
        "--budget-minutes", type=_command.number(float, 0), metavar="M",
        help="begin no run that would probably end later",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=_command.number(int, 1, MAX_WORKERS), default=1, metavar="J",
        help="runs at the same time (1)",
    )  # fmt: skip
    parser.add_argument(
        "--disable_tta", action="store_true", help="no mirrored copies when scans are predicted"
    )
    _command.add_cluster(parser)
    parser.add_argument("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    return parser


def _count(text: str) -> int | None:
    """A count of labeled cases; ``None`` for ``all``."""
    return None if text == "all" else int(_command.number(int, 1)(text))


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.benchmarking.grid import rows_of
    from graphnn_unet.benchmarking.run import benchmark
    from graphnn_unet.errors import CasesFailedError, InputError
    from graphnn_unet.report.comparison import report_comparison

    _command.show_folders()
    rows = rows_of(arguments.trainers, arguments.sweep, arguments.rows)
    if not rows:
        raise InputError("there is nothing to compare", "", "Give --trainers or --row")
    try:
        result = benchmark(
            arguments.d,
            arguments.o,
            rows=rows,
            labeled=list(dict.fromkeys(arguments.labeled or [None])),
            draws=arguments.draws,
            seeds=arguments.seeds,
            configuration=arguments.c,
            development=arguments.development,
            final=arguments.final,
            recipe=arguments.recipe,
            overrides=arguments.overrides,
            plans=arguments.p,
            budget_minutes=arguments.budget_minutes,
            n_jobs=arguments.jobs,
            mirroring=not arguments.disable_tta,
            device=arguments.device,
        )
    except CasesFailedError:
        print(f"report: {report_comparison(arguments.o, arguments.against)}")
        raise
    print(f"{result.n_done} of {result.n_runs} runs are done")
    if result.n_done:
        print(f"report: {report_comparison(arguments.o, arguments.against)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
