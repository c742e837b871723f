"""A tiny data set in its own home, and functions that plan and train in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

REPOSITORY = Path(__file__).resolve().parent.parent
DATASET = "Dataset801_Tiny"
N_LABELED, N_UNLABELED, N_TEST = 4, 3, 2
TINY = [
    "plan.patch_size=[16,16,16]",
    "plan.spacing=[1.0,1.0,1.0]",
    "network.base_features=4",
    "network.max_features=8",
    "network.max_stages=3",
    "schedule.pretrain_steps=3",
    "schedule.selftrain_steps=3",
    "schedule.steps_per_epoch=2",
    "schedule.validation_steps=4",
    "schedule.checkpoint_every=1",
    "optimizer.name=adamw",
    "optimizer.lr=0.005",
]


def real_data(name: str) -> Path:
    """A folder of real data, or skip."""
    root = Path(os.environ.get("GNNUNET_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"{root / name} is not here")
    return root / name


def use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point this test to ``home``."""
    monkeypatch.setenv("GNNUNET_HOME", str(home))
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(home / name))
    return home


def write_image(path: Path, array: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> Path:
    """Write ``(z, y, x)`` with spacing z, y, x."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    sitk.WriteImage(image, str(path), True)
    return path


def ball_case(seed: int, shape=(18, 20, 22), n_channels: int = 1):
    """Channels and label map of a bright ball (1) with a core (2)."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    center = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
    distance = np.sqrt(((grid - center.reshape(3, 1, 1, 1)) ** 2).sum(0))
    label = ((distance < 6).astype(np.uint8) + (distance < 3)).astype(np.uint8)
    channels = [
        (50 + 30 * label * (1 + c) + rng.normal(0, 8, shape)).astype(np.float32)
        for c in range(n_channels)
    ]
    return channels, label


def write_raw_dataset(
    raw: Path,
    name: str = DATASET,
    *,
    n_channels: int = 1,
    labels=None,
    transform_label=None,
    n_unlabeled: int = N_UNLABELED,
) -> Path:
    """A raw folder as the converters write it."""
    folder = raw / name
    n_total = N_LABELED + n_unlabeled + N_TEST
    for number in range(n_total):
        channels, label = ball_case(number, n_channels=n_channels)
        case = f"case_{number:02d}"
        role = "Tr" if number < N_LABELED else "Un" if number < N_LABELED + n_unlabeled else "Ts"
        for c, channel in enumerate(channels):
            write_image(folder / f"images{role}" / f"{case}_{c:04d}.nii.gz", channel)
        if role != "Un":
            if transform_label is not None:
                label = transform_label(label)
            write_image(folder / f"labels{role}" / f"{case}.nii.gz", label)
    description = {
        "channel_names": {str(c): f"MR{c}" for c in range(n_channels)},
        "labels": labels or {"background": 0, "shell": 1, "core": 2},
        "numTraining": N_LABELED,
        "file_ending": ".nii.gz",
    }
    if any(isinstance(v, list) for v in description["labels"].values()):
        description["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(description))
    metadata = {
        "schema_version": 1,
        "label_order": [f"case_{number:02d}" for number in range(N_LABELED)],
        "patients": {f"case_{number:02d}": f"p{number}" for number in range(n_total)},
    }
    (folder / "gnnunet.json").write_text(json.dumps(metadata))
    return folder


def plan_in(home: Path, *overrides: str, dataset: str = DATASET, configurations=("3d_fullres",)):
    """Plan and preprocess the data set of ``home`` with the tiny recipe."""
    from graphnn_unet import plan_and_preprocess

    with pytest.MonkeyPatch.context() as patch:
        use_home(home, patch)
        return plan_and_preprocess(
            dataset, configurations=configurations, overrides=[*TINY, *overrides], n_workers=0
        )


def train_in(home: Path, trainer: str, fold="all", *, overrides=(), **keywords):
    """Train in ``home`` without loader workers."""
    from graphnn_unet import train

    with pytest.MonkeyPatch.context() as patch:
        use_home(home, patch)
        keywords.setdefault("n_loader_workers", 0)
        return train(
            DATASET,
            keywords.pop("configuration", "3d_fullres"),
            trainer,
            fold,
            overrides=list(overrides),
            device="cpu",
            **keywords,
        )


def model_of(home: Path, trainer: str, configuration: str = "3d_fullres") -> Path:
    """Model folder of a training."""
    return home / "results" / DATASET / f"{trainer}__gnnunetPlans__{configuration}"


def imported_by(script: str, *prefixes: str) -> list[str]:
    """Modules of these names, nnU-Net's trainer and matplotlib that a script of Python imports."""
    slow = ("nnunetv2.training.nnUNetTrainer", "matplotlib", *prefixes)
    listing = f"\nimport sys\nprint([name for name in sys.modules if name.startswith({slow!r})])"
    done = subprocess.run(
        [sys.executable, "-c", script + listing], capture_output=True, encoding="utf-8", check=True
    )
    return json.loads(done.stdout.splitlines()[-1].replace("'", '"'))
