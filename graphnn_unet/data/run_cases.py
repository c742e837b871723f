"""The cases of one training: labelled, unlabelled, held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.data.preprocess import folder_name, require_preprocessed
from graphnn_unet.data.splits import choose_labeled, held_out
from graphnn_unet.storage.safe_load import read_json


@dataclass(frozen=True)
class RunCases:
    """Cases of a run.

    Attributes:
        labeled: Train with their label map.
        unlabeled: Train without; labelled cases that the draw leaves out are among them, other
            scans of held-out patients are not.
        held_out: Labelled cases that do not train.
    """

    labeled: list[StoredCase]
    unlabeled: list[StoredCase]
    held_out: list[StoredCase]

    def as_dict(self) -> dict[str, list[str]]:
        """Case ids by role."""
        return {
            role: [case.case_id for case in getattr(self, role)]
            for role in ("labeled", "unlabeled", "held_out")
        }


def select_cases(
    dataset_folder: Path,
    identifier: str,
    *,
    n_labeled: int | None,
    draw: int,
    fold: int | str,
) -> RunCases:
    """Choose the cases of a run from the manifest of a preprocessed configuration.

    Args:
        dataset_folder: ``$nnUNet_preprocessed/DatasetNNN_Name``.
        identifier: Folder name of the preprocessed labelled cases.
        n_labeled: How many labelled cases count as labelled; ``None`` for all.
        draw: Which ones.
        fold: Fold number or ``all``; folds are made of the labelled cases of the run, by patient.
    """
    manifest = require_preprocessed(dataset_folder, identifier)
    roles = {case: entry["role"] for case, entry in manifest["cases"].items()}
    own = _own_description(dataset_folder)
    labeled_cases = [case for case, role in roles.items() if role == "labeled"]
    order = [case for case in own.get("label_order", []) if roles.get(case) == "labeled"]
    order += [case for case in sorted(labeled_cases) if case not in set(order)]
    patients = {case: own.get("patients", {}).get(case, case) for case in order}
    chosen = choose_labeled(order, n_labeled, draw, patients)
    training, validation = held_out(chosen, patients, fold)
    left_out = [case for case in order if case not in set(chosen)]
    scored = {patients[case] for case in validation}
    patient_of = own.get("patients", {})
    unlabeled = [
        case
        for case in [*(case for case, role in roles.items() if role != "labeled"), *left_out]
        if patient_of.get(case, case) not in scored
    ]

    def stored(case: str, use_label: bool) -> StoredCase:
        return StoredCase(case, dataset_folder / folder_name(identifier, roles[case]), use_label)

    return RunCases(
        [stored(case, True) for case in training],
        [stored(case, False) for case in sorted(unlabeled)],
        [stored(case, True) for case in validation],
    )


def _own_description(dataset_folder: Path) -> Mapping[str, Any]:
    path = dataset_folder / "gnnunet.json"
    return read_json(path) if path.is_file() else {}
