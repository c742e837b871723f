"""MLLC's wiring: who sees which view, what is corrected, whom each loss teaches, what is kept."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from tiny_study import model_of, plan_in, train_in, use_home, write_raw_dataset
from trainers.small_trainers import (
    equal_weights,
    files_of_last_phase,
    make_trainer,
    random_batch,
)

from graphnn_unet.errors import InputError, RecipeError
from graphnn_unet.graph import LearnedStep
from graphnn_unet.plans.recipe import load_recipe, resolve
from graphnn_unet.pseudo_labels.largest_component import PendingLabels
from graphnn_unet.pseudo_labels.mllc_graphs import MLLCSettings
from graphnn_unet.storage.checkpoints import FINAL, LATEST
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers import MLLCTrainer, SupervisedTrainer
from graphnn_unet.trainers import mllc as module
from graphnn_unet.trainers.losses import downsample

COARSE = ["mllc.max_nodes=512", "mllc_training.embedding_size=16"]
PLAIN_LABELS = "pseudo_label.largest_component=false"


@pytest.fixture
def trainer_with(tiny_home, monkeypatch):
    """Make a trainer on 8 x 8 x 8 nodes with a teacher that differs from the student."""

    def make(*overrides, cls=MLLCTrainer, configuration="3d_fullres"):
        small = COARSE if cls is MLLCTrainer else []
        built = make_trainer(
            cls, tiny_home, monkeypatch, *small, *overrides, configuration=configuration
        )
        if built.teacher is not None:
            generator = torch.Generator().manual_seed(5)
            for parameter in built.teacher.network.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return built

    return make


def self_training(trainer, seed=0):
    trainer.student.train()
    return trainer.batch_loss(random_batch(trainer, seed=seed), trainer.phases()[-1])


def teachers_labels(trainer, seed=0):
    """Labels of the teacher after its graphs, and plain ones, at full resolution."""
    batch = random_batch(trainer, seed=seed)
    corrected = trainer.pseudo_labels.finish(trainer.correct_teacher(batch).pending)
    logits, _ = trainer.teacher.predict(torch.cat([batch.labeled, batch.unlabeled]))
    return corrected, logits[len(batch.labeled) :].argmax(1, keepdim=True)


# ------------------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_weight_zero_is_the_loss_of_the_baseline(trainer_with, configuration):
    ours = trainer_with("mllc_training.weight=0.0", configuration=configuration)
    plain = trainer_with(
        "copy_paste.supervised=false", cls=SupervisedTrainer, configuration=configuration
    )
    plain.network.load_state_dict(ours.network.state_dict())
    expected = plain.batch_loss(random_batch(plain), plain.phases()[0]).total
    torch.testing.assert_close(self_training(ours).total, expected, atol=1e-6, rtol=1e-6)
    assert self_training(ours).total != self_training(trainer_with()).total


@pytest.mark.parametrize("mixed", ["true", "false"])
def test_pretraining_is_that_of_the_baseline(trainer_with, mixed):
    override = f"copy_paste.supervised={mixed}"
    ours, plain = trainer_with(override), trainer_with(override, cls=SupervisedTrainer)
    plain.network.load_state_dict(ours.network.state_dict())
    batches = [random_batch(trainer) for trainer in (ours, plain)]
    for batch in batches:
        batch.unlabeled = None
    losses = [t.batch_loss(b, t.phases()[0]).total for t, b in zip((ours, plain), batches,
                                                                   strict=True)]  # fmt: skip
    assert torch.equal(*losses)


def test_total_is_made_of_the_losses_with_their_weights(trainer_with):
    loss = self_training(trainer_with())
    terms = {name: float(value) for name, value in loss.terms.items()}
    expected = terms["supervised_loss"] + 0.1 * terms["slg_loss"] + terms["clg_loss"]
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert min(terms["slg_loss"], terms["clg_loss"]) > 0.01
    heavier = self_training(
        trainer_with("mllc_training.slg_weight=0.5", "mllc_training.weight=2.0")
    )
    expected = terms["supervised_loss"] + 2 * (0.5 * terms["slg_loss"] + terms["clg_loss"])
    assert float(heavier.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_head_term_is_cross_entropy_weighed_by_the_students_probability(trainer_with):
    with_term, without = (
        self_training(trainer_with(f"mllc_training.head_term={value}")).terms["clg_loss"]
        for value in ("true", "false")
    )
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    label = torch.randint(0, 3, (2, 1, 4, 5)).to(torch.int16)
    chosen = logits.float().softmax(1).gather(1, label.long())
    torch.testing.assert_close(module._head_term(logits, label), -(chosen * chosen.log()).mean())
    assert with_term - without > 0.05


def test_loss_teaches_student_embedding_and_both_functions_but_no_teacher(trainer_with):
    trainer = trainer_with()
    self_training(trainer).total.backward()
    for part in (trainer.teacher.network, trainer.teacher.heads):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    for name, parameter in trainer.student.heads["mllc_head"].named_parameters():
        assert parameter.grad.abs().max() > 0, name
    for name, parameter in trainer.network.encoder.named_parameters():
        if "conv.bias" not in name:  # an instance norm removes constant shifts
            assert parameter.grad.abs().max() > 0, name
    assert not list(trainer.student.heads["mllc_prototypes"].parameters())
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in trainer.student.parameters()} == trained


@pytest.mark.parametrize("detach", ["true", "false"])
def test_weights_of_the_graphs_carry_gradient_only_if_asked(trainer_with, detach):
    """Classes depend on embeddings through the weights of the graph alone."""
    trainer = trainer_with(f"mllc_training.detach_graph={detach}", "mllc_training.slg_weight=0.0")
    self_training(trainer).total.backward()
    gradient = trainer.student.heads["mllc_head"].embed.weight.grad
    assert (gradient is not None and bool(gradient.any())) == (detach == "false")


@pytest.mark.parametrize("which", [0, 1])
def test_either_graph_loss_alone_teaches_the_encoder(trainer_with, which):
    trainer = trainer_with()
    batch = random_batch(trainer)
    lesson = trainer.correct_teacher(batch)
    _, features = trainer.student.predict(batch.unlabeled, trainer.taps)
    nodes = trainer._nodes(features, trainer.student.heads["mllc_head"])
    trainer._graph_losses(nodes, lesson.label.flatten(1), lesson.confident.flatten(1))[
        which
    ].backward()
    for name, parameter in trainer.network.encoder.named_parameters():
        if "conv.bias" not in name:
            assert parameter.grad.abs().max() > 0, name


# ------------------------------------------------------------------------------ what is corrected


def test_functions_that_return_their_first_argument_leave_the_teachers_labels(
    trainer_with, monkeypatch
):
    trainer = trainer_with(PLAIN_LABELS)
    corrected, plain = teachers_labels(trainer)
    assert 0 < (corrected != plain).float().mean() < 0.5
    monkeypatch.setattr(LearnedStep, "label", lambda _step, state, _message: state)
    corrected, plain = teachers_labels(trainer)
    assert torch.equal(corrected, plain)


def test_no_iterations_leave_a_mean_teacher(trainer_with):
    trainer = trainer_with(PLAIN_LABELS, "mllc.iterations=0")
    corrected, plain = teachers_labels(trainer)
    assert torch.equal(corrected, plain)
    loss = self_training(trainer)
    loss.total.backward()
    assert loss.terms["slg_loss"] == 0
    assert loss.terms["corrected_nodes"] == 0
    assert loss.terms["clg_loss"] > 0  # the head's, against the plain labels


def test_corrections_of_the_recipe_follow_the_graphs(trainer_with):
    plain, _ = teachers_labels(trainer_with(PLAIN_LABELS))
    for name in ("blur", "mllc", "diffusion"):
        override = f'pseudo_label.correct=["{name}"]'
        more, _ = teachers_labels(trainer_with(PLAIN_LABELS, override, "blur.sigma_mm=4.0"))
        assert not torch.equal(plain, more), name


def test_images_are_corrected_by_themselves(trainer_with, monkeypatch):
    trainer = trainer_with(PLAIN_LABELS)
    monkeypatch.setattr(MLLCSettings, "thresholds", lambda *_: torch.tensor([0.3, 0.4, 0.5]))
    batch = random_batch(trainer, 3)
    together = trainer.correct_teacher(batch)
    labels = trainer.pseudo_labels.finish(together.pending)
    for i in range(3):
        alone = random_batch(trainer, 3)
        alone.unlabeled = alone.unlabeled[i : i + 1]
        lesson = trainer.correct_teacher(alone)
        assert torch.equal(lesson.label, together.label[i : i + 1])
        assert torch.equal(lesson.confident, together.confident[i : i + 1])
        assert torch.equal(trainer.pseudo_labels.finish(lesson.pending), labels[i : i + 1])


def test_thresholds_count_unlabeled_nodes_of_the_whole_batch(trainer_with, monkeypatch):
    seen = []
    original = MLLCSettings.thresholds

    def spied(self, rows):
        seen.append(rows)
        return original(self, rows)

    monkeypatch.setattr(MLLCSettings, "thresholds", spied)
    trainer = trainer_with()
    batch = random_batch(trainer)
    lesson = trainer.correct_teacher(batch)
    (rows,) = seen
    logits, features = trainer.teacher.predict(batch.unlabeled, [trainer.taps[1]])
    expected = trainer.grid.nodes(features[trainer.taps[1]].softmax(1))
    torch.testing.assert_close(rows, expected)
    assert torch.equal(features[trainer.taps[1]], logits)  # the finest head of a tiny network
    assert lesson.label.shape == lesson.confident.shape == (4, 1, 8, 8, 8)


# -------------------------------------------------------------------------------- prototypes


def test_prototypes_hold_teacher_embeddings_by_true_and_by_corrected_labels(trainer_with):
    trainer = trainer_with()
    batch = random_batch(trainer)
    batch.target = batch.target * 0  # one class among labeled nodes
    lesson = trainer.correct_teacher(batch)
    prototypes = trainer.student.heads["mllc_prototypes"]
    head = trainer.teacher.heads["mllc_head"]
    _, features = trainer.teacher.predict(torch.cat([batch.labeled, batch.unlabeled]), trainer.taps)
    nodes = trainer._nodes(features, head)
    labels = torch.cat([torch.zeros(4, 512, dtype=torch.int64), lesson.label.flatten(1)])
    assert set(labels.unique().tolist()) == set(prototypes.seen.nonzero().flatten().tolist())
    threshold = torch.stack([lesson.terms[f"threshold_{c}"] for c in range(3)])
    sure = nodes.probability.max(-1).values >= threshold[nodes.probability.argmax(-1)]
    for k, state in enumerate(head.correct(nodes, sure, trainer.settings)):
        for c in labels.unique():
            expected = state.embedding[labels == c].mean(0)
            torch.testing.assert_close(prototypes.mean[k, c], expected, atol=1e-5, rtol=1e-4)


def test_true_labels_of_labeled_images_reach_the_prototypes(trainer_with):
    means = []
    for label in (0, 1):
        trainer = trainer_with()
        batch = random_batch(trainer)
        batch.target = torch.full_like(batch.target, label)
        trainer.correct_teacher(batch)
        means.append(trainer.student.heads["mllc_prototypes"].mean)
    assert not torch.allclose(*means)


def test_ignored_voxels_are_in_no_prototype(trainer_with, monkeypatch):
    trainer = trainer_with()
    given = []
    prototypes = trainer.student.heads["mllc_prototypes"]
    monkeypatch.setattr(type(prototypes), "update", lambda _self, _rows, label: given.append(label))
    monkeypatch.setattr(type(trainer.label_manager), "ignore_label", 2)
    batch = random_batch(trainer)
    trainer.correct_teacher(batch)
    known = downsample(batch.target, (8, 8, 8)).flatten(1)
    assert (known == 2).any()
    assert torch.equal(given[0][:4], torch.where(known == 2, -1, known).long())


def test_prototypes_move_before_the_loss_and_once_a_step(trainer_with):
    trainer = trainer_with()
    prototypes = trainer.student.heads["mllc_prototypes"]
    assert not prototypes.seen.any()
    first = self_training(trainer)
    assert first.terms["slg_loss"] > 0
    assert prototypes.sightings.tolist() == [1, 1, 1]
    before = prototypes.mean.clone()
    self_training(trainer, seed=1)
    move = (prototypes.mean - before).norm() / before.norm()
    assert 0 < move < 0.02


# ------------------------------------------------------------------------------------- views


def test_student_sees_as_many_patches_as_in_the_other_methods(trainer_with, monkeypatch):
    trainer = trainer_with()
    pretrain, selftrain = trainer.phases()
    assert trainer.slots(pretrain) == [0, 1, 2, 3]
    assert trainer.slots(selftrain) == [0, 1, 4, 5]
    trainer.step = selftrain.start
    seen = []
    original = type(trainer.student).predict

    def spied(self, images, taps=()):
        seen.append(images)
        return original(self, images, taps)

    monkeypatch.setattr(type(trainer.student), "predict", spied)
    raw = next(iter(trainer.loader(selftrain)))
    batch = trainer.to_device(raw)
    trainer.train_step(raw)
    (images,) = seen
    assert len(images) == 4
    assert torch.equal(images[:2], batch.labeled)
    assert not torch.equal(images[2:], batch.unlabeled)


def test_teacher_sees_the_weak_view(trainer_with, monkeypatch):
    trainer = trainer_with()
    seen = []
    original = trainer.teacher.predict

    def spied(images, taps=()):
        seen.append(images)
        return original(images, taps)

    monkeypatch.setattr(trainer.teacher, "predict", spied)
    batch = random_batch(trainer)
    trainer.batch_loss(batch, trainer.phases()[-1])
    assert torch.equal(seen[0], torch.cat([batch.labeled, batch.unlabeled]))


def test_a_box_is_swapped_in_images_labels_and_confidence_alike(trainer_with, monkeypatch):
    """Images whose intensity is their label: all must still agree after the swap."""
    trainer = trainer_with(
        "mllc_training.change_probability=0.0", "mllc_training.cutmix_probability=1.0"
    )
    batch = random_batch(trainer)
    batch.unlabeled = torch.randint(0, 3, batch.unlabeled.shape).float()
    at_nodes = downsample(batch.unlabeled, (8, 8, 8)).long()
    lesson = module.Lesson(
        PendingLabels(batch.unlabeled.to(torch.uint8), None, None), at_nodes, at_nodes == 1, {}
    )
    trainer.pseudo_labels._cleaner._threads = None
    monkeypatch.setattr(trainer, "correct_teacher", lambda _batch: lesson)
    seen = {}

    def losses(nodes, label, confident):
        seen["nodes"] = label, confident
        return nodes.probability.new_zeros(()), nodes.probability.new_zeros(())

    def head_term(logits, label):
        seen["full"] = label
        return logits.sum() * 0

    def predict(images, taps=()):
        seen["images"] = images
        return original(images, taps)

    original = trainer.student.predict
    monkeypatch.setattr(trainer, "_graph_losses", losses)
    monkeypatch.setattr(module, "_head_term", head_term)
    monkeypatch.setattr(trainer.student, "predict", predict)
    trainer.self_training_loss(batch)
    strong = seen["images"][4:]
    swapped = (strong != batch.unlabeled).any(1).any(0)
    assert 0.2 * 0.125 < swapped.float().mean() <= 0.125  # a box of half the edges
    partner = batch.unlabeled.roll(2, 0)
    assert ((strong == batch.unlabeled) | (strong == partner)).all()
    assert torch.equal(seen["full"].long(), strong.long())
    label, confident = seen["nodes"]
    small = downsample(strong, (8, 8, 8)).long().flatten(1)
    assert torch.equal(label, small)
    assert torch.equal(confident, small == 1)
    assert not torch.equal(label, at_nodes.flatten(1))


def test_one_unlabeled_image_is_never_mixed(trainer_with):
    trainer = trainer_with(
        "mllc_training.change_probability=0.0", "mllc_training.cutmix_probability=1.0"
    )
    batch = random_batch(trainer)
    batch.unlabeled = batch.unlabeled[:1]
    strong, mask = trainer.strong_view(batch)
    assert mask is None
    assert torch.equal(strong, batch.unlabeled)
    assert trainer_with("batch.labeled=2", "batch.unlabeled=2").slots(trainer.phases()[-1]) == [
        0,
        2,
    ]


def test_views_follow_from_the_step_alone(trainer_with):
    trainer = trainer_with()
    first, mask = trainer.strong_view(random_batch(trainer))
    torch.manual_seed(99)
    again, mask_again = trainer.strong_view(random_batch(trainer))
    assert torch.equal(first, again)
    assert (mask is None) == (mask_again is None)
    assert not torch.equal(first, random_batch(trainer).unlabeled)


# ------------------------------------------------------------------------ which scale, which values


def test_the_head_without_weight_is_never_chosen(trainer_with):
    """The coarser of two heads, with 8 x 8 x 8 positions, is not trained."""
    trainer = trainer_with("mllc.min_nodes=64")
    assert len(trainer.network.decoder.stages) == 2
    assert trainer.trained_scales(trainer.network) == [(16, 16, 16)]
    assert (trainer.grid.scale, trainer.grid.size) == (0, (8, 8, 8))
    single = trainer_with("loss.deep_supervision=false")
    assert single.trained_scales(single.network) == [(16, 16, 16)]


def test_defaults_and_the_papers_recipe_have_the_published_values():
    for recipe in (resolve(), resolve(load_recipe("mllc_paper"))):
        graphs, training = recipe.as_dict()["mllc"], recipe.as_dict()["mllc_training"]
        assert [graphs[key] for key in ("iterations", "neighbors", "gamma", "sigma")] == [
            2, 20, 1.0, 0.95,
        ]  # fmt: skip
        assert (graphs["neighbor_share"], graphs["threshold"]) == (0.2, "count")
        assert [training[key] for key in ("slg_weight", "clg_weight", "pair_share")] == [
            0.1, 1.0, 0.5,
        ]  # fmt: skip
        assert [training[key] for key in ("tau", "beta", "embedding_size")] == [0.1, 0.99, 256]


# ------------------------------------------------------------------------------- what is refused


def test_overlapping_regions_are_refused(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    write_raw_dataset(tmp_path / "raw", labels=labels)
    plan_in(tmp_path)
    with pytest.raises(InputError, match="MLLCTrainer does not train overlapping regions"):
        train_in(tmp_path, "MLLCTrainer")
    with pytest.raises(RecipeError, match="'mllc' cannot correct overlapping regions"):
        train_in(tmp_path, "BCPTrainer", overrides=['pseudo_label.correct=["mllc"]'])


def test_cascade_is_refused(tiny_home, monkeypatch):
    from graphnn_unet.trainers.semi import SemiTrainer

    monkeypatch.setattr(MLLCTrainer, "supported_configurations", ("2d",))
    with pytest.raises(InputError, match="MLLCTrainer does not train 3d_fullres"):
        make_trainer(MLLCTrainer, tiny_home, monkeypatch)
    assert "3d_cascade_fullres" not in SemiTrainer.supported_configurations


def test_batch_that_two_processes_cannot_halve_is_refused_before_the_first_step(
    tiny_home, monkeypatch
):
    monkeypatch.setattr("graphnn_unet.trainers.batch.process_count", lambda: 2)
    with pytest.raises(InputError, match=r"half of 4 images .*multiples of 8"):
        make_trainer(MLLCTrainer, tiny_home, monkeypatch)


# --------------------------------------------------------------------- precision and checkpoints


def test_autocast_leaves_graphs_and_losses_in_full_precision(trainer_with, monkeypatch):
    seen = []
    original = module.correct_labels
    monkeypatch.setattr(
        module, "correct_labels",
        lambda share, rows, *rest: (seen.append((share.dtype, rows.dtype)),
                                    original(share, rows, *rest))[1],
    )  # fmt: skip
    trainer = trainer_with()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = self_training(trainer)
    assert seen == [(torch.float32, torch.float32)] * 2
    assert torch.isfinite(loss.total)
    loss.total.backward()
    assert trainer.student.heads["mllc_prototypes"].mean.dtype == torch.float32


def test_state_restores_heads_teacher_and_prototypes(trainer_with):
    trainer = trainer_with("teacher.ema=0.9")
    trainer.step = trainer.phases()[-1].start
    for raw in trainer.loader(trainer.phase):
        trainer.train_step(raw)
    state = trainer.state()
    assert not any("mllc" in key for key in state["network_weights"])
    other = trainer_with("teacher.ema=0.9")
    other.load_state(state, "here")
    for ours, theirs in (
        (trainer.student.heads, other.student.heads),
        (trainer.teacher.heads, other.teacher.heads),
        (trainer.teacher.network, other.teacher.network),
    ):
        assert equal_weights(ours, theirs)
    assert not equal_weights(trainer.teacher.heads["mllc_head"], trainer.student.heads["mllc_head"])
    assert other.student.heads["mllc_prototypes"].sightings.max() == 3
    assert torch.equal(self_training(other).total, self_training(trainer).total)
    plain = trainer_with(cls=SupervisedTrainer)
    plain.network.load_state_dict(state["network_weights"])
    image = random_batch(plain).labeled
    assert all(map(torch.equal, plain.network.eval()(image), trainer.network.eval()(image)))


class StopAfter:
    def __init__(self, n_steps):
        self.left = n_steps

    def is_set(self):
        self.left -= 1
        return self.left == 0


@pytest.fixture(scope="module")
def whole(tiny_home, tmp_path_factory):
    """A home with an uninterrupted training."""
    import shutil

    home = tmp_path_factory.mktemp("mllc") / "home"
    shutil.copytree(tiny_home, home)
    train_in(home, "MLLCTrainer", overrides=COARSE)
    return home


def test_training_leaves_a_model_and_its_diagnostics(whole):
    (folder,) = (whole / "results").glob("*/MLLCTrainer__*")
    rows = pd.read_csv(folder / "fold_all" / "metrics.csv")
    assert rows["step"].tolist() == [2, 3, 4, 6]
    later = rows[rows["phase"] == "selftrain"]
    columns = ["supervised_loss", "slg_loss", "clg_loss", "confident_nodes", "corrected_nodes",
               "threshold_0", "threshold_1", "threshold_2"]  # fmt: skip
    assert later[columns].notna().all().all()
    assert later["confident_nodes"].between(0, 1).all()
    assert len(list((folder / "fold_all" / "validation").glob("*.nii.gz"))) == 4
    state = load_checkpoint(folder / "fold_all" / FINAL)
    assert set(state["gnnunet"]["heads"]) == {"mllc_head", "mllc_prototypes"}
    assert set(state["gnnunet"]["teacher"]["heads"]) == {"mllc_head"}


@pytest.mark.parametrize("stop_after", [2, 5])
def test_continued_training_equals_the_uninterrupted_one(whole, tiny_copy, monkeypatch, stop_after):
    """Stops inside pre-training, and in self-training, where prototypes have moved."""
    from contextlib import nullcontext

    from graphnn_unet.trainers import semi

    stop = StopAfter(stop_after)
    monkeypatch.setattr(semi, "stop_requests", lambda: nullcontext(stop))
    with pytest.raises(KeyboardInterrupt, match="--c"):
        train_in(tiny_copy, "MLLCTrainer", overrides=COARSE)
    (model,) = (tiny_copy / "results").glob("*/MLLCTrainer__*")
    assert load_checkpoint(model / "fold_all" / LATEST)["gnnunet"]["step"] == stop_after
    monkeypatch.undo()
    use_home(tiny_copy, monkeypatch)
    train_in(tiny_copy, "MLLCTrainer", overrides=COARSE, mode="continue")
    (expected,) = (whole / "results").glob("*/MLLCTrainer__*")
    ours, theirs = (load_checkpoint(m / "fold_all" / FINAL) for m in (model, expected))
    pairs = [(ours["network_weights"], theirs["network_weights"])]
    for name in ("heads", "teacher"):
        pairs.append((ours["gnnunet"][name], theirs["gnnunet"][name]))
    assert all(same(*pair) for pair in pairs)


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_stock_predictor_reads_the_model_and_export_drops_the_heads(whole, tmp_path, monkeypatch):
    from graphnn_unet import export

    use_home(whole, monkeypatch)
    (model,) = (whole / "results").glob("*/MLLCTrainer__*")
    exported = export(model, tmp_path / "plain")
    (checkpoint,) = (tmp_path / "plain").rglob(FINAL)
    state, original = load_checkpoint(checkpoint), load_checkpoint(model / "fold_all" / FINAL)
    assert exported is not None
    assert state["trainer_name"] == "nnUNetTrainer"
    assert same(state["network_weights"], original["network_weights"])
    assert "heads" not in str(state.keys())


def test_labels_of_unlabeled_cases_are_never_opened(tiny_home, monkeypatch):
    trainer = make_trainer(MLLCTrainer, tiny_home, monkeypatch, *COARSE)
    names = files_of_last_phase(trainer, monkeypatch)
    labeled = {case.case_id for case in trainer.cases.labeled}
    as_label = {name for name in names if name.endswith(("_seg.b2nd", ".pkl"))}
    assert as_label
    assert {n.partition(".")[0].removesuffix("_seg") for n in as_label} <= labeled
    unlabeled = {case.case_id for case in trainer.cases.unlabeled}
    assert unlabeled & {name.partition(".")[0] for name in names}


def test_labels_of_a_draw_change_nothing_where_they_are_hidden(tiny_copy):
    """Two of four labels are left out; other values in their files give the same weights."""
    overrides = [*COARSE, "schedule.pretrain_steps=1", "schedule.selftrain_steps=2"]
    keywords = {"overrides": overrides, "n_labeled": 2}
    first = train_in(tiny_copy, "MLLCTrainer", **keywords)
    weights = load_checkpoint(first.model / "fold_all" / FINAL)["network_weights"]
    folder = next((tiny_copy / "preprocessed").glob("*/gnnunetPlans_3d_fullres"))
    for case in ("case_02", "case_03"):  # a reader would fail, and so would a changed size
        for name in (f"{case}_seg.b2nd", f"{case}.pkl"):
            (folder / name).write_bytes(b"x" * (folder / name).stat().st_size)
    again = train_in(tiny_copy, "MLLCTrainer", mode="restart", **keywords)
    assert same(load_checkpoint(again.model / "fold_all" / FINAL)["network_weights"], weights)


def test_ignore_label_and_two_channels_train(tmp_path):
    def with_ignored(label):
        label = label.copy()
        label[:3] = 3
        return label

    labels = {"background": 0, "shell": 1, "core": 2, "ignore": 3}
    write_raw_dataset(tmp_path / "raw", n_channels=2, labels=labels, transform_label=with_ignored)
    plan_in(tmp_path)
    result = train_in(tmp_path, "MLLCTrainer", 0, overrides=COARSE)
    rows = pd.read_csv(result.model / "fold_0" / "metrics.csv")
    assert rows["loss"].notna().all()


def test_2d_configuration_trains(tiny_copy):
    result = train_in(tiny_copy, "MLLCTrainer", configuration="2d")
    assert result.model == model_of(tiny_copy, "MLLCTrainer", "2d")
    rows = pd.read_csv(result.model / "fold_all" / "metrics.csv")
    assert rows["loss"].notna().all()
