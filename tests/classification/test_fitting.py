import math

import pytest
import torch

from graphnn_unet.classification.encoders import EmbeddingNetwork, SmallEncoder
from graphnn_unet.classification.fitting import (
    Dataset,
    Epoch,
    Targets,
    embed,
    loss_on,
    train_epoch,
    weighted_cross_entropy,
)
from graphnn_unet.classification.images import ImageSet, Normalization
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.errors import DivergedError

QUICK = ClassifySettings(batch_size=4, min_steps=2, dropout=0.2)


def dataset(n: int = 20) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 1, 16, 16), generator=generator, dtype=torch.uint8)
    pixels[: n // 2, :, :8] //= 4  # something to learn
    images = ImageSet(tuple(f"c{i:02d}" for i in range(n)), pixels)
    return Dataset(images, Normalization.of(images), (2,), torch.device("cpu"))


def network() -> EmbeddingNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EmbeddingNetwork(SmallEncoder(1, 2, width=4), 32, 2, 0.2)


def adam(trained: EmbeddingNetwork) -> torch.optim.Optimizer:
    return torch.optim.Adam(trained.parameters(), lr=1e-3)


LABELED = Targets(torch.arange(6), torch.tensor([[0]] * 3 + [[1]] * 3), torch.ones(6, 1))
OTHERS = Targets(torch.arange(6, 20), torch.zeros(14, 1).long(), torch.ones(14, 1))


def trained(settings=QUICK, others=None, a=0.0, epochs=(0, 1, 2), mean=None) -> EmbeddingNetwork:
    model = network()
    optimizer = adam(model)
    for epoch in epochs:
        train_epoch(model, optimizer, dataset(), settings, Epoch(epoch, LABELED, others, a), mean)
    return model


def same(first: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_weight_0_of_diffused_labels_is_supervised_training_bit_for_bit():
    assert same(trained(others=OTHERS, a=0.0), trained())
    assert not same(trained(others=OTHERS, a=0.5), trained())


def test_an_epoch_depends_on_seed_and_number_alone():
    assert same(trained(epochs=(3,)), trained(epochs=(3,)))
    assert not same(trained(epochs=(3,)), trained(epochs=(4,)))
    other = QUICK.model_copy(update={"seed": 1})
    assert not same(trained(epochs=(3,)), trained(other, epochs=(3,)))


def test_every_image_trains_once_an_epoch_before_any_comes_again(monkeypatch):
    seen: list[int] = []
    batch = Dataset.batch
    monkeypatch.setattr(Dataset, "batch", lambda m, i: seen.extend(i.tolist()) or batch(m, i))
    first = LABELED.rows(torch.arange(5))
    train_epoch(network(), adam(network()), dataset(), QUICK, Epoch(0, first))
    assert sorted(seen[:5]) == list(range(5))
    assert len(seen) == 8  # two steps of four
    seen.clear()
    train_epoch(network(), adam(network()), dataset(), QUICK, Epoch(0, LABELED, OTHERS, 1.0))
    assert set(seen) == set(range(20))


def test_average_follows_every_step():
    mean = network()
    model = trained(QUICK.model_copy(update={"averaging": 0.5}), epochs=(0,), mean=mean)
    assert not same(mean, network())
    assert not same(mean, model)
    mean = network()
    assert same(mean, trained(QUICK.model_copy(update={"averaging": 0.0}), mean=mean))


def test_training_lowers_the_loss_on_images_it_did_not_see():
    held = Targets(
        torch.tensor([8, 9, 10, 11]), torch.tensor([[0], [0], [1], [1]]), torch.ones(4, 1)
    )
    labeled = Targets(
        torch.tensor([0, 1, 2, 17, 18, 19]), torch.tensor([[0]] * 3 + [[1]] * 3), torch.ones(6, 1)
    )
    model, settings = network(), QUICK.model_copy(update={"learning_rate": 0.01})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = loss_on(model, dataset(), held)
    assert before == pytest.approx(math.log(2), abs=0.2)
    for epoch in range(20):
        train_epoch(model, optimizer, dataset(), settings, Epoch(epoch, labeled))
    assert loss_on(model, dataset(), held) < before / 2


def test_loss_that_is_not_finite_stops_the_run():
    model = network()
    torch.nn.init.constant_(model.classifier.weight, float("nan"))
    with pytest.raises(DivergedError, match="loss is nan in epoch 3"):
        train_epoch(model, adam(model), dataset(), QUICK, Epoch(3, LABELED))


def test_features_are_those_of_each_image_alone_and_of_unit_length():
    model, whole = network(), dataset()
    feature, logits = embed(model, whole, QUICK)
    torch.testing.assert_close(feature.norm(dim=1), torch.ones(20))
    image = whole.normalization(whole.images.pixels[7:8])
    row = model.features(image).detach()
    torch.testing.assert_close(feature[7:8], torch.nn.functional.normalize(row, dim=1))
    torch.testing.assert_close(logits[7:8], model(image).detach())


def test_views_are_averaged_before_rows_get_unit_length():
    model, whole = network(), dataset()
    single_view, _ = embed(model, whole, QUICK)
    two, _ = embed(model, whole, QUICK.model_copy(update={"tta": 2}))
    again, _ = embed(model, whole, QUICK.model_copy(update={"tta": 2}))
    assert torch.equal(two, again)
    assert not torch.equal(single_view, two)
    torch.testing.assert_close(two.norm(dim=1), torch.ones(20))


def test_cross_entropy_leaves_missing_findings_out():
    logits = torch.tensor([[2.0, 0, 0, 1], [0, 1, 3, 0]])
    targets = Targets(
        torch.arange(2), torch.tensor([[0, -1], [1, 0]]), torch.tensor([[1.0, 9], [2, 1]])
    )
    parts = torch.log_softmax(logits[:, :2], 1), torch.log_softmax(logits[:, 2:], 1)
    first = (-parts[0][0, 0] - 2 * parts[0][1, 1]) / 2
    wanted = (first - parts[1][1, 0]) / 2
    assert float(weighted_cross_entropy(logits, targets, (2, 2))) == pytest.approx(float(wanted))
