"""Trainers by name: ours, those of installed packages, those of a user's file, nnU-Net's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import nnunetv2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from graphnn_unet import trainers as own_trainers
from graphnn_unet.errors import InputError, near_names
from graphnn_unet.pseudo_labels import corrector_class, known_correctors
from graphnn_unet.settings import Section
from graphnn_unet.user_code import load_class

ENTRY_POINTS = "graphnn_unet.trainers"


def load_known() -> None:
    """Import all trainers of ours and of installed packages, which declares their settings."""
    for name in own_trainers.TRAINERS:
        getattr(own_trainers, name)
    for point in entry_points(group=ENTRY_POINTS):
        point.load()


def sections_of(trainer: type[nnUNetTrainer]) -> dict[str, type[Section]]:
    """Recipe sections that a trainer and its bases declare, those of the bases first."""
    sections: dict[str, type[Section]] = {}
    for base in reversed(trainer.__mro__):
        sections.update(vars(base).get("sections", {}))
    if "pseudo_label" in sections:  # its corrections have settings of their own
        for name in known_correctors():
            sections.update(corrector_class(name).sections)
    return sections


def known_trainers() -> list[str]:
    """Names of all trainers that ``trainer_class`` finds without a file."""
    names = [name for name in own_trainers.TRAINERS if name != own_trainers.BASE]
    return names + sorted(point.name for point in entry_points(group=ENTRY_POINTS))


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """Class of a trainer that the user names; its file, if it has one, is run.

    Names that stand in files go to :func:`known_trainer` instead.

    Args:
        name: A trainer of ours, one that an installed package offers under the entry point
            ``graphnn_unet.trainers``, ``path/to/file.py:ClassName``, or one of nnU-Net's own.

    Raises:
        InputError: There is none; lists near names. Or it is no subclass of ``nnUNetTrainer``.
        MissingFileError: The file does not exist.
    """
    return _from_file(name) if ".py:" in name else known_trainer(name)


def known_trainer(name: str) -> type[nnUNetTrainer]:
    """Class of a trainer by its name alone, as a checkpoint or plan holds it.

    No file is imported for it: it is ours, nnU-Net's, of an installed package, in the user's
    folder ``nnUNet_extTrainer``, or a file's class that the user named in this process.

    Raises:
        InputError: There is none; lists near names.
    """
    if name in own_trainers.TRAINERS:
        return getattr(own_trainers, name)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return _checked(point.load(), name)
    if (loaded := _loaded_from_files.get(name)) is not None:
        return loaded
    if name.isidentifier() and (stock := _stock(name)) is not None:
        return stock
    raise InputError(
        f"trainer {name!r} is unknown",
        near_names(name, known_trainers()),
        "Give one of them, or path/to/file.py:ClassName",
    )


_loaded_from_files: dict[str, type[nnUNetTrainer]] = {}


def _from_file(name: str) -> type[nnUNetTrainer]:
    path, _, class_name = name.rpartition(":")
    loaded = _checked(load_class(path, class_name, "trainer"), name)
    _loaded_from_files[class_name] = loaded
    return loaded


def _checked(candidate: object, name: str) -> type[nnUNetTrainer]:
    if isinstance(candidate, type) and issubclass(candidate, nnUNetTrainer):
        return candidate
    raise InputError(
        f"{name} is no trainer",
        "it is no subclass of nnU-Net's trainer",
        "Derive it from SemiTrainer",
    )


def _stock(name: str) -> type[nnUNetTrainer] | None:
    """One of nnU-Net's own trainers, or one in a folder of ``nnUNet_extTrainer``.

    Only the module that defines the class is imported. nnU-Net's own search imports all of them,
    so that a package missing for one method breaks every other.
    """
    if name == "nnUNetTrainer":
        return nnUNetTrainer
    package = Path(nnunetv2.__file__).parent
    for path in _defining_files(package / "training" / "nnUNetTrainer", name):
        module = ".".join(("nnunetv2", *path.relative_to(package).with_suffix("").parts))
        return _checked(getattr(import_module(module), name), name)
    for folder in filter(None, os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)):
        for path in _defining_files(Path(folder), name):
            return _from_file(f"{path}:{name}")
    return None


def _defining_files(folder: Path, name: str) -> Iterator[Path]:
    """Modules below a folder that define a class of this name."""
    definition = re.compile(rf"^class {name}\b", re.MULTILINE)
    for path in sorted(folder.rglob("*.py")):
        if definition.search(path.read_text(encoding="utf-8", errors="replace")):
            yield path
