import pytest
import torch

from graphnn_unet.classification.encoders import EmbeddingNetwork, SmallEncoder
from graphnn_unet.classification.fitting import (
    Dataset,
    Targets,
    embed,
    weighted_cross_entropy,
)
from graphnn_unet.classification.images import ImageSet, Normalization
from graphnn_unet.classification.settings import ClassifySettings

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
