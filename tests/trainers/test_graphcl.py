"""GraphCL's wiring: what the clustering loss sees, whom it teaches, and when it is silent."""

import pytest
import torch
from trainers.small_trainers import make_trainer, open_gate, random_batch

from graphnn_unet.errors import InputError
from graphnn_unet.graph import correlation_clustering_loss
from graphnn_unet.networks.hook import encode
from graphnn_unet.pseudo_labels.corrector import Teaching
from graphnn_unet.trainers import BCPTrainer, GraphCLTrainer
from graphnn_unet.trainers.epoch_terms import EpochTerms
from graphnn_unet.trainers.graphcl import MAX_NODES, cluster_stage, feature_nodes


@pytest.fixture
def trainer_with(tiny_home, monkeypatch):
    """Make the published method with an open gate and the same weights for the same seed."""

    def make(*overrides, gate=0.7, cls=GraphCLTrainer, configuration="3d_fullres"):
        overrides = ("scan_labels.rounds=0", *overrides)
        built = make_trainer(cls, tiny_home, monkeypatch, *overrides, configuration=configuration)
        for network in (built.network, built.teacher.network):
            open_gate(network, gate)
        return built

    return make


def self_training(trainer, seed=0):
    """Loss of one batch in self-training; dropout of the head draws the same each time."""
    torch.manual_seed(0)
    trainer.student.train()
    return trainer.batch_loss(random_batch(trainer, seed=seed), trainer.phases()[1])


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_kappa_zero_is_bcps_loss_exactly(trainer_with, configuration):
    trainer = trainer_with("graph.kappa=0.0", configuration=configuration)
    loss = self_training(trainer)
    assert "cluster_loss" not in loss.terms
    trainer.predict_mixed = lambda images: BCPTrainer.predict_mixed(trainer, images)
    assert torch.equal(loss.total, self_training(trainer).total)


def test_kappa_zero_and_a_closed_gate_are_bcps_loss_of_the_plain_network(
    trainer_with, tiny_home, monkeypatch
):
    ours = trainer_with("graph.kappa=0.0", gate=0.0)
    plain = make_trainer(BCPTrainer, tiny_home, monkeypatch)
    weights = {k: v for k, v in ours.network.state_dict().items() if not k.startswith("align.")}
    plain.network.load_state_dict(weights)
    plain.teacher.reset(plain.network)
    ours.teacher.reset(ours.network)
    assert torch.equal(self_training(ours).total, self_training(plain).total)


def test_total_grows_with_kappa_by_the_clustering_loss(trainer_with):
    losses = {k: self_training(trainer_with(f"graph.kappa={k}")) for k in (0.0, 1.0, 3.0)}
    clustering = losses[1.0].terms["cluster_loss"]
    assert -0.5 <= float(clustering) <= 0.5  # unit rows, mean over pairs, tau = 2
    assert abs(float(clustering)) > 1e-3
    assert torch.equal(clustering, losses[3.0].terms["cluster_loss"])
    torch.testing.assert_close(losses[1.0].total - losses[0.0].total, clustering, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        (losses[3.0].total - losses[1.0].total) / 2, clustering, atol=1e-5, rtol=0
    )


def test_clustering_loss_is_that_of_the_aligned_stage_of_the_mixed_images(trainer_with):
    trainer = trainer_with("graph.kappa=1.0")
    seen = []
    forward = trainer.network.forward
    trainer.network.forward = lambda image: (seen.append(image), forward(image))[1]
    head = trainer.student.heads["cluster_head"]
    trainer.student.train()
    head.eval()
    loss = trainer.batch_loss(random_batch(trainer), trainer.phases()[1])
    (mixed,) = seen
    assert len(mixed) == 4  # inward and outward images in one call
    assert trainer.cluster_stage == trainer.network.stage
    features = encode(
        trainer.network.encoder, mixed, {trainer.network.stage: trainer.network.align}
    )
    nodes = features[trainer.cluster_stage].flatten(2).transpose(1, 2)
    expected = correlation_clustering_loss(nodes, head(nodes), tau=2.0).mean()
    torch.testing.assert_close(loss.terms["cluster_loss"], expected)


def test_clustering_loss_is_absent_in_pretraining(trainer_with):
    trainer = trainer_with("graph.kappa=100.0")
    batch = random_batch(trainer)
    batch.unlabeled = None
    loss = trainer.batch_loss(batch, trainer.phases()[0])
    loss.total.backward()
    assert "cluster_loss" not in loss.terms
    assert all(p.grad is None for p in trainer.student.heads["cluster_head"].parameters())
    assert trainer.network.align.gate.grad is not None  # the block is there in both phases


def test_clustering_loss_alone_teaches_encoder_and_head_but_not_the_decoder(trainer_with):
    trainer = trainer_with()
    images = random_batch(trainer).labeled
    _, extra = trainer.predict_mixed(images)
    extra.total.backward()
    before_stage = trainer.network.encoder.stages[: trainer.cluster_stage + 1]
    for name, parameter in before_stage.named_parameters():
        if "conv.bias" not in name:  # an instance norm removes constant shifts
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    assert all(p.grad.abs().max() > 0 for p in trainer.student.heads["cluster_head"].parameters())
    decoder = [
        p for n, p in trainer.network.decoder.named_parameters() if not n.startswith("encoder.")
    ]
    assert decoder
    assert all(p.grad is None or not p.grad.any() for p in decoder)


def test_teacher_holds_the_block_but_learns_nothing_by_gradient(trainer_with):
    trainer = trainer_with()
    self_training(trainer).total.backward()
    teacher = trainer.teacher.network
    assert hasattr(teacher, "align")
    assert all(p.grad is None for p in teacher.parameters())
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in teacher.parameters()}
    assert {id(p) for p in trainer.student.heads["cluster_head"].parameters()} <= trained


def test_gate_carries_no_weight_decay(trainer_with):
    trainer = trainer_with("optimizer.weight_decay=0.1")
    gate = trainer.network.align.gate
    decays = [g["weight_decay"] for g in trainer.optimizer.param_groups
              if any(p is gate for p in g["params"])]  # fmt: skip
    assert decays == [0.0]
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.1


def test_gate_and_head_move_in_self_training_and_the_average_follows(trainer_with):
    trainer = trainer_with("teacher.ema=0.5", gate=0.0)
    trainer.step = trainer.phases()[1].start
    before = {k: v.clone() for k, v in trainer.student.heads["cluster_head"].state_dict().items()}
    for raw in trainer.loader(trainer.phase):
        trainer.train_step(raw)
    gate = float(trainer.network.align.gate.detach())
    assert gate != 0
    assert 0 < abs(float(trainer.teacher.network.align.gate)) < abs(gate)
    assert any(
        not torch.equal(before[k], v)
        for k, v in trainer.student.heads["cluster_head"].state_dict().items()
    )
    assert trainer.epoch_facts(trainer.phase) == {"gate": pytest.approx(gate)}


def test_pseudo_labels_do_not_depend_on_the_grouping_of_the_batch(trainer_with):
    """The graph links images; the teacher, in evaluation, must not use it."""
    trainer = trainer_with()
    images = random_batch(trainer, 6).unlabeled

    def labels(batch):
        teaching = Teaching(trainer.teacher.predict(batch)[0])
        return trainer.pseudo_labels.finish(trainer.pseudo_labels.start(teaching))

    together = labels(images)
    assert torch.equal(torch.cat([labels(part) for part in images.split(1)]), together)
    assert torch.equal(labels(images.flip(0)), together.flip(0))
    trainer.teacher.network.train()  # the same check sees the graph where it is used
    assert not torch.equal(labels(images.flip(0))[:2], labels(images[-2:].flip(0)))


@pytest.mark.parametrize(
    ("patch", "strides", "expected"),
    [
        ((32, 32, 32), [1, 2, 2, 2], (3, 64)),  # a bottleneck of 4 x 4 x 4 is kept
        ((24, 24, 24), [1, 2, 2, 2], (2, 216)),  # 3 x 3 x 3 is too coarse: one stage up
        ((80, 112, 112), [1, 2, 2, 2, 2], (4, 245)),  # LA
        ((256, 256), [1, 2, 2, 2, 2], (4, 256)),  # ACDC
        ((96, 96, 96), [1, 2, 2, 2, 2], (4, 216)),  # Pancreas
        ((5, 5), [1, 2, 2], (0, 25)),  # never 64: the finest
        ((16, 64, 64), [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 4, 4]], (3, 64)),
    ],
)
def test_clustering_stage_is_the_deepest_with_64_positions(patch, strides, expected):
    assert cluster_stage(None, patch, strides) == expected


def test_clustering_stage_of_the_recipe_counts_from_both_ends():
    assert cluster_stage(0, (8, 8), [1, 2, 2]) == (0, 64)
    assert cluster_stage(-1, (8, 8), [1, 2, 2]) == (2, 4)
    with pytest.raises(InputError, match="stages 0 to 2"):
        cluster_stage(3, (8, 8), [1, 2, 2])


def test_more_than_4096_positions_are_averaged():
    feature = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(feature_nodes(feature, MAX_NODES), feature.flatten(2).transpose(1, 2))
    big = torch.randn(1, 2, 20, 20, 20)
    nodes = feature_nodes(big, MAX_NODES)
    assert nodes.shape[1] == 4000
    halves = big.unflatten(2, (10, 2)).mean(3).flatten(2).transpose(1, 2)
    torch.testing.assert_close(nodes, halves)
    assert feature_nodes(big, None).shape[1] == 8000
    assert feature_nodes(torch.randn(2, 3, 90, 50), MAX_NODES).shape == (2, 2250, 3)


@pytest.mark.parametrize(("graph", "n_nodes"), [("positive", 16), ("shifted", 64)])
def test_only_the_graph_in_row_blocks_is_capped(trainer_with, monkeypatch, graph, n_nodes):
    from graphnn_unet.trainers import graphcl

    monkeypatch.setattr(graphcl, "MAX_NODES", 16)
    trainer = trainer_with(f"graph.cluster_graph={graph}", "graph.cluster_stage=-1")
    seen = []
    trainer.student.heads["cluster_head"].register_forward_pre_hook(
        lambda _head, inputs: seen.append(inputs[0].shape[1])
    )
    assert torch.isfinite(self_training(trainer).total)
    assert seen == [n_nodes]


def test_graph_of_one_node_is_left_out(trainer_with, monkeypatch):
    from graphnn_unet.trainers import graphcl

    trainer = trainer_with("graph.kappa=5.0")
    monkeypatch.setattr(graphcl, "feature_nodes", lambda feature, _: feature.flatten(2)
                        .transpose(1, 2)[:, :1])  # fmt: skip
    alone = self_training(trainer)
    assert "cluster_loss" not in alone.terms
    torch.testing.assert_close(alone.total, self_training(trainer_with("graph.kappa=0.0")).total)


def test_stage_of_the_recipe_places_the_block(trainer_with):
    assert trainer_with("graph.stage=0").network.stage == 0
    assert trainer_with().network.stage == 2


def test_state_restores_the_head_and_keeps_it_out_of_the_weights(trainer_with):
    trainer = trainer_with()
    with torch.no_grad():
        for parameter in trainer.student.heads["cluster_head"].parameters():
            parameter.add_(1)
    state = trainer.state()
    assert not any("cluster" in key or "theta" in key for key in state["network_weights"])
    other = trainer_with()
    other.load_state(state, "here")
    restored = other.student.heads["cluster_head"].state_dict()
    assert all(
        torch.equal(restored[k], v)
        for k, v in trainer.student.heads["cluster_head"].state_dict().items()
    )
    assert torch.equal(self_training(other).total, self_training(trainer).total)


def test_collapse_of_the_nodes_is_told(trainer_with, monkeypatch):
    trainer = trainer_with()
    lines = []
    monkeypatch.setattr(trainer.log, "line", lines.append)
    monkeypatch.setattr(trainer.log, "add", lambda *_: None)
    for cosine in (0.5, 0.99):
        trainer._epoch_terms = EpochTerms({"loss": [1.0], "node_cosine": [cosine]})
        trainer.end_epoch(trainer.phases()[1], 0.0)
    (line,) = lines
    assert line.startswith("warning: the nodes of the clustering loss are nearly equal")
    assert "0.990" in line
    trainer.local_rank = 1  # the first process has said it
    trainer._epoch_terms = EpochTerms({"loss": [1.0], "node_cosine": [0.99]})
    trainer.end_epoch(trainer.phases()[1], 0.0)
    assert len(lines) == 1
