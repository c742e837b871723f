"""The graph of scans of a planned data set: its links, and whether it is turned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphnn_unet.data.paths import folders
from graphnn_unet.data.preprocess import folder_name
from graphnn_unet.errors import InputError
from graphnn_unet.images.find import split_ending
from graphnn_unet.plans.planner import add_layer, remove_layer, run_recipe
from graphnn_unet.plans.recipe import resolved_configuration
from graphnn_unet.progress import say
from graphnn_unet.scan_graph.fields import fields_of
from graphnn_unet.scan_graph.registration import RegistrationSettings
from graphnn_unet.scan_graph.verdict import judge
from graphnn_unet.scan_graph.votes import ScanGraphSettings, StoredVotes, Voters
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import read_metadata, read_summary

TURNED_ON: Mapping[str, Mapping[str, Any]] = {
    "pseudo_label": {"correct": ["scan_graph", "blur"]},
    "scan_labels": {"rounds": 1},
}
"""What a good verdict changes in the recipe; ``--recipe`` and ``--set`` are stronger.

The one way of using the graph in training that led copy-paste among the labeled scans in three
draws (docs/explanation/unlabeled_scans.md): whole scans are labeled once, and then count as drawn.
"""
NETWORK = "SupervisedTrainer"
"""Whose cross-validation the vote is compared with."""


def require_volumes(
    plans: Mapping[str, Any], configurations: Sequence[str], dataset_json: Mapping[str, Any]
) -> None:
    """Refuse what the graph of scans cannot serve, before anything is preprocessed.

    Raises:
        InputError: No configuration has volumes, or labels are regions that overlap.
    """
    if not _volumes(plans, configurations):
        raise InputError(
            "--scan-graph cannot be used",
            "scans are registered as volumes, and no 3d configuration is preprocessed",
            "Add -c 3d_fullres, or leave it out",
        )
    if any(isinstance(value, (list, tuple)) for value in dataset_json["labels"].values()):
        raise InputError(
            "--scan-graph cannot be used",
            "the labels are regions, and a vote has one class a voxel",
            "Leave it out",
        )


def judge_scan_graph(
    dataset_folder: Path,
    plans_file: Path,
    plans: dict[str, Any],
    configurations: Sequence[str],
    roles: Mapping[str, str],
    n_classes: int,
    n_workers: int,
) -> list[str]:
    """Register, let the labeled scans vote, and write the verdict into the plan.

    Where the graph is turned on the votes on the unlabeled scans are made too, so that the first
    training with all labels finds them.

    Args:
        dataset_folder: ``$nnUNet_preprocessed/DatasetNNN_Name``.
        plans_file: The plan on disk, which is written anew.
        plans: Its content.
        configurations: Those that were preprocessed; 2D ones are left out.
        roles: Case id to ``labeled`` or ``unlabeled``.
        n_classes: Classes of the labels, background included.
        n_workers: Processes.

    Returns:
        A sentence for each configuration.
    """
    # the loaders of trainings, slow to import
    from graphnn_unet.data.patch_dataset import StoredCase

    notes = []
    patient_of: dict[str, str] = read_metadata(dataset_folder).get("patients", {})
    for name in _volumes(plans, configurations):
        configuration = resolved_configuration(plans, name)
        identifier = configuration["data_identifier"]
        cases = [
            StoredCase(case, dataset_folder / folder_name(identifier, role), role == "labeled")
            for case, role in sorted(roles.items())
        ]
        recipe = run_recipe(plans, name)
        fields = fields_of(
            dataset_folder, identifier, configuration["spacing"], recipe.of(RegistrationSettings)
        )
        labeled = [case for case in cases if case.use_label]
        voters = Voters(fields, labeled, n_classes, recipe.of(ScanGraphSettings))
        verdict = judge(
            voters,
            network_dice=network_dice(dataset_folder, plans, name),
            patient_of=patient_of,
            how_to_know=f"To know, run gnnunet_train {plans['dataset_name']} {name} {NETWORK} cv, "
            "then this command again",
            n_workers=n_workers,
        )
        unlabeled = [case for case in cases if not case.use_label]
        if verdict.is_worth:
            chosen = voters.chosen_for(unlabeled, n_workers=n_workers)
            StoredVotes(chosen).ensure(unlabeled, n_workers=n_workers)
        remove_layer(plans, name, TURNED_ON)  # of an earlier verdict, where the plan is kept
        layer = TURNED_ON if verdict.is_worth else {}
        add_layer(plans, name, layer, {"scan_graph": verdict.as_dict()})
        write_json(plans_file, plans)
        state = "on" if verdict.is_worth else "off"
        notes.append(f"{name}: graph of scans {state}: {verdict.reason}")
    return notes


def network_dice(
    dataset_folder: Path, plans: Mapping[str, Any], configuration: str
) -> float | None:
    """Mean Dice of the network that learns from labeled scans alone, on those that it held out.

    Returns:
        ``None`` unless all folds of its cross-validation are done, have a Dice, and held out the
        cases that they would hold out now.

    Raises:
        InputError: The summary of a fold is damaged.
    """
    model = folders().results / plans["dataset_name"]
    model /= f"{NETWORK}__{plans['plans_name']}__{configuration}"
    splits = dataset_folder / "splits_final.json"
    folds: list[dict[str, list[str]]] = read_json(splits) if splits.is_file() else []
    dice: list[float] = []
    for number, fold in enumerate(folds):
        path = model / f"fold_{number}" / "validation" / "summary.json"
        summary = read_summary(path) if path.is_file() else None
        if summary is None or summary["foreground_mean"]["Dice"] is None:
            return None
        files = (Path(case["prediction_file"]) for case in summary.get("metric_per_case", []))
        if {split_ending(file)[0] for file in files} != set(fold["val"]):
            say(f"note: {path} is of other cases than fold {number} has now, and is not read")
            return None
        dice.append(summary["foreground_mean"]["Dice"])
    return sum(dice) / len(dice) if dice else None


def _volumes(plans: Mapping[str, Any], configurations: Sequence[str]) -> list[str]:
    return [
        name
        for name in configurations
        if len(resolved_configuration(plans, name)["patch_size"]) == 3
    ]
