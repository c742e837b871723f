"""One training, named: what decides its result, its folder, and how it is carried out.

This is the only place that knows the grammar of model folders:

    TRAINER__PLANS__CONFIGURATION[__labeledN[_drawK]][__seedS][__developmentM][__recipeHHHHHHHH]

The last part is there where the recipe is not the one that the data were planned with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from graphnn_unet.errors import GraphnnError, InputError
from graphnn_unet.plans.recipe import Recipe, load_recipe, resolve

DEFAULT_PLANS = "gnnunetPlans"
_SUFFIX = re.compile(
    r"labeled(?P<n_labeled>\d+)(?:_draw(?P<draw>\d+))?|seed(?P<seed>\d+)|"
    r"development(?P<development>\d+)|recipe(?P<variant>[0-9a-f]{8})"
)


@dataclass(frozen=True)
class ModelName:
    """Name of a model folder in parts.

    Attributes:
        trainer: Class of the trainer.
        plans: Name of the plan.
        configuration: Name of the configuration.
        n_labeled: Cases that counted as labeled; ``None`` for all.
        draw: Which ones; 0 is the published order.
        seed: Seed of weights, batches and boxes.
        development: Labeled cases that were kept for choosing.
        variant: Fingerprint of a recipe that is not the plan's; empty for the plan's own.
        rest: Parts that this version does not know.

    Example:
        >>> name = ModelName("BCPTrainer", "gnnunetPlans", "2d", n_labeled=8, seed=3)
        >>> str(name)
        'BCPTrainer__gnnunetPlans__2d__labeled8__seed3'
        >>> ModelName.parse(str(name)) == name
        True
    """

    trainer: str
    plans: str
    configuration: str
    n_labeled: int | None = None
    draw: int = 0
    seed: int = 0
    development: int = 0
    variant: str = ""
    rest: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.trainer, self.plans, self.configuration]
        if self.n_labeled is not None:
            parts.append(f"labeled{self.n_labeled}" + (f"_draw{self.draw}" if self.draw else ""))
        if self.seed:
            parts.append(f"seed{self.seed}")
        if self.development:
            parts.append(f"development{self.development}")
        if self.variant:
            parts.append(f"recipe{self.variant}")
        return "__".join([*parts, *self.rest])

    @classmethod
    def parse(cls, text: str) -> ModelName | None:
        """The parts of a folder name; ``None`` for a name that is no model's."""
        parts = text.split("__")
        if len(parts) < 3 or not all(parts[:3]):
            return None
        values: dict[str, str] = {}
        rest: list[str] = []
        for part in parts[3:]:
            if match := _SUFFIX.fullmatch(part):
                values |= {key: value for key, value in match.groupdict().items() if value}
            else:
                rest.append(part)
        named: dict[str, Any] = {k: v if k == "variant" else int(v) for k, v in values.items()}
        return cls(*parts[:3], **named, rest=tuple(rest))  # pyright: ignore[reportArgumentType]  # names of fields

    def fits(self, trainer: str | None, configuration: str | None, plans: str | None) -> bool:
        """Whether the name has the parts that are given."""
        wanted = ((trainer, self.trainer), (configuration, self.configuration), (plans, self.plans))
        return all(want in (None, have) for want, have in wanted)


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the result of one training.

    Attributes:
        dataset: ``DatasetNNN_Name``.
        configuration: ``2d``, ``3d_fullres`` or ``3d_lowres``.
        trainer: Name of the trainer, or ``path/to/file.py:ClassName``.
        fold: Fold number, ``all`` (no case held out) or ``cv`` (all folds).
        plans: Name of the plan.
        n_labeled: Labeled cases that count as labeled, the others are unlabeled; ``None`` for all.
        draw: Which ones; 0 is the published order, others are random.
        seed: Seed of weights, batches and boxes.
        recipe: The resolved recipe; ``None`` takes the plan's own.
        variant: Its fingerprint where it is not the plan's own.
        development: Labeled cases that are kept for choosing between runs and train in none.
    """

    dataset: str
    configuration: str
    trainer: str
    fold: int | str = "all"
    plans: str = DEFAULT_PLANS
    n_labeled: int | None = None
    draw: int = 0
    seed: int = 0
    recipe: Recipe | None = None
    variant: str = ""
    development: int = 0

    @property
    def class_name(self) -> str:
        """Name of the trainer's class, without the file it comes from."""
        return self.trainer.rpartition(":")[2]

    @property
    def model_name(self) -> ModelName:
        """Name of the model folder."""
        return ModelName(
            self.class_name, self.plans, self.configuration, self.n_labeled, self.draw, self.seed,
            self.development, self.variant,
        )  # fmt: skip

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that are equal for two runs with the same result."""
        values = {**self.as_dict(), "trainer": self.class_name}
        values["recipe"] = self.recipe.changes() if self.recipe else None
        return values

    def is_same_as(self, other: RunSpec) -> bool:
        """Whether both runs have the same result (on one machine and version)."""
        return self.identity == other.identity

    def as_dict(self) -> dict[str, Any]:
        """Plain values; :meth:`from_dict` reads them, on another machine too."""
        values = {key: getattr(self, key) for key in asdict(replace(self, recipe=None))}
        values["recipe"] = self.recipe.as_dict() if self.recipe else None
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Inverse of :meth:`as_dict`; a trainer from a file must have been loaded."""
        recipe = values["recipe"]
        return cls(**{**values, "recipe": None if recipe is None else resolve(recipe)})

    def model_folder(self, results: Path) -> Path:
        """Model folder below ``nnUNet_results``.

        Until version 0.1 a recipe of its own was no part of the name: a folder of that kind whose
        ``recipe.toml`` is this run's is used further.
        """
        folder = results / self.dataset / str(self.model_name)
        if self.variant and self.recipe and not folder.exists():
            older = folder.with_name(str(replace(self.model_name, variant="")))
            if _recipe_of(older) == self.recipe.as_dict():
                return older
        return folder


def _recipe_of(folder: Path) -> dict[str, Any] | None:
    path = folder / "recipe.toml"
    if not path.is_file():
        return None
    try:
        return resolve(load_recipe(path)).as_dict()
    except GraphnnError:
        return None


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; changes nothing about its result.

    Attributes:
        device: ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.
        num_gpus: Processes of one machine that share the batch.
        n_loader_workers: Processes that make batches; ``None`` for a default by device.
        deterministic: Bitwise repeatable on CUDA as well, at a cost in speed.
        model_folder: Folder of the model; ``None`` for the usual place.
        hidden_labels: Label maps of unlabeled cases, to score pseudo-labels alone; ``None`` for no
            scores.
        loggers: Where the numbers of each epoch go beside ``metrics.csv``.
    """

    device: str = "auto"
    num_gpus: int = 1
    n_loader_workers: int | None = None
    deterministic: bool = False
    model_folder: Path | None = None
    hidden_labels: Path | None = None
    loggers: tuple[str, ...] = ()


def parse_fold(text: str) -> int | str:
    """``0`` to ``4``, ``all`` or ``cv``.

    Raises:
        InputError: Something else.
    """
    if text in ("all", "cv"):
        return text
    if re.fullmatch(r"\d+", text):
        return int(text)
    raise InputError(f"fold {text!r} is unknown", "", "Use a number, all or cv")
