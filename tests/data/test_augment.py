"""nnU-Net's augmentation, whose result follows from the seed."""

import json

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_study import DATASET, ball_case, use_home

from graphnn_unet.data.augment import (
    RecordedMirror,
    ThinBlur,
    _all_transforms,
    outside_mask,
    training_augmentation,
    validation_transform,
)
from graphnn_unet.data.patch_dataset import seeded


@pytest.fixture
def trainer(tiny_home, monkeypatch, tmp_path):
    """Makes a stock trainer on the tiny plan."""
    use_home(tiny_home, monkeypatch)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    folder = tiny_home / "preprocessed" / DATASET

    def make(configuration="3d_fullres", labels=None, masked=False) -> nnUNetTrainer:
        plans = json.loads((folder / "gnnunetPlans.json").read_text(encoding="utf-8"))
        plans["continue_training"] = True
        if masked:
            plans["configurations"][configuration]["use_mask_for_norm"] = [True]
        description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        if labels:
            description["labels"] = labels
            if any(isinstance(value, list) for value in labels.values()):
                description["regions_class_order"] = [1, 2]
        return nnUNetTrainer(plans, configuration, 0, description, torch.device("cpu"))

    return make


def crop(size, seed=0) -> dict[str, torch.Tensor]:
    channels, label = ball_case(seed, shape=(40, 40, 40))
    image = torch.from_numpy(channels[0])[None] / 100
    target = torch.from_numpy(label.astype(np.int16))[None]
    if len(size) == 2:
        image, target = image[:, 20], target[:, 20]
    window = tuple(slice(0, edge) for edge in size)
    return {"image": image[(slice(None), *window)], "segmentation": target[(slice(None), *window)]}


def augmented(transform, size, seed: int) -> dict[str, torch.Tensor]:
    with seeded(seed), torch.no_grad():
        return transform(**crop(size))


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_a_larger_crop_becomes_a_patch(trainer, configuration):
    stock = trainer(configuration)
    patch = tuple(stock.configuration_manager.patch_size)
    augmentation = training_augmentation(stock)
    assert all(a > b for a, b in zip(augmentation.initial_patch_size, patch, strict=True))
    sample = augmented(augmentation.transform, augmentation.initial_patch_size, 0)
    assert sample["image"].shape == (1, *patch)
    assert sample["segmentation"].shape == (1, *patch)
    assert augmentation.mirror_axes == tuple(range(len(patch)))


def test_the_size_is_that_of_nnunet(trainer):
    stock = trainer()
    _, _, initial, mirror = stock.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    augmentation = training_augmentation(stock)
    assert augmentation.initial_patch_size == tuple(initial)
    assert augmentation.mirror_axes == tuple(mirror)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_the_seed_decides(trainer, configuration):
    augmentation = training_augmentation(trainer(configuration))
    size = augmentation.initial_patch_size
    seen = []
    for seed in range(6):
        first, two = (augmented(augmentation.transform, size, seed) for _ in range(2))
        assert torch.equal(first["image"], two["image"])
        assert torch.equal(first["segmentation"], two["segmentation"])
        seen.append(first["image"])
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[i + 1 :])


def test_a_transform_made_anew_gives_the_same(trainer):
    """A run that is continued builds its transforms again."""
    built, rebuilt = (training_augmentation(trainer()) for _ in range(2))
    for seed in range(20):
        first, second = (
            augmented(t.transform, t.initial_patch_size, seed) for t in (built, rebuilt)
        )
        assert torch.equal(first["image"], second["image"])


def test_no_transform_measures_time(trainer):
    """Blurring would choose between two algorithms by their speed, with other last bits."""
    blurs = [
        part
        for part in _all_transforms(training_augmentation(trainer()).transform)
        if isinstance(part, GaussianBlurTransform)
    ]
    assert blurs
    assert not any(blur.benchmark for blur in blurs)


def test_all_of_nnunets_transforms_are_there_but_the_downsampling(trainer):
    built = trainer()
    rotation, dummy, _, mirror = built.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    stock = built.get_training_transforms(
        built.configuration_manager.patch_size, rotation, [[1, 1, 1], [0.5, 0.5, 0.5]], mirror,
        dummy, foreground_labels=[1, 2],
    )  # fmt: skip
    theirs = [type(part) for part in _all_transforms(stock)]
    ours = [type(part) for part in _all_transforms(training_augmentation(built).transform)]
    assert DownsampleSegForDSTransform in theirs
    for kind, base in ((RecordedMirror, MirrorTransform), (ThinBlur, GaussianBlurTransform)):
        assert issubclass(kind, base)
        ours = [base if part is kind else part for part in ours]
    assert ours == [kind for kind in theirs if kind is not DownsampleSegForDSTransform]


def test_voxels_outside_the_image_become_background(trainer):
    augmentation = training_augmentation(trainer())
    sample = crop(augmentation.initial_patch_size)
    sample["segmentation"][:, :8] = -1
    with seeded(0), torch.no_grad():
        target = augmentation.transform(**sample)["segmentation"]
    assert set(target.unique().tolist()) <= {0, 1, 2}


def test_voxels_outside_stay_zero_where_the_plan_masks_them(trainer):
    augmentation = training_augmentation(trainer(masked=True))
    for seed in range(10):
        sample = crop(augmentation.initial_patch_size)
        sample["segmentation"][:] = -1
        with seeded(seed), torch.no_grad():
            assert (augmentation.transform(**sample)["image"] == 0).all()


def test_regions_become_one_channel_each(trainer):
    stock = trainer(labels={"background": 0, "whole": [1, 2], "core": 2})
    augmentation = training_augmentation(stock)
    target = augmented(augmentation.transform, augmentation.initial_patch_size, 3)["segmentation"]
    assert target.shape[0] == 2
    assert (target[0] >= target[1]).all()
    plain = validation_transform(stock)(**crop((16, 16, 16)))["segmentation"]
    assert torch.equal(plain[0].bool(), crop((16, 16, 16))["segmentation"][0] > 0)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_without_augmentation_images_and_labels_stay(trainer, configuration):
    stock = trainer(configuration)
    size = tuple(stock.configuration_manager.patch_size)
    before = crop(size)
    before["segmentation"][0, 0] = -1
    after = validation_transform(stock)(**{k: v.clone() for k, v in before.items()})
    assert torch.equal(after["image"], before["image"])
    assert (after["segmentation"][0, 0] == 0).all()
    assert torch.equal(after["segmentation"][0, 1:], before["segmentation"][0, 1:])


def test_zero_in_all_channels_is_outside():
    image = np.ones((2, 3, 3), np.float32)
    image[:, 0] = 0
    image[0, 1] = 0
    mask = outside_mask(image)
    assert mask.dtype == np.int16
    assert mask.tolist() == [[[-1, -1, -1], [0, 0, 0], [0, 0, 0]]]


def test_in_place_augmentation_mirrors_and_changes_intensities_alone(trainer):
    augmentation = training_augmentation(trainer())
    size = tuple(trainer().configuration_manager.patch_size)
    before = crop(size)
    label = before["segmentation"][0].numpy()
    flips = [np.flip(label, axes) for axes in ((), 0, 1, 2, (0, 1), (0, 2), (1, 2), (0, 1, 2))]
    changed = 0
    for seed in range(12):
        after = augmented(augmentation.in_place, size, seed)
        assert any(np.array_equal(after["segmentation"][0].numpy(), flip) for flip in flips)
        changed += not torch.equal(after["image"].sort().values, before["image"].sort().values)
    assert changed > 3
    moved = augmented(augmentation.transform, augmentation.initial_patch_size, 1)["segmentation"]
    assert tuple(moved.shape[1:]) == size


@pytest.mark.parametrize("shape", [(3, 64), (1, 8), (3, 3, 64), (1, 1, 12)])
def test_blur_takes_patches_thinner_than_its_kernel(shape):
    blur = ThinBlur((0.5, 1.0))
    image = torch.rand(1, *shape)
    torch.manual_seed(0)
    blurred = blur(image=image.clone())["image"]
    assert blurred.shape == image.shape
    assert 0 < blurred.std() < image.std()


def test_blur_of_thick_patches_is_that_of_nnunet():
    image = torch.rand(1, 20, 12)
    results = []
    for kind in (ThinBlur, GaussianBlurTransform):
        with seeded(0):
            results.append(kind((0.5, 1.0))(image=image.clone())["image"])
    assert torch.equal(*results)
