"""Which scans are linked."""

import dataclasses

import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.scan_graph import neighbors as neighbors_module
from graphnn_unet.scan_graph.fields import Fields
from graphnn_unet.scan_graph.neighbors import choose_neighbors, similarity_of

SPACING = (1.0, 1.0, 1.0)


def test_scans_of_one_shape_are_more_alike(tmp_path):
    """Two bent one way, two another way, one seen from elsewhere."""
    scans = [body(n, place=bent(amount=2.0, phase=0 if n < 2 else np.pi)) for n in range(4)]
    shifted = dataclasses.replace(scans[0], voxels=np.roll(scans[0].voxels, 2, 3))
    similarity = similarity_of(Fields(tmp_path, SPACING), [*scans, shifted])
    np.testing.assert_allclose(similarity, similarity.T, atol=1e-6)
    assert similarity[0, 1] > similarity[0, 2]
    assert similarity[2, 3] > similarity[2, 0]
    assert similarity[0, 4] > similarity[0, 2]  # a shift is what the affine part takes away


def test_a_scan_that_cannot_be_registered_is_like_no_other(tmp_path, monkeypatch):
    scans = [body(0), body(1)]
    flat = dataclasses.replace(scans[0], voxels=np.zeros((1, *SHAPE), np.float32))
    fields = Fields(tmp_path, SPACING)
    similarity = similarity_of(fields, [*scans, flat])
    assert (similarity[2, :2] == -1).all()
    assert similarity[2, 2] == 1
    assert similarity[0, 1] > 0.9
    monkeypatch.setattr(neighbors_module, "align", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(similarity_of(fields, [*scans, flat]), similarity)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_labeled_scans_come_first_and_k_is_kept(k):
    similarity = np.corrcoef(np.random.default_rng(0).normal(size=(8, 5)))
    flags = [True, True, True, False, False, False, False, False]
    for number, neighbors in enumerate(choose_neighbors(similarity, flags, k)):
        assert len(neighbors) == min(k, 7)
        assert number not in neighbors
        labeled = {j for j in range(3) if j != number}
        if k >= len(labeled):
            assert labeled <= set(neighbors)
        else:
            best = max(labeled, key=lambda j: similarity[number, j])
            assert neighbors[0] == best
        values = [similarity[number, j] for j in neighbors]
        assert values == sorted(values, reverse=True)
