"""What was chosen for a data set: the models that predict it, and how label maps are cleaned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from graphnn_unet.errors import MissingFileError
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.schemas import FileName, Table, read_valid

CHOICE = "choice.json"
_SCHEMA_VERSION = 2
_REMEDY = "Run gnnunet_choose again, or name a model with -m"


class _Choice(Table):
    """``choice.json``."""

    schema_version: int
    models: Annotated[list[FileName], Field(min_length=1)]
    largest_component: list[str]
    reasons: list[str]


@dataclass(frozen=True)
class Choice:
    """The models of a data set.

    Attributes:
        models: Their folders; several are averaged.
        largest_component: Names of the classes of which only the largest component is kept.
        reasons: Why, a sentence each.
    """

    models: tuple[Path, ...]
    largest_component: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def write(self, results: Path) -> Path:
        """Write ``choice.json`` into the folder of the data set's models."""
        path = results / CHOICE
        write_json(path, {
            "schema_version": _SCHEMA_VERSION, "models": [model.name for model in self.models],
            "largest_component": list(self.largest_component), "reasons": list(self.reasons),
        })  # fmt: skip
        return path

    def ids(self, labels: Mapping[str, Any]) -> tuple[int, ...]:
        """Ids of the classes that are cleaned."""
        return tuple(int(labels[name]) for name in self.largest_component if name in labels)


def read_choice(results: Path) -> Choice | None:
    """The choice of a data set, if there is one.

    Args:
        results: ``$nnUNet_results/DatasetNNN_Name``.

    Raises:
        MissingFileError: The model that was chosen is not there any more.
    """
    path = results / CHOICE
    if not path.is_file():
        return None
    content = read_valid(path, _Choice, _REMEDY)
    models = tuple(results / name for name in content["models"])
    for model in models:
        if not model.is_dir():
            raise MissingFileError(f"the model {model} that {path} chooses is missing", "", _REMEDY)
    return Choice(models, tuple(content["largest_component"]), tuple(content["reasons"]))
