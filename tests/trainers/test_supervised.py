"""What the student sees of labeled images: pairs that are mixed, and who has no partner."""

import pytest
import torch
from trainers.small_trainers import make_trainer, random_batch

from graphnn_unet.trainers import FilterMatchTrainer, MeanTeacherTrainer, SupervisedTrainer
from graphnn_unet.trainers.supervised import labeled_patches, mixed_pairs


@pytest.mark.parametrize("n_images", [3, 5])
def test_an_image_without_partner_is_seen_once_and_unmixed(tiny_home, monkeypatch, n_images):
    trainer = make_trainer(SupervisedTrainer, tiny_home, monkeypatch)
    batch = random_batch(trainer, n_images)
    images, labels = labeled_patches(trainer, batch)
    assert len(images) == len(labels) == n_images
    assert torch.equal(images[-1], batch.labeled[-1])
    assert torch.equal(labels[-1], batch.target[-1])
    for number in range(n_images - 1):
        assert not torch.equal(images[number], batch.labeled[number])


def test_an_even_batch_is_mixed_in_pairs(tiny_home, monkeypatch):
    trainer = make_trainer(SupervisedTrainer, tiny_home, monkeypatch)
    found = labeled_patches(trainer, random_batch(trainer))
    expected = mixed_pairs(trainer, random_batch(trainer))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("cls", [MeanTeacherTrainer, FilterMatchTrainer])
@pytest.mark.parametrize("batch", [6, 10])
def test_self_training_on_an_odd_half_of_the_batch(tiny_home, monkeypatch, cls, batch):
    overrides = [f"batch.labeled={batch}", f"batch.unlabeled={batch}"]
    trainer = make_trainer(cls, tiny_home, monkeypatch, *overrides)
    trainer.step = trainer.phases()[-1].start
    terms = trainer.train_step(next(iter(trainer.loader(trainer.phase))))
    assert torch.isfinite(terms["loss"])
