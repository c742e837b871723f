"""Mean teacher and UA-MT against formulas written out, and who learns from whom."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_study import train_in
from trainers.small_trainers import (
    leave_out_pictures_and_predictions,
    make_trainer,
    random_batch,
)

from graphnn_unet.errors import InputError
from graphnn_unet.plans.recipe import load_recipe, resolve
from graphnn_unet.storage.checkpoints import FINAL, LATEST
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers import (
    MeanTeacherTrainer,
    SupervisedTrainer,
    UncertaintyMeanTeacherTrainer,
)
from graphnn_unet.trainers.mean_teacher import gaussian_rampup, masked_mean
from graphnn_unet.trainers.strong_view import changed_images, noisy_images

BOTH = [MeanTeacherTrainer, UncertaintyMeanTeacherTrainer]
PLAIN = ["mean_teacher.change_probability=0.0", "mean_teacher.noise=0.0", "mean_teacher.weight=1.0"]


@pytest.fixture
def trainer_with(tiny_home, monkeypatch):
    """Make a trainer in self-training whose teacher differs from the student."""

    def make(cls, *overrides, configuration="3d_fullres", home=tiny_home, done=1):
        trainer = make_trainer(cls, home, monkeypatch, *overrides, configuration=configuration)
        if trainer.teacher is not None:
            generator = torch.Generator().manual_seed(5)
            for parameter in trainer.teacher.network.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        trainer.step = trainer.phases()[-1].start + done
        trainer.student.train()
        return trainer

    return make


def loss_of(trainer, **keywords):
    return trainer.batch_loss(random_batch(trainer, **keywords), trainer.phases()[-1])


def logits_of(network, images):
    output = network(images)
    return (output if isinstance(output, torch.Tensor) else output[0]).detach().double().numpy()


def softmax(logits):
    power = np.exp(logits - logits.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_loss_is_supervision_plus_the_ramped_mean_squared_difference(trainer_with, configuration):
    trainer = trainer_with(MeanTeacherTrainer, *PLAIN, configuration=configuration)
    supervised = trainer_with(SupervisedTrainer, configuration=configuration)
    supervised.network.load_state_dict(trainer.network.state_dict())
    images = random_batch(trainer).unlabeled
    p = softmax(logits_of(trainer.network, images))
    q = softmax(logits_of(trainer.teacher.network, images))
    expected = float(loss_of(supervised).total.detach())
    expected += math.exp(-5 * (1 - 1 / 3) ** 2) * np.mean((p - q) ** 2)  # step 1 of 3
    loss = loss_of(trainer)
    assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-6)
    assert float(loss.terms["consistency"]) > 1e-4


def test_uncertain_voxels_do_not_count(trainer_with):
    """Eight passes, their mean, its entropy and the masked mean, in numpy."""
    overrides = [*PLAIN[:1], "mean_teacher.noise=0.3", "uncertainty.first_threshold=0.9",
                 "copy_paste.supervised=false"]  # fmt: skip  # which would draw a box first
    trainer = trainer_with(UncertaintyMeanTeacherTrainer, *overrides)
    images = random_batch(trainer).unlabeled
    draws = torch.Generator().manual_seed(0)
    for _ in range(2):  # the changes of both views, none of which is applied
        changed_images(images, 0.0, draws)
    q = softmax(logits_of(trainer.teacher.network, noisy_images(images, 0.3, draws)))
    passes = [softmax(logits_of(trainer.teacher.network, noisy_images(images, 0.3, draws)))
              for _ in range(8)]  # fmt: skip
    mean = np.mean(passes, 0)
    entropy = -(mean * np.log(mean)).sum(1)
    ramp = math.exp(-5 * (1 - 1 / 3) ** 2)
    certain = entropy < (0.9 + 0.1 * ramp) * math.log(3)
    assert 0.05 < certain.mean() < 0.95
    p = softmax(logits_of(trainer.network, images))
    distances = np.moveaxis((p - q) ** 2, 1, -1)[certain]
    loss = loss_of(trainer)
    assert float(loss.terms["consistency"]) == pytest.approx(distances.mean(), abs=1e-6)
    assert float(loss.terms["certain"]) == pytest.approx(certain.mean(), abs=1e-6)


def test_threshold_rises_from_three_quarters_of_the_largest_entropy_to_all_of_it(trainer_with):
    trainer = trainer_with(UncertaintyMeanTeacherTrainer)
    phase = trainer.phases()[-1]
    values = []
    for trainer.step in (phase.start, phase.stop):
        values.append(trainer.threshold(phase))
    assert values[0] == pytest.approx((0.75 + 0.25 * math.exp(-5)) * math.log(3), abs=1e-12)
    assert values[1] == pytest.approx(math.log(3), abs=1e-12)


def test_weight_rises_as_a_gaussian_and_stays():
    assert [gaussian_rampup(done, 4) for done in (0, 2, 4, 9)] == pytest.approx(
        [math.exp(-5), math.exp(-1.25), 1.0, 1.0]
    )


def test_share_of_the_ramp_ends_it_earlier(trainer_with):
    trainer = trainer_with(MeanTeacherTrainer, "mean_teacher.rampup_share=0.34", *PLAIN, done=2)
    assert loss_of(trainer).terms["consistency_weight"] == pytest.approx(1.0)


def test_masked_mean_is_over_the_kept_values_and_finite_without_any():
    values, mask = torch.rand(2, 3, 5), torch.tensor([[[1.0, 0, 1, 0, 0]], [[0, 0, 0, 0, 1.0]]])
    kept = torch.cat([values[0, :, [0, 2]].flatten(), values[1, :, 4]])
    torch.testing.assert_close(masked_mean(values, mask), kept.mean())
    assert masked_mean(values, torch.zeros_like(mask)) == 0


@pytest.mark.parametrize("cls", BOTH)
def test_teacher_has_no_gradient_and_student_learns_from_both_terms(trainer_with, cls):
    trainer = trainer_with(cls, "mean_teacher.weight=1.0", "uncertainty.first_threshold=1.0")
    before = {k: v.clone() for k, v in trainer.teacher.network.state_dict().items()}
    batch = random_batch(trainer)
    distance, _ = trainer.consistency(batch, trainer.phases()[-1])
    distance.backward()
    teacher = trainer.teacher.network
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    gradients = [p.grad for p in trainer.network.encoder.parameters() if p.grad is not None]
    assert max(float(g.abs().max()) for g in gradients) > 0


@pytest.mark.parametrize("cls", BOTH)
def test_student_and_teacher_see_the_same_place_under_changes_of_their_own(trainer_with, cls):
    trainer = trainer_with(cls, "mean_teacher.change_probability=1.0")
    batch = random_batch(trainer)
    seen, theirs = trainer.views(batch)
    assert not torch.allclose(seen, theirs)
    for view in (seen, theirs):
        pairs = torch.stack([view.flatten(), batch.unlabeled.flatten()])
        assert torch.corrcoef(pairs)[0, 1] > 0.5  # blurred and noisy, not moved


def test_noise_is_clipped_and_does_not_depend_on_the_batch_mates():
    images = torch.zeros(3, 1, 20, 20, 20)
    noisy = noisy_images(images, 0.1, torch.Generator().manual_seed(2))
    assert float(noisy.abs().max()) == pytest.approx(0.2)
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(noisy[0], noisy[1])
    alone = noisy_images(images[:1], 0.1, torch.Generator().manual_seed(2))
    assert torch.equal(alone[0], noisy[0])


@pytest.mark.parametrize("cls", BOTH)
def test_half_of_each_kind_is_loaded_so_that_as_many_patches_are_seen(trainer_with, cls):
    trainer = trainer_with(cls, "batch.labeled=8", "batch.unlabeled=8")
    pretrain, selftrain = trainer.phases()
    assert trainer.slots(pretrain) == list(range(8))
    assert trainer.slots(selftrain) == [0, 1, 2, 3, 8, 9, 10, 11]
    seen = []
    original = trainer.student.predict
    trainer.student.predict = lambda images, *rest: (seen.append(len(images)), original(
        images, *rest))[1]  # fmt: skip
    raw = next(iter(trainer.loader(selftrain)))
    trainer.train_step(raw)
    assert sorted(seen) == [4, 4]


def test_a_single_labeled_image_is_seen_as_it_is(trainer_with):
    trainer = trainer_with(MeanTeacherTrainer, "batch.labeled=2", "batch.unlabeled=2")
    loss = loss_of(trainer, n_images=1)
    assert torch.isfinite(loss.total)


@pytest.mark.parametrize("cls", BOTH)
def test_batch_that_processes_cannot_share_is_refused_before_the_first_step(
    tiny_home, monkeypatch, cls
):
    monkeypatch.setattr("graphnn_unet.trainers.batch.process_count", lambda: 2)
    with pytest.raises(InputError, match="multiples of 8"):
        make_trainer(cls, tiny_home, monkeypatch)


def test_corrections_of_the_recipe_change_the_target(trainer_with):
    plain = trainer_with(MeanTeacherTrainer, *PLAIN)
    blurred = trainer_with(
        MeanTeacherTrainer, *PLAIN, 'pseudo_label.correct=["blur"]', "blur.sigma_mm=4.0"
    )
    batch = random_batch(plain)
    targets = [t.target(batch, batch.unlabeled) for t in (plain, blurred)]
    assert float((targets[0] - targets[1]).abs().max()) > 1e-3


def test_stopped_and_continued_training_gives_the_same_bytes(tiny_copy, monkeypatch):
    leave_out_pictures_and_predictions(monkeypatch)
    name = "UncertaintyMeanTeacherTrainer"
    fold = train_in(tiny_copy, name).model / "fold_all"
    original = UncertaintyMeanTeacherTrainer.train_step

    def stopping(self, batch):
        terms = original(self, batch)
        if self.step == 4:
            self.step += 1
            self.save(LATEST)
            raise KeyboardInterrupt("asked to stop")
        return terms

    again = tiny_copy / "results" / "again"
    with monkeypatch.context() as patch:
        patch.setattr(UncertaintyMeanTeacherTrainer, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_in(tiny_copy, name, output=again)
    train_in(tiny_copy, name, output=again, mode="continue")
    whole, state = (load_checkpoint(path / FINAL) for path in (fold, again / "fold_all"))
    for ours, theirs in (
        (state["network_weights"], whole["network_weights"]),
        (state["gnnunet"]["teacher"]["weights"], whole["gnnunet"]["teacher"]["weights"]),
    ):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_overlapping_regions_are_judged_each_by_itself(trainer_with, monkeypatch):
    trainer = trainer_with(UncertaintyMeanTeacherTrainer, *PLAIN)
    monkeypatch.setattr(trainer, "label_manager", SimpleNamespace(has_regions=True))
    batch = random_batch(trainer)
    p, q = (1 / (1 + np.exp(-logits_of(n, batch.unlabeled)))
            for n in (trainer.network, trainer.teacher.network))  # fmt: skip
    entropy = -q * np.log(q) - (1 - q) * np.log(1 - q)  # without noise all passes are alike
    threshold = (0.75 + 0.25 * math.exp(-5 * (1 - 1 / 3) ** 2)) * math.log(2)
    certain = entropy < threshold
    assert 0 < certain.mean() < 1
    distance, _ = trainer.consistency(batch, trainer.phases()[-1])
    expected = ((p - q) ** 2)[certain].mean()
    assert float(distance.detach()) == pytest.approx(expected, abs=1e-6)


def test_published_recipe_is_that_of_the_program():
    recipe = resolve(load_recipe("uamt_paper")).as_dict()
    assert recipe["mean_teacher"] == {
        "weight": 0.1, "rampup_share": 1.0, "noise": 0.1, "change_probability": 0.0,
    }  # fmt: skip
    assert recipe["uncertainty"] == {"passes": 8, "first_threshold": 0.75}
    assert recipe["schedule"]["pretrain_steps"] == 0
    assert recipe["schedule"]["selftrain_steps"] == 6000
