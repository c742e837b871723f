import json
from pathlib import Path

import pytest

from graphnn_unet.errors import InputError
from graphnn_unet.metrics.labels import find_dataset_json, read_labels, summary_key, table_of_ids


def written(path: Path, labels: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"labels": labels}))
    return path


def test_names_regions_and_ignore_of_nnunet(tmp_path: Path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "edge": 2, "ignore": 3}
    table = read_labels(written(tmp_path / "dataset.json", labels))
    assert table.classes == {"whole": (1, 2), "core": (2,), "edge": 2}
    assert table.ignore == 3
    assert table.known_ids == {0, 1, 2, 3}
    assert [summary_key(ids) for ids in table.classes.values()] == ["(1, 2)", "(2,)", "2"]


def test_decathlon_form_is_turned_round(tmp_path: Path):
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    table = read_labels(written(tmp_path / "dataset.json", labels))
    assert table.classes == {"Anterior": 1, "Posterior": 2}


@pytest.mark.parametrize(
    "labels", [None, {}, {"background": 0}, {"a": "one"}, {"a": [1, -2]}, {"a": True}, [1, 2]]
)
def test_labels_that_name_no_class_are_refused(tmp_path: Path, labels: object):
    with pytest.raises(InputError, match=r"dataset\.json does not name the classes"):
        read_labels(written(tmp_path / "dataset.json", labels))


def test_nearest_dataset_json_wins(tmp_path: Path):
    predictions, labels = tmp_path / "out", tmp_path / "raw" / "labelsTs"
    predictions.mkdir()
    labels.mkdir(parents=True)
    assert find_dataset_json(predictions, labels) is None
    for folder in (labels.parent, labels, predictions):
        path = written(folder / "dataset.json", {"a": 1})
        assert find_dataset_json(predictions, labels) == path


def test_found_ids_are_classes_in_order():
    assert table_of_ids({0, 10, 2}).classes == {"2": 2, "10": 10}
