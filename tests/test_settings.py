"""A section makes checks and flags from one declaration."""

import argparse
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from graphnn_unet.commands._command import add_settings, given_settings
from graphnn_unet.errors import InputError
from graphnn_unet.settings import NO_FLAG, Flag, Section, make_section, wrong_values


class Baking(Section):
    minutes: Annotated[int, Flag("--time", "MIN")] = Field(30, ge=1, description="in the oven")
    heat: Literal["top", "both"] = Field("both", description="heating elements in use")
    glaze: bool = Field(False, description="sugar on top")
    butter_share: float | None = Field(None, description="by weight, in 100 %")

    @model_validator(mode="after")
    def _no_burning(self) -> "Baking":
        if self.glaze and self.minutes > 40:
            raise ValueError("sugar burns after 40 minutes")
        return self


@pytest.fixture
def parser():
    argument_parser = argparse.ArgumentParser()
    add_settings(argument_parser, Baking)
    return argument_parser


def test_only_given_flags_become_values(parser):
    assert given_settings(parser.parse_args([]), Baking) == {}
    arguments = parser.parse_args(["--time", "5", "--glaze", "--butter-share", "0.5"])
    assert given_settings(arguments, Baking) == {"minutes": 5, "glaze": True, "butter_share": 0.5}


def test_help_is_the_description_and_the_default(parser):
    text = " ".join(parser.format_help().split())
    assert "--time MIN in the oven (30)" in text
    assert "--heat {top,both} heating elements in use (both)" in text
    assert "by weight, in 100 %" in text


def test_words_outside_the_choices_are_refused(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["--heat", "below"])
    assert "below" in capsys.readouterr().err


def test_all_wrong_values_are_told_together():
    wrong = wrong_values(Baking, {"minutes": 0, "heat": "below", "sugar": 1})
    assert {value.field for value in wrong} == {"minutes", "heat", "sugar"}
    assert wrong_values(Baking, {"minutes": 1}) == []


def test_message_names_value_reason_meaning_and_source():
    with pytest.raises(InputError) as caught:
        make_section(Baking, {"minutes": 0}, "baking.toml")
    line = caught.value.line
    assert line.startswith("minutes = 0 in baking.toml cannot be used: input should be")
    assert line.endswith("minutes: in the oven.")


def test_several_wrong_values_stand_in_one_message():
    with pytest.raises(
        InputError, match=r"these settings cannot be used: minutes = 0 \(.*; heat = "
    ):
        make_section(Baking, {"minutes": 0, "heat": "below"})


class Shelf(Section):
    open: Annotated[bool, Flag("--closed")] = Field(True, description="has a door")
    wood: Annotated[str, Flag(choices=("oak", "fir"), shows_default=False)] = Field(
        "oak", description="what it is made of"
    )
    weight: Annotated[float, NO_FLAG] = Field(3.0, description="in kg")


def test_switches_that_are_on_get_a_flag_that_turns_them_off():
    argument_parser = argparse.ArgumentParser()
    add_settings(argument_parser, Shelf)
    assert given_settings(argument_parser.parse_args([]), Shelf) == {}
    given = given_settings(argument_parser.parse_args(["--closed", "--wood", "fir"]), Shelf)
    assert given == {"open": False, "wood": "fir"}
    text = " ".join(argument_parser.format_help().split())
    assert "--weight" not in text
    assert "--wood {oak,fir} what it is made of" in text
    assert "(oak)" not in text
    with pytest.raises(SystemExit):
        argument_parser.parse_args(["--wood", "elm"])


def test_relations_between_fields_are_checked():
    with pytest.raises(InputError, match="do not go together: sugar burns after 40 minutes"):
        make_section(Baking, {"glaze": True, "minutes": 41})
    assert make_section(Baking, {"glaze": True, "minutes": 40}).minutes == 40
