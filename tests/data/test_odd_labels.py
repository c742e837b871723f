"""Which labels are asked about, and which are not."""

from __future__ import annotations

import pytest

from graphnn_unet.data.odd_labels import odd_labels


def maps(*labels: tuple[int, ...]) -> dict[str, dict[int, str]]:
    return {f"c{n}": dict.fromkeys((0, *of_map), "9 voxels") for n, of_map in enumerate(labels)}


@pytest.mark.parametrize(
    "labels",
    [
        [(1,), (1, 2), (1,), (2,), (1, 2)],
        [(1, 2), (2, 3), (3, 1), (2,)],  # all hang together
        [(1,), (), (1,), (), ()],  # masks without foreground say nothing
        [(1,), (1,), (1, 2)],
        [],
    ],
)
def test_labels_that_share_maps_are_not_asked_about(labels: list[tuple[int, ...]]):
    assert odd_labels(maps(*labels), {1, 2, 3}) == []


def test_sets_of_labels_that_share_no_map_are_asked_about_together():
    asked = odd_labels(maps((1,), (1, 2), (127, 255), (2,), (255,)), {1, 2, 127, 255})
    assert asked[0].startswith(
        "labels 127, 255 occur in 2 of 5 label maps only (c2, c4), which have none of the others' "
        "labels (1, 2): are they the same structures?"
    )
    assert len(asked) == 1


def test_labels_of_one_map_each_share_a_question_that_names_three():
    (asked,) = odd_labels(maps((1, 9, 8), (1, 7), (1, 6), (1,)), {1, 6, 7, 8, 9})
    listed = "label 6 (c2, 9 voxels), label 7 (c1, 9 voxels), label 8 (c0, 9 voxels) and 1 more"
    assert asked.startswith(f"only 1 of 4 label maps has {listed}: are they meant?")
