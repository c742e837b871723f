"""Label ids of a user and those inside."""

import json

import numpy as np
import pytest

from graphnn_unet.errors import InputError
from graphnn_unet.images.label_ids import (
    ORIGINAL,
    as_user_has_them,
    described_ids,
    ids_of_user,
    label_values,
    original_labels,
    with_ids,
)

LABELS = {"background": 0, "organ": 1, "lesion": 2}
ORIGINALS = {"background": 0, "organ": 1, "lesion": 4}


def test_regions_keep_lists_of_the_users_ids():
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    original = original_labels(labels, {0: 0, 1: 1, 4: 2})
    assert original == {"background": 0, "whole": [1, 4], "core": [4]}
    content = {"labels": labels, ORIGINAL: original, "regions_class_order": [1, 2]}
    assert ids_of_user(content) == {0: 0, 1: 1, 2: 4}
    outside = as_user_has_them(content)
    assert outside == {"labels": original, "regions_class_order": [1, 4]}
    assert label_values(original) == (0, 1, 4)


def test_without_a_table_nothing_changes():
    assert ids_of_user({"labels": LABELS}) == {}
    assert ids_of_user({"labels": LABELS, ORIGINAL: LABELS}) == {}
    array = np.array([0, 2], np.uint8)
    assert with_ids(array, {}) is array


def test_ids_may_change_places_and_be_large():
    array = np.array([[0, 1, 2, 3]], np.uint8)
    changed = with_ids(array, {0: 0, 1: 2, 2: 1, 3: 70_000})
    assert changed.tolist() == [[0, 2, 1, 70_000]]
    assert changed.dtype == np.uint32


def test_values_that_are_no_class_stay_to_be_named():
    assert with_ids(np.array([0, 2, 9], np.uint8), {0: 0, 1: 1, 2: 4}).tolist() == [0, 4, 9]


@pytest.mark.parametrize(
    "table", [{"background": 0, "organ": 1}, {**ORIGINALS, "lesion": [4, 5]}, 7]
)
def test_a_table_that_does_not_fit_is_refused(table):
    with pytest.raises(InputError, match=r"original_labels.*does not fit"):
        ids_of_user({"labels": LABELS, ORIGINAL: table})


def test_the_nearest_description_counts(tmp_path):
    model, validation = tmp_path / "model", tmp_path / "model" / "fold_0" / "validation"
    validation.mkdir(parents=True)
    inside = {"labels": LABELS, ORIGINAL: ORIGINALS}
    (model / "dataset.json").write_text(json.dumps(inside))
    assert described_ids(validation) == {0: 0, 1: 1, 2: 4}
    (validation / "dataset.json").write_text(json.dumps(as_user_has_them(inside)))
    assert described_ids(validation) == {}
    assert described_ids(tmp_path) == {}
