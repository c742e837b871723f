"""The examples of each ``--help`` can be typed, and hints are quoted for a shell."""

import shlex
from importlib import import_module

import pytest
from commands.test_startup import COMMANDS

from graphnn_unet.commands import _command


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_the_parser_takes(name):
    parser = import_module(f"graphnn_unet.commands.{name.removeprefix('gnnunet_')}")._parser()
    text = parser.format_help()
    examples = [line.strip() for line in text.partition("\nexamples:\n")[2].splitlines() if line]
    assert len(examples) >= 2
    for example in examples:
        first, *arguments = shlex.split(example)
        assert first == name
        parser.parse_args(arguments)


def test_next_command_is_quoted_and_its_blanks_are_not(capsys):
    _command.say_next("gnnunet_evaluate", "-p", "my results", "-g", "LABELS")
    assert capsys.readouterr().err == "next: gnnunet_evaluate -p 'my results' -g LABELS\n"
