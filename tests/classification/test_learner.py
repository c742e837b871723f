import math

import pytest
import torch

from graphnn_unet.classification import learner as learning
from graphnn_unet.classification.encoders import EmbeddingNetwork, SmallEncoder
from graphnn_unet.classification.fitting import Dataset, Targets, loss_on, torch_generator
from graphnn_unet.classification.images import ImageSet, Normalization
from graphnn_unet.classification.label_propagation import PropagatedLabels
from graphnn_unet.classification.learner import (
    GivenLabels,
    Learner,
    decisions,
    hold_out,
    pseudo_targets,
)
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.errors import DivergedError
from graphnn_unet.seeds import Stream

QUICK = ClassifySettings(
    max_epochs=3, rounds=3, n_neighbors=5, batch_size=4, min_steps=2, validation_share=0.0
)


def dataset(n: int = 20, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 16, 16), generator=generator, dtype=torch.uint8)
    pixels[: n // 2, :, :8] //= 4  # something to learn
    images = ImageSet(tuple(f"c{i:02d}" for i in range(n)), pixels)
    return Dataset(images, Normalization.of(images), (2,), torch.device("cpu"))


def labels(n: int = 20) -> GivenLabels:
    code = torch.full((n, 1), -1)
    code[:3], code[-3:] = 0, 1
    return GivenLabels(code, torch.full((n, 1), -1))


def learner(settings: ClassifySettings = QUICK, **options) -> Learner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EmbeddingNetwork(SmallEncoder(1, 2, width=4), 32, 2, settings.dropout)
    return Learner(network, dataset(), labels(), settings, **options)


def split_of(code: torch.Tensor, share: float, *groups: torch.Tensor) -> GivenLabels:
    return hold_out(code, share, torch_generator(0, Stream.CLASSIFIER_SPLIT), *groups)


def same(first: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


LABELED = Targets(torch.arange(6), torch.tensor([[0]] * 3 + [[1]] * 3), torch.ones(6, 1))
OTHERS = Targets(torch.arange(6, 20), torch.zeros(14, 1).long(), torch.ones(14, 1))


def trained(others=None, a=0.0, epochs=(0, 1, 2), **changes) -> Learner:
    fitted = learner(QUICK.model_copy(update=changes))
    for epoch in epochs:
        fitted.train_epoch(epoch, LABELED, others, a)
    return fitted


def test_weight_0_of_diffused_labels_is_supervised_training_bit_for_bit():
    assert same(trained(others=OTHERS, a=0.0).network, trained().network)
    assert not same(trained(others=OTHERS, a=0.5).network, trained().network)


def test_an_epoch_depends_on_seed_and_number_alone():
    third = trained(epochs=(3,)).network
    assert same(third, trained(epochs=(3,)).network)
    assert not same(third, trained(epochs=(4,)).network)
    assert not same(third, trained(epochs=(3,), seed=1).network)


def test_every_image_trains_once_an_epoch_before_any_comes_again(monkeypatch):
    seen: list[int] = []
    batch = Dataset.batch
    monkeypatch.setattr(Dataset, "batch", lambda m, i: seen.extend(i.tolist()) or batch(m, i))
    learner().train_epoch(0, LABELED.rows(torch.arange(5)))
    assert sorted(seen[:5]) == list(range(5))
    assert len(seen) == 8  # two steps of four
    seen.clear()
    learner().train_epoch(0, LABELED, OTHERS, 1.0)
    assert set(seen) == set(range(20))


def test_average_follows_every_step():
    fitted = trained(epochs=(0,), averaging=0.5)
    assert not same(fitted.mean, learner().network)
    assert not same(fitted.mean, fitted.network)
    plain = trained(averaging=0.0)
    assert plain.mean is plain.network


def test_training_lowers_the_loss_on_images_it_did_not_see():
    held = Targets(
        torch.tensor([8, 9, 10, 11]), torch.tensor([[0], [0], [1], [1]]), torch.ones(4, 1)
    )
    labeled = Targets(
        torch.tensor([0, 1, 2, 17, 18, 19]), torch.tensor([[0]] * 3 + [[1]] * 3), torch.ones(6, 1)
    )
    fitted = learner(QUICK.model_copy(update={"learning_rate": 0.01}))
    before = loss_on(fitted.network, dataset(), held)
    assert before == pytest.approx(math.log(2), abs=0.2)
    for epoch in range(20):
        fitted.train_epoch(epoch, labeled)
    assert loss_on(fitted.network, dataset(), held) < before / 2


def test_a_max_0_ends_after_the_supervised_phase():
    fitted, other = (
        learner(QUICK),
        learner(ClassifySettings(**{**QUICK.model_dump(), "a_max": 0.0})),
    )
    fitted.fit()
    other.fit()
    assert {record["phase"] for record in fitted.training_state.log} == {"supervised", "dynamic"}
    assert {record["phase"] for record in other.training_state.log} == {"supervised"}
    supervised = learner(ClassifySettings(**{**QUICK.model_dump(), "mode": "one-pass"}))
    supervised.fit()
    assert same(other.mean, supervised.mean)
    assert not same(fitted.mean, supervised.mean)


def test_same_seed_same_weights_and_another_seed_others():
    runs = []
    for seed in (0, 0, 1):
        fitted = learner(ClassifySettings(**{**QUICK.model_dump(), "seed": seed}))
        fitted.fit()
        runs.append(fitted.mean)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    learner().fit()
    assert torch.equal(before, torch.get_rng_state())


def test_validation_stops_the_training_and_brings_the_best_weights_back(monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.5, 2.5, 2.5])
    monkeypatch.setattr(learning, "loss_on", lambda *_: next(losses))
    code = labels().training
    held = torch.full_like(code, -1)
    held[0], code[0] = 0, -1
    settings = ClassifySettings(**{
        **QUICK.model_dump(), "mode": "one-pass", "max_epochs": 20, "patience": 3,
    })  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EmbeddingNetwork(SmallEncoder(1, 2, width=4), 32, 2, 0.2)
    kept = []
    fitted = Learner(
        network, dataset(), GivenLabels(code, held), settings,
        save=lambda it: kept.append(it.mean.state_dict()["classifier.weight"].clone()),
    )  # fmt: skip
    monkeypatch.setattr(learning, "_EPOCHS_A_CHECKPOINT", 1)
    fitted.fit()
    assert len(fitted.training_state.log) == 5  # the best was the second, three more
    assert torch.equal(fitted.mean.state_dict()["classifier.weight"], kept[1])


def test_held_out_images_and_given_labels_get_no_diffused_label():
    code = torch.tensor([[0], [1], [-1], [-1], [-1]])
    held = torch.tensor([[-1], [-1], [1], [-1], [-1]])
    propagated = PropagatedLabels(
        score=torch.full((5, 2), 0.5).double(),
        predicted=torch.tensor([[1], [1], [0], [1], [-1]]),
        certainty=torch.tensor([[1.0], [1], [0.5], [0.25], [0]]).double(),
    )
    others = pseudo_targets(GivenLabels(code, held), propagated, seen=propagated.predicted)
    assert others.index.tolist() == [3]
    assert others.class_index.tolist() == [[1]]
    assert others.weight[:, 0].tolist() == [0.25]


def test_diffused_labels_count_where_the_network_agrees():
    code = torch.tensor([[0, 1], [1, -1], [-1, -1], [-1, -1]])
    propagated = PropagatedLabels(
        score=torch.full((4, 5), 0.2).double(),
        predicted=torch.tensor([[0, 1], [1, 2], [0, 2], [1, 0]]),
        certainty=torch.tensor([[1.0, 1], [1, 0.4], [0.5, 0.25], [0.75, 0.125]]).double(),
    )
    none = GivenLabels(code, torch.full_like(code, -1))
    seen = torch.tensor([[1, 0], [1, 2], [1, 2], [1, 1]])
    others = pseudo_targets(none, propagated, seen)
    assert others.index.tolist() == [1, 2, 3]
    assert others.class_index.tolist() == [[-1, 2], [0, 2], [1, 0]]
    assert others.weight.tolist() == [[0, pytest.approx(0.4)], [0, 0.25], [0.75, 0]]


def test_decisions_of_each_finding():
    logits = torch.tensor([[0.0, 1, 5, 4, 6], [2, 1, 0, 0.5, 0.25]])
    assert decisions(logits, (2, 3)).tolist() == [[1, 2], [0, 1]]


def test_hold_out_takes_its_share_of_every_class_and_leaves_two():
    code = torch.tensor([[0]] * 100 + [[1]] * 50 + [[2]] * 3 + [[-1]] * 40)
    split = split_of(code, 0.1)
    held = split.validation[:, 0]
    assert [int((held == class_index).sum()) for class_index in range(3)] == [10, 5, 0]
    assert torch.equal(split.everything, code)
    assert not ((split.training >= 0) & (split.validation >= 0)).any()


@pytest.mark.parametrize(("n", "held"), [(30, 0), (50, 10)])
def test_too_few_labels_are_not_held_out(n, held):
    split = split_of(torch.tensor([[0]] * n + [[1]] * n), 0.1)
    assert int((split.validation >= 0).sum()) == held


def test_labels_of_all_findings_of_an_image_are_held_out_together():
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(-1, 2, (200, 4), generator=generator)
    split = split_of(code, 0.2)
    held = (split.validation >= 0).any(dim=1)
    assert int(held.sum()) >= 10
    assert (split.training[held] == -1).all()


def test_images_of_one_patient_stay_together():
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(0, 2, (120, 1), generator=generator)
    groups = torch.arange(120) // 4
    split = split_of(code, 0.2, groups)
    held = split.validation[:, 0] >= 0
    assert 20 <= int(held.sum()) <= 36
    assert set(groups[held].tolist()).isdisjoint(groups[~held].tolist())


def test_loss_that_is_not_finite_stops_the_run():
    fitted = learner()
    torch.nn.init.constant_(fitted.network.classifier.weight, float("nan"))
    with pytest.raises(DivergedError, match="loss is nan in epoch 0"):
        fitted.fit()


def test_going_on_from_any_round_gives_the_same_weights():
    import copy

    whole, states = learner(), []

    def keep(it: Learner) -> None:
        states.append(copy.deepcopy(it.state_dict()))

    whole._save = keep
    whole.fit()
    assert len(states) >= 5
    for state in states[1:-1]:
        again = learner()
        again.load_state_dict(state)
        again.fit()
        assert same(again.mean, whole.mean)
