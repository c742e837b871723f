"""How good a model labels patches of unlabeled scans, by how the patches were augmented.

python docs/measure_pseudo_labels.py MODEL_FOLDER TRUE_LABELS

Needs the label maps of scans that trained as unlabeled (``CASE.nii.gz``), so it is for public data
whose labels were set aside. Prints, for each augmentation, Dice pooled over patches and the ratio
of the predicted to the true volume, mean over classes.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from graphnn_unet.data.augment import training_augmentation, validation_transform
from graphnn_unet.data.patch_dataset import seeded
from graphnn_unet.models.load import load_model_state, load_weights
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.trainers.registry import trainer_class
from graphnn_unet.trainers.run_spec import ModelName

N_PATCHES, BATCH = 192, 8


def main() -> None:
    """Label the same crops under three augmentations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    arguments = parser.parse_args()
    trainer = load_trainer(arguments.model)
    trainer.prepare_data()
    augmentation = training_augmentation(trainer)
    size = tuple(trainer.configuration_manager.patch_size)
    for name, transform, crop in (
        ("as labeled patches", augmentation.transform, augmentation.initial_patch_size),
        ("in place", augmentation.in_place, size),
        ("none", validation_transform(trainer), size),
    ):
        dice, volume = score(trainer, arguments.labels, transform, crop)
        print(f"{name:20s}  Dice {100 * dice:.1f}  volume {volume:.2f}")


def load_trainer(folder: Path):
    """The trainer of a model, with the weights that label: the teacher's where there is one."""
    plans = read_json(folder / "plans.json")
    name = ModelName.parse(folder.name)
    trainer = trainer_class(name.trainer)(
        plans, name.configuration, "all", read_json(folder / "dataset.json"), torch.device("cpu")
    )
    trainer.initialize()
    state = load_model_state(folder / "fold_all" / "checkpoint_final.pth")
    teacher = state["gnnunet"].get("teacher")
    if teacher:
        state = {**state, "network_weights": teacher["weights"]}
    load_weights(trainer.network, state, str(folder))
    trainer.network.eval()
    return trainer


def score(trainer, labels: Path, transform: Callable, crop: tuple[int, ...]) -> tuple[float, float]:
    """Dice pooled over patches and volume ratio, mean over classes."""
    cases = {}
    for case in trainer.cases.unlabeled:
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(labels / f"{case.case_id}.nii.gz")))
        if case.image().shape[1:] == label.shape:  # neither cropped nor resampled
            cases[case] = label[None].astype(np.int16)
    n_classes = trainer.label_manager.num_segmentation_heads
    counts = torch.zeros(3, n_classes)
    dataset, known = trainer.dataset, list(cases)
    for start in range(0, N_PATCHES, BATCH):
        images, truth = [], []
        for number in range(start, start + BATCH):
            generator = np.random.default_rng(number)
            case = known[number % len(known)]
            box = dataset._box(case.image().shape[1:], crop, None, generator)
            with seeded(number), torch.no_grad():
                patch = transform(
                    image=dataset._cut(case.image(), box, 0),
                    segmentation=dataset._cut(cases[case], box, 0),
                )
            images.append(patch["image"].float())
            truth.append(patch["segmentation"][0])
        with torch.no_grad():
            output = trainer.network(torch.stack(images))
        predicted = (output if isinstance(output, torch.Tensor) else output[0]).argmax(1)
        given = torch.stack(truth)
        for label in range(n_classes):
            ours, theirs = predicted == label, given == label
            counts[:, label] += torch.stack([(ours & theirs).sum(), ours.sum(), theirs.sum()])
    both, ours, theirs = counts[:, 1:]
    return float((2 * both / (ours + theirs)).mean()), float((ours / theirs).mean())


if __name__ == "__main__":
    main()
