"""The cases of one training: labeled, unlabeled, held out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.data.preprocess import folder_name, require_preprocessed
from graphnn_unet.data.splits import choose_labeled, held_out, set_apart
from graphnn_unet.storage.schemas import read_metadata


@dataclass(frozen=True)
class RunCases:
    """Cases of a run.

    Attributes:
        labeled: Train with their label map.
        unlabeled: Train without; labeled cases that the draw leaves out are among them, other
            scans of held-out patients are not.
        held_out: Labeled cases that do not train.
        development: Ids of labeled cases that the run does not touch: they are kept for choosing
            between runs.
        corrected: Ids of the labeled cases whose label maps are corrected predictions.
        content: Case to a hash of its raw files and of how they were preprocessed.
    """

    labeled: list[StoredCase]
    unlabeled: list[StoredCase]
    held_out: list[StoredCase]
    development: list[str] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)
    content: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, list[str]]:
        """Case ids by role."""
        roles = {
            role: [case.case_id for case in getattr(self, role)]
            for role in ("labeled", "unlabeled", "held_out")
        }
        return roles | ({"development": self.development} if self.development else {})


def select_cases(
    dataset_folder: Path,
    identifier: str,
    *,
    n_labeled: int | None,
    draw: int,
    fold: int | str,
    development: int = 0,
) -> RunCases:
    """Choose the cases of a run from the manifest of a preprocessed configuration.

    Args:
        dataset_folder: ``$nnUNet_preprocessed/DatasetNNN_Name``.
        identifier: Folder name of the preprocessed labeled cases.
        n_labeled: How many labeled cases count as labeled; ``None`` for all.
        draw: Which ones.
        fold: Fold number or ``all``; folds are made of the labeled cases of the run, by patient.
        development: Labeled cases that are kept for choosing; no scan of their patients trains.
    """
    manifest = require_preprocessed(dataset_folder, identifier)
    roles = {case: entry["role"] for case, entry in manifest["cases"].items()}
    description = read_metadata(dataset_folder)
    known_patients = description.get("patients", {})
    patient_of = {case: known_patients.get(case, case) for case in roles}
    with_label = {case for case, role in roles.items() if role == "labeled"}
    corrected = [case for case in description.get("corrected", {}) if case in with_label]
    drawn = with_label - set(corrected)
    order = [case for case in description.get("label_order", []) if case in drawn]
    order += sorted(drawn - set(order))  # those that the published order does not name
    order, kept = set_apart(order, patient_of, development)
    kept_patients = {patient_of[case] for case in kept}
    corrected = [case for case in corrected if patient_of[case] not in kept_patients]
    labeled = choose_labeled(order, n_labeled, draw, patient_of, corrected)
    training, validation = held_out(labeled, patient_of, fold, corrected)
    scored_patients = kept_patients | {patient_of[case] for case in validation}
    unlabeled = [
        case for case in set(roles) - set(labeled) if patient_of[case] not in scored_patients
    ]

    def stored(case: str, use_label: bool) -> StoredCase:
        return StoredCase(case, dataset_folder / folder_name(identifier, roles[case]), use_label)

    used = [*training, *sorted(unlabeled), *validation]
    return RunCases(
        [stored(case, True) for case in training],
        [stored(case, False) for case in sorted(unlabeled)],
        [stored(case, True) for case in validation],
        kept,
        [case for case in training if case in corrected],
        {case: manifest["cases"][case]["key"][:16] for case in used},
    )
