"""The recipe: how a method trains, as a typed and documented table.

Order of precedence: built-in defaults < what the planner derives from the data < the named recipe
< ``--recipe FILE`` < ``--set key=value``. Unknown keys and wrong types are refused with the
nearest known key.

The sections below are those of every training. A method declares its own beside its trainer
(``SemiTrainer.sections``); from then on recipes, overrides, messages and help know its keys.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, cast

from pydantic import Field, SerializeAsAny

from graphnn_unet.errors import InputError, MissingFileError, RecipeError, near_names
from graphnn_unet.settings import Section, SectionType, wrong_values
from graphnn_unet.storage.text import read_text
from graphnn_unet.user_code import MODULE_PREFIX

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPE_FOLDER = Path(__file__).parent / "recipes"
Layer = Mapping[str, Any]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(gt=0)]


class Plan(Section):
    """What the planner is told; empty values are decided from the data."""

    configuration: Literal["2d", "3d_fullres", "3d_lowres"] | None = Field(
        default=None, description="configuration that spacing and patch_size are for"
    )
    spacing: Annotated[list[Length], Field(min_length=2, max_length=3)] | None = Field(
        default=None,
        description="target voxel size in mm, order z, y, x of the files (two values: the two axes "
        "of a slice)",
    )
    patch_size: Annotated[list[Positive], Field(min_length=2, max_length=3)] | None = Field(
        default=None,
        description="patch in voxels, order z, y, x of the plan, where the axis of the largest "
        "spacing comes first (two values for 2d: y, x)",
    )
    gpu_memory_gb: Annotated[float, Field(ge=0.01)] | None = Field(
        default=None,
        description="GPU memory to plan for, in GB; nnU-Net's target of the planner if empty",
    )


class Network(Section):
    """Changes to the planned network; empty values keep nnU-Net's."""

    base_features: Positive | None = Field(default=None, description="channels of the first stage")
    max_features: Positive | None = Field(default=None, description="largest number of channels")
    max_stages: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="largest number of resolution stages, bottleneck included"
    )


class Batch(Section):
    """Images a step; half of each part fills the inward, half the outward mixed images."""

    labeled: Annotated[int, Field(ge=2, multiple_of=2)] = Field(
        default=4, description="labeled images a step; the student sees as many patches"
    )
    unlabeled: Annotated[int, Field(ge=2, multiple_of=2)] = Field(
        default=4, description="unlabeled images a step (self-training only)"
    )


class Schedule(Section):
    """Lengths in optimizer steps."""

    pretrain_steps: Annotated[int, Field(ge=0)] = Field(
        default=10_000, description="steps on labeled cases alone (BCP's program, ACDC: 10 000)"
    )
    selftrain_steps: Annotated[int, Field(ge=0)] = Field(
        default=30_000, description="steps with pseudo-labels (BCP's program, ACDC: 30 000)"
    )
    steps_per_epoch: Positive = Field(
        default=250, description="steps between two log rows (nnU-Net: 250)"
    )
    validation_steps: Annotated[int, Field(ge=0)] = Field(
        default=50,
        description="patches of held-out cases scored after an epoch (nnU-Net: 50 batches)",
    )
    checkpoint_every: Positive = Field(
        default=10, description="epochs between two checkpoints for continuing"
    )


class Optimizer(Section):
    """Optimizer and learning rate; defaults are nnU-Net's."""

    name: Literal["sgd", "adam", "adamw"] = Field(default="sgd", description="update rule")
    lr: Annotated[float, Field(gt=0)] = Field(default=0.01, description="initial learning rate")
    momentum: Fraction = Field(default=0.99, description="momentum of sgd")
    nesterov: bool = Field(default=True, description="Nesterov momentum of sgd")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=3e-5, description="L2 penalty")
    schedule: Literal["poly", "step", "constant"] = Field(
        default="poly", description="poly: lr (1 - t/T)^0.9; step: lr * gamma^(t // step_size)"
    )
    step_size: Positive = Field(
        default=2500, description="steps between two drops of schedule = step"
    )
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="factor of one drop"
    )
    reset_between_phases: bool = Field(
        default=True, description="self-training starts with a fresh optimizer state"
    )
    clip_norm: Annotated[float, Field(gt=0)] = Field(
        default=12.0, description="largest norm of all gradients together (nnU-Net: 12)"
    )

    @property
    def is_nesterov(self) -> bool:
        """Whether sgd looks ahead, for which it needs momentum."""
        return self.nesterov and self.momentum > 0


class Loss(Section):
    """Segmentation loss."""

    variant: Literal["nnunet", "paper3d", "paper2d"] = Field(
        default="nnunet",
        description="Dice + cross-entropy as nnU-Net or as BCP's 3D and 2D programs",
    )
    unlabeled_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.5, description="weight of regions with pseudo-labels (BCP: alpha = 0.5)"
    )
    pseudo_dice: bool = Field(
        default=False,
        description="Dice beside cross-entropy where labels are the teacher's, as published; on "
        "uncertain borders it favors foreground, step after step",
    )
    deep_supervision: bool = Field(
        default=True, description="loss on coarser decoder outputs as well"
    )


class Augmentation(Section):
    """Changes to nnU-Net's augmentation."""

    mirror: bool = Field(
        default=True,
        description="mirrored patches in training and mirrored copies in prediction; false where "
        "left and right are labels of their own, or a label is told by its side of the body",
    )
    unlabeled_spatial: bool = Field(
        default=False,
        description="rotate and scale unlabeled patches too; a teacher labels anatomy better at "
        "its own size and place",
    )


class Recipe(Section):
    """All keys of a recipe: the sections of every training, and those that methods declare."""

    plan: Plan = Plan()
    network: Network = Network()
    batch: Batch = Batch()
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()
    methods: dict[str, SerializeAsAny[Section]] = Field(default_factory=dict)

    def of(self, section: type[SectionType]) -> SectionType:
        """The settings of one section, given the class that declares them.

        Raises:
            InputError: No method has declared this class.
        """
        for name, known in known_sections().items():
            if known is section:
                values = getattr(self, name) if name in _ENGINE_SECTIONS else self.methods.get(name)
                if isinstance(values, section):
                    return values
                # resolved before the method's file was loaded again
                return section.model_validate(values.model_dump() if values else {})
        raise InputError(f"no method has declared the section {section.__name__}")

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, without empty ones."""
        tables = self.model_dump(exclude_none=True)
        methods = tables.pop("methods")
        return {**tables, **methods}

    def changes(self) -> dict[str, dict[str, Any]]:
        """Nested plain values without those that are the built-in defaults.

        A key that a later version adds with a default leaves this as it was.
        """
        sections = known_sections()
        changed = {
            name: {
                key: value
                for key, value in table.items()
                if value != sections[name].model_fields[key].default
            }
            for name, table in self.as_dict().items()
        }
        return {name: table for name, table in changed.items() if table}

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that change with any value that is not the default."""
        text = json.dumps(self.changes(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


PLANNING_SECTIONS = ("plan", "network")
"""Sections that act when the data are planned; training cannot change them any more."""

SECTION_PROVIDERS = "graphnn_unet.sections"
"""Entry points that import the methods of a package, which declare their sections thereby."""

_ENGINE_SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Recipe.model_fields.items()
    if name != "methods" and isinstance(field.annotation, type)
}
_declared: dict[str, type[Section]] = {}


def declare_section(name: str, section: type[Section]) -> None:
    """Make the settings of a method known to recipes, ``--set``, messages and help.

    Args:
        name: Name of the section in a recipe.
        section: Its class.

    Raises:
        InputError: The name belongs to another class.
    """
    if not section.__module__.startswith("graphnn_unet."):
        _load_providers()  # a name of ours is taken, even where its method was not imported yet
    known = _ENGINE_SECTIONS.get(name) or _declared.get(name)
    # the file of a user's trainer may be loaded again, or a copy of it
    is_replaced = known is not None and known.__module__.startswith(MODULE_PREFIX)
    if known is not None and not is_replaced and _identity(known) != _identity(section):
        raise InputError(
            f"the recipe section {name!r} of {section.__name__} has the name of another one",
            f"{known.__name__} of {known.__module__} has it",
            "Choose another name in `sections`",
        )
    _declared[name] = section


def _identity(section: type[Section]) -> tuple[str, str]:
    return section.__module__, section.__qualname__


_loaded_providers: set[str] = set()


def _load_providers() -> None:
    """Import all installed methods once; those of a provider may ask for it while they load."""
    for point in entry_points(group=SECTION_PROVIDERS) if not _loaded_providers else ():
        _loaded_providers.add(point.name)
        point.load()()


def method_sections() -> dict[str, type[Section]]:
    """Sections that methods have declared, those of all installed methods among them."""
    _load_providers()
    return _declared


def known_sections() -> dict[str, type[Section]]:
    """All sections that a recipe may have, by name."""
    return {**_ENGINE_SECTIONS, **dict(sorted(method_sections().items()))}


def known_keys() -> dict[str, str]:
    """Every key (``section.key``) with its description."""
    return {
        f"{name}.{key}": field.description or ""
        for name, section in known_sections().items()
        for key, field in section.model_fields.items()
    }


def key_table(sections: Mapping[str, type[Section]]) -> list[tuple[str, str, str]]:
    """Key (``section.key``), default and description of each key of some sections.

    The default is written as in a recipe file; it is empty where the data decide.
    """
    return [
        (
            f"{name}.{key}",
            "" if field.default is None else _toml(field.default),
            field.description or "",
        )
        for name, section in sections.items()
        for key, field in section.model_fields.items()
    ]


def training_sections(method_sections: Mapping[str, type[Section]]) -> dict[str, type[Section]]:
    """Sections that a training may change: those of every training, then a method's own."""
    engine = {name: s for name, s in _ENGINE_SECTIONS.items() if name not in PLANNING_SECTIONS}
    return {**engine, **method_sections}


def named_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.toml"))


def load_recipe(name_or_file: str | Path) -> dict[str, dict[str, Any]]:
    """One layer from a named recipe (``la``) or a TOML file.

    Raises:
        MissingFileError: Neither a known name nor a file; lists near names.
        RecipeError: Not TOML, an unknown key or a wrong type.
    """
    text = str(name_or_file)
    path = RECIPE_FOLDER / f"{text}.toml"
    if not path.is_file():
        path = Path(text)
    if not path.is_file():
        raise MissingFileError(
            f"recipe {text!r} was not found", f"it is no file; {near_names(text, named_recipes())}"
        )
    try:
        layer = tomllib.loads(read_text(path))
    except (ValueError, OSError, RecursionError) as error:  # not TOML, not text, not to be read
        raise RecipeError(f"recipe {path} is not TOML", str(error)) from error
    check_layer(layer, str(path))
    return layer


def parse_overrides(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """One layer from ``section.key=value`` texts; values are TOML, bare words are strings.

    Raises:
        RecipeError: Not of this form, an unknown key or a wrong type.
    """
    layer: dict[str, dict[str, Any]] = {}
    for text in assignments:
        section, name, value = parse_assignment(text)
        layer.setdefault(section, {})[name] = value
    check_layer(layer, "--set")
    return layer


def parse_assignment(text: str) -> tuple[str, str, Any]:
    """Section, key and value of ``section.key=value``; the value is TOML, a bare word a string.

    Raises:
        RecipeError: Not of this form.
    """
    key, separator, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (separator and dot and name):
        raise RecipeError(f"--set {text!r} cannot be read", "", "Write --set section.key=value")
    try:
        return section, name, tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):  # a number of 5000 digits, brackets without end
        return section, name, value.strip()


class RecipeFaultsError(RecipeError):
    """Several faults of one recipe, one line each."""

    def __init__(self, faults: Sequence[RecipeError]):
        self.faults = list(faults)
        super().__init__(f"{len(self.faults)} faults in the recipe")

    @property
    def lines(self) -> list[str]:
        """One line a fault."""
        return [fault.line for fault in self.faults]


def check_layer(layer: Layer, source: str) -> None:
    """Raise ``RecipeError`` for all unknown keys and wrong values of one layer together."""
    # methods are imported for their sections alone: planning needs none
    sections = _ENGINE_SECTIONS if layer.keys() <= _ENGINE_SECTIONS.keys() else known_sections()
    faults: list[RecipeError] = []
    understood: dict[str, dict[str, Any]] = {}
    for section, table in layer.items():
        if section not in sections or not _is_table(table):
            names = [f"{section}.{key}" for key in table] if _is_table(table) else []
            faults += [_unknown(name, known_keys(), source) for name in names or [section]]
            continue
        for key, value in table.items():
            if key in sections[section].model_fields:
                understood.setdefault(section, {})[key] = value
            else:
                faults.append(_unknown(f"{section}.{key}", known_keys(), source))
    faults += _wrong_values(understood, sections, source)
    _raise_all(faults)


def _raise_all(faults: Sequence[RecipeError]) -> None:
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise RecipeFaultsError(faults)


def for_configuration(layer: Layer, configuration: str) -> dict[str, dict[str, Any]]:
    """What a layer says about one configuration.

    A recipe with ``plan.configuration`` was written for that one: its patch, batch and box in
    voxels would not fit another, so they are left out there; schedule, losses and graph stay.
    """
    wanted = layer.get("plan", {}).get("configuration")
    kept = {section: dict(table) for section, table in layer.items()}
    if wanted is None or wanted == configuration:
        return kept
    kept.pop("batch", None)
    for key in ("configuration", "patch_size", "spacing"):
        kept["plan"].pop(key, None)
    if isinstance(kept.get("copy_paste", {}).get("box_fraction"), list):
        kept["copy_paste"].pop("box_fraction")
    return kept


def resolve(*layers: Layer) -> Recipe:
    """Merge layers, later ones win key by key, and validate the result."""
    merged = _merged(layers)
    check_layer(merged, "the resolved recipe")
    engine = {name: table for name, table in merged.items() if name in _ENGINE_SECTIONS}
    methods = {
        name: section.model_validate(merged.get(name, {}))
        for name, section in sorted(method_sections().items())
    }
    return Recipe.model_validate({**engine, "methods": methods})


def resolve_for_planning(*layers: Layer) -> tuple[Recipe, dict[str, dict[str, Any]]]:
    """What planning needs: the sections of every training, and tables for the record.

    Sections of methods are taken as they are, for no method is imported; those of a user's layer
    were checked when it was read.

    Returns:
        The recipe without sections of methods, and all sections as plain values, of methods those
        that the layers name.
    """
    merged = _merged(layers)
    engine = {name: table for name, table in merged.items() if name in _ENGINE_SECTIONS}
    check_layer(engine, "the resolved recipe")
    recipe = Recipe.model_validate(engine)
    methods = {name: table for name, table in sorted(merged.items()) if name not in engine}
    return recipe, {**recipe.as_dict(), **methods}


def _merged(layers: Iterable[Layer]) -> dict[str, dict[str, Any]]:
    """The layers in one, later ones win key by key."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, table in layer.items():
            if not _is_table(table):
                raise _unknown(section, known_keys(), "the resolved recipe")
            merged.setdefault(section, {}).update(table)
    return merged


def _wrong_values(
    values: Layer, sections: Mapping[str, type[Section]], source: str
) -> list[RecipeError]:
    """One fault for each known key whose value cannot be used."""
    faults: list[RecipeError] = []
    for name, table in values.items():
        for wrong in wrong_values(sections[name], table):
            key = f"{name}.{wrong.field}" if wrong.field else name
            given = f"{key} = {wrong.value!r}" if wrong.field else f"[{name}]"
            meaning = f"{key}: {wrong.description}" if wrong.description else ""
            faults.append(RecipeError(f"{given} in {source} cannot be used", wrong.why, meaning))
    return faults


def _unknown(key: str, known: Mapping[str, str], source: str) -> RecipeError:
    """The fault of an unknown key, with the known one that is most like it."""
    name = key.rpartition(".")[2]

    def likeness(candidate: str) -> float:
        in_words = set(name.split("_")) <= set(known[candidate].replace(",", "").split())
        if in_words or candidate.partition(".")[2] == name:  # right name in the wrong section
            return 1 + difflib.SequenceMatcher(None, key, candidate).ratio()
        return difflib.SequenceMatcher(None, key, candidate).ratio()

    near = max(known, key=likeness)
    hint = f"The nearest known key is {near} ({known[near]})" if likeness(near) >= 0.3 else ""
    return RecipeError(f"unknown recipe key {key!r} in {source}", "", hint)


def resolved_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of a plan with what it inherits from others, as nnU-Net resolves it.

    Raises:
        InputError: It is not in the plan, or inherits from itself.
    """
    table = plans["configurations"]
    chain: list[str] = []
    current: str | None = name
    while current is not None:
        if current not in table or current in chain:
            raise InputError(
                f"configuration {name!r} cannot be read from the plan",
                f"{current!r} is not in it"
                if current not in table
                else f"{current!r} inherits from itself",
                f"The plan has {', '.join(table)}",
            )
        chain.append(current)
        current = table[current].get("inherits_from")
    merged: dict[str, Any] = {}
    for part in reversed(chain):
        merged.update(table[part])
    merged.pop("inherits_from", None)
    return merged


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with a comment for each key; reads back to the same recipe."""
    lines: list[str] = []
    known = known_keys()
    for section, table in recipe.as_dict().items():
        if not table:
            continue
        lines += [f"[{section}]"]
        for key, value in table.items():
            lines += [f"{key} = {_toml(value)}  # {known[f'{section}.{key}']}"]
        lines += [""]
    return "\n".join(lines)


def _is_table(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the control character DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if _is_table(value):
        return "{ " + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, cast(Sequence[Any], value))) + "]"
    return repr(value)
