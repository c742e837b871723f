"""Where data sets, preprocessed files and results lie, and how data sets are named.

nnU-Net's three variables win; an unset one defaults to a folder below ``$GNNUNET_HOME``
(default ``~/gnnunet``). nnU-Net reads the variables when it is imported: what calls it calls
``use_folders`` first.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from graphnn_unet.errors import InputError, MissingFileError, near_names
from graphnn_unet.ranges import MAX_WORKERS

_VARIABLES = {
    "raw": "nnUNet_raw",
    "preprocessed": "nnUNet_preprocessed",
    "results": "nnUNet_results",
}
REPORT = "dataset_report.json"
"""In the preprocessed folder of a data set: all that a check found, with and without faults."""
_COUNTS = {"nnUNet_def_n_proc": 1, "nnUNet_n_proc_DA": 0}
_DATASET = re.compile(r"Dataset(\d{3})_(.+)")


@dataclass(frozen=True)
class Folders:
    """The three folders in use and where each was taken from.

    Attributes:
        raw: Raw data sets, ``DatasetNNN_Name`` each.
        preprocessed: Plans, fingerprints and preprocessed cases.
        results: Trained models.
        sources: For each of the three names the variable or default that set it.
    """

    raw: Path
    preprocessed: Path
    results: Path
    sources: dict[str, str]

    @property
    def line(self) -> str:
        """One line that names all three."""
        return f"raw={self.raw} preprocessed={self.preprocessed} results={self.results}"


def home() -> Path:
    """``$GNNUNET_HOME``, or ``~/gnnunet``."""
    return Path(os.environ.get("GNNUNET_HOME") or Path.home() / "gnnunet").expanduser().absolute()


def folders() -> Folders:
    """The folders in use."""
    paths: dict[str, Path] = {}
    sources: dict[str, str] = {}
    home_source = "GNNUNET_HOME" if os.environ.get("GNNUNET_HOME") else "~/gnnunet"
    for name, variable in _VARIABLES.items():
        value = os.environ.get(variable)
        default = home() / name
        # a default that use_folders has set is still a default
        sources[name] = variable if value and Path(value) != default else home_source
        paths[name] = Path(value).expanduser().absolute() if value else default
    return Folders(**paths, sources=sources)


def require_variables() -> None:
    """Refuse values of nnU-Net's other variables on which it would fail when it is imported.

    Raises:
        InputError: One is no number of processes.
    """
    for name, low in _COUNTS.items():
        value = os.environ.get(name, "").strip()
        if value and not (value.isdecimal() and low <= int(value[:9]) <= MAX_WORKERS):
            raise InputError(
                f"{name} = {value[:40]!r} cannot be used",
                "it is a number of processes",
                f"Set it to {low} or more, or unset it",
            )


def use_folders() -> Folders:
    """The folders in use, which nnU-Net's variables name for this process from now on.

    Raises:
        InputError: Another variable of nnU-Net cannot be used.
    """
    require_variables()
    in_use = folders()
    for name, variable in _VARIABLES.items():
        os.environ[variable] = str(getattr(in_use, name))
    return in_use


def known_datasets() -> list[str]:
    """Names of all data sets in any of the three folders, sorted.

    A folder that holds nothing but the report of a refused conversion is none.
    """
    names: set[str] = set()
    where = folders()
    for folder in (where.raw, where.preprocessed, where.results):
        if folder.is_dir():
            names.update(p.name for p in folder.iterdir() if _is_dataset(p))
    return sorted(names)


def _is_dataset(folder: Path) -> bool:
    return bool(_DATASET.match(folder.name)) and folder.is_dir() and not _is_refused(folder)


def _is_refused(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == [REPORT]


def remove_refused(full_name: str) -> None:
    """Remove reports of refused conversions whose id has become that of a data set.

    nnU-Net finds data sets by id, in all folders, and refuses an id with two names.
    """
    for folder in folders().preprocessed.glob(f"Dataset{dataset_id(full_name):03d}_*"):
        if folder.name != full_name and folder.is_dir() and _is_refused(folder):
            (folder / REPORT).unlink()
            folder.rmdir()


def resolve_dataset(name_or_id: str | int) -> str:
    """Full name (``Dataset101_LA``) of a data set given by name, id or both.

    Raises:
        MissingFileError: No such data set; lists near names.
        InputError: The name or id fits several.
    """
    text = str(name_or_id)
    names = known_datasets()
    if text in names:
        return text
    if text.isdigit():
        hits = [name for name in names if int(name[7:10]) == int(text)]
    else:
        hits = [name for name in names if name[11:] == text] or [
            name for name in names if name[11:].lower() == text.lower()
        ]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise InputError(
            f"data set {text!r} is ambiguous", f"it fits {', '.join(hits)}", "Give the full name"
        )
    raise MissingFileError(
        f"data set {text!r} was not found in {folders().raw}",
        near_names(text, names if _DATASET.fullmatch(text) else [name[11:] for name in names]),
        "Make it with gnnunet_convert",
    )


def dataset_id(full_name: str) -> int:
    """The number of ``DatasetNNN_Name``."""
    return int(full_name[7:10])


def new_dataset_name(name_or_id: str, default_id: int | None = None, label: str = "") -> str:
    """Full name for a data set that is to be made.

    Args:
        name_or_id: ``MyStudy``, ``Dataset501_MyStudy`` or ``501``.
        default_id: Id to use when only a name is given; the next free one from 501 on without it.
        label: Name to use when only an id is given.

    Raises:
        InputError: The name cannot serve as a folder name, or the id belongs to another set.
    """
    names = known_datasets()
    if match := _DATASET.fullmatch(name_or_id):
        number, name = int(match[1]), match[2]
    elif name_or_id.isdigit():
        number, name = int(name_or_id), label or "Study"
    else:
        number, name = _number_for(name_or_id, names, default_id), name_or_id
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise InputError(
            f"{name!r} cannot name a data set",
            "the name becomes a folder",
            "Use letters, digits, '_' and '-'",
        )
    if not 1 <= number <= 999:
        raise InputError(f"data set id {number} is out of range", "", "Use 1 to 999")
    full = f"Dataset{number:03d}_{name}"
    others = [n for n in names if dataset_id(n) == number and n != full]
    if others:
        raise InputError(
            f"id {number} belongs to {others[0]}", "nnU-Net finds data sets by id", "Take another"
        )
    return full


def _number_for(name: str, names: list[str], default_id: int | None) -> int:
    """Id of a data set of this name: its present one, the default, or the next free one."""
    taken = {dataset_id(full_name) for full_name in names}
    for full_name in names:
        if full_name[11:] == name:
            return dataset_id(full_name)
    if default_id is not None and default_id not in taken:
        return default_id
    return next(number for number in range(501, 1000) if number not in taken)
