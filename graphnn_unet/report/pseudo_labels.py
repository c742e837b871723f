"""Pseudo-labels before and after their correction, drawn over the scans they teach with."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from graphnn_unet.data.hidden_labels import ids_in
from graphnn_unet.data.paths import use_folders
from graphnn_unet.errors import MissingFileError
from graphnn_unet.images.find import existing
from graphnn_unet.metrics.protocols import LabelIds
from graphnn_unet.report.overlay import OverlayRow, save_contact_sheet, worst_median_best
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.trainers.diagnostics import FOLDER, TABLE, TAUGHT, TEACHER

PICTURE = "pseudo_labels.png"


def draw_pseudo_labels(fold_folder: Path | str, hidden_labels: Path | str) -> Path:
    """Draw the worst, the median and the best of the scans that a training with hidden labels left.

    Each has two rows, what the teacher says and what teaches, with the outline of the hidden label.

    Args:
        fold_folder: Folder of a fold, trained (or validated) with ``hidden_labels``.
        hidden_labels: The same folder of label maps.

    Returns:
        ``pseudo_labels.png`` in the folder of the fold.

    Raises:
        MissingFileError: The fold has no pseudo-labels of whole scans, or a scan is not in the raw
            folder of its data set any more.
    """
    fold, hidden = Path(fold_folder), Path(hidden_labels)
    table = fold / FOLDER / TABLE
    if not table.is_file():
        raise MissingFileError(
            f"{table} is missing", "the fold was trained without hidden labels",
            "Make it with gnnunet_train ... --val --hidden-labels DIR",
        )  # fmt: skip
    with table.open(newline="", encoding="utf-8") as file:
        dice = {row["case"]: float(row[TAUGHT]) for row in csv.DictReader(file)}
    description = read_json(fold.parent / "dataset.json")
    dataset = read_json(fold.parent / "plans.json")["dataset_name"]
    ending = description["file_ending"]
    rows = [
        OverlayRow(
            _image(use_folders().raw / dataset, f"{case}_0000{ending}"),
            fold / FOLDER / stage / f"{case}{ending}",
            existing(hidden / f"{case}{ending}"),
            f"{word}: {case}, {title}",
        )
        for word, case in worst_median_best(dice)
        for stage, title in ((TEACHER, "the teacher's label"), (TAUGHT, "after all corrections"))
    ]
    save_contact_sheet(rows, fold / PICTURE, _classes(description, ids_in(hidden, description)))
    return fold / PICTURE


def _image(raw: Path, name: str) -> Path:
    places = [existing(raw / folder / name) for folder in ("imagesUn", "imagesTr")]
    image = next((path for path in places if path.is_file()), None)
    if image is None:
        raise MissingFileError(f"{name} is not in {raw}", "the picture needs the scan")
    return image


def _classes(description: dict[str, Any], ids: dict[int, int]) -> dict[str, LabelIds]:
    """Names of classes and regions with their ids in the hidden label maps."""
    return {
        name: [ids[int(i)] for i in given] if isinstance(given, list) else ids[int(given)]
        for name, given in description["labels"].items()
        if name not in ("background", "ignore")
    }
