"""The labeled scans of a model, which vote on new ones: where they lie, and how they travel.

A training leaves them where they were preprocessed. A model that is to vote elsewhere carries what
is needed of them in its folder ``scan_graph``: one channel and the label map at the plan's spacing,
as plain arrays (a file of blosc2 may hold code, and comes from elsewhere here).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from pydantic import Field

from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.data.paths import folders
from graphnn_unet.data.preprocess import folder_name, require_preprocessed, require_whole
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images.find import some
from graphnn_unet.models.load import load_model_state, read_description
from graphnn_unet.scan_graph.panel import Panel
from graphnn_unet.scan_graph.registration import RegistrationSettings
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.scan_graph.votes import ScanGraphSettings
from graphnn_unet.settings import make_section
from graphnn_unet.storage.atomic import atomic_path, write_json
from graphnn_unet.storage.plan_schema import check_plans
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import FileName, Size, Table, faults_of, raise_faults, read_valid

FOLDER = "scan_graph"
FACTS = "voting_scans.json"
_SCHEMA_VERSION = 1
_COPY_AGAIN = "Copy the whole model folder again"
_MAX_RATIO = 100
"""Unpacked to packed size of a scan; a bomb of zeros does 1000 : 1."""


class _Cases(Table):
    labeled: list[FileName]


class _Ours(Table):
    """What a checkpoint of this program says about its run."""

    cases: _Cases = Field(_Cases(labeled=[]))
    recipe: dict[str, dict[str, Any]] = Field({})


class _Facts(Table):
    """``voting_scans.json``."""

    spacing_mm: Annotated[list[Size], Field(min_length=3, max_length=3)]
    labeled: dict[str, list[FileName]]
    scan_graph: dict[str, Any]
    registration: dict[str, Any]


@dataclass(frozen=True)
class KeptScan:
    """A labeled scan that travels with a model.

    Attributes:
        case_id: Name of the case.
        path: File with the arrays ``image`` and ``label``, ``(z, y, x)`` each.
    """

    case_id: str
    path: Path

    def image(self) -> np.ndarray:
        """``(1, z, y, x)`` float32."""
        return self._read("image", np.float32)

    def label(self) -> np.ndarray:
        """``(1, z, y, x)`` int16."""
        return self._read("label", np.int16)

    def _read(self, name: str, kind: type) -> np.ndarray:
        try:
            with ZipFile(self.path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _MAX_RATIO * self.path.stat().st_size:
                raise ValueError(f"it would unpack to {unpacked / 2**20:.0f} MB")
            with np.load(self.path, allow_pickle=False) as stored:
                array = stored[name]
            if array.ndim != 3 or array.dtype != kind or not np.isfinite(array).all():
                raise ValueError(f"{name} is no volume of {kind.__name__}")
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error, MemoryError) as e:
            why = (str(e).splitlines() or ["it is damaged"])[0].rstrip(".")
            raise InputError(f"{self.path} cannot be read", why, _COPY_AGAIN) from e
        return array[None]


@dataclass(frozen=True)
class VotingScans:
    """The labeled scans of some folds of a model.

    Attributes:
        panel: They, and how they vote.
        labeled: Fold to the cases that trained it.
        source: Folder that they were found in.
    """

    panel: Panel
    labeled: Mapping[str, Sequence[str]]
    source: Path


def find_voting_scans(model: Path, folds: Sequence[int | str], checkpoint: str) -> VotingScans:
    """The labeled scans of the folds of a model: those in its folder, else the preprocessed ones.

    Args:
        model: Model folder.
        folds: Folds that predict; the scans of all of them vote.
        checkpoint: File name of the checkpoint in each fold.

    Raises:
        InputError: Scans cannot vote with this model, or they are not there.
    """
    plans = PlansManager(check_plans(read_json(model / "plans.json"), model / "plans.json"))
    description = read_description(model)
    runs = {str(fold): _run(model / f"fold_{fold}" / checkpoint) for fold in folds}
    configuration, first = next(iter(runs.values()))
    spacing = [float(step) for step in plans.get_configuration(configuration).spacing]
    labels = plans.get_label_manager(description)
    _refuse_unsupported(model, len(spacing), labels.has_regions)
    if (model / FOLDER / FACTS).is_file():
        source, tables = model / FOLDER, _facts(model / FOLDER / FACTS, spacing, list(runs))
        labeled = {fold: tables["labeled"][fold] for fold in runs}
        scans: list[Scan] = [KeptScan(c, source / f"{c}.npz") for c in _union(labeled)]
    else:
        source, tables = folders().preprocessed / plans.dataset_name, first.recipe
        labeled = {fold: ours.cases.labeled for fold, (_, ours) in runs.items()}
        scans = _preprocessed(model, source, plans, configuration, description, _union(labeled))
    panel = Panel(
        scans,
        tuple(spacing),
        labels.num_segmentation_heads,
        make_section(ScanGraphSettings, tables.get("scan_graph", {}), str(model)),
        make_section(RegistrationSettings, tables.get("registration", {}), str(model)),
    )
    return VotingScans(panel, labeled, source)


def write_voting_scans(voting: VotingScans, model: Path) -> int:
    """Write what votes into the folder ``scan_graph`` of a model; return its size in bytes."""
    panel, target = voting.panel, model / FOLDER
    for scan in panel.labeled:
        image = np.asarray(scan.image()[0], dtype=np.float32)
        label = np.asarray(scan.label()[0], dtype=np.int16)
        with atomic_path(target / f"{scan.case_id}.npz") as temporary:
            np.savez_compressed(temporary, image=image, label=label)
    facts = {
        "schema_version": _SCHEMA_VERSION,
        "spacing_mm": list(panel.spacing_mm),
        "labeled": {fold: list(cases) for fold, cases in voting.labeled.items()},
        "scan_graph": panel.settings.model_dump(),
        "registration": panel.registration.model_dump(),
    }
    write_json(target / FACTS, facts)
    return sum(path.stat().st_size for path in target.iterdir())


def _run(path: Path) -> tuple[str, _Ours]:
    """Configuration of a checkpoint, and what it says about its run."""
    state = load_model_state(path)
    ours = state.get("gnnunet") or {}
    raise_faults(faults_of(_Ours, ours), path, "is damaged", _COPY_AGAIN)
    return state["init_args"]["configuration"], _Ours.model_validate(ours)


def _union(labeled: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({case for cases in labeled.values() for case in cases})


def _refuse_unsupported(model: Path, n_axes: int, has_regions: bool) -> None:
    why = ""
    if n_axes != 3:
        why = "scans are registered as volumes, its configuration is 2d"
    elif has_regions:
        why = "its classes overlap (regions), and votes are for one class a voxel"
    if why:
        raise InputError(f"--scan-graph is not possible with {model}", why, "Leave it out")


def _facts(path: Path, spacing: Sequence[float], folds: Sequence[str]) -> dict[str, Any]:
    facts = read_valid(path, _Facts, _COPY_AGAIN)
    if not np.allclose(facts["spacing_mm"], spacing):
        raise InputError(
            f"the scans of {path.parent} are of another model",
            f"their voxels have {facts['spacing_mm']} mm, the plan's {list(spacing)}",
            _COPY_AGAIN,
        )
    missing = [fold for fold in folds if not facts["labeled"].get(fold)]
    if missing:
        raise InputError(f"{path} names no scans of fold {missing[0]}", "", _COPY_AGAIN)
    return facts


def _preprocessed(
    model: Path,
    folder: Path,
    plans: PlansManager,
    configuration: str,
    description: dict[str, Any],
    cases: Sequence[str],
) -> list[Scan]:
    """Labeled scans where a training has left them."""
    if not cases:
        raise InputError(
            f"--scan-graph is not possible with {model}",
            "it names no labeled scans, and there are none in its folder",
            "Use a model that gnnunet_train made, or one exported with --scan-graph",
        )
    identifier = plans.get_configuration(configuration).data_identifier
    try:
        manifest = require_preprocessed(folder, identifier)
        lost = [c for c in cases if manifest["cases"].get(c, {}).get("role") != "labeled"]
        if lost:
            raise InputError(f"{some(lost)} are not among the labeled scans of {identifier}")
        require_whole(folder, plans.plans, configuration, description, cases, others=False)
    except (InputError, MissingFileError) as error:
        raise InputError(
            f"the {len(cases)} labeled scans of {model} are not there to vote (--scan-graph)",
            " ".join(part for part in (error.what, error.why and f"({error.why})") if part),
            "Preprocess them as they were for its training, or use a model exported with "
            "--scan-graph, which carries them",
        ) from error
    return [StoredCase(case, folder / folder_name(identifier, "labeled"), True) for case in cases]
