"""What all commands share: messages, exit status, common flags.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from graphnn_unet._version import __version__
from graphnn_unet.errors import GraphnnError, from_system, near_names
from graphnn_unet.ranges import MAX_COUNT, MAX_WORKERS, out_of_range
from graphnn_unet.streams import use_streams, written_results

if TYPE_CHECKING:
    from graphnn_unet.settings import Section

INTERRUPTED = 130
_UNKNOWN = "unrecognized arguments: "


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of the work are."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, with flags near to one that is not known, and exit with 2."""
        remedy = f"{self.prog} --help shows all arguments"
        if message.startswith(_UNKNOWN):
            flag, flags = message.removeprefix(_UNKNOWN).split()[0], self._option_string_actions
            near = near_names(flag, flags) if flag.startswith("-") else ""
            remedy = f"N{near[1:]}. {remedy}" if near.startswith("near") else remedy
        self.exit(2, f"error: {message}. {remedy}.\n")


def parser(
    name: str, description: str, epilog: str = "", examples: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """An argument parser with the flags every command has.

    Args:
        name: Of the command.
        description: What it does.
        epilog: What else ``--help`` says, before the examples.
        examples: Command lines that can be typed; a test parses each.
    """
    if examples:
        shown = "\n".join(["examples:", *(f"  {example}" for example in examples)])
        epilog = f"{epilog.rstrip()}\n\n{shown}\n" if epilog else f"{shown}\n"
    command_parser = _Parser(
        prog=name,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command_parser.add_argument("--quiet", action="store_true", help="no progress and no notes")
    command_parser.add_argument(
        "--verbose", action="store_true", help="details and tracebacks of errors"
    )
    command_parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    return command_parser


def number(
    kind: type[int] | type[float],
    low: float = 0,
    high: float = MAX_COUNT,
    *,
    above: bool | None = None,
) -> Callable[[str], float]:
    """A type of argument with a range; argparse tells what is outside, with status 2.

    Args:
        kind: ``int`` or ``float``.
        low: Smallest value.
        high: Largest value.
        above: ``low`` itself is too small, as it is for a ``float`` where nothing is said.
    """
    excluded = kind is float if above is None else above

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError as error:
            wanted = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {wanted}") from error
        if wrong := out_of_range(value, low, high, above=excluded):
            raise argparse.ArgumentTypeError(f"{text[:40]} {wrong}")
        return value

    return read


_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_UNITS_S = (86400, 3600, 60, 1)
_MAX_DURATION_S = 10 * 365 * 86400


def duration(text: str) -> int:
    """A type of argument: seconds of ``90m``, ``2h``, ``1d12h30m``.

    Example:
        >>> duration("1h30m")
        5400
    """
    match = _DURATION.fullmatch(text) if len(text) < 30 else None
    parts = match.groups() if match else ()
    seconds = sum(int(part) * unit for part, unit in zip(parts, _UNITS_S, strict=False) if part)
    if not 0 < seconds <= _MAX_DURATION_S:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no time such as 90m, 2h or 1d12h")
    return seconds


def add_workers(
    command_parser: argparse.ArgumentParser,
    what: str = "worker processes (default: by cores)",
    low: int = 0,
    *,
    cluster: bool = False,
) -> None:
    """Add ``-np``, and ``--cluster`` beside it.

    Args:
        command_parser: Parser of the command.
        what: Its help.
        low: Smallest number; 0 works in the command's own process.
        cluster: Cases may go to workers on other machines.
    """
    group = command_parser.add_mutually_exclusive_group()
    group.add_argument("-np", type=number(int, low, MAX_WORKERS), metavar="N", help=what)
    if cluster:
        add_cluster(command_parser, group)


def add_cluster(
    command_parser: argparse.ArgumentParser, group: argparse._ActionsContainer | None = None
) -> None:
    """Add ``--cluster``, which :func:`run` acts on: the jobs of ``run_jobs`` go there.

    Args:
        command_parser: Parser of the command.
        group: Where the flag goes that takes the place of others.
    """
    (group or command_parser).add_argument(
        "--cluster",
        metavar="WHERE",
        help="do the cases on Dask workers: local:N, slurm, slurm:N, slurm:FILE.toml, HOST:PORT or "
        "FILE.json of a scheduler",
    )
    command_parser.add_argument(
        "--cluster-dry-run",
        action="store_true",
        help="print the queue script of --cluster slurm and stop",
    )


def folds_of(words: Sequence[str] | None) -> list[int | str] | None:
    """Folds as the user names them: numbers, or ``all``."""
    if words is None:
        return None
    return [int(word) if re.fullmatch("[0-9]{1,6}", word) else word for word in words]


_GOES_ON = re.compile(r"--c(ontinue_prediction)?\b")
"""The flag that the hint of an interrupted command names."""


def run(
    work: Callable[[argparse.Namespace], None],
    arguments: argparse.Namespace,
    typed: Sequence[str],
) -> int:
    """Call ``work`` and turn its errors into lines on stderr and an exit status.

    Args:
        work: What the command does.
        arguments: What it was given.
        typed: The same as words, the name of the command first.
    """
    from graphnn_unet.progress import set_quiet

    set_quiet(arguments.quiet)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.WARNING,
        format="%(message)s",
        stream=sys.stderr,
    )
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.getLogger("graphnn_unet").setLevel(logging.WARNING if arguments.quiet else level)
    from graphnn_unet.data.paths import require_variables
    from graphnn_unet.stopping import terminated_as_interrupted, time_limit

    limit = time_limit(getattr(arguments, "time_limit", None))
    try:
        require_variables()
        with terminated_as_interrupted(), limit, written_results(), _workers(arguments):
            if getattr(arguments, "cluster_dry_run", False):
                _print_queue_script(arguments)
            else:
                work(arguments)
    except KeyboardInterrupt as interrupt:
        hint = str(interrupt) or "Run the same command again to go on"
        print(f"interrupted: {hint}", file=sys.stderr)
        if flag := _GOES_ON.search(hint):
            say_next(*(word for word in typed if word not in {"--restart", flag[0]}), flag[0])
        return INTERRUPTED
    except GraphnnError as error:
        return _told(error, arguments.verbose)
    except BrokenPipeError:
        return 0  # the reader of our output has seen enough (| head)
    except OSError as error:
        refused = from_system(error)
        if refused is None:
            raise
        return _told(refused, arguments.verbose)
    return 0


def _workers(arguments: argparse.Namespace) -> AbstractContextManager[object]:
    """The place where jobs are done that ``--cluster`` names; nothing for commands without it."""
    if getattr(arguments, "cluster", None) is None or arguments.cluster_dry_run:
        return nullcontext()
    from graphnn_unet.storage.cluster import open_cluster

    return open_cluster(arguments.cluster)


def _print_queue_script(arguments: argparse.Namespace) -> None:
    from graphnn_unet.storage.cluster import job_script

    print(job_script(arguments.cluster or "slurm").rstrip())


def _told(error: GraphnnError, verbose: bool = False) -> int:
    """Print the lines of an error being handled; return its exit status."""
    if verbose:
        traceback.print_exc()
    for line in error.lines:
        print(f"error: {line}", file=sys.stderr)
    if error.note:
        print(f"note: {error.note}", file=sys.stderr)
    return error.exit_status


def add_settings(
    group: argparse._ActionsContainer, section: type[Section], fields: Sequence[str] = ()
) -> None:
    """Add a flag for each field of a section; its description and default are the help.

    A flag that is not given leaves ``None``, so that :func:`given_settings` can tell. The flag of a
    switch that is on by default turns it off.

    Args:
        group: Parser or group of arguments.
        section: The settings.
        fields: Names of the fields to add, in this order; empty for all.
    """
    from graphnn_unet.settings import flag_of

    for name in fields or section.model_fields:
        field, flag = section.model_fields[name], flag_of(section, name)
        if flag is None:
            continue
        options: dict[str, Any] = {"dest": name, "default": None}
        text = (field.description or "").replace("%", "%%")
        choices, kind = _choices_and_kind(field.annotation)
        choices = flag.choices or choices
        if kind is bool:
            options["action"] = "store_false" if field.default else "store_true"
        else:
            options |= {"type": kind, "metavar": None if choices else flag.metavar}
            if choices:
                options["choices"] = choices
            if field.default is not None and flag.shows_default:
                text = f"{text} ({field.default})"
        group.add_argument(flag.name, help=text, **options)


def given_settings(arguments: argparse.Namespace, section: type[Section]) -> dict[str, Any]:
    """Values of the flags of a section that were given."""
    values = {name: getattr(arguments, name, None) for name in section.model_fields}
    return {name: value for name, value in values.items() if value is not None}


def _choices_and_kind(annotation: Any) -> tuple[tuple[Any, ...], type]:
    """Allowed words of an annotation (empty: any value) and the type of its values."""
    from types import NoneType, UnionType
    from typing import Annotated, Literal, Union, get_args, get_origin

    origin = get_origin(annotation)
    if origin is Annotated:
        return _choices_and_kind(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return _choices_and_kind(next(a for a in get_args(annotation) if a is not NoneType))
    if origin is Literal:
        words = get_args(annotation)
        return words, type(words[0])
    return (), annotation


def say_next(*words: object, where: str = "") -> None:
    """The last line of a command: the command to type next, here or ``where``."""
    from graphnn_unet.progress import say

    placeholder = re.compile(r"[A-Z_]+")
    shown = [w if placeholder.fullmatch(w) else shlex.quote(w) for w in map(str, words)]
    say(f"next{', ' * bool(where)}{where}: {' '.join(shown)}")


def show_folders() -> None:
    """The first line of every command: which folders are in use, by nnU-Net too."""
    from graphnn_unet.data.paths import use_folders
    from graphnn_unet.progress import say

    say(f"folders: {use_folders().line}")


def main(
    work: Callable[[argparse.Namespace], None],
    command_parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run, return the exit status."""
    # Threads of OpenMP that spin while they wait starve loader workers and other programs on the
    # same cores: with one core busy a training step on two threads took 2.7 s instead of 0.63 s.
    # It is read when torch is loaded, so it is set before any work; the user's own value stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    use_streams()
    try:
        with written_results():
            arguments = command_parser.parse_args(argv)
    except GraphnnError as error:
        return _told(error)
    except BrokenPipeError:
        return 0
    return run(work, arguments, [command_parser.prog, *(sys.argv[1:] if argv is None else argv)])


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print an aligned table to stdout: text to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if _is_number(cell) else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace("-", "", 1).isdigit()
