"""Label maps: counted values and the pieces of each class."""

from __future__ import annotations

import numpy as np
import pytest

from graphnn_unet.data.check_labels import ClassMetadata, class_metadata, count_values


def test_components_are_counted_over_corners_and_per_class():
    label = np.zeros((8, 8, 8), np.int16)
    label[0, 0, 0] = label[1, 1, 1] = label[2, 2, 2] = 1  # one piece over corners
    label[6, 6, 6] = 1
    label[2, 2, 3] = 2
    metadata = class_metadata(label, count_values(label))
    assert metadata[1] == ClassMetadata(n_voxels=4, n_components=2, largest_share=0.75)
    assert metadata[2].n_components == 1


@pytest.mark.parametrize("values", [[0, 1, 7], [-3, 0, 2], [0, 5, 2**20]])
def test_values_are_counted_whatever_their_size(values: list[int]):
    label = np.random.default_rng(0).choice(values, (4, 5, 6))
    expected = dict(
        zip(*(part.tolist() for part in np.unique(label, return_counts=True)), strict=True)
    )
    assert count_values(label) == expected
