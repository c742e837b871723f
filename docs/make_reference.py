"""Write docs/reference from the code: python docs/make_reference.py

``PAGES`` names each page and the function that makes its text; a test compares them with the files.
"""

import argparse
import pkgutil
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from graphnn_unet import commands
from graphnn_unet.fault_codes import FAULT_CODES

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
        rows.append((f"`{' '.join(filter(None, words))}`", formatter._expand_help(action)))
    return table(("argument", "meaning"), rows)


def is_common(action: argparse.Action) -> bool:
    """Whether every command has the argument."""
    return bool(set(COMMON) & set(action.option_strings))


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "fault_codes.md": fault_codes_page,
}


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, make_page in PAGES.items():
        (FOLDER / name).write_text(NOTE + make_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
