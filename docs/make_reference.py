"""Write docs/reference from the code: python docs/make_reference.py

``PAGES`` names each page and the function that makes its text; a test compares them with the files.
"""

import argparse
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from graphnn_unet import commands
from graphnn_unet.fault_codes import FAULT_CODES
from graphnn_unet.metrics import METRICS
from graphnn_unet.metrics.protocols import csv_columns
from graphnn_unet.plans.recipe import key_table, known_sections
from graphnn_unet.trainers.registry import known_trainers, sections_of, trainer_class
from graphnn_unet.user_code import MODULE_PREFIX

FOLDER = Path(__file__).resolve().parent / "reference"
NOTE = "<!-- made by docs/make_reference.py: change the code, not this page -->\n\n"
COMMON = ("-h", "--quiet", "--verbose", "--version")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    head = list(head)
    lines = [head, ["---"] * len(head), *escaped]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fault_codes_page() -> str:
    """All codes of faults with their meaning."""
    return (
        "# Fault codes\n\n"
        "Each fault of a data set or an image file has a code that scripts can look for: in "
        "`Fault.code` of the exceptions and in `dataset_report.json`. Without another word a fault "
        "is an error; the message says which case it concerns and what to do.\n\n"
        + table(("code", "meaning"), ((f"`{code}`", text) for code, text in FAULT_CODES.items()))
    )


def commands_page() -> str:
    """All commands with their arguments."""
    names = [m.name for m in pkgutil.iter_modules(commands.__path__) if not m.name.startswith("_")]
    parsers = [import_module(f"{commands.__name__}.{name}")._parser() for name in names]
    shared = [action for action in parsers[0]._actions if is_common(action)]
    return (
        "# Commands\n\n"
        "Every command ends with 0 (done), 1 (a bug, with a traceback), 2 (something that you can "
        "fix), 3 (done, but some cases failed: see `failures.csv`) or 130 (interrupted).\n\n"
        "All of them take:\n\n"
        + arguments_table(parsers[0], shared)
        + "".join(map(command_section, parsers))
    )


def command_section(parser: argparse.ArgumentParser) -> str:
    """Heading, description, arguments and epilog of one command."""
    actions = [action for action in parser._actions if not is_common(action)]
    text = f"\n## {parser.prog}\n\n{parser.description}\n\n{arguments_table(parser, actions)}"
    return f"{text}\n```text\n{parser.epilog.strip()}\n```\n" if parser.epilog else text


def arguments_table(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    """Arguments and their help; the layout of ``--help`` differs between versions of Python."""
    formatter = parser._get_formatter()
    rows = []
    for action in actions:
        value = formatter._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
        words = [", ".join(action.option_strings), value]
        if action.help == argparse.SUPPRESS:
            continue
        rows.append((f"`{' '.join(filter(None, words))}`", formatter._expand_help(action)))
    return table(("argument", "meaning"), rows)


def is_common(action: argparse.Action) -> bool:
    """Whether every command has the argument."""
    return bool(set(COMMON) & set(action.option_strings))


def recipe_keys_page() -> str:
    """Keys of all sections, those of methods with the trainers or corrections they belong to."""
    sections = {
        name: section
        for name, section in known_sections().items()
        if not section.__module__.startswith(MODULE_PREFIX)
    }
    owners = {name: [] for name in sections}
    for trainer in known_trainers():
        for name in sections_of(trainer_class(trainer)):
            owners[name].append(trainer)
    text = (
        "# Recipe keys\n\n"
        "A key is `section.key`; recipe files are TOML ([how recipes are merged]"
        "(../how_to/recipes.md)). A key without a default is decided from the data. A method of "
        "your own adds a section of its own.\n"
    )
    for name, section in sections.items():
        note = f" Used by {', '.join(owners[name])}." if owners[name] else ""
        rows = [(f"`{key}`", f"`{default}`" if default else "", description)
                for key, default, description in key_table({name: section})]  # fmt: skip
        summary = (section.__doc__ or "").partition("\n")[0]
        text += f"\n## {name}\n\n{summary}{note}\n\n" + table(("key", "default", "meaning"), rows)
    return text


def csv_columns_page() -> str:
    """Columns of the tables that commands write."""
    rows = [
        (f"`{metric.name}`", metric.title, metric.unit, metric.definition)
        for metric in METRICS.values()
    ]
    return (
        "# Columns of metrics.csv\n\n"
        "`gnnunet_evaluate` and the validation of a training write a row for each case and class. "
        f"Columns, in this order: {', '.join(f'`{column}`' for column in csv_columns())}. "
        "`distance_unit` is `mm`, `voxel` under the published protocol, or `pixel` of pictures; "
        "`missed` is 1 where the reference has the class and the prediction does not, `invented` "
        "the other way round. "
        "Files with the former columns `hd95_mm` and `asd_mm` are read until version 0.3.\n\n"
        + table(("measure", "name", "unit", "definition"), rows)
    )


def python_page() -> str:
    """Public names with the first line of their docstrings."""
    text = (
        "# Python\n\n"
        "The functions of the commands, and three modules; everything else may change. "
        "`help(graphnn_unet.train)` shows arguments and errors.\n"
    )
    for module in ("graphnn_unet", "graphnn_unet.graph", "graphnn_unet.trainers",
                   "graphnn_unet.metrics"):  # fmt: skip
        loaded = import_module(module)
        rows = [
            (f"`{name}`", inspect.getdoc(value).partition("\n")[0])
            for name in sorted(loaded.__all__)
            if inspect.getdoc(value := getattr(loaded, name)) and callable(value)
        ]
        text += f"\n## {module}\n\n" + table(("name", "what it is"), rows)
    return text


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "csv_columns.md": csv_columns_page,
    "fault_codes.md": fault_codes_page,
    "python.md": python_page,
    "recipe_keys.md": recipe_keys_page,
}


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, make_page in PAGES.items():
        (FOLDER / name).write_text(NOTE + make_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
