import numpy as np
import pytest
import torch
from PIL import Image

from graphnn_unet.classification.outputs import Predictions
from graphnn_unet.classification.run import ClassificationResult
from graphnn_unet.classification.table import Finding
from graphnn_unet.errors import ShapeError
from graphnn_unet.metrics.classification import score_classification
from graphnn_unet.report import class_map
from graphnn_unet.report.class_map import draw_classification, draw_confusion, draw_map, layout


def groups(n: int = 60):
    rng = np.random.default_rng(0)
    side = np.arange(n) % 3
    feature = np.eye(3)[side].repeat(4, axis=1) + rng.normal(0, 0.2, (n, 12))
    feature /= np.linalg.norm(feature, axis=1, keepdims=True)
    cosine = feature @ feature.T
    np.fill_diagonal(cosine, -1)
    return feature, np.argsort(-cosine, axis=1)[:, :5], side


def test_layout_puts_groups_apart_and_is_repeatable():
    feature, neighbor, side = groups()
    place = layout(feature, neighbor, rounds=60)
    assert np.array_equal(place, layout(feature, neighbor, rounds=60))
    centers = np.stack([place[side == group].mean(0) for group in range(3)])
    nearest = np.linalg.norm(place[:, None] - centers, axis=2).argmin(1)
    assert (nearest == side).mean() > 0.95


def test_map_shows_the_colors_of_its_classes(tmp_path):
    feature, _, side = groups()
    given = np.where(np.arange(60) < 6, side, -1)
    target = draw_map(tmp_path / "map.png", feature, side, np.ones(60), given, ("a", "b", "c"))
    pixels = np.asarray(Image.open(target).convert("RGB")).reshape(-1, 3)
    for color in ((0, 0x72, 0xB2), (0xE6, 0x9F, 0), (0, 0x9E, 0x73)):
        assert (np.abs(pixels - np.array(color)).max(1) < 3).sum() > 50
    with pytest.raises(ShapeError):
        draw_map(target, feature, side[:5], np.ones(60), given, ("a", "b", "c"))


def test_two_images_make_a_map(tmp_path):
    feature = np.eye(2)
    target = draw_map(
        tmp_path / "m.png", feature, np.array([0, 1]), np.ones(2), np.array([0, 1]), "ab"
    )
    assert target.stat().st_size > 1000


def test_same_input_gives_the_same_bytes(tmp_path):
    feature, _, side = groups(12)
    contents = [
        draw_map(tmp_path / name, feature, side, np.ones(12), side, ("a", "b", "c")).read_bytes()
        for name in ("a.png", "b.png")
    ]
    assert contents[0] == contents[1]


def test_confusion_shows_undecided_images_in_a_column(tmp_path):
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, -1])
    probability = np.array([[1.0, 0], [0, 1], [0, 1], [0, 0]])
    with_none = score_classification(truth, predicted, probability, ("a", "b"))
    predicted[3], probability[3] = 1, (0, 1)
    without = score_classification(truth, predicted, probability, ("a", "b"))
    sizes = [
        Image.open(draw_confusion(tmp_path / f"{i}.png", score)).size[0]
        for i, score in enumerate((with_none, without))
    ]
    assert sizes[0] > sizes[1]


def test_names_with_dollar_signs_are_no_formulas(tmp_path):
    feature, _, side = groups(12)
    names = ("$a_$", "b$\\frac{$", "c")
    draw_map(tmp_path / "m.png", feature, side, np.ones(12), side, names, title="$_$")
    score = score_classification(side, side, np.eye(3)[side], names)
    assert draw_confusion(tmp_path / "c.png", score).is_file()


def classified(folder, n: int) -> ClassificationResult:
    """A result of ``n`` images and two findings."""
    findings = (Finding("kind", ("a", "b")), Finding("size", ("big", "small")))
    number = torch.arange(n)[:, None].expand(n, 2) % 2
    predictions = Predictions(
        tuple(f"x{i}" for i in range(n)), findings, number, torch.full((n, 4), 0.5),
        torch.ones(n, 2), number, number < 0, [[]] * n,
    )  # fmt: skip
    truth = number[:, 0].numpy()
    score = score_classification(truth, truth, np.eye(2)[truth], ("a", "b"))
    return ClassificationResult(folder, predictions, {"kind": score}, torch.eye(n), ())


def test_one_image_has_no_map(tmp_path):
    assert [path.name for path in draw_classification(classified(tmp_path, 1))] == [
        "confusion_kind.png"
    ]
    assert [path.name for path in draw_classification(classified(tmp_path, 2))] == [
        "map_kind.png", "confusion_kind.png", "map_size.png",
    ]  # fmt: skip


def test_a_picture_that_fails_is_told_and_costs_nothing(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError("no font")

    monkeypatch.setattr(class_map, "layout", fail)
    drawn = draw_classification(classified(tmp_path, 3))
    assert [path.name for path in drawn] == ["confusion_kind.png"]
    assert "map_kind.png was not drawn: no font" in caplog.text
