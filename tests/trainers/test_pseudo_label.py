"""Rounds of pseudo-labels: what labels, what stays, what is learned, and stops at any moment."""

import shutil

import numpy as np
import pytest
import torch
from tiny_study import train_in
from trainers.small_trainers import (
    killed_and_continued,
    leave_out_pictures_and_predictions,
    make_trainer,
)

from graphnn_unet.errors import InputError, RecipeError
from graphnn_unet.pseudo_labels.corrector import Place
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers import PseudoLabelTrainer, scan_labels
from graphnn_unet.trainers.copy_paste import box_edges, draw_mask
from graphnn_unet.trainers.frozen_labels import FrozenLabels
from graphnn_unet.trainers.pseudo_label import FOLDER

SHORT = ["label_rounds.members=2", "schedule.pretrain_steps=2", "schedule.selftrain_steps=6",
         "label_rounds.finetune_share=0.34", "schedule.steps_per_epoch=2"]  # fmt: skip


def slow(*values):
    return pytest.param(values, marks=pytest.mark.slow)


class Ball:
    """A scan of 8 x 9 x 10 voxels."""

    case_id = "ball"

    def image(self):
        return np.zeros((1, 8, 9, 10), np.float32)


def shares(seed=0, n=3, size=(8, 9, 10)):
    share = np.random.default_rng(seed).random((n, *size)).astype(np.float32)
    return share / share.sum(0)


def trainer_in_round(home, monkeypatch, tmp_path, *overrides, configuration="3d_fullres"):
    """A trainer in its first round with random frozen labels of all unlabeled scans."""
    trainer = make_trainer(
        PseudoLabelTrainer, home, monkeypatch, *SHORT, *overrides, configuration=configuration
    )
    trainer.output_folder = str(tmp_path / "fold")
    phase = next(phase for phase in trainer.phases() if phase.unlabeled)
    trainer.step = phase.start
    labels = trainer.labels_of(phase)
    n_outputs = trainer.label_manager.num_segmentation_heads
    for number, scan in enumerate(trainer.cases.unlabeled):
        labels.write(scan, shares(number, n_outputs, scan.image().shape[1:]))
    return trainer, phase, labels


# --------------------------------------------------------------------------------- the phases


def test_phases_share_the_steps_of_the_other_methods(tiny_home, monkeypatch):
    trainer = make_trainer(PseudoLabelTrainer, tiny_home, monkeypatch,
                           "schedule.pretrain_steps=10", "schedule.selftrain_steps=21")  # fmt: skip
    names, starts, stops, unlabeled = zip(
        *((p.name, p.start, p.stop, p.unlabeled) for p in trainer.phases()), strict=True
    )
    assert names == ("member_1", "member_2", "member_3",
                     "round_1", "finetune_1", "round_2", "finetune_2")  # fmt: skip
    assert starts == (0, 3, 6, 10, 18, 20, 29)
    assert stops == (*starts[1:], 31)
    assert unlabeled == (False, False, False, True, False, True, False)
    for phase in trainer.phases():  # mixed both ways: as many patches as labeled images
        assert len([s for s in trainer.slots(phase) if s < trainer.recipe.batch.labeled]) == 4
    assert trainer.learning_rate(18, trainer.phases()[4]) == pytest.approx(0.0005)
    assert trainer.learning_rate(20, trainer.phases()[5]) == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedule.pretrain_steps=0"], "no step for member_1"),
        (["label_rounds.rounds=40"], "no step for round_1"),
        (["augmentation.unlabeled_spatial=true"], "read at the place of a patch"),
        (['pseudo_label.correct=["diffusion"]'], "reads features of a network"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tiny_home, monkeypatch, overrides, words):
    with pytest.raises(RecipeError, match=words):
        make_trainer(PseudoLabelTrainer, tiny_home, monkeypatch, *overrides)


# ----------------------------------------------------------------------------- frozen labels


@pytest.mark.parametrize("overlapping", [False, True])
def test_patches_are_cut_mirrored_and_filled_with_background(tmp_path, overlapping):
    share = shares()
    labels = FrozenLabels(tmp_path, overlapping=overlapping)
    assert not labels.has(Ball())
    labels.write(Ball(), share)
    patch = labels.patch(Ball(), Place((-2, 3, 4), (1,)), (3, 6, 4, 5))
    np.testing.assert_allclose(patch[:, 2:], share[:, :4, 3:7, 4:9][:, :, ::-1], atol=1e-3)
    assert (patch[0, :2] == (0 if overlapping else 1)).all()
    assert not patch[1:, :2].any()
    flat = labels.patch(Ball(), Place((3, 1, 2), (1,)), (3, 6, 7))  # a slice, mirrored in x
    np.testing.assert_allclose(flat, share[:, 3, 1:7, 2:9][:, :, ::-1], atol=1e-3)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_labels_are_the_mean_of_all_members_and_cleaned(
    tiny_home, monkeypatch, tmp_path, configuration
):
    trainer = make_trainer(
        PseudoLabelTrainer, tiny_home, monkeypatch, *SHORT, configuration=configuration
    )
    trainer.output_folder = str(tmp_path)
    scan = trainer.cases.unlabeled[0]
    networks = [trainer.new_network() for _ in range(2)]
    given = [torch.randn(3, *scan.image().shape[1:]) for _ in networks]
    answers = iter(given)
    mirrored = []

    class Given:
        def logits(self, _image):
            return next(answers)

    monkeypatch.setattr(
        trainer, "predictor_of", lambda _, *, mirroring: (mirrored.append(mirroring), Given())[1]
    )
    states = [network.state_dict() for network in networks]
    phase = next(phase for phase in trainer.phases() if phase.unlabeled)
    found, logits = next(scan_labels.answers(trainer, phase, states, lambda _: False))
    assert found is scan
    soft = trainer._cleaned(logits)[0]
    mean = (given[0].softmax(0) + given[1].softmax(0)) / 2
    parts = [mean] if configuration == "3d_fullres" else mean.split(1, dim=1)  # or slices
    cleaned = [trainer.pseudo_labels.clean(part.log()[None])[0].long() for part in parts]
    cleaned = torch.cat(cleaned, dim=1)
    same = (cleaned == mean.argmax(0, keepdim=True)).expand_as(mean)
    torch.testing.assert_close(soft[same], mean[same])
    assert torch.equal(soft.argmax(0, keepdim=True), cleaned)
    assert 0 < same.float().mean() < 1
    assert mirrored == [True, True]


# -------------------------------------------------------------------------------------- the loss


def log_softmax(logits):
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_loss_of_unlabeled_content_is_soft_cross_entropy_in_its_regions(
    tiny_home, monkeypatch, tmp_path, configuration
):
    """All of it in numpy, from images at their places to the mean of both mixed halves."""
    trainer, phase, labels = trainer_in_round(
        tiny_home, monkeypatch, tmp_path, "loss.deep_supervision=false",
        configuration=configuration,
    )  # fmt: skip
    batch = trainer.to_device(next(iter(trainer.loader(phase))))
    n = len(batch.labeled)
    size = batch.labeled.shape[2:]
    generator = torch.Generator()
    generator.set_state(batch.generator.get_state())
    mask = draw_mask(size, box_edges(size, 2 / 3), generator)
    frozen = np.stack([
        labels.patch(trainer._scans[case], place, (3, *size))
        for case, place in zip(batch.keys[n:], batch.places[n:], strict=True)
    ])  # fmt: skip
    half = n // 2
    (a, b), (p, q) = batch.labeled.split(half), batch.unlabeled.split(half)
    images = torch.cat([torch.where(mask, a, p), torch.where(mask, q, b)])
    with torch.no_grad():
        logits = trainer.network(images).double().numpy()
    entropy = -(frozen * log_softmax(logits)).sum(1)
    outside = mask[0, 0].numpy()
    is_unlabeled = np.stack([~outside] * half + [outside] * half)
    loss = trainer.batch_loss(batch, phase)
    terms = {name: float(value) for name, value in loss.terms.items()}
    assert terms["pseudo_loss"] == pytest.approx(entropy[is_unlabeled].mean(), abs=2e-6)
    assert float(loss.total.detach()) == pytest.approx(
        terms["labeled_loss"] + 0.5 * terms["pseudo_loss"], abs=1e-6
    )
    loss.total.backward()
    assert any(p.grad is not None and p.grad.any() for p in trainer.network.parameters())


def test_corrections_act_on_frozen_labels(tiny_home, monkeypatch, tmp_path):
    trainer, phase, _ = trainer_in_round(
        tiny_home, monkeypatch, tmp_path, 'pseudo_label.correct=["blur"]', "blur.sigma_mm=3.0"
    )
    batch = trainer.to_device(next(iter(trainer.loader(phase))))
    teaching = trainer.teach(batch)
    before, after = (
        x.softmax(1) for x in (teaching.logits, trainer.pseudo_labels.correct(teaching))
    )
    assert float(after.std()) < 0.5 * float(before.std())


# ----------------------------------------------------------------------------- whole trainings


def test_labels_stay_over_a_round_and_each_network_begins_anew(tiny_copy, monkeypatch):
    leave_out_pictures_and_predictions(monkeypatch)
    seen, starts = [], []
    original = PseudoLabelTrainer.batch_loss

    def spied(self, batch, phase):
        if self.step == phase.start:
            starts.append(
                (phase.name, {k: v.clone() for k, v in self.network.state_dict().items()})
            )
        if phase.unlabeled:
            folder = self.labels_of(phase).folder
            seen.append((phase.name, {p.name: p.read_bytes() for p in folder.iterdir()}))
        return original(self, batch, phase)

    monkeypatch.setattr(PseudoLabelTrainer, "batch_loss", spied)
    model = train_in(tiny_copy, "PseudoLabelTrainer", overrides=SHORT).model
    names = [name for name, _ in starts]
    assert names == ["member_1", "member_2", "round_1", "finetune_1", "round_2", "finetune_2"]
    first = dict(starts)
    fresh = [first[name] for name in ("member_1", "member_2", "round_1", "round_2")]
    for i, state in enumerate(fresh):
        for other in fresh[:i]:
            assert any(not torch.equal(state[key], other[key]) for key in state)
    rounds = {name: [files for n, files in seen if n == name] for name in ("round_1", "round_2")}
    for files in rounds.values():
        assert set(files[0]) == {"done", "case_04.b2nd", "case_05.b2nd", "case_06.b2nd"}
        assert all(later == files[0] for later in files)
    assert rounds["round_1"][0] != rounds["round_2"][0]
    left = {path.name for path in (model / "fold_all" / FOLDER).iterdir()}
    assert left == {"round_2"}
    state = load_checkpoint(model / "fold_all" / FINAL)
    assert state["gnnunet"]["heads"] == {}
    assert state["trainer_name"] == "PseudoLabelTrainer"


@pytest.mark.parametrize("killed_at", [("label", 2), slow("label", 5), slow("step", 4)])
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tiny_copy, monkeypatch, killed_at, whole):
    """After some scans of the first or second round, and within a round; the last file is cut."""
    leave_out_pictures_and_predictions(monkeypatch)
    what, count = killed_at
    where = {"label": (PseudoLabelTrainer, "_cleaned"), "step": (PseudoLabelTrainer, "train_step")}[
        what
    ]
    fold = killed_and_continued(tiny_copy, monkeypatch, "PseudoLabelTrainer", SHORT, *where, count)
    weights = load_checkpoint(fold / FINAL)["network_weights"]
    assert all(torch.equal(weights[key], whole[0][key]) for key in whole[0])
    labels = {p.name: p.read_bytes() for p in (fold / FOLDER / "round_2").iterdir()}
    assert labels == whole[1]


@pytest.fixture(scope="module")
def whole(tiny_home, tmp_path_factory):
    """Weights and last labels of a training that was never stopped."""
    home = tmp_path_factory.mktemp("whole") / "home"
    shutil.copytree(tiny_home, home)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures_and_predictions(patch)
        fold = train_in(home, "PseudoLabelTrainer", overrides=SHORT).model / "fold_all"
    labels = {p.name: p.read_bytes() for p in (fold / FOLDER / "round_2").iterdir()}
    return load_checkpoint(fold / FINAL)["network_weights"], labels


def test_missing_member_is_named(tiny_home, monkeypatch, tmp_path):
    trainer = make_trainer(PseudoLabelTrainer, tiny_home, monkeypatch, *SHORT)
    trainer.output_folder = str(tmp_path)
    phase = next(phase for phase in trainer.phases() if phase.unlabeled)
    with pytest.raises(InputError, match=r"member_1\.pth is missing"):
        list(trainer._states_that_label(phase))
