"""BCP's wiring: which weight stands on which region, who learns when, and what is never seen."""

import json
import shutil

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from tiny_study import (
    DATASET,
    N_LABELED,
    model_of,
    plan_in,
    train_in,
    write_image,
)  # fmt: skip
from trainers.small_trainers import (
    Given,
    equal_weights,
    files_of_last_phase,
    make_trainer,
    random_batch,
)

from graphnn_unet.data.augment import RecordedMirror
from graphnn_unet.pseudo_labels.corrector import Teaching
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers import BCPTrainer
from graphnn_unet.trainers.copy_paste import box_edges, draw_mask
from graphnn_unet.trainers.losses import region_losses
from graphnn_unet.trainers.semi import StepLoss
from graphnn_unet.trainers.teacher import Teacher

PRETRAIN, SELFTRAIN = 0, 1


def _box_of(trainer, seed=0):
    """The mask that a batch of ``seed`` draws: True outside the box."""
    size = trainer.configuration_manager.patch_size
    edges = box_edges(size, trainer.recipe.as_dict()["copy_paste"]["box_fraction"])
    return draw_mask(size, edges, torch.Generator().manual_seed(seed))


def _with_given_networks(trainer, n_images=4):
    """Student and teacher whose outputs are fixed; returns the student."""
    shape = (n_images, 3, *trainer.configuration_manager.patch_size)
    trainer.student.network = student = Given(shape)
    trainer.teacher.network = Given(shape, seed=11).requires_grad_(False)
    return student


def _loss_and_gradient(home, monkeypatch, alpha):
    trainer = make_trainer(
        BCPTrainer, home, monkeypatch, "loss.deep_supervision=false",
        f"loss.unlabeled_weight={alpha}", "pseudo_label.largest_component=false",
    )  # fmt: skip
    student = _with_given_networks(trainer)
    loss = trainer.batch_loss(random_batch(trainer), trainer.phases()[SELFTRAIN])
    loss.total.backward()
    return trainer, student, loss.total.detach(), student.logits.grad


def test_inward_and_outward_images_are_mixed_both_ways(tiny_home, monkeypatch):
    trainer, student, _, _ = _loss_and_gradient(tiny_home, monkeypatch, 0.5)
    batch, mask = random_batch(trainer), _box_of(trainer)
    (a, b), (p, q) = batch.labeled.split(2), batch.unlabeled.split(2)
    (seen,) = student.seen
    assert torch.equal(seen[:2], torch.where(mask, a, p))
    assert torch.equal(seen[2:], torch.where(mask, q, b))
    assert torch.equal(trainer.teacher.network.seen[0], batch.unlabeled)


def test_alpha_weighs_the_unlabeled_region_of_both_halves(tiny_home, monkeypatch):
    _, _, _, whole = _loss_and_gradient(tiny_home, monkeypatch, 1.0)
    trainer, _, _, half = _loss_and_gradient(tiny_home, monkeypatch, 0.5)
    outside = _box_of(trainer)[0, 0]
    for rows, unlabeled in ((slice(0, 2), ~outside), (slice(2, 4), outside)):
        there, here = whole[rows][:, :, unlabeled], half[rows][:, :, unlabeled]
        torch.testing.assert_close(here, there / 2, atol=1e-9, rtol=1e-5)
        assert there.abs().max() > 1e-6
        torch.testing.assert_close(half[rows][:, :, ~unlabeled], whole[rows][:, :, ~unlabeled])


def test_alpha_zero_is_the_loss_of_the_labeled_regions(tiny_home, monkeypatch):
    trainer, student, total, gradient = _loss_and_gradient(tiny_home, monkeypatch, 0.0)
    mask, target = _box_of(trainer), random_batch(trainer).target
    logits = student.logits.detach()
    expected = region_losses(logits[:2], target[:2], mask, trainer.loss_settings)[0]
    expected += region_losses(logits[2:], target[2:], ~mask, trainer.loss_settings)[0]
    assert torch.equal(total, expected)
    assert not gradient[:2][:, :, ~mask[0, 0]].any()
    assert not gradient[2:][:, :, mask[0, 0]].any()


@pytest.mark.parametrize("pseudo_dice", [True, False])
def test_true_labels_as_pseudo_labels_with_alpha_one_are_supervision(
    tiny_home, monkeypatch, pseudo_dice
):
    """The four region losses are those of the true labels, each in its half and region."""
    trainer = make_trainer(
        BCPTrainer, tiny_home, monkeypatch, "loss.deep_supervision=false",
        f"loss.pseudo_dice={str(pseudo_dice).lower()}",
        "loss.unlabeled_weight=1.0", "pseudo_label.largest_component=false",
    )  # fmt: skip
    student = _with_given_networks(trainer)
    truth = random_batch(trainer, seed=3).target.long()
    with torch.no_grad():
        onehot = torch.nn.functional.one_hot(truth[:, 0], 3).movedim(-1, 1).float()
        trainer.teacher.network.logits.copy_(onehot)
    batch, mask = random_batch(trainer), _box_of(trainer)
    total = trainer.batch_loss(batch, trainer.phases()[SELFTRAIN]).total
    logits, settings = student.logits, trainer.loss_settings
    expected = 0
    for rows, labeled in ((slice(0, 2), mask), (slice(2, 4), ~mask)):
        mixed = torch.where(labeled, batch.target[rows].long(), truth[rows])
        for region, dice in ((labeled, True), (~labeled, pseudo_dice)):
            expected += region_losses(logits[rows], mixed, region, settings, (dice,))[0]
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("deep", ["true", "false"])
def test_teacher_learns_nothing_by_gradient(tiny_home, monkeypatch, deep):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, f"loss.deep_supervision={deep}")
    trainer.batch_loss(random_batch(trainer), trainer.phases()[SELFTRAIN]).total.backward()
    teacher = trainer.teacher.network
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in trainer.network.parameters()}
    assert not trained & {id(p) for p in teacher.parameters()}


def test_pretraining_loads_no_unlabeled_image(tiny_home, monkeypatch):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch)
    read = []
    original = type(trainer.dataset)._unlabeled_crop

    def spied(self, case, generator):
        read.append(case.case_id)
        return original(self, case, generator)

    monkeypatch.setattr(type(trainer.dataset), "_unlabeled_crop", spied)
    pretrain, selftrain = trainer.phases()
    raw = list(trainer.loader(pretrain))
    assert len(raw) == 3
    assert not read
    unlabeled = {case.case_id for case in trainer.cases.unlabeled}
    assert all(not unlabeled & set(batch["keys"]) for batch in raw)
    assert trainer.to_device(raw[0]).unlabeled is None
    trainer.step = selftrain.start
    trainer.to_device(next(iter(trainer.loader(selftrain))))
    assert len(read) == trainer.recipe.batch.unlabeled
    assert set(read) <= unlabeled


def test_change_of_phase_copies_the_student_and_starts_the_schedule_anew(tiny_home, monkeypatch):
    trainer = make_trainer(
        BCPTrainer, tiny_home, monkeypatch, "optimizer.schedule=poly", "teacher.ema=0.9"
    )
    seen = []
    original = BCPTrainer.batch_loss

    def spied(self, batch, phase):
        same = equal_weights(self.teacher.network, self.network)
        state = len(self.optimizer.state)
        seen.append((phase.name, self.optimizer.param_groups[0]["lr"], same, state))
        return original(self, batch, phase)

    monkeypatch.setattr(BCPTrainer, "batch_loss", spied)
    monkeypatch.setattr(trainer, "on_train_start", lambda: None)
    monkeypatch.setattr(trainer.log, "add", lambda *_: None)
    monkeypatch.setattr(trainer.log, "line", lambda *_: None)
    trainer.run_training()
    names, rates, same, states = zip(*seen, strict=True)
    assert names == ("pretrain",) * 3 + ("selftrain",) * 3
    expected = [0.005 * (1 - i / 3) ** 0.9 for i in range(3)]
    np.testing.assert_allclose(rates, expected * 2)
    # the teacher rests during pre-training, starts as the student, then follows it
    assert same == (True, False, False, True, False, False)
    assert states[1] > 0
    assert states[3] == 0  # a fresh optimizer
    assert trainer.teacher.updates == 3


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_teacher_follows_after_the_step_of_the_optimizer(tiny_home, monkeypatch, share):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, f"teacher.ema={share}")
    trainer.step = trainer.phases()[SELFTRAIN].start
    before = {k: v.clone() for k, v in trainer.teacher.network.named_parameters()}
    trainer.train_step(next(iter(trainer.loader(trainer.phase))))
    after = dict(trainer.network.named_parameters())
    for name, teacher in trainer.teacher.network.named_parameters():
        expected = share * before[name] + (1 - share) * after[name].detach()
        torch.testing.assert_close(teacher, expected)
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_pseudo_labels_do_not_depend_on_the_grouping_of_the_batch(tiny_home, monkeypatch):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch)
    images = random_batch(trainer, 6).unlabeled

    def labels(batch):
        teaching = Teaching(trainer.teacher.predict(batch)[0])
        return trainer.pseudo_labels.finish(trainer.pseudo_labels.start(teaching))

    together = labels(images)
    assert together.unique().numel() > 1
    assert torch.equal(torch.cat([labels(part) for part in images.split(1)]), together)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(labels(images[order]), together[order])


def test_teacher_with_batch_norm_and_dropout_labels_each_image_alone():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5),
        torch.nn.Conv2d(4, 3, 1),
    )  # fmt: skip
    teacher = Teacher(network, ema=0.99, warmup=False)
    images = torch.randn(4, 1, 8, 8)
    together = teacher.predict(images)[0].argmax(1)
    mates = torch.cat([images[:1], 5 * torch.randn(3, 1, 8, 8)])
    assert torch.equal(teacher.predict(mates)[0].argmax(1)[0], together[0])
    network.train()
    assert not torch.equal(teacher.predict(mates)[0].argmax(1)[0], together[0])


def test_empty_pseudo_labels_give_a_finite_loss(tiny_home, monkeypatch):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, "loss.deep_supervision=false")
    student = _with_given_networks(trainer)
    with torch.no_grad():
        trainer.teacher.network.logits[:, 0] = 50
    loss = trainer.batch_loss(random_batch(trainer), trainer.phases()[SELFTRAIN])
    loss.total.backward()
    assert loss.terms["pseudo_foreground"] == 0
    assert torch.isfinite(student.logits.grad).all()


def test_labels_of_unlabeled_and_test_cases_change_nothing(trained_home, tmp_path, monkeypatch):
    """Plans, preprocesses and trains again after every label that must not be read is another."""
    home = tmp_path / "home"
    shutil.copytree(trained_home / "raw", home / "raw")
    raw = home / "raw" / DATASET
    test = sorted((raw / "labelsTs").glob("*.nii.gz"))
    unlabeled = sorted((raw / "imagesUn").glob("*.nii.gz"))
    assert test
    assert unlabeled
    for path in test:
        write_image(path, np.full((18, 20, 22), 2, np.uint8))
    for path in unlabeled:
        target = raw / "labelsUn" / path.name.replace("_0000", "")
        write_image(target, np.full((18, 20, 22), 99, np.uint8))
    plan_in(home)
    training = train_in(home, "BCPTrainer")
    name = "checkpoint_final.pth"
    ours = load_checkpoint(training.model / "fold_all" / name)
    theirs = load_checkpoint(model_of(trained_home, "BCPTrainer") / "fold_all" / name)
    for weights in (("network_weights",), ("gnnunet", "teacher", "weights")):
        a, b = ours, theirs
        for key in weights:
            a, b = a[key], b[key]
        assert all(torch.equal(a[key], b[key]) for key in b)
    used = json.loads(
        (training.model / "fold_all" / "environment.json").read_text(encoding="utf-8")
    )
    assert len(used["labeled"]) == N_LABELED
    assert not {p.name[:7] for p in test} & {*used["labeled"], *used["unlabeled"]}


def test_training_opens_no_label_and_no_property_of_an_unlabeled_case(tiny_home, monkeypatch):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch)
    names = files_of_last_phase(trainer, monkeypatch)
    labeled = {case.case_id for case in trainer.cases.labeled}
    known = labeled | {case.case_id for case in trainer.cases.unlabeled}
    assert {name.partition(".")[0].removesuffix("_seg") for name in names} <= known
    read_as_label = {n for n in names if n.endswith(("_seg.b2nd", ".pkl"))}
    assert read_as_label
    assert {n.partition(".")[0].removesuffix("_seg") for n in read_as_label} <= labeled


def test_without_pretraining_the_teacher_warms_up(tiny_home, monkeypatch):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, "schedule.pretrain_steps=0")
    assert [phase.name for phase in trainer.phases()] == ["selftrain"]
    assert trainer.teacher.warmup
    assert not make_trainer(BCPTrainer, tiny_home, monkeypatch).teacher.warmup


def test_a_method_may_add_to_the_loss_of_the_mixed_images(tiny_home, monkeypatch):
    class Adding(BCPTrainer):
        def predict_mixed(self, images):
            output, _ = super().predict_mixed(images)
            return output, StepLoss(images.new_tensor(3.0), {"own": 1.0})

    plain = make_trainer(BCPTrainer, tiny_home, monkeypatch)
    more = make_trainer(Adding, tiny_home, monkeypatch)
    more.network.load_state_dict(plain.network.state_dict())
    phase = plain.phases()[SELFTRAIN]
    a, b = (t.batch_loss(random_batch(t), phase) for t in (plain, more))
    torch.testing.assert_close(b.total, a.total + 3)
    assert b.terms["own"] == 1


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_the_teacher_is_told_where_each_patch_lies_in_its_case(
    tiny_home, monkeypatch, configuration
):
    """Cut again at the place that was told, and mirrored, the case gives the patch."""
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, configuration=configuration)
    dim = len(trainer.configuration_manager.patch_size)
    kept = [part for part in trainer.dataset.settings.unlabeled_transform.transforms
            if isinstance(part, RecordedMirror)]  # fmt: skip
    trainer.dataset.settings.unlabeled_transform.transforms[:] = kept  # no change of intensity
    trainer.step = trainer.phases()[SELFTRAIN].start
    stored = {case.case_id: case.image()[:] for case in trainer.cases.unlabeled}
    mirrored = set()
    for raw in trainer.loader(trainer.phase):
        batch = trainer.to_device(raw)
        teaching = trainer.teach(batch)
        assert all(place.is_moved for place in batch.places[: len(batch.labeled)])
        for image, case, place in zip(
            batch.unlabeled, teaching.cases, teaching.places, strict=True
        ):
            size = trainer.configuration_manager.patch_size
            size = size if dim == 3 else (1, *size)
            box = [[start, start + edge] for start, edge in zip(place.start, size, strict=True)]
            cut = torch.from_numpy(crop_and_pad_nd(stored[case], box, 0)).view(image.shape)
            assert not place.is_moved
            assert torch.equal(image, cut.flip([axis + 1 for axis in place.mirrored]))
            mirrored.add(place.mirrored)
    assert len(mirrored) > 2


def test_rotated_unlabeled_patches_have_no_place(tiny_home, monkeypatch):
    trainer = make_trainer(
        BCPTrainer, tiny_home, monkeypatch, "augmentation.unlabeled_spatial=true"
    )
    trainer.step = trainer.phases()[SELFTRAIN].start
    batch = trainer.to_device(next(iter(trainer.loader(trainer.phase))))
    assert all(place.is_moved for place in batch.places)


def test_nothing_is_mirrored_where_sides_are_labels_of_their_own(tiny_home, monkeypatch):
    mirrored = {}
    for mirror in (True, False):
        trainer = make_trainer(
            BCPTrainer, tiny_home, monkeypatch, f"augmentation.mirror={str(mirror).lower()}"
        )
        trainer.step = trainer.phases()[SELFTRAIN].start
        loader = iter(trainer.loader(trainer.phase))
        batches = [trainer.to_device(next(loader)) for _ in range(3)]
        mirrored[mirror] = {place.mirrored for batch in batches for place in batch.places}
        assert trainer.inference_allowed_mirroring_axes == ((0, 1, 2) if mirror else None)
    assert len(mirrored[True]) > 2
    assert mirrored[False] == {()}


def test_corrections_of_the_recipe_change_what_teaches(tiny_home, monkeypatch):
    plain = make_trainer(BCPTrainer, tiny_home, monkeypatch)
    blurred = make_trainer(
        BCPTrainer, tiny_home, monkeypatch, 'pseudo_label.correct=["blur"]', "blur.sigma_mm=4.0"
    )
    batch = random_batch(plain)
    labels = [t.pseudo_labels.finish(t.pseudo_labels.start(t.teach(batch)))
              for t in (plain, blurred)]  # fmt: skip
    assert not torch.equal(*labels)
    assert torch.equal(plain.teach(batch).logits, blurred.teach(batch).logits)
    selftrain = plain.phases()[SELFTRAIN]
    losses = [t.batch_loss(random_batch(t), selftrain).total for t in (plain, blurred)]
    assert losses[0] != losses[1]
