"""Settings declared once: a pydantic section makes the checks, the flags, the help and the file.

A section is a class of documented fields. Recipes (``plans/recipe.py``), training methods and the
commands ``gnnunet_cluster`` and ``gnnunet_classify`` all use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from graphnn_unet.errors import InputError, near_names

SectionType = TypeVar("SectionType", bound="Section")


class Section(BaseModel):
    """Base of all settings: unknown keys and wrong types are refused, values never change.

    A section checks relations between its fields with pydantic's ``model_validator``.

    Example:
        >>> from pydantic import Field
        >>> class Blur(Section):
        ...     sigma_mm: float = Field(1.0, ge=0, description="width of the Gaussian in mm")
        >>> Blur(sigma_mm=2.0).sigma_mm
        2.0
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Flag:
    """How a field is called on the command line, where it is not its own name with dashes.

    Put it into the annotation: ``n_neighbors: Annotated[int, Flag("--k", "N")]``.

    Attributes:
        name: The flag; without it the field's name with dashes.
        metavar: What stands for the value in the help.
        choices: Words to offer, where they are fewer than those of the type or the type has none.
        shows_default: Whether the help names the default; not where it depends on other settings.
    """

    name: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    shows_default: bool = True


NO_FLAG = Flag("none")
"""For a field that is set from Python only."""


def flag_of(section: type[Section], field: str) -> Flag | None:
    """Flag of a field: the one in its annotation, or its name with dashes; ``None`` for none."""
    marks = [item for item in section.model_fields[field].metadata if isinstance(item, Flag)]
    flag = marks[0] if marks else Flag()
    if flag is NO_FLAG:
        return None
    return flag if flag.name else replace(flag, name=f"--{field.replace('_', '-')}")


@dataclass(frozen=True)
class WrongValue:
    """One value that a section refuses.

    Attributes:
        field: Name of the field; empty where several fields do not go together.
        value: What was given.
        why: The reason, without a full stop.
        description: What the field means.
    """

    field: str
    value: Any
    why: str
    description: str


def wrong_values(section: type[Section], values: Mapping[str, Any]) -> list[WrongValue]:
    """All values that a section refuses, one entry a field; empty where it can be made."""
    try:
        section.model_validate(dict(values))
    except ValidationError as error:
        wrong: dict[str, WrongValue] = {}
        # a value that may be of two types has an error for each: the deepest is the closest miss
        for detail in sorted(error.errors(), key=lambda detail: -len(detail["loc"])):
            field = str(detail["loc"][0]) if detail["loc"] else ""
            message = detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "extra_forbidden":
                message = f"no setting is called so; {near_names(field, section.model_fields)}"
            known = section.model_fields.get(field)
            wrong.setdefault(
                field,
                WrongValue(
                    field,
                    values.get(field),
                    message[:1].lower() + message[1:],
                    (known.description or "") if known else "",
                ),
            )
        return list(wrong.values())
    return []


def make_section(
    section: type[SectionType], values: Mapping[str, Any], source: str = ""
) -> SectionType:
    """A section from plain values.

    Args:
        section: Its class.
        values: Field to value; fields that are left out keep their defaults.
        source: Where the values come from, for messages (a file); empty for flags.

    Raises:
        InputError: Unknown or wrong values, each named with its reason.
    """
    wrong = wrong_values(section, values)
    if not wrong:
        return section.model_validate(dict(values))
    first = wrong[0]
    place = f" in {source}" if source else ""
    if len(wrong) > 1:
        reasons = (f"{value.field} = {value.value!r} ({value.why})" for value in wrong)
        raise InputError(f"these settings{place} cannot be used", "; ".join(reasons))
    if not first.field:
        raise InputError(f"the settings{place} do not go together", first.why)
    given = f"{first.field} = {first.value!r}{place} cannot be used"
    meaning = f"{first.field}: {first.description}" if first.description else ""
    raise InputError(given, first.why, meaning)


def described(section: type[Section]) -> Sequence[tuple[str, str]]:
    """Names and descriptions of all fields, for help texts and reference pages."""
    return [(name, field.description or "") for name, field in section.model_fields.items()]
