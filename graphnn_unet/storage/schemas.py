"""The schemas of the JSON files that come from elsewhere: all faults of a file are told together.

Keys that a schema does not name pass unread: other programs put their own into the same files.
Names of classes and functions must be on a closed list, because nnU-Net imports and calls whatever
they point to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, cast

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from graphnn_unet.errors import (
    InputError,
    SeveralFaultsError,
    SeveralUnsafeError,
    UnsafeFileError,
)
from graphnn_unet.storage.safe_load import read_json

READERS = {
    "SimpleITKIO",
    "SimpleITKIOWithReorient",
    "NibabelIO",
    "NibabelIOWithReorient",
    "NaturalImage2DIO",
    "Tiff3DIO",
}
"""Readers of nnU-Net, by which it opens images."""
_UNSAFE = "not_on_the_list"


def one_of(allowed: set[str]) -> PlainValidator:
    """A name on a closed list, of whatever type the value is."""

    def check(value: object) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise PydanticCustomError(_UNSAFE, "is not one of nnU-Net's own")

    return PlainValidator(check)


def label_ids(value: Any) -> int | list[int]:
    """A label's id, or those of a region; decimal texts count, as for nnU-Net.

    Raises:
        PydanticCustomError: It is something else, a ``ValueError``.
    """
    items = listed(value)
    return [_label_id(item) for item in items] if items and items != [value] else _label_id(value)


def _label_id(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,10}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    raise PydanticCustomError("label", "is no label id (a whole number from 0 on)")


class Table(BaseModel):
    """Base of the schemas: other keys pass, numbers are finite."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


Count = Annotated[int, Field(strict=True, ge=1, le=10**6)]
Size = Annotated[float, Field(strict=True, gt=0, lt=1e6)]
Text = Annotated[str, Field(strict=True)]
FileName = Annotated[
    str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)
]
LabelTable = dict[str, Annotated[Any, PlainValidator(label_ids)]]


Fault = tuple[str, bool]
"""What is wrong with a file, and whether it asks for something that is not on a closed list."""


def faults_of(schema: type[Table], content: object) -> list[Fault]:
    """What a schema finds wrong, one entry a value."""
    try:
        schema.model_validate(content)
    except ValidationError as error:
        return [
            (_fault_text(detail), detail["type"] == _UNSAFE)
            for detail in cast("list[dict[str, Any]]", error.errors(include_url=False))
        ]
    return []


_KINDS = {
    "model_type": "is no table", "dict_type": "is no table", "list_type": "is no list",
    "missing": "is missing",
}  # fmt: skip


def _fault_text(detail: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in detail["loc"] if part != "[key]") or "the file"
    kind, message = str(detail["type"]), str(detail["msg"])
    if kind in _KINDS:
        return f"{place} {_KINDS[kind]}"
    why = message if message.startswith("is ") else f"cannot be used ({message})"
    return f"{place} = {shown(detail['input'])} {why}"


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def raise_faults(faults: Sequence[Fault], source: Path | str, what: str, remedy: str) -> None:
    """Raise one error for all faults of a file; nothing where there are none.

    Args:
        faults: What is wrong.
        source: The file.
        what: What it therefore is not, after its name.
        remedy: What the user can do.

    Raises:
        UnsafeFileError: A fault asks for something that is not on a closed list.
        InputError: None does.
    """
    errors = [
        UnsafeFileError(f"{source} is refused", text, remedy)
        if is_unsafe
        else InputError(f"{source} {what}", text, remedy)
        for text, is_unsafe in faults
    ]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        several = SeveralUnsafeError if any(unsafe for _, unsafe in faults) else SeveralFaultsError
        raise several(errors)


def listed(value: Any) -> list[Any]:
    """A list as it is, one value as a list of it."""
    return list(cast("Iterable[Any]", value)) if isinstance(value, (list, tuple)) else [value]


def is_table(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value of a JSON file is a table."""
    return isinstance(value, dict)


class _Description(Table):
    channel_names: dict[str, Text]
    labels: Annotated[LabelTable, Field(min_length=1)]
    file_ending: Annotated[str, Field(strict=True, pattern=r"^(\.[A-Za-z0-9]{1,8}){1,2}$")]
    regions_class_order: list[Annotated[Any, PlainValidator(_label_id)]] | None = None
    original_labels: LabelTable | None = None
    overwrite_image_reader_writer: Annotated[Any, one_of(READERS)] = ""
    color_bits: Annotated[int, Field(strict=True, ge=8, le=16)] = 16


class _Correction(Table):
    round: Count = 1


class _Metadata(Table):
    schema_version: Annotated[int, Field(strict=True, ge=1)] = 1
    patients: dict[str, Text] = Field({})
    label_order: list[Text] = Field([])
    corrected: dict[str, _Correction] = Field({})


def _numbered_names(value: Any) -> dict[int, str]:
    """Names by their numbers, in order; numbers of a JSON table are texts.

    Raises:
        PydanticCustomError: It is something else, a ``ValueError``.
    """
    if is_table(value) and value:
        numbers = {number: re.fullmatch(r"\d{1,6}", number.strip()) for number in value}
        if all(numbers.values()) and all(isinstance(name, str) for name in value.values()):
            return dict(sorted((int(number), name) for number, name in value.items()))
    raise PydanticCustomError("numbered", 'is no table such as {"0": "name"}')


NumberedNames = Annotated[Any, PlainValidator(_numbered_names)]


class TaskFolder(Table):
    """``dataset.json`` of the Medical Segmentation Decathlon and of nnU-Net v1."""

    modality: NumberedNames
    labels: NumberedNames
    training: list[Any]
    test: list[Any] = Field([])
    name: Text = ""
    reference: Text = ""
    license: Text = Field("", validation_alias=AliasChoices("licence", "license"))


class _Means(Table):
    Dice: float | None


class Summary(Table):
    """What is read again of ``summary.json``."""

    foreground_mean: _Means
    is_estimate: bool | None


class DoneCase(Table):
    """A finished preprocessed case: its key, its shape and the sizes of its files."""

    key: Text
    files: dict[FileName, Annotated[int, Field(strict=True, ge=0)]]


class _ManifestCase(DoneCase):
    role: Literal["labeled", "unlabeled"]
    sources: dict[str, Text] = {}
    stamps: dict[str, tuple[int, int]] = {}


class Manifest(Table):
    """What a preprocessed set holds and what it was made for."""

    settings: Text
    cases: dict[FileName, _ManifestCase]


class FingerprintCase(Table):
    """What is known of a case before planning."""

    sha256: dict[str, Text]
    spacing: Annotated[list[Size], Field(min_length=3, max_length=3)]
    shape: Annotated[list[Count], Field(min_length=3, max_length=3)]
    shape_after_crop: Annotated[list[Count], Field(min_length=3, max_length=3)]
    foreground: list[dict[str, Any] | None] | None = None
    largest_share: list[list[float | None]] | None = None


def description_faults(content: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with a ``dataset.json`` of nnU-Net's form, one entry a value.

    ``modality``, the old name of ``channel_names``, counts.
    """
    table = dict(content)
    if "modality" in table:
        table.setdefault("channel_names", table["modality"])
    faults = faults_of(_Description, table)
    return faults or [(text, False) for text in _relation_faults(table)]


def _relation_faults(table: Mapping[str, Any]) -> Iterator[str]:
    channels, labels = table["channel_names"], table["labels"]
    if set(channels) != {str(i) for i in range(len(channels))}:
        yield "channel_names are not numbered 0, 1, 2 ..."
    ids = {name: listed(label_ids(value)) for name, value in labels.items()}
    if ids.get("background") != [0]:
        yield "labels has no 'background' with the value 0"
        return
    ignore = ids.pop("ignore", [])
    values = sorted({i for several in ids.values() for i in several})
    if values != list(range(len(values))):
        yield f"labels has the values {shown(values)}, which are not consecutive"
    if ignore and ignore != [len(values)]:
        yield f"labels.ignore = {ignore[0]} is not the highest value"
    order = table.get("regions_class_order")
    if any(len(several) > 1 for several in ids.values()):
        regions = [several for several in ids.values() if set(several) != {0}]
        if order is None or len(order) != len(regions):
            yield f"regions_class_order = {shown(order)} is no list of {len(regions)} values"
        elif unknown := sorted({_label_id(i) for i in order} - set(values)):
            yield f"regions_class_order has {unknown[0]}, which is no label"
    original = table.get("original_labels")
    if original is not None:
        for name, value in labels.items():
            ids_there = listed(original[name]) if name in original else []
            if len(ids_there) != len(listed(value)):
                yield f"original_labels.{name} does not fit labels.{name}"


def check_description(content: Any, path: Path) -> dict[str, Any]:
    """Return the ``dataset.json`` of a model or a preprocessed set if it is whole.

    Raises:
        InputError: It lacks or misstates channels, labels or the ending of files.
        UnsafeFileError: It names a foreign reader.
    """
    if not is_table(content):
        raise InputError(f"{path} is no dataset.json", "it holds no table", "Copy it again")
    faults = description_faults(content)
    raise_faults(faults, path, "is no dataset.json of nnU-Net", "Correct it, or copy it again")
    return content


def read_metadata(folder: Path) -> dict[str, Any]:
    """``gnnunet.json`` of a data set: patients, order of labels, corrected cases; empty without.

    Raises:
        InputError: It is no JSON, or an entry has a wrong form.
    """
    path = folder / "gnnunet.json"
    if not path.is_file():
        return {}
    return read_valid(path, _Metadata, "Correct it, or convert the data set again")


def read_summary(path: Path) -> dict[str, Any]:
    """``summary.json`` of an evaluation.

    Raises:
        InputError: It is no JSON, or lacks what is read of it.
    """
    return read_valid(path, Summary, "Score again (gnnunet_train ... --val, gnnunet_evaluate)")


def read_valid(path: Path, schema: type[Table], remedy: str) -> dict[str, Any]:
    """A JSON file that fits a schema.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is damaged; says everything that is wrong.
    """
    content = read_json(path)
    raise_faults(faults_of(schema, content), path, "is damaged", remedy)
    return content
