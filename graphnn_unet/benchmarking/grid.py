"""The runs of a comparison, crossed and in an order that is balanced wherever it is cut short."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from graphnn_unet.data.paths import use_folders
from graphnn_unet.data.plan_files import read_plan
from graphnn_unet.errors import InputError
from graphnn_unet.plans.planner import run_recipe
from graphnn_unet.plans.recipe import (
    Recipe,
    load_recipe,
    parse_assignment,
    parse_overrides,
    training_sections,
)
from graphnn_unet.settings import Section, make_section
from graphnn_unet.trainers.registry import sections_of, trainer_class
from graphnn_unet.trainers.run_spec import DEFAULT_PLANS, RunSpec

_PREDICTION = "prediction."
ALL = "all"
"""Count of labeled cases that stands for all there are."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a method with its settings.

    Attributes:
        name: In tables and plots.
        trainer: Name, or ``path/to/file.py:ClassName``.
        overrides: ``section.key=value``, beside those of all rows.
        prediction: What differs from the prediction of the other rows; rows that differ in it
            alone share their trainings.
    """

    name: str
    trainer: str
    overrides: tuple[str, ...] = ()
    prediction: Mapping[str, Any] = field(default_factory=dict, hash=False)


class PredictionOptions(Section):
    """Keys of ``prediction`` in a row, as the arguments of ``predict``."""

    scan_graph: bool = False
    scan_graph_blend: float | None = Field(None, ge=0, le=1)
    mirroring: bool = True
    step_size: float = Field(0.5, gt=0, le=1)


@dataclass(frozen=True)
class GridSettings:
    """What is crossed with what.

    Attributes:
        dataset: ``DatasetNNN_Name``.
        configuration: ``2d``, ``3d_fullres`` or ``3d_lowres``.
        rows: Methods.
        labeled: Counts of labeled cases; ``None`` for all.
        draws: So many draws of labeled cases, numbered from 1; 0 takes the published order alone.
        seeds: So many seeds, from 0.
        development: Labeled cases kept for choosing.
        recipe: Name or file, in place of the plan's.
        overrides: ``section.key=value`` of all rows.
        plans: Name of the plan.
    """

    dataset: str
    configuration: str
    rows: Sequence[Row]
    labeled: Sequence[int | None]
    draws: int = 5
    seeds: int = 1
    development: int = 0
    recipe: str | None = None
    overrides: Sequence[str] = ()
    plans: str = DEFAULT_PLANS


@dataclass(frozen=True)
class GridRun:
    """A training of the grid.

    Attributes:
        row: Its line of the table.
        spec: What decides its result.
        command: What a user types for the same training.
    """

    row: Row
    spec: RunSpec
    command: list[str] = field(compare=False)

    @property
    def model(self) -> str:
        """Name of the model's folder."""
        fold = "" if self.spec.fold == "all" else f"__fold{self.spec.fold}"
        return f"{self.spec.model_name}{fold}"

    @property
    def name(self) -> str:
        """Name of its other folders."""
        return "__".join([self.model, *_words(self.row.prediction)])

    def settings(self, *, mirroring: bool) -> str:
        """Trainer, recipe and prediction of its row: what may not change within one."""
        options = {"mirroring": mirroring, **self.row.prediction}
        assert self.spec.recipe is not None  # noqa: S101  # that of a grid has one
        recipe = f"recipe {self.spec.recipe.fingerprint()}"
        return " ".join([self.row.trainer, recipe, *_words(options)])

    @property
    def facts(self) -> dict[str, Any]:
        """The columns that name it in tables."""
        labeled = ALL if self.spec.n_labeled is None else self.spec.n_labeled
        return {"row": self.row.name, "trainer": self.spec.class_name, "labeled": labeled,
                "draw": self.spec.draw, "seed": self.spec.seed}  # fmt: skip


def _words(options: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(options.items())]


def rows_of(
    trainers: Sequence[str], sweeps: Sequence[str] = (), named: Sequence[Sequence[str]] = ()
) -> list[Row]:
    """Rows from the words of the command line.

    Args:
        trainers: A row each, and one for each value of the sweeps that the trainer knows.
        sweeps: ``section.key=value,value``; several are crossed.
        named: ``[name, trainer, section.key=value, ...]``; the section ``prediction`` tells how
            the row's models predict.

    Raises:
        InputError: Two rows have one name, a sweep has no values or no trainer knows it.

    Example:
        >>> [row.name for row in rows_of(["BCPTrainer"], ["teacher.ema=0.9,0.99"])]
        ['BCPTrainer, teacher.ema=0.9', 'BCPTrainer, teacher.ema=0.99']
    """
    swept = [_values_of(text) for text in sweeps]
    rows: list[Row] = []
    for trainer in trainers:
        sections = training_sections(sections_of(trainer_class(trainer)))
        known = [values for values in swept if values[0].partition(".")[0] in sections]
        for chosen in itertools.product(*known):
            name = ", ".join([trainer.rpartition(":")[2], *chosen])
            rows.append(Row(name, trainer, tuple(chosen)))
    unused = [values[0].partition("=")[0] for values in swept
              if not any(set(values) & set(row.overrides) for row in rows)]  # fmt: skip
    if unused:
        raise InputError(f"no trainer of the comparison knows {unused[0]}", ", ".join(trainers))
    for words in named:
        if len(words) < 2:
            raise InputError(f"--row {' '.join(words)} has no trainer", "", "Give NAME TRAINER ...")
        said = [word for word in words[2:] if word.startswith(_PREDICTION)]
        overrides = tuple(word for word in words[2:] if word not in said)
        rows.append(Row(words[0], words[1], overrides, _prediction(said, words[0])))
    names = [row.name for row in rows]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"two rows are called {twice[0]}", "", "Give one another name with --row NAME TRAINER"
        )
    return rows


def _prediction(words: Sequence[str], row: str) -> dict[str, Any]:
    """Options from ``prediction.key=value``."""
    options = {name: value for _, name, value in map(parse_assignment, words)}
    predicted = make_section(PredictionOptions, options, f"--row {row}")
    if predicted.scan_graph_blend is not None and not predicted.scan_graph:
        raise InputError(
            f"--row {row}: prediction.scan_graph_blend acts with prediction.scan_graph alone",
            "", "Give both or neither",
        )  # fmt: skip
    return options


def _values_of(text: str) -> list[str]:
    """``key=a,b`` as ``["key=a", "key=b"]``; commas inside brackets part no values."""
    key, equals, values = text.partition("=")
    parts = [""]
    for letter in values:
        depth = sum(map(parts[-1].count, "[{(")) - sum(map(parts[-1].count, "]})"))
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if not equals or not all(parts) or "." not in key:
        raise InputError(f"--sweep {text} cannot be used", "it must be KEY=VALUE,VALUE")
    return [f"{key}={value}" for value in parts]


def runs_of(settings: GridSettings, *, has_unlabeled: bool) -> Iterator[GridRun]:
    """All runs; a draw and seed are whole before the next ones begin.

    With all cases labeled there is one draw, and without other scans nothing that a method with a
    teacher could learn from: such runs are left out.

    Args:
        settings: The grid.
        has_unlabeled: Whether the data set has scans without labels.
    """
    runs = {row.name: run_of(settings, row) for row in settings.rows}
    draws = range(1, settings.draws + 1) if settings.draws else [0]
    for draw, seed in itertools.product(draws, range(settings.seeds)):
        for n_labeled, row in itertools.product(settings.labeled, settings.rows):
            if n_labeled is None and (draw > 1 or not (has_unlabeled or is_supervised(row))):
                continue
            of_row = runs[row.name].spec
            spec = replace(
                of_row, n_labeled=n_labeled, draw=0 if n_labeled is None else draw, seed=seed
            )
            yield GridRun(row, spec, _command(settings, row, spec))


def run_of(settings: GridSettings, row: Row, fold: int | str = "all") -> GridRun:
    """The run of a row with all labels and the first seed."""
    planned, recipe = _recipe(settings, row)
    variant = "" if recipe.as_dict() == planned.as_dict() else recipe.fingerprint()
    spec = RunSpec(
        settings.dataset, settings.configuration, _absolute(row.trainer), fold, settings.plans,
        None, 0, 0, recipe, variant, settings.development,
    )  # fmt: skip
    return GridRun(row, spec, _command(settings, row, spec))


def _absolute(trainer: str) -> str:
    """A trainer whose file is found from every folder."""
    path, colon, name = trainer.rpartition(":")
    return f"{Path(path).resolve()}:{name}" if colon else trainer


def is_supervised(row: Row) -> bool:
    """Whether a method learns from labeled scans alone."""
    return not getattr(trainer_class(row.trainer), "uses_teacher", False)


def _recipe(settings: GridSettings, row: Row) -> tuple[Recipe, Recipe]:
    """Recipe of the plan, and that of a row."""
    folder = use_folders().preprocessed / settings.dataset
    plans, _ = read_plan(folder, settings.plans, settings.configuration)
    trainer_class(row.trainer)  # declares its settings
    layers = [load_recipe(settings.recipe)] if settings.recipe else []
    if overrides := [*settings.overrides, *row.overrides]:
        layers.append(parse_overrides(overrides))
    planned = run_recipe(plans, settings.configuration)
    return planned, run_recipe(plans, settings.configuration, *layers)


def _command(settings: GridSettings, row: Row, spec: RunSpec) -> list[str]:
    """What a user types for the same training."""
    words = ["gnnunet_train", spec.dataset, spec.configuration, row.trainer, str(spec.fold)]
    if spec.n_labeled is not None:
        words += ["--labeled", str(spec.n_labeled), "--draw", str(spec.draw)]
    words += ["--seed", str(spec.seed)]
    if spec.development:
        words += ["--development", str(spec.development)]
    if spec.plans != DEFAULT_PLANS:
        words += ["-p", spec.plans]
    if settings.recipe:
        words += ["--recipe", settings.recipe]
    if overrides := [*settings.overrides, *row.overrides]:
        words += ["--set", *overrides]
    return words
