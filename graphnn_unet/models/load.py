"""A model folder read safely into a network that predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from graphnn_unet.errors import GraphnnError, InputError
from graphnn_unet.models.find import available_folds, require_model_folder
from graphnn_unet.models.prediction_record import weights_id
from graphnn_unet.networks.fold import can_fold, drop_alignment, fold_alignment
from graphnn_unet.prediction.planned_networks import NETWORKS, network_name, planned_network
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.storage.checkpoints import FINAL, require_finite
from graphnn_unet.storage.plan_schema import check_plans
from graphnn_unet.storage.safe_load import load_checkpoint, read_json, require_class_name
from graphnn_unet.storage.schemas import check_description

STOCK_TRAINER = "nnUNetTrainer"


def load_predictor(
    folder: Path | str,
    *,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = FINAL,
    device: torch.device,
    step_size: float = 0.5,
    mirroring: bool = True,
) -> Predictor:
    """Load a model of this program or of stock nnU-Net.

    Where the alignment block can be folded into the convolutions behind it, it is: predictions
    are then those of the exported model, bit for bit.

    Args:
        folder: Model folder (``TRAINER__PLANS__CONFIGURATION``).
        folds: Folds to average; ``None`` takes all numbered ones that are there, else ``all``.
        checkpoint: File name in each fold folder.
        device: Device to predict on.
        step_size: Step of the sliding window as a share of the patch.
        mirroring: Average over mirrored copies.

    Raises:
        MissingFileError: No such model, fold or checkpoint; lists those that exist.
        UnsafeFileError: Plan or checkpoint ask for code.
    """
    folder = Path(folder)
    dataset_json = read_description(folder)
    raw_plans = check_plans(read_json(folder / "plans.json"), folder / "plans.json")
    folds = available_folds(folder, checkpoint, folds)
    states = [load_model_state(folder / f"fold_{fold}" / checkpoint) for fold in folds]
    first = states[0]
    name, configuration = first["trainer_name"], first["init_args"]["configuration"]
    plans = PlansManager(raw_plans)
    network = build_network(network_of(first, folder), plans, configuration, dataset_json)
    folding = can_fold(network)
    weights: list[Any] = []
    for fold, state in zip(folds, states, strict=True):
        load_weights(network, state, f"{folder.name}/fold_{fold}/{checkpoint}")
        weights.append(fold_alignment(network) if folding else state["network_weights"])
    if folding:
        drop_alignment(network)
    predictor = Predictor(
        network,
        plans,
        configuration,
        dataset_json,
        weights,
        first.get("inference_allowed_mirroring_axes"),
        trainer_name=name,
        device=device,
        step_size=step_size,
        mirroring=mirroring,
        folder=folder,
    )
    weights_now = weights_id([state["network_weights"] for state in states])
    predictor.settings |= {"folds": folds, "checkpoint": checkpoint, "weights": weights_now}
    return predictor


def read_description(folder: Path) -> dict[str, Any]:
    """``dataset.json`` of a model folder.

    Raises:
        MissingFileError: There is none.
        InputError: It lacks or misstates channels, labels or the ending of files; or the folder is
            one fold, or holds models.
    """
    require_model_folder(folder)
    path = folder / "dataset.json"
    content = read_json(path)
    needed = {"channel_names", "labels", "file_ending"}
    keys = set(content) if isinstance(content, dict) else set()
    missing = sorted(needed - keys - ({"channel_names"} if "modality" in keys else set()))
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}", "", "Copy the whole model folder again"
        )
    content.setdefault("channel_names", content.get("modality"))  # as data sets of nnU-Net 1 say
    return check_description(content, path)


def load_model_state(path: Path) -> dict[str, Any]:
    """A checkpoint that can predict: finite weights, and the names of trainer and configuration.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is cut off, lacks a key, or its weights are not finite.
        UnsafeFileError: It asks for code, or names a file as its trainer.
    """
    state = load_checkpoint(path)
    arguments = state.get("init_args")
    if not isinstance(state.get("trainer_name"), str) or not (
        isinstance(arguments, dict) and "configuration" in arguments
    ):
        raise InputError(f"{path} does not say which trainer and configuration made it")
    require_class_name(state["trainer_name"], path)
    require_finite(state["network_weights"], str(path))
    return state


def network_of(state: dict[str, Any], source: Path | str) -> str:
    """What builds the network of a checkpoint: a name of ``NETWORKS``, or that of its trainer.

    Raises:
        InputError: Only a file of the user's can build it.
        UnsafeFileError: The checkpoint names something else.
    """
    ours = state.get("gnnunet")
    name = ours.get("network") if isinstance(ours, dict) else None
    if name and require_class_name(name, source) in NETWORKS:
        return name
    name = state["trainer_name"]
    if name == STOCK_TRAINER:
        return network_name(planned_network)
    try:
        _builder(name)
    except InputError as error:
        raise InputError(
            f"the network of {source} cannot be built", error.what,
            f"Give its file with -tr FILE.py:{name}, or name its folder in nnUNet_extTrainer",
        ) from error  # fmt: skip
    return name


def name_of_file(trainer: str) -> str:
    """Name of the class of ``FILE.py:Class``, by which it is known from then on.

    Raises:
        What :func:`~graphnn_unet.trainers.registry.trainer_class` raises.
    """
    from graphnn_unet.trainers.registry import trainer_class  # imports nnU-Net's trainer: seconds

    return trainer_class(trainer).__name__


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in NETWORKS:
        return NETWORKS[name]
    from graphnn_unet.trainers.registry import known_trainer  # imports nnU-Net's trainer: seconds

    return known_trainer(name).build_network_architecture


def load_weights(network: nn.Module, state: dict[str, Any], source: str) -> None:
    """Put the weights of a checkpoint into a network.

    Raises:
        InputError: They belong to another network.
    """
    try:
        network.load_state_dict(state["network_weights"])
    except RuntimeError as error:
        first = [*str(error).splitlines(), "", ""][1].strip()
        raise InputError(
            f"the weights of {source} do not fit the network of {state['trainer_name']}",
            f"plans.json is of another model, or the trainer has changed ({first[:160]})",
            "Copy the whole model folder again",
        ) from error


def build_network(
    name: str, plans: PlansManager, configuration: str, dataset_json: dict[str, Any]
) -> nn.Module:
    """The network of a trained model, without deep supervision.

    Args:
        name: What :func:`network_of` returns.
        plans: The model's plan.
        configuration: Name in the plan.
        dataset_json: Its channels and labels.

    Raises:
        InputError: The plan lacks the configuration, or the trainer is unknown.
    """
    if configuration not in plans.plans["configurations"]:
        raise InputError(
            f"plans.json has no configuration {configuration!r}",
            f"it has {', '.join(plans.plans['configurations'])}",
            "Copy the whole model folder again",
        )
    manager = plans.get_configuration(configuration)
    n_inputs = determine_num_input_channels(plans, manager, dataset_json)
    n_outputs = plans.get_label_manager(dataset_json).num_segmentation_heads
    build = _builder(name)
    try:
        return build(plans, manager, n_inputs, n_outputs, enable_deep_supervision=False)
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError) as error:
        if isinstance(error, GraphnnError):
            raise
        raise InputError(
            f"the network of configuration {configuration!r} cannot be built from the plan",
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}",
            "Copy the whole model folder again",
        ) from error
