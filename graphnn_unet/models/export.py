"""Write a trained model as a plain nnU-Net model that needs nothing of this package."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from graphnn_unet._version import __version__
from graphnn_unet.errors import GraphnnError, InputError, MissingFileError, RefusedError
from graphnn_unet.images.intensities import small_unit_note
from graphnn_unet.images.label_ids import ids_of_user, label_values
from graphnn_unet.models.export_formats import (
    LARGEST_DIFFERENCE,
    NNUNET,
    Format,
    require_format,
    write_format,
)
from graphnn_unet.models.find import available_folds
from graphnn_unet.models.load import (
    STOCK_TRAINER,
    build_network,
    load_model_state,
    load_predictor,
    load_weights,
    name_of_file,
    network_of,
    read_description,
)
from graphnn_unet.models.voting_scans import FOLDER, find_voting_scans, write_voting_scans
from graphnn_unet.networks.fold import fold_alignment
from graphnn_unet.networks.hook import AlignedUNet
from graphnn_unet.progress import say
from graphnn_unet.storage.atomic import exchange_folder, move_into_place, write_json
from graphnn_unet.storage.checkpoints import FINAL, save_checkpoint
from graphnn_unet.storage.locks import work_folder
from graphnn_unet.storage.plan_schema import check_plans
from graphnn_unet.storage.safe_load import read_json

_FACTS = "gnnunet_export.json"


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        target: Model folder or zip.
        folds: Exported folds.
        difference: Largest difference of logits between the two networks on a random patch.
        notes: What stock nnU-Net does differently with the model.
    """

    target: Path
    folds: list[int | str]
    difference: float
    notes: tuple[str, ...] = ()


def export(
    model: Path | str,
    output: Path | str,
    *,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = FINAL,
    overwrite: bool = False,
    trainer: str | None = None,
    scan_graph: bool = False,
    format: Format = NNUNET,  # the command's own word
) -> ExportResult:
    """Export a model.

    The alignment block is folded into the convolutions behind it; the exported network is compared
    with the trained one on a random patch before anything is written under its final name.

    Args:
        model: Model folder.
        output: Folder to become the model folder, or a ``.zip`` that
            ``nnUNetv2_install_pretrained_model_from_zip`` and ``gnnunet_install_model`` read.
        folds: Folds to export; default all.
        checkpoint: File name of the checkpoint in each fold.
        overwrite: Replace an older export.
        trainer: ``path/to/file.py:ClassName`` for a model of a trainer of one's own.
        scan_graph: Also put the labeled scans of the training, preprocessed, and their label maps
            into the model, so that ``predict`` with ``scan_graph`` needs nothing else. Patient data
            then travel with the model.
        format: ``nnunet``; ``onnx`` (a network a fold for onnxruntime, needs the extra ``onnx``),
            ``torch-export`` (for ``torch.export.load``) or ``monai-bundle`` (for MONAI's runner),
            each with a JSON of what comes before and behind the network.

    Raises:
        RefusedError: The output exists, or is something else than an older export.
        InputError: The network cannot be written in this format.
    """
    require_format(format)
    if scan_graph and format != NNUNET:
        raise InputError(
            f"labeled scans cannot go with format {format}", "only gnnunet_predict lets them vote",
            "Leave --format or --scan-graph out",
        )  # fmt: skip
    model, output = Path(model), Path(output)
    if not (model / "plans.json").is_file():
        raise MissingFileError(f"{model} is no model folder", "it has no plans.json")
    _refuse_to_lose(output, overwrite)
    if trainer is not None:
        name_of_file(trainer)  # from now on it is known by its name
    exported_folds = available_folds(model, checkpoint, folds)
    voting = find_voting_scans(model, exported_folds, checkpoint) if scan_graph else None
    with work_folder(output) as folder:
        work = folder / "model"
        if format == NNUNET:
            difference, name = _write_model(model, work, exported_folds, checkpoint)
        else:
            difference, name = _write_other(model, work, exported_folds, checkpoint, format)
        if voting is not None:
            n_bytes = write_voting_scans(voting, work)
            say(
                f"patient data travel with this model: {len(voting.panel.labeled)} labeled scans "
                f"and their label maps ({n_bytes / 2**20:.1f} MB), folder {FOLDER}"
            )
        if output.suffix == ".zip" and not output.is_dir():
            _write_zip(work, folder / output.name, name)
            move_into_place(folder / output.name, output)
        else:
            exchange_folder(work, output)
    notes = _notes(model) if format == NNUNET else ()
    return ExportResult(output, exported_folds, difference, notes)


def _write_other(
    model: Path, work: Path, folds: Sequence[int | str], checkpoint: str, kind: Format
) -> tuple[float, str]:
    """Write a model in another format than nnU-Net's; return largest difference and a name."""
    predictor = load_predictor(
        model, folds=folds, checkpoint=checkpoint, device=torch.device("cpu")
    )
    facts = {
        "exported_by": f"graphnn-unet {__version__}",
        "trainer": predictor.trainer_name,
        "model": model.name,
        "folds": list(folds),
        "format": kind,
    }
    difference = write_format(predictor, work, kind, facts)
    facts["largest_logit_difference"] = difference
    write_json(work / _FACTS, {"schema_version": 1, **facts})
    return difference, f"{predictor.plans.dataset_name}_{kind}"


def _notes(model: Path) -> tuple[str, ...]:
    """What this program does for a user and stock nnU-Net does not."""
    notes = []
    plans = read_json(model / "plans.json")
    if orientation := plans.get("orientation"):
        notes.append(
            f"stock nnU-Net expects scans stored as {orientation}, like those of the training; "
            "gnnunet_predict turns others"
        )
    description = read_description(model)
    ids = ids_of_user(description)
    changed = {ids[i]: i for i in label_values(description["labels"]) if ids.get(i, i) != i}
    if changed:
        listed = ", ".join(f"{inside} for {outside}" for outside, inside in changed.items())
        notes.append(f"stock nnU-Net writes consecutive label ids: {listed}")
    if note := small_unit_note(plans):
        notes.append(note)
    return tuple(notes)


def _refuse_to_lose(output: Path, overwrite: bool) -> None:
    """Replace an older export alone, and only when told to."""
    if not output.exists():
        return
    if not overwrite:
        raise RefusedError(f"{output} exists", "", "Use --overwrite, or another name")
    if not _is_export(output):
        raise RefusedError(
            f"{output} is not replaced", "it was not written by gnnunet_export", "Use another name"
        )


def _is_export(output: Path) -> bool:
    if output.is_dir():
        return (output / _FACTS).is_file()
    try:
        with zipfile.ZipFile(output) as archive:
            return any(Path(name).name == _FACTS for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _write_model(
    model: Path, work: Path, folds: Sequence[int | str], checkpoint: str
) -> tuple[float, str]:
    """Write the plain model into ``work``; return largest difference and nnU-Net's folder name."""
    dataset_json = read_description(model)
    raw_plans = check_plans(read_json(model / "plans.json"), model / "plans.json")
    plain_plans = {key: value for key, value in raw_plans.items() if key != "gnnunet"}
    difference, configuration, trainer = 0.0, "", ""
    for fold in folds:
        state = load_model_state(model / f"fold_{fold}" / checkpoint)
        configuration, trainer = state["init_args"]["configuration"], state["trainer_name"]
        weights, here = _plain_weights(state, raw_plans, configuration, dataset_json)
        difference = max(difference, here)
        save_checkpoint(
            work / f"fold_{fold}" / FINAL,
            {
                "network_weights": weights,
                "trainer_name": STOCK_TRAINER,
                "init_args": {
                    "plans": plain_plans,
                    "configuration": configuration,
                    "fold": fold,
                    "dataset_json": dataset_json,
                },
                "inference_allowed_mirroring_axes": state.get("inference_allowed_mirroring_axes")
                or None,  # an empty tuple ends nnU-Net's predictor
                "current_epoch": state.get("current_epoch", 0),
            },
        )
    write_json(work / "plans.json", plain_plans)
    write_json(work / "dataset.json", dataset_json)
    fingerprint = model / "dataset_fingerprint.json"
    if fingerprint.is_file():
        shutil.copyfile(fingerprint, work / fingerprint.name)
    write_json(
        work / _FACTS,
        {
            "schema_version": 1,
            "exported_by": f"graphnn-unet {__version__}",
            "trainer": trainer,
            "model": model.name,
            "folds": list(folds),
            "channel_names": dataset_json["channel_names"],
            "labels": dataset_json["labels"],
            "orientation": plain_plans.get("orientation"),
            "spacing_mm": plain_plans["configurations"][configuration].get("spacing"),
            "largest_logit_difference": difference,
        },
    )
    folder = f"{STOCK_TRAINER}__{plain_plans['plans_name']}__{configuration}"
    return difference, f"{plain_plans['dataset_name']}/{folder}"


def _plain_weights(
    state: dict[str, Any], raw_plans: dict, configuration: str, dataset_json: dict
) -> tuple[dict[str, Tensor], float]:
    """Weights of the plain network, and how far its logits are from those of the trained one."""
    plans = PlansManager(raw_plans)
    builder = network_of(state, state["trainer_name"])
    trained = build_network(builder, plans, configuration, dataset_json)
    load_weights(trained, state, state["trainer_name"])
    trained.eval()
    weights = state["network_weights"]
    if isinstance(trained, AlignedUNet):
        weights = fold_alignment(trained)
    manager = plans.get_configuration(configuration)
    n_inputs = determine_num_input_channels(plans, manager, dataset_json)
    n_outputs = plans.get_label_manager(dataset_json).num_segmentation_heads
    plain = get_network_from_plans(
        manager.network_arch_class_name,
        manager.network_arch_init_kwargs,
        manager.network_arch_init_kwargs_req_import,
        n_inputs,
        n_outputs,
        allow_init=False,
        deep_supervision=False,
    )
    try:
        plain.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"a model of {state['trainer_name']} cannot be exported",
            "its network is not the planned one, so stock nnU-Net cannot build it",
        ) from error
    return weights, _largest_difference(trained, plain.eval(), manager.patch_size, n_inputs)


@torch.no_grad()
def _largest_difference(
    trained: nn.Module, plain: nn.Module, patch_size: Sequence[int], n_inputs: int
) -> float:
    """Largest difference of logits on one patch of noise.

    Raises:
        GraphnnError: It is larger than rounding explains; nothing was written.
    """
    patch = torch.randn(1, n_inputs, *patch_size, generator=torch.Generator().manual_seed(0))
    expected, exported = trained(patch), plain(patch)
    difference = float((expected - exported).abs().max())
    if not difference <= LARGEST_DIFFERENCE * max(1.0, float(expected.std())):
        raise GraphnnError(
            "the exported network differs from the trained one",
            f"by up to {difference:.2g} in the logits of a test patch; nothing was written",
        )
    return difference


def _write_zip(work: Path, output: Path, name: str) -> None:
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(work.rglob("*")):
            if path.is_file():
                archive.write(path, f"{name}/{path.relative_to(work)}")
