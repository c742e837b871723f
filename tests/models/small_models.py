"""Trained tiny models with an open gate, and images to predict."""

import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from tiny_study import ball_case, model_of, write_image

from graphnn_unet.storage.checkpoints import FINAL, save_checkpoint
from graphnn_unet.storage.safe_load import load_checkpoint

GOOD = ("a_1", "b", "c.2")


def change_checkpoint(path: Path, change) -> None:
    """Apply ``change`` to a checkpoint's content and write it again."""
    content = load_checkpoint(path)
    change(content)
    save_checkpoint(path, content)


def open_gate(content) -> None:
    """Give the alignment block of a checkpoint an effect, and mirror one axis alone."""
    generator = torch.Generator().manual_seed(1)
    weights = content["network_weights"]
    weights["align.gate"].fill_(0.7)
    weights["align.weight"] += torch.randn(weights["align.weight"].shape, generator=generator) / 2
    content["inference_allowed_mirroring_axes"] = (2,)  # two copies instead of eight: quicker


def opened_model(home: Path, target: Path, configuration: str = "3d_fullres") -> Path:
    """A copy of the GraphCL model of ``home`` whose gate is open."""
    model = target / model_of(home, "GraphCLTrainer", configuration).name
    shutil.copytree(model_of(home, "GraphCLTrainer", configuration), model)
    change_checkpoint(model / "fold_all" / FINAL, open_gate)
    return model


def write_good_images(folder: Path, names=GOOD) -> Path:
    """Images of different sizes, spacings and places."""
    for number, name in enumerate(names):
        shape = (18 + number, 20, 19)
        (image,), _ = ball_case(40 + number, shape)
        path = folder / f"{name}_0000.nii.gz"
        write_image(path, image, spacing=(1.0 + 0.5 * number, 1.0, 1.2))
        placed = sitk.ReadImage(str(path))
        placed.SetOrigin((5.0 * number, -3.0, 2.0))
        placed.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
        sitk.WriteImage(placed, str(path), True)
    return folder


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    """Label maps of a folder by case."""
    return {
        path.name.removesuffix(".nii.gz"): read(path)
        for path in sorted(folder.glob("*.nii.gz"))
        if not path.name.endswith("_uncertainty.nii.gz")
    }


def same_maps(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
