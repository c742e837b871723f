"""nnFilterMatch against nnU-Net's own loss and a filter written out; who labels, what is left."""

import json
import math

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from tiny_study import train_in
from trainers.small_trainers import (
    Given,
    leave_out_pictures_and_predictions,
    make_trainer,
    random_batch,
)

from graphnn_unet.errors import RecipeError
from graphnn_unet.plans.recipe import load_recipe, resolve
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers import FilterMatchTrainer
from graphnn_unet.trainers.filter_match import without_surest

PLAIN = ["copy_paste.supervised=false", "pseudo_label.largest_component=false",
         "filter_match.change_probability=0.0", "loss.deep_supervision=false"]  # fmt: skip


@pytest.fixture
def trainer_with(tiny_home, monkeypatch):
    """A trainer whose outputs are given: 4 unlabeled images first, then 4 + 4 in one pass."""

    def make(*overrides, configuration="3d_fullres"):
        trainer = make_trainer(
            FilterMatchTrainer, tiny_home, monkeypatch, *PLAIN, *overrides,
            configuration=configuration,
        )  # fmt: skip
        trainer.step = trainer.phases()[-1].start
        shape = (8, 3, *trainer.configuration_manager.patch_size)
        network = Given(shape)
        with torch.no_grad():
            network.logits *= 3
        network.forward = lambda image: (
            network.seen.append(image), network.logits[-len(image):] + 0)[1]  # fmt: skip
        trainer.student.network = network
        return trainer

    return make


def loss_of(trainer):
    return trainer.batch_loss(random_batch(trainer), trainer.phases()[-1])


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_without_filter_the_loss_is_nnunets_over_labeled_and_unlabeled_images(
    trainer_with, configuration
):
    trainer = trainer_with(
        "filter_match.filter=false", "loss.pseudo_dice=true", configuration=configuration
    )
    trainer.loss_settings = type(trainer.loss_settings)(batch_dice=False)
    batch, logits = random_batch(trainer), trainer.student.network.logits
    own = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
        dice_class=MemoryEfficientSoftDiceLoss,
    )  # fmt: skip
    labels = torch.cat([batch.target.long(), logits[4:].argmax(1, keepdim=True)])
    loss = loss_of(trainer)
    torch.testing.assert_close(loss.total, own(logits, labels), atol=1e-6, rtol=0)
    first, second = trainer.student.network.seen
    assert torch.equal(first, batch.unlabeled)
    assert torch.equal(second, torch.cat([batch.labeled, batch.unlabeled]))


def test_filter_keeps_exactly_the_voxels_below_the_threshold(trainer_with):
    trainer = trainer_with("filter_match.threshold=0.4", "filter_match.weight=0.5")
    logits = trainer.student.network.logits
    said = logits[4:].detach().double().numpy()
    power = np.exp(said - said.max(1, keepdims=True))
    p = power / power.sum(1, keepdims=True)
    sure = -(p * np.log(p)).sum(1) < 0.4 * math.log(3)
    assert 0.05 < sure.mean() < 0.95
    loss = loss_of(trainer)
    pseudo = -np.log(p.max(1))[sure].mean()  # cross-entropy with its own most probable class
    expected = (float(loss.terms["supervised_loss"]) + 0.5 * pseudo) / 1.5
    assert float(loss.terms["pseudo_loss"]) == pytest.approx(pseudo, abs=1e-6)
    assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-6)
    assert float(loss.terms["sure"]) == pytest.approx(sure.mean(), abs=1e-6)
    loss.total.backward()
    moved = logits.grad[4:].abs().sum(1).numpy() > 0
    assert not (moved & ~sure).any()
    assert moved[sure].all()


def test_labels_carry_no_gradient(trainer_with):
    trainer = trainer_with()
    teaching = trainer.teach(random_batch(trainer))
    assert not teaching.logits.requires_grad
    assert trainer.teacher is None


def test_turned_view_has_its_labels_and_sure_voxels_turned_with_it(trainer_with):
    trainer = trainer_with("filter_match.view=turn")
    batch = random_batch(trainer)
    labels, sure = batch.unlabeled > 0, batch.unlabeled > 1
    turns = set()
    for seed in range(8):
        batch.generator.manual_seed(seed)
        strong, turned, kept = trainer._harder_view(batch, labels, sure)
        assert torch.equal(strong > 0, turned)
        assert torch.equal(strong > 1, kept)
        turns.add(next(k for k in range(4) if torch.equal(
            strong, torch.rot90(batch.unlabeled, k, (-2, -1)))))  # fmt: skip
    assert turns == {1, 2, 3}


def test_harder_view_has_other_intensities_at_the_same_place(trainer_with):
    trainer = trainer_with("filter_match.change_probability=1.0")
    batch = random_batch(trainer)
    labels = batch.unlabeled > 0
    strong, same, _ = trainer._harder_view(batch, labels, labels)
    assert same is labels
    assert not torch.allclose(strong, batch.unlabeled)


def test_scans_of_which_the_network_is_most_certain_are_left_out():
    entropy = {f"case_{i:02d}": float(i) for i in range(20)}
    assert without_surest(entropy, 0.15) == [f"case_{i:02d}" for i in range(3, 20)]
    assert without_surest(entropy, 0.0) == sorted(entropy)
    assert without_surest({"alone": 1.0}, 0.15) == ["alone"]


def test_parts_of_self_training_share_one_schedule_and_optimizer(tiny_home, monkeypatch):
    trainer = make_trainer(
        FilterMatchTrainer, tiny_home, monkeypatch, "filter_match.drop=0.3",
        "schedule.selftrain_steps=7", "optimizer.schedule=poly",
    )  # fmt: skip
    parts = trainer.phases()[1:]
    assert [(p.name, p.start, p.stop) for p in parts] == [
        ("selftrain_1", 3, 5), ("selftrain_2", 5, 7), ("selftrain_3", 7, 10),
    ]  # fmt: skip
    rates = [trainer.learning_rate(step, p) for p in parts for step in range(p.start, p.stop)]
    np.testing.assert_allclose(rates, [0.005 * (1 - i / 7) ** 0.9 for i in range(7)])


def test_scans_are_filtered_twice_and_a_stop_while_they_are_changes_nothing(tiny_copy, monkeypatch):
    """Stopped in the middle of the second filter, as by a kill: the file is not there yet."""
    leave_out_pictures_and_predictions(monkeypatch)
    overrides = ["filter_match.drop=0.3", "schedule.selftrain_steps=6"]
    keywords = {"overrides": overrides, "output": tiny_copy / "results" / "whole"}
    whole = train_in(tiny_copy, "FilterMatchTrainer", **keywords).model / "fold_all"
    parts = [
        json.loads((whole / "filtered_scans" / f"part_{i}.json").read_text(encoding="utf-8"))
        for i in (2, 3)
    ]
    for part, before in zip(parts, (3, 2), strict=True):
        assert len(part["entropy"]) == before
        assert len(part["kept"]) == before - 1
        assert min(part["entropy"], key=part["entropy"].get) not in part["kept"]
    keywords["output"] = tiny_copy / "results" / "again"
    original = FilterMatchTrainer._entropies
    with monkeypatch.context() as patch:
        patch.setattr(FilterMatchTrainer, "_entropies", lambda self, ids: (
            original(self, ids) if len(ids) == 3 else _interrupt()))  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            train_in(tiny_copy, "FilterMatchTrainer", **keywords)
    again = train_in(tiny_copy, "FilterMatchTrainer", mode="continue", **keywords).model
    weights = [load_checkpoint(fold / FINAL)["network_weights"]
               for fold in (whole, again / "fold_all")]  # fmt: skip
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def _interrupt():
    raise KeyboardInterrupt("killed")


def test_published_recipe_is_that_of_the_program():
    recipe = resolve(load_recipe("filter_match_paper")).as_dict()
    wanted = {"filter": False, "drop": 0.15, "weight": 1.0, "view": "turn"}
    assert recipe["filter_match"].items() >= wanted.items()
    assert recipe["schedule"]["pretrain_steps"] == 20 * 250
    assert recipe["loss"]["pseudo_dice"] is True


def test_rounds_without_a_teacher_are_refused(tiny_home, monkeypatch):
    overrides = ['pseudo_label.correct=["scan_graph"]', "scan_graph.rounds=2"]
    with pytest.raises(RecipeError, match=r"scan_graph\.rounds = 2 cannot .*FilterMatchTrainer"):
        make_trainer(FilterMatchTrainer, tiny_home, monkeypatch, *overrides)
