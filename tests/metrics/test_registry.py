import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from graphnn_unet.commands import evaluate as command
from graphnn_unet.errors import InputError
from graphnn_unet.metrics import METRICS, Comparison, Metric, count_overlap
from graphnn_unet.metrics.registry import SHOWN, metrics_of

SPACING = (3.0, 1.0, 0.5)


def compare(prediction: np.ndarray, reference: np.ndarray) -> Comparison:
    return Comparison(prediction, reference, SPACING, count_overlap(prediction, reference))


@pytest.fixture
def centroid_distance(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """What somebody adds: one entry and nothing else."""

    def function(structure: Comparison) -> float:
        centers = [np.argwhere(m).mean(0) for m in (structure.prediction, structure.reference)]
        return float(np.linalg.norm((centers[0] - centers[1]) * structure.spacing))

    metric = Metric(
        "centroid",
        "Centroid",
        "distance of the two centers of mass",
        function,
        best=0.0,
        worst=None,
        unit="distance",
        digits=1,
    )
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric


def test_a_new_measure_is_one_entry(centroid_distance: Metric, tmp_path: Path, write_map, capsys):
    predictions, labels = tmp_path / "predictions", tmp_path / "labels"
    for case, shift in (("a", 0), ("b", 2), ("c", 4)):
        for folder, start in ((predictions, 1 + shift), (labels, 1)):
            array = np.zeros((4, 12, 6), dtype=np.uint8)
            array[1:3, start : start + 5, 2:5] = 1
            write_map(folder / f"{case}.nii.gz", array, SPACING)
    arguments = ["-p", str(predictions), "-g", str(labels), "-np", "1", "--quiet"]
    assert command.main([*arguments, "--measures", "dice", "centroid"]) == 0
    with (predictions / "metrics.csv").open() as file:
        assert [float(row["centroid"]) for row in csv.DictReader(file)] == [0, 2, 4]
    summary = json.loads((predictions / "summary.json").read_text(encoding="utf-8"))
    estimate = summary["classes"]["1"]["Centroid"]
    assert estimate["mean"] == pytest.approx(2)
    assert 0 <= estimate["low"] < 2 < estimate["high"] <= 4
    assert summary["mean_over_classes"]["Centroid"] == estimate
    assert summary["mean_over_classes"]["Centroid_where_both"] == pytest.approx(2)
    assert summary["foreground_mean"]["Centroid"] == pytest.approx(2)
    assert summary["measures"]["Centroid"]["worst"] == "diagonal of the image"
    assert summary["definitions"]["Centroid"] == centroid_distance.definition
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "class", "n", "Dice", "Centroid", "mm", "missed", "invented", "absent",
    ]  # fmt: skip
    assert lines[3].split() == ["1", "3", "0.6000", "2.0", "0", "0", "0"]
    assert lines[6].split()[-1] == f"{estimate['low']:.1f}"


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_perfect_prediction_has_the_best_value_and_others_lie_between(metric: Metric):
    generator = np.random.default_rng(0)
    diagonal = math.hypot(6 * 3.0, 7 * 1.0, 8 * 0.5)
    span = abs(metric.best - (diagonal if metric.worst is None else metric.worst))
    if metric.name == "volume_error":
        span = math.inf  # nothing bounds a volume that is too large
    for _ in range(20):
        prediction, reference = generator.random((2, 6, 7, 8)) < generator.uniform(0.02, 0.5)
        prediction[0, 0, 0] = reference[3, 3, 3] = True
        assert metric.function(compare(reference, reference)) == metric.best
        value = metric.function(compare(prediction, reference))
        assert abs(value - metric.best) <= span


def test_distances_are_computed_once_for_all_measures(monkeypatch: pytest.MonkeyPatch):
    calls = []
    structure = compare(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool))
    from graphnn_unet.metrics import registry

    original = registry.surface_distances
    monkeypatch.setattr(registry, "surface_distances", lambda *a: calls.append(1) or original(*a))
    for metric in METRICS.values():
        metric.function(structure)
    assert len(calls) == 1


def test_names_are_columns_and_unknown_ones_are_refused():
    assert [metric.name for metric in metrics_of(SHOWN)] == list(SHOWN)
    assert all(name == metric.name for name, metric in METRICS.items())
    assert len({metric.key for metric in METRICS.values()}) == len(METRICS)
    with pytest.raises(InputError, match=r"no measure 'iou'\. Use dice, jaccard, "):
        metrics_of(["dice", "iou"])


def test_only_distances_name_their_unit():
    dice, hd95 = metrics_of(["dice", "hd95"])
    assert (dice.heading("voxel"), hd95.heading("voxel")) == ("Dice", "95HD voxel")
