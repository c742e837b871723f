import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from graphnn_unet.errors import FaultsError, InputError, MissingFileError, RefusedError
from graphnn_unet.metrics import csv_columns
from graphnn_unet.metrics.unsupervised import (
    PartlyPredictedError,
    evaluate_unsupervised,
    foreground_scores,
    match_clusters,
    overlap_counts,
)


def save(path: Path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.asarray(array, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """IoU 1/2 and 1, and one image without anything in either map."""
    predictions, labels = tmp_path / "p", tmp_path / "g"
    save(predictions / "a.png", [[1, 1, 0, 0]])
    save(labels / "a.png", [[255, 0, 0, 0]])
    save(predictions / "b.png", [[0, 7, 7, 0]])
    save(labels / "b.png", [[0, 128, 255, 0]])
    save(predictions / "c.png", [[0, 0, 0, 0]])
    save(labels / "c.png", [[0, 0, 0, 0]])
    return predictions, labels


def test_means_run_over_images(folders):
    result = evaluate_unsupervised(*folders)
    assert result.n_cases == 3
    assert result.mean_iou == pytest.approx((0.5 + 1 + 1) / 3)
    assert result.mean_dice == pytest.approx((2 / 3 + 1 + 1) / 3)
    with result.metrics_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["jaccard"] for row in rows] == ["0.500000", "1.000000", "1.000000"]
    assert tuple(rows[0]) == csv_columns()
    assert {row[name] for row in rows for name in ("hd95", "distance_unit", "nsd")} == {""}
    summary = json.loads((folders[0] / "summary.json").read_text(encoding="utf-8"))
    assert summary["oracle"] is False
    assert summary["mean_iou"]["value"] == result.mean_iou


def test_missed_and_invented_foreground_is_told_apart(folders):
    predictions, labels = folders
    save(predictions / "a.png", [[0, 0, 0, 0]])
    save(predictions / "c.png", [[0, 1, 0, 0]])
    result = evaluate_unsupervised(predictions, labels)
    with result.metrics_csv.open() as file:
        assert [(row["missed"], row["invented"]) for row in csv.DictReader(file)] == [
            ("1", "0"), ("0", "0"), ("0", "1"),
        ]  # fmt: skip


def test_missing_and_damaged_predictions_count_with_zero(folders):
    predictions, labels = folders
    (predictions / "b.png").unlink()
    save(predictions / "c.png", [[0, 0, 0]])
    with pytest.raises(PartlyPredictedError) as caught:
        evaluate_unsupervised(predictions, labels)
    result = caught.value.result
    assert result.n_cases == 3
    assert result.mean_iou == pytest.approx(0.5 / 3)
    assert {fault.case for fault in result.faults} == {"b", "c"}
    assert (predictions / "failures.csv").read_text(encoding="utf-8").count("it counts with 0") == 2
    (predictions / "a.png").unlink()
    with pytest.raises(FaultsError):
        evaluate_unsupervised(predictions, labels)


def test_polarity_by_truth_is_an_oracle_of_the_published_protocol(folders):
    predictions, labels = folders
    save(predictions / "b.png", [[1, 0, 0, 1]])  # the complement
    honest = evaluate_unsupervised(predictions, labels)
    published = evaluate_unsupervised(
        predictions, labels, predictions.with_name("published"), protocol="published"
    )
    assert honest.mean_iou == pytest.approx(1.5 / 3)
    assert published.mean_iou == pytest.approx(2.5 / 3)
    summary = published.metrics_csv.with_name("summary.json")
    assert json.loads(summary.read_text(encoding="utf-8"))["oracle"] is True


@given(st.lists(st.booleans(), min_size=4, max_size=12), st.randoms())
def test_oracle_is_never_below_honest(values, random):
    prediction = np.array(values)
    reference = np.array([random.random() < 0.5 for _ in values])
    honest, oracle = (foreground_scores(prediction, reference, oracle=o) for o in (False, True))
    assert oracle[0] >= honest[0]


def test_hungarian_example_of_the_specification():
    counts = np.array([[30, 5, 0], [4, 20, 6], [1, 2, 32]])
    matched = match_clusters(counts)
    assert matched == {0: 0, 1: 1, 2: 2}
    assert sum(counts[r, c] for r, c in matched.items()) == 82


def test_clusters_are_matched_whatever_their_ids(tmp_path):
    reference = np.zeros((6, 6), int)
    reference[:3, :3], reference[3:, 3:] = 128, 255
    save(tmp_path / "g" / "a.png", reference)
    prediction = np.zeros((6, 6), int)
    prediction[:3, :3], prediction[3:, 3:], prediction[0, 5] = 2, 1, 3
    save(tmp_path / "p" / "a.png", prediction)
    result = evaluate_unsupervised(tmp_path / "p", tmp_path / "g", matching="hungarian")
    assert [score.class_name for score in result.scores] == ["128", "255"]
    assert result.mean_iou == 1  # the third cluster matches nothing and is background
    counts, clusters, classes = overlap_counts(prediction, reference)
    assert (clusters, classes) == ([0, 1, 2, 3], [0, 128, 255])
    assert counts.tolist() == [[17, 0, 0], [0, 0, 9], [0, 9, 0], [1, 0, 0]]


def test_mistakes_are_told(folders, tmp_path):
    predictions, labels = folders
    with pytest.raises(RefusedError):
        evaluate_unsupervised(labels, labels)
    with pytest.raises(MissingFileError):
        evaluate_unsupervised(tmp_path / "none", labels)
    with pytest.raises(InputError, match="matching"):
        evaluate_unsupervised(predictions, labels, matching="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="published protocol"):
        evaluate_unsupervised(predictions, labels, protocol="published", matching="hungarian")


def test_clusters_of_a_raw_folders_images_are_matched_with_its_label_maps(folders):
    before = evaluate_unsupervised(*folders).mean_iou
    for path in list(folders[0].glob("*.png")):
        path.rename(path.with_name(f"{path.stem}_0000.png"))
    assert evaluate_unsupervised(*folders).mean_iou == before
