"""Small folders that reports are about: data, predictions, a training that was never run."""

import csv
import json
from pathlib import Path

import numpy as np
from tiny_study import write_image

from graphnn_unet.metrics import csv_columns

SHAPE = (12, 14, 16)
EVIL = ("<script>alert(1)", "<img src=x onerror=alert(2)>", "a'b\"c&d")
"""Case ids with all markup that a file name can hold."""

EVIL_CLASS = "</script><script>alert(3)</script>'\""
DATASET = "Dataset805_Small"


def scan(seed: int, *, radius: float = 3.5, flip: tuple[int, ...] = ()):
    """A ball off the middle, brighter towards head, front and left, and its label map."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")).astype(float)
    center = np.array(SHAPE).reshape(3, 1, 1, 1) * np.array([0.4, 0.6, 0.35]).reshape(3, 1, 1, 1)
    distance = np.sqrt(((grid - center) ** 2).sum(0))
    label = (distance < radius).astype(np.uint8)
    ramp = 4 * grid[0] - 3 * grid[1] + 5 * grid[2]
    image = (100 + ramp + 60 * (distance < 3.5) + rng.normal(0, 3, SHAPE)).astype(np.float32)
    return np.flip(image, flip), np.flip(label, flip)


def description(classes: dict[str, int], n: int, ending: str = ".nii.gz") -> dict:
    return {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, **classes},
        "numTraining": n,
        "file_ending": ending,
    }


def raw_folder(root: Path, cases: dict[str, dict], class_name: str = "organ") -> Path:
    """A raw folder; the values are arguments of :func:`scan`, or ``label`` in place of its own."""
    folder = root / DATASET
    for number, (case, options) in enumerate(cases.items()):
        options = {"seed": number, **options}
        label = options.pop("label", None)
        image, own = scan(**options)
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", image, (2.0, 1.0, 1.0))
        write_image(
            folder / "labelsTr" / f"{case}.nii.gz", own if label is None else label, (2.0, 1.0, 1.0)
        )
    (folder / "dataset.json").write_text(json.dumps(description({class_name: 1}, len(cases))))
    return folder


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [*dict.fromkeys(key for row in rows for key in row)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def score_rows(dice: dict[str, float], class_name: str = "organ", **more) -> list[dict]:
    blank = dict.fromkeys(csv_columns(), "")
    return [
        blank
        | {"case": case, "class": class_name, "dice": value, "hd95": 3.25, "volume_error": 0.1,
           "distance_unit": "mm", "missed": 0, "invented": 0, "protocol": "honest"}
        | more.get(case, {})
        for case, value in dice.items()
    ]  # fmt: skip


def prediction(case_number: int) -> np.ndarray:
    """The ball of another radius: some of it missed or invented."""
    return scan(case_number, radius=2.5 + 0.7 * case_number)[1]


def predictions_folder(folder: Path, dice: dict[str, float], class_name: str = "organ") -> Path:
    for number, case in enumerate(dice):
        write_image(folder / f"{case}.nii.gz", prediction(number), (2.0, 1.0, 1.0))
    write_rows(folder / "metrics.csv", score_rows(dice, class_name))
    (folder / "dataset.json").write_text(json.dumps(description({class_name: 1}, 4)))
    (folder / "prediction.json").write_text(
        json.dumps({"schema_version": 1, "dataset": DATASET, "trainer": "BCPTrainer",
                    "configuration": "3d_fullres", "folds": ["all"], "mirroring": False})
    )  # fmt: skip
    return folder


def model_folder(root: Path, dice: dict[str, float], class_name: str = "organ") -> Path:
    """A model with one fold, whose validation is :func:`predictions_folder`."""
    model = root / DATASET / "BCPTrainer__gnnunetPlans__3d_fullres__labeled2_draw1__seed3"
    fold = model / "fold_0"
    predictions_folder(fold / "validation", dice, class_name)
    for name in ("dataset.json", "prediction.json"):
        (fold / "validation" / name).unlink()
    (model / "dataset.json").write_text(json.dumps(description({class_name: 1}, 4)))
    (model / "plans.json").write_text(json.dumps({"dataset_name": DATASET}))
    (model / "recipe.toml").write_text("[batch]\nlabeled = 2  # <images>\n")
    rows = [
        {"epoch": n, "phase": "selftrain", "step": 10 * n, "lr": 0.01, "loss": 1 / (n + 1),
         "steps_left_out": 2 * (n == 3), "pseudo_foreground": 0.0001}
        for n in range(10)
    ]  # fmt: skip
    write_rows(fold / "metrics.csv", rows)
    (fold / "training_log_2026_01_01_10_00_00.txt").write_text(
        "2026-01-01 10:00:00: phase selftrain: steps 0 to 100\n"
        "2026-01-01 10:20:00: warning: <b>one image</b> is strange\n"
        "2026-01-01 10:30:00: training done\n"
    )
    facts = {"command": ["/somewhere/bin/gnnunet_train", DATASET, "3d_fullres", "BCPTrainer", "0"],
             "device": "cpu", "seed": 3, "draw": 1, "labeled": ["x", "y"], "unlabeled": ["u"],
             "held_out": list(dice)}  # fmt: skip
    (fold / "environment.json").write_text(json.dumps(facts))
    return model
